package txn

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Replay is the result of ReadLog. It does not hold the records, because they may be larger than
// the mount's memory. Records reads them again.
type Replay struct {
	Ends      []uint64 // first frame after each record
	Certain   int      // records below are known to have been acknowledged
	Next      uint64   // first empty frame
	MaxBase   uint64
	Discarded int // frames of an unfinished record at the end
}

// frames calls fn for n frames of the root's mount from seq on, in order. f is nil for a frame that
// does not verify; err is set if it cannot be read. f is valid only during the call.
func (s *Store) frames(root *layout.Root, seq, n uint64, fn func(seq uint64, f *crypto.FramePayload, err error) error) error {
	const batch = WriteBytes / layout.BlockBytes
	buf := device.AlignedBytes(WriteBytes)
	payload := make([]byte, crypto.FrameBytes)
	for n > 0 {
		place := seq % root.LogBlocks
		c := min(batch, n, root.LogBlocks-place)
		batchErr := s.readAt(buf[:c*layout.BlockBytes], layout.LogOff+place*layout.BlockBytes)
		for j := range c {
			block := buf[j*layout.BlockBytes : (j+1)*layout.BlockBytes]
			var err error
			if batchErr != nil {
				err = s.readAt(block, layout.LogOff+(place+j)*layout.BlockBytes)
			}
			var f *crypto.FramePayload
			if err == nil && s.openFrame(root, seq+j, block, payload) {
				if p, err := crypto.DecodeFramePayload(payload); err == nil {
					f = &p
				}
			}
			if err := fn(seq+j, f, err); err != nil {
				return err
			}
		}
		seq, n = seq+c, n-c
	}
	return nil
}

func (s *Store) openFrame(root *layout.Root, seq uint64, block, payload []byte) (ok bool) {
	if allZero(block[:64]) {
		return false
	}
	s.Keys.All(func(k *crypto.EpochKeys) bool {
		ok = k.OpenFrame(root.MountID, seq, block, payload) == nil
		return ok
	})
	return ok
}

// ReadLog finds the records that root does not cover. It returns an error if a frame claims that a
// missing frame, or a newer root, was durable (I4).
func (s *Store) ReadLog(root *layout.Root) (*Replay, error) {
	rp := &Replay{Next: root.LogSeq}
	open, failed := false, false
	var maxAcked uint64
	err := s.frames(root, root.LogSeq, root.LogBlocks, func(seq uint64, f *crypto.FramePayload, err error) error {
		if err != nil && !failed {
			// A frame that does not verify ends the log. A frame that cannot be read might be
			// valid.
			return fmt.Errorf("log frame %d: %w", seq, err)
		}
		if f == nil {
			failed = true
			return nil
		}
		maxAcked = max(maxAcked, f.Acked)
		rp.MaxBase = max(rp.MaxBase, f.Base)
		if failed {
			return nil // beyond the end: only its claims about others count
		}
		if first := f.Flags&frameFirst != 0; first == open {
			return fmt.Errorf("%w: frame %d does not continue its record", ErrLogDamaged, seq)
		}
		if open = f.Flags&frameLast == 0; !open {
			rp.Ends = append(rp.Ends, seq+1)
			rp.Next = seq + 1
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(rp.Ends) > 0 && open {
		rp.Discarded = 1
	}
	if maxAcked > rp.Next {
		return nil, fmt.Errorf("%w: frame %d was durable, but cannot be read", ErrLogDamaged, rp.Next)
	}
	if rp.MaxBase > root.Generation {
		return nil, fmt.Errorf("%w: the log follows root %d, but the newest root that verifies is %d", ErrLogDamaged, rp.MaxBase, root.Generation)
	}
	for _, e := range rp.Ends {
		if e <= maxAcked {
			rp.Certain++
		}
	}
	return rp, nil
}

// Records calls fn for the parts of the first n records that ReadLog found, in order. last is set
// for the last part of a record. The data is valid only during the call. It returns an error if the
// device's content differs from what ReadLog has read.
func (s *Store) Records(root *layout.Root, rp *Replay, n int, fn func(record int, data []byte, last bool) error) error {
	if n == 0 {
		return nil
	}
	record := 0
	return s.frames(root, root.LogSeq, rp.Ends[n-1]-root.LogSeq, func(seq uint64, f *crypto.FramePayload, err error) error {
		if err != nil {
			return fmt.Errorf("log frame %d: %w", seq, err)
		}
		last := seq+1 == rp.Ends[record]
		if f == nil || last != (f.Flags&frameLast != 0) {
			return fmt.Errorf("%w: frame %d changed between two reads", ErrLogDamaged, seq)
		}
		at := record
		if last {
			record++
		}
		return fn(at, f.Data, last)
	})
}
