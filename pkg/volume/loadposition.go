package volume

import (
	"cmp"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// The position of a restore is in the head's tree, so that it becomes durable together with what
// was restored. It exists from the first root until the header says that the volume is complete.

// storePosition replaces the position. The caller is in the gate, or nobody else uses the volume
// yet.
func (v *Volume) storePosition(position []byte) error {
	return v.fs.Update(func(w *tree.Writer) error {
		pieces := layout.PositionPieces(len(position))
		for i := range pieces {
			if err := w.Put(items.PositionKey(i), layout.AppendPosition(nil, position, i)); err != nil {
				return err
			}
		}
		return v.deletePosition(w, pieces)
	})
}

// deletePosition removes the pieces of the position from one on.
func (v *Volume) deletePosition(w *tree.Writer, from int) error {
	for i := from; i < layout.PositionPieces(layout.MaxPosition); i++ {
		if _, err := w.Delete(items.PositionKey(i)); err != nil {
			return err
		}
	}
	return nil
}

// readPosition returns the position, nil if it is empty. found is false if there is none.
func (v *Volume) readPosition() (position []byte, found bool, err error) {
	total, pieces := 0, 0
	var derr error
	err = v.fs.Scan(items.PositionKey(0), layout.Key{Type: layout.KeyPosition, Sub: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		if k.Sub != uint64(pieces) {
			derr = fmt.Errorf("%w: piece %d of the position is missing", layout.ErrCorrupt, pieces)
			return false
		}
		position, total, derr = layout.DecodePosition(val, position, pieces, total)
		pieces++
		return derr == nil
	})
	switch {
	case err != nil || derr != nil:
		return nil, false, fmt.Errorf("position of the restore: %w", cmp.Or(err, derr))
	case pieces > 0 && len(position) != total:
		return nil, false, fmt.Errorf("%w: the position of the restore has %d of %d bytes", layout.ErrCorrupt, len(position), total)
	}
	return position, pieces > 0, nil
}

// dropPosition removes what the end of a restore left that was interrupted after the header said
// that the volume is complete. Nobody else uses the volume yet.
func (v *Volume) dropPosition() error {
	if v.opts.load {
		return nil
	}
	left := false
	err := v.fs.Scan(items.PositionKey(0), layout.Key{Type: layout.KeyPosition, Sub: ^uint64(0)}, func(layout.Key, []byte) bool {
		left = true
		return false
	})
	if err != nil || !left {
		return err
	}
	v.keys.floor.Store(v.keys.header.Sequence)
	return v.fs.Update(func(w *tree.Writer) error { return v.deletePosition(w, 0) })
}
