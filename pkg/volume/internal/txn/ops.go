package txn

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// EachOp decodes the operations of the first n records of a log, one after another, because the
// size of a log in memory is not bounded: it depends on the volume's root. op and its data are
// valid only during the call.
func (s *Store) EachOp(root *layout.Root, rp *Replay, n int, fn func(record int, op *layout.Op) error) error {
	var buf []byte // begins with an operation
	return s.Records(root, rp, n, func(record int, data []byte, last bool) error {
		buf = append(buf, data...)
		rest := buf
		for len(rest) > 0 {
			size, err := layout.OpBytes(rest)
			if err == nil && !last && (size == 0 || size > len(rest)) {
				break // it continues in the next frame
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

// DataArrived reports whether the extents that an operation refers to are on the device. An extent
// that does not verify was not written. One that cannot be read may have been written and
// acknowledged: that is an error.
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
