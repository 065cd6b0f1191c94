package volume

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// syncer makes the ring's tail durable. One caller writes for all that wait.
type syncer struct {
	v *Volume

	mu      sync.Mutex
	cond    sync.Cond
	busy    bool
	durable uint64 // operations below are durable
	pos     uint64 // the log has the ring up to this position
	rounds  uint64 // syncs that have ended

	idle idleSyncer
}

func (s *syncer) init() { s.cond.L = &s.mu }

func (s *syncer) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// committed records that a durable root covers the operations below seq.
func (s *syncer) committed(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = max(s.durable, seq)
	s.cond.Broadcast()
}

// alone runs fn while no sync is running.
func (s *syncer) alone(fn func() error) error {
	s.mu.Lock()
	for s.busy {
		s.cond.Wait()
	}
	s.busy = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		s.rounds++
		s.cond.Broadcast()
	}()
	return fn()
}

// letPass waits until the running sync has ended. Otherwise a stream of writes would make the next
// one longer.
func (s *syncer) letPass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for round := s.rounds; s.busy && s.rounds == round; {
		s.cond.Wait()
	}
}

// maxBatch is the longest record of the log. Anything longer is committed instead.
const maxBatch = 8 << 20

// refMin is the size from which written data is logged by reference.
const refMin = bufferBytes

// Sync implements vfs.FS.
func (v *Volume) Sync(ino vfs.Ino) error {
	if v.ring == nil {
		return nil // read-only: there is nothing to lose
	}
	if err := v.Failed(); err != nil {
		return fmt.Errorf("%w: %w", vfs.ErrIO, err)
	}
	if ino == vfs.RootIno {
		return v.sync.syncErr(v.com.commitData())
	}
	return v.sync.syncErr(v.sync.syncTail())
}

// syncErr turns the error of a failed volume into an I/O error: the caller must learn that its data
// may be lost.
func (s *syncer) syncErr(err error) error {
	if err != nil && errors.Is(err, vfs.ErrReadOnly) {
		return fmt.Errorf("%w: %w", vfs.ErrIO, err)
	}
	return txn.Wrap(err)
}

// syncTail makes all operations recorded so far durable.
func (s *syncer) syncTail() error {
	v := s.v
	_, next := s.ringHead()
	s.mu.Lock()
	for {
		if s.durable >= next {
			s.mu.Unlock()
			return nil
		}
		if err := v.Failed(); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("%w: %w", vfs.ErrIO, err)
		}
		if !s.busy {
			break
		}
		s.cond.Wait()
	}
	s.busy = true
	from := s.pos
	s.mu.Unlock()
	// Include the operations of everybody who came meanwhile.
	pos, next := s.ringHead()
	err := s.logTail(from, pos)
	if errors.Is(err, txn.ErrLogFull) {
		if err = v.com.commitData(); err == nil {
			err = errCommitted
		}
	}
	if errors.Is(err, errCommitted) {
		err = nil
	}
	if err != nil && !errors.Is(err, vfs.ErrClosed) {
		v.fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	s.rounds++
	s.cond.Broadcast()
	if err == nil {
		s.pos = max(s.pos, pos)
		s.durable = max(s.durable, next)
	}
	return err
}

var errCommitted = errors.New("committed instead")

// ringHead returns the end of the ring, and the number of the first operation after it.
func (s *syncer) ringHead() (pos, next uint64) {
	v := s.v
	// Operations are numbered under the ring's lock.
	v.ring.Locked(func(head uint64) { pos, next = head, v.nextOp })
	return pos, next
}

// logTail seals the operations in [from, to) of the ring into the log and flushes. It returns
// ErrLogFull if a commit is better.
func (s *syncer) logTail(from, to uint64) error {
	v := s.v
	from = max(from, v.ring.Tail())
	if from >= to {
		return errCommitted // a durable commit covers all of it
	}
	if v.com.copied.Load() > maxLogCopies {
		return txn.ErrLogFull
	}
	if to-from > refMin {
		v.flush.settleFull()
		if err := v.Failed(); err != nil {
			return err
		}
	}
	batch := make([]byte, 0, min(to-from+4096, maxBatch))
	err := v.ring.Read(from, to, func(rec []byte) error {
		if len(rec) < refMin {
			batch = append(batch, rec...)
		} else {
			var err error
			if batch, err = s.appendLarge(batch, rec); err != nil {
				return err
			}
		}
		if len(batch) > maxBatch || len(batch) > v.log.Room() {
			return txn.ErrLogFull
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(batch) == 0 {
		return errCommitted
	}
	if err := v.log.Append(batch, v.durable.generation()); err != nil {
		return err
	}
	end := v.log.Next()
	if err := v.store.Sync(); err != nil {
		return err
	}
	v.log.Acked(end)
	return nil
}

// appendLarge adds a large operation to a batch. Whole buffers that are already on the device are
// logged by reference.
func (s *syncer) appendLarge(batch, rec []byte) ([]byte, error) {
	v := s.v
	op, _, err := layout.DecodeOp(rec)
	if err != nil {
		return nil, err
	}
	if op.Type != layout.OpWrite {
		return append(batch, rec...), nil
	}
	es := v.flush.refs.get(op.Seq)
	off, data := op.Off, op.Data
	inline := func(n uint64) {
		part := *op
		part.Off, part.Data, part.Len = off, data[:n], n
		batch = layout.AppendOp(batch, &part)
		off, data = off+n, data[n:]
		op.Flags &^= layout.OpKill // only once
	}
	for len(data) > 0 {
		// Find the next buffer that extents cover.
		var ref []layout.FileExtent
		at := off
		for len(es) > 0 {
			start := es[0].Block / bufferPages * bufferPages
			n, covered := 0, uint64(0)
			for n < len(es) && es[n].Block == start+covered && covered < bufferPages {
				covered += es[n].Blocks()
				n++
			}
			group := es[:max(n, 1)]
			es = es[max(n, 1):]
			if covered == bufferPages && start*pageBytes >= off && start*pageBytes+bufferBytes <= off+uint64(len(data)) {
				at = start * pageBytes
				for i := range group {
					ref = append(ref, group[i].FileExtent)
				}
				break
			}
		}
		if ref == nil {
			inline(uint64(len(data)))
			break
		}
		if at > off {
			inline(at - off)
		}
		part := *op
		part.Type, part.Data, part.Off, part.Len, part.Extents = layout.OpWriteRef, nil, off, bufferBytes, ref
		batch = layout.AppendOp(batch, &part)
		off, data = off+bufferBytes, data[bufferBytes:]
		op.Flags &^= layout.OpKill
	}
	return batch, nil
}
