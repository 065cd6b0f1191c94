package doublecrypt

import (
	"io"
)

// scrubBlocks is the number of blocks that a scrub takes at once.
const scrubBlocks = 64

// ScrubFree overwrites all free blocks with random bytes, so that deleted data cannot be recovered,
// not even with the key. The volume can be used meanwhile.
func (v *Volume) ScrubFree(progress func(done, total uint64)) error {
	if err := v.commit(); err != nil {
		return err
	}
	if err := v.releaseOlder(); err != nil { // the blocks that only the older root kept
		return err
	}
	for next := uint64(firstObject); ; {
		ids, err := v.lend(next)
		if err != nil || len(ids) == 0 {
			if err == nil {
				err = v.syncDevice()
			}
			return err
		}
		err = v.overwrite(ids)
		v.giveBack(ids, err)
		if err != nil {
			return err
		}
		next = ids[len(ids)-1] + 1
		if progress != nil {
			progress(next, v.total)
		}
	}
}

// lend takes free blocks. Commits wait until they are returned.
func (v *Volume) lend(from uint64) ([]uint64, error) {
	v.commitMu.Lock()
	v.mu.Lock()
	defer v.mu.Unlock()
	var ids []uint64
	err := v.writable()
	for err == nil && len(ids) < scrubBlocks {
		id, ok := v.alloc.next(from)
		if !ok {
			break
		}
		v.alloc.take(id)
		ids = append(ids, id)
		from = id + 1
	}
	v.lent = uint64(len(ids))
	if len(ids) == 0 {
		v.commitMu.Unlock()
	}
	return ids, err
}

func (v *Volume) giveBack(ids []uint64, err error) {
	v.mu.Lock()
	for _, id := range ids {
		v.alloc.release(id)
	}
	v.lent = 0
	if err != nil {
		v.fail(err)
	}
	v.mu.Unlock()
	v.commitMu.Unlock()
}

func (v *Volume) overwrite(ids []uint64) error {
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && ids[n] == ids[n-1]+1 && (n+1)*v.blk.size <= ioBytes {
			n++
		}
		buf := v.blk.buffer(n)
		if _, err := io.ReadFull(v.opts.random, buf); err != nil {
			return &Error{Variant: Encryption, err: err}
		}
		if err := v.blk.write(ids[0], buf); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (v *Volume) syncDevice() error {
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	err := v.blk.sync()
	if err != nil {
		v.mu.Lock()
		v.fail(err)
		v.mu.Unlock()
	}
	return err
}
