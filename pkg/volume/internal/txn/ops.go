package txn

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// EachOp decodes the operations of the first n records of a log, one after another: a
// log is as long as its volume's root says, which bounds nothing. op and its data are
// valid during the call only.
func (s *Store) EachOp(root *layout.Root, rp *Replay, n int, fn func(record int, op *layout.Op) error) error {
	var buf []byte // begins with an operation
	return s.Records(root, rp, n, func(record int, data []byte, last bool) error {
		buf = append(buf, data...)
		rest := buf
		for len(rest) > 0 {
			size, err := layout.OpBytes(rest)
			if err == nil && !last && (size == 0 || size > len(rest)) {
				break // it goes on in the next frame
			}
			var op *layout.Op
			if err == nil {
				op, rest, err = layout.DecodeOp(rest)
			}
			if err != nil {
				return fmt.Errorf("log record %d: %w", record, err)
			}
			if err := fn(record, op); err != nil {
				return err
			}
		}
		buf = append(buf[:0], rest...)
		return nil
	})
}

// DataArrived tells whether the extents that an operation refers to are on the
// device. What does not verify was not written; what cannot be read may have
// been, and acknowledged: an error.
func (s *Store) DataArrived(op *layout.Op, scratch []byte) (bool, error) {
	for j := range op.Extents {
		r := &op.Extents[j].Record
		switch err := s.ReadRun(r, 0, r.Count(), scratch[:r.RunBytes()]); {
		case errors.Is(err, layout.ErrCorrupt):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("data of operation %d: %w", op.Seq, err)
		}
	}
	return true, nil
}
