package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// decodeLog decodes the operations that a root does not cover. Records that
// nobody is known to have been told of end the log where the data they refer to
// did not make it. It returns the generation to open.
func decodeLog(s *txn.Store, root *layout.Root, rp *txn.Replay) (ops []*layout.Op, gen uint64, err error) {
	gen = max(root.Generation, rp.MaxBase) + 1
	scratch := make([]byte, txn.ReadBytes)
	for i, rec := range rp.Records {
		var batch []*layout.Op
		for len(rec) > 0 {
			op, rest, err := layout.DecodeOp(rec)
			if err != nil {
				return nil, 0, fmt.Errorf("log record %d: %w", i, err)
			}
			batch, rec = append(batch, op), rest
		}
		if i >= rp.Certain {
			if ok, err := dataArrived(s, batch, scratch); err != nil || !ok {
				return ops, gen, err
			}
		}
		for _, op := range batch {
			for j := range op.Extents {
				gen = max(gen, op.Extents[j].Birth)
			}
			if op.Seq >= root.OpSeq {
				ops = append(ops, op)
			}
		}
	}
	return ops, gen, nil
}

// dataArrived tells whether the extents that a record refers to are on the
// device. What does not verify was not written; what can not be read may have
// been, and acknowledged: an error.
func dataArrived(s *txn.Store, batch []*layout.Op, scratch []byte) (bool, error) {
	for _, op := range batch {
		for j := range op.Extents {
			r := &op.Extents[j].Record
			switch err := s.ReadRun(r, 0, r.Count(), scratch[:r.RunBytes()]); {
			case errors.Is(err, layout.ErrCorrupt):
				return false, nil
			case err != nil:
				return false, fmt.Errorf("data of operation %d: %w", op.Seq, err)
			}
		}
	}
	return true, nil
}

// replay applies the operations of the log. Nobody else uses the volume yet.
func (v *Volume) replay(ops []*layout.Op) error {
	// First of all: what the log refers to must not be allocated again (I1).
	for _, op := range ops {
		if op.Type == layout.OpGrow { // what follows may lie in the new part
			if err := v.applyGrow(op.Len); err != nil {
				return err
			}
		}
		if v.opts.ReadOnly {
			continue // nothing is allocated, nor was what waits for I3 made free
		}
		for i := range op.Extents {
			e := &op.Extents[i]
			if err := v.space.Claim(layout.Run{Start: e.Addr / layout.SectorBytes, Count: uint32(e.Sectors())}); err != nil {
				return fmt.Errorf("operation %d: %w", op.Seq, err)
			}
		}
	}
	// Cuts that were under way come before operations that followed them.
	if err := v.finishCuts(); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Seq < v.nextOp-1 {
			return fmt.Errorf("%w: operation %d after %d", layout.ErrCorrupt, op.Seq, v.nextOp-1)
		}
		v.nextOp = op.Seq + 1
		if err := v.replayOp(op); err != nil {
			return fmt.Errorf("replay of operation %d, type %d: %w", op.Seq, op.Type, err)
		}
	}
	for last := uint64(0); ; {
		inos, err := v.orphans(last)
		if err != nil {
			return err
		}
		if len(inos) == 0 {
			return nil
		}
		v.leftovers = append(v.leftovers, inos...)
		last = inos[len(inos)-1]
	}
}

// replayOp prepares an operation as its first execution did, and applies it.
func (v *Volume) replayOp(op *layout.Op) error {
	switch op.Type {
	case layout.OpCreate, layout.OpLink, layout.OpUnlink, layout.OpRename, layout.OpGrow:
		return v.apply(op)
	}
	in, err := v.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	defer v.unload(in)
	switch op.Type {
	case layout.OpWrite, layout.OpWriteRef:
		err = v.prepareWrite(in, op.Off, op.Off+op.Len)
	case layout.OpFallocate:
		err = v.prepareWrite(in, op.Off, op.Off+op.Len)
	case layout.OpCopyRange:
		err = v.replayCopy(in, op)
	case layout.OpSetAttr:
		if op.Flags&layout.SetSize != 0 {
			err = v.prepareTruncate(in, op.Len)
		}
	}
	if err == nil {
		err = v.apply(op)
	}
	for err == nil && in.cutting {
		err = v.cutMore(in)
	}
	return err
}

// finishCuts removes what lies beyond the end of files whose truncation was
// under way.
func (v *Volume) finishCuts() error {
	for last := uint64(0); ; {
		inos, err := v.orphans(last)
		if err != nil || len(inos) == 0 {
			return err
		}
		last = inos[len(inos)-1]
		for _, ino := range inos {
			in, err := v.inode(vfs.Ino(ino))
			if err != nil {
				return err
			}
			if in.isReg() { // also without a name: one may follow (O_TMPFILE)
				in.cutting = true
				for err == nil && in.cutting {
					err = v.cutMore(in)
				}
			}
			v.table.put(in)
			if err != nil {
				return err
			}
		}
	}
}

// applyWriteRef puts extents that are on the device already under a file.
func (v *Volume) applyWriteRef(in *inode, op *layout.Op) error {
	if op.Off%pageBytes != 0 || op.Len%pageBytes != 0 {
		return fmt.Errorf("%w: reference to %d bytes at %d", layout.ErrCorrupt, op.Len, op.Off)
	}
	if op.Flags&layout.OpKill != 0 {
		if err := v.applyKill(in); err != nil {
			return err
		}
	}
	v.unpackInline(in, max(in.attr.Size, op.Off+op.Len))
	sector := op.Off / pageBytes
	end := sector + op.Len/pageBytes
	if err := v.cutBlocks(in, sector, end); err != nil {
		return err
	}
	err := v.fs.Update(func(w *tree.Writer) error {
		if in.inlined.Swap(false) { // page 0 is in memory, and dirty
			if _, err := w.Delete(layout.Key{Obj: in.ino, Type: layout.KeyInline}); err != nil {
				return err
			}
		}
		for i := range op.Extents {
			e := &op.Extents[i]
			e.RefBirth = max(e.RefBirth, e.Birth)
			if err := v.putExtent(w, in, sector, e); err != nil {
				return err
			}
			sector += e.Sectors()
		}
		if sector != end {
			return fmt.Errorf("%w: references cover %d of %d sectors", layout.ErrCorrupt, sector-op.Off/pageBytes, op.Len/pageBytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.touch(in)
	return nil
}
