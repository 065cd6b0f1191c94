package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// long replays an operation on a range of a file in steps. A running volume records no operation
// longer than a step. But a forged log may contain any range of a file with any number of extents,
// and data that was in memory then may be in extents now. If a root is written between two steps,
// it does not cover the operation, so all of it is repeated, which does not change completed steps.
func (r *replayer) long(in *inode, op *layout.Op) error {
	v := r.v
	step, prepare := v.fallocStep, r.fallocate
	if op.Type == layout.OpCopyRange {
		src, err := v.table.inode(vfs.Ino(op.Parent2))
		if err != nil {
			return err
		}
		defer v.table.put(src)
		if err := checkCopy(src, in, op); err != nil {
			return err
		}
		step, prepare = func(dst *inode, off, end uint64) (uint64, error) {
			return r.copyStep(src, op.Off2+off-op.Off, dst, off, end)
		}, r.copy
	}
	for off, end := op.Off, op.Off+op.Len; ; {
		stop, err := step(in, off, end)
		if err != nil {
			return err
		}
		part := *op
		part.Off, part.Off2, part.Len = off, op.Off2+off-op.Off, stop-off
		if err := prepare(in, &part); err != nil {
			return err
		}
		if err := v.apply(&part); err != nil {
			return err
		}
		v.data.unload(in)
		if off = stop; off >= end {
			return nil
		}
		v.nextOp = op.Seq
		if err := r.limitMemory(); err != nil {
			return err
		}
		v.nextOp = op.Seq + 1
	}
}

func (r *replayer) fallocate(in *inode, op *layout.Op) error {
	v := r.v
	return v.data.prepareWrite(in, op.Off, op.Off+op.Len)
}

// copyStep returns where a copy to off must end, so that it meets no more extents of either file
// than share may handle.
func (r *replayer) copyStep(src *inode, from uint64, dst *inode, off, end uint64) (uint64, error) {
	v := r.v
	stop := end
	for _, side := range []struct {
		in *inode
		at uint64
	}{{src, from}, {dst, off}} {
		a, b := side.at/pageBytes, (side.at+stop-off+pageBytes-1)/pageBytes
		es, err := v.data.extents(side.in.ino, a, b, copyExtents)
		if err != nil {
			return 0, txn.Wrap(err)
		}
		if len(es) == copyExtents {
			stop = min(stop, off+(es[len(es)-1].End()-a)*pageBytes)
		}
	}
	return stop, nil
}
