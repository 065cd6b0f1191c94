package doublecrypt

import (
	"cmp"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// fetch is a part of a chunk to read from the device.
type fetch struct {
	extent extent
	skip   int // within the chunk
	dst    []byte
}

// Read implements vfs.FS.
func (v *Volume) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	v.mu.Lock()
	n, err := v.loadedFile(ino)
	if err != nil || off >= n.size || len(dst) == 0 {
		v.mu.Unlock()
		return 0, err
	}
	dst = dst[:min(uint64(len(dst)), n.size-off)]
	var list []fetch
	for done := 0; done < len(dst); {
		i, skip := (off+uint64(done))/v.chunk, int((off+uint64(done))%v.chunk)
		part := dst[done:min(len(dst), done+int(v.chunk)-skip)]
		done += len(part)
		if data, ok := n.inMemory(i); ok {
			clear(part[copy(part, data[min(skip, len(data)):]):])
		} else if e, ok := n.extentAt(i); ok {
			list = append(list, fetch{e, skip, part})
		} else {
			clear(part)
		}
	}
	if len(list) == 0 {
		v.mu.Unlock()
		return len(dst), nil
	}
	if err := v.fetchUnlocked(list); err != nil {
		return 0, err
	}
	return len(dst), nil
}

// fetchUnlocked reads chunks from the device, as the volume refers to them now. v.mu is held before
// the call, and released after it.
func (v *Volume) fetchUnlocked(list []fetch) error {
	epoch := v.pin()
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.unpin(epoch)
		v.mu.Unlock()
	}()
	return v.fetch(list)
}

// fetchBytes is the number of bytes that are read at once, so that several cores can decrypt.
const fetchBytes = 256 << 10

func (v *Volume) fetch(list []fetch) error {
	most := max(fetchBytes/v.blk.size, 1)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for len(list) > 0 {
		n := 1
		for n < min(len(list), most) && list[n].extent.block == list[n-1].extent.block+1 {
			n++
		}
		run := list[:n]
		list = list[n:]
		if len(list) == 0 {
			if err := v.fetchRun(run); err != nil { // the last one needs no goroutine
				_ = g.Wait() // no goroutine writes to dst any more
				return err
			}
			break
		}
		g.Go(func() error { return v.fetchRun(run) })
	}
	return g.Wait()
}

func (v *Volume) fetchRun(run []fetch) error {
	buf := v.blk.buffer(len(run))
	if err := v.blk.read(run[0].extent.block, buf); err != nil {
		return err
	}
	for i, f := range run {
		plain, err := openObject(buf[i*v.blk.size:(i+1)*v.blk.size], f.extent.block, v.key, kindChunk)
		if err != nil {
			return err
		}
		plain = plain[:min(len(plain), int(f.extent.bytes), int(v.chunk))]
		clear(f.dst[copy(f.dst, plain[min(f.skip, len(plain)):]):])
	}
	clear(buf)
	return nil
}

// SeekData implements vfs.FS.
func (v *Volume) SeekData(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, true) }

// SeekHole implements vfs.FS.
func (v *Volume) SeekHole(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, false) }

func (v *Volume) seek(ino vfs.Ino, off uint64, data bool) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.loadedFile(ino)
	if err != nil {
		return 0, err
	}
	if off >= n.size {
		return 0, vfs.ErrNoData
	}
	count := chunksOf(n.size, v.chunk)
	i := off / v.chunk
	if n.used == count && data { // without holes
		return off, nil
	}
	if n.used < count {
		i = n.nextChunk(i, count, data)
	} else {
		i = count
	}
	switch {
	case i < count:
		return max(off, i*v.chunk), nil
	case data:
		return 0, vfs.ErrNoData
	}
	return n.size, nil
}

// nextChunk finds the first chunk at or after i that exists, or does not exist.
func (n *node) nextChunk(i, count uint64, exists bool) uint64 {
	if !exists {
		for i < count && n.hasChunk(i) {
			i++
		}
		return i
	}
	next := count
	at, _ := slices.BinarySearchFunc(n.extents, i, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	if at < len(n.extents) {
		next = min(next, n.extents[at].index)
	}
	for _, m := range []map[uint64][]byte{n.chunks, n.flushing} {
		for j := range m {
			if j >= i {
				next = min(next, j)
			}
		}
	}
	return next
}
