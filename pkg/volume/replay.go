package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// errEndOfLog ends a walk over the operations of a log.
var errEndOfLog = errors.New("end of the log")

// logEnd says how much of a log is to be replayed.
type logEnd struct {
	records int
	gen     uint64 // generation to open
	ops     bool   // there are operations that the root does not cover
}

// findEnd examines all operations that a root does not cover. A record that is not known to have
// been acknowledged ends the log if data that it refers to did not reach the device.
func findEnd(s *txn.Store, root *layout.Root, rp *txn.Replay) (end logEnd, err error) {
	end = logEnd{records: len(rp.Ends), gen: max(root.Generation, rp.MaxBase) + 1}
	scratch := make([]byte, txn.ReadBytes)
	arrived, at, ops := true, 0, false // of the current record
	err = s.EachOp(root, rp, len(rp.Ends), func(record int, op *layout.Op) (err error) {
		if record != at {
			if !arrived {
				return errEndOfLog
			}
			at, end.ops = record, end.ops || ops
		}
		for i := range op.Extents {
			// Extents in the log were sealed in the two generations after the root's, or a few
			// later if commits were interrupted.
			birth := op.Extents[i].Birth
			if birth > root.Generation+layout.RootSlots {
				return fmt.Errorf("%w: log record %d: an extent has generation %d, but the root has %d", layout.ErrCorrupt, record, birth, root.Generation)
			}
			end.gen = max(end.gen, birth)
		}
		if op.Seq < root.OpSeq {
			return nil // its data belongs to the root, or to nothing any more
		}
		ops = true
		if record >= rp.Certain && arrived {
			arrived, err = s.DataArrived(op, scratch)
		}
		return err
	})
	if err != nil && !errors.Is(err, errEndOfLog) {
		return end, err
	}
	if !arrived {
		end.records = at
	} else {
		end.ops = end.ops || ops
	}
	return end, nil
}

// replayer replays a log when a volume is opened. Nobody else uses the volume yet.
type replayer struct{ v *Volume }

// run replays the operations that the root does not cover. Nobody else uses the volume yet.
func (r *replayer) run(root *layout.Root, rp *txn.Replay, end logEnd) error {
	v := r.v
	each := func(fn func(op *layout.Op) error) error {
		if !end.ops {
			return nil
		}
		return v.store.EachOp(root, rp, end.records, func(_ int, op *layout.Op) error {
			if op.Seq < root.OpSeq {
				return nil
			}
			if err := fn(op); err != nil {
				return fmt.Errorf("replay of operation %d, type %d: %w", op.Seq, op.Type, logMismatch(err))
			}
			return nil
		})
	}
	// First, claim what the log refers to, so that it is not allocated again (I1).
	if err := each(r.claim); err != nil {
		return err
	}
	// Unfinished truncations precede the operations that followed them.
	if err := r.finishCuts(); err != nil {
		return err
	}
	return each(func(op *layout.Op) error {
		if op.Seq < v.nextOp-1 {
			return fmt.Errorf("%w: it is out of order after operation %d", layout.ErrCorrupt, v.nextOp-1)
		}
		if op.Seq >= v.nextOp { // a root covers all operations with one number, or none
			if err := r.limitMemory(); err != nil {
				return err
			}
		}
		v.nextOp = op.Seq + 1
		if err := r.settle(op); err != nil {
			return err
		}
		return r.op(op)
	})
}

// logMismatch turns the error of an operation that cannot be applied into damage of the log: everything
// that the operation needs existed when it was made.
func logMismatch(err error) error {
	for _, known := range []error{layout.ErrCorrupt, txn.ErrDevice, txn.ErrNoSpace, txn.ErrMemory, vfs.ErrIO, vfs.ErrNoSpace} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: the log does not match its root: %w", layout.ErrCorrupt, err)
}

// claim withholds the blocks that an operation refers to.
func (r *replayer) claim(op *layout.Op) error {
	v := r.v
	if op.Type == layout.OpGrow { // later operations may refer to the new part
		return v.applyGrow(op.Len)
	}
	return r.eachExtent(op, v.space.Claim)
}

// settle ends the claims of an operation that is being applied.
func (r *replayer) settle(op *layout.Op) error {
	v := r.v
	return r.eachExtent(op, v.space.Settle)
}

func (r *replayer) eachExtent(op *layout.Op, fn func(layout.Run) error) error {
	v := r.v
	if v.opts.ReadOnly {
		return nil // nothing is allocated, and blocks that wait for I3 were not freed
	}
	for i := range op.Extents {
		e := &op.Extents[i]
		if err := fn(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(e.Blocks())}); err != nil {
			return err
		}
	}
	return nil
}

// dirtyInodeBytes is the approximate size of an inode in memory.
const dirtyInodeBytes = 1024

// limitMemory keeps the changes of a replay within the mount's memory. The writer of the log committed
// in time, but with more memory perhaps, and a forged log may contain anything. A root written in
// the middle covers the operations so far; the log continues from there, and its claims are free in
// that root. A read-only mount must give up.
func (r *replayer) limitMemory() error {
	v := r.v
	a := &v.adm
	a.mu.Lock()
	pages, nodes, inodes := a.pages, a.nodes, a.inodes
	a.mu.Unlock()
	freed := v.space.FreedRuns() + int(v.snap.pendingRuns.Load())
	if v.opts.ReadOnly {
		if pages*pageBytes+nodes*layout.NodeBytes+inodes*dirtyInodeBytes+freed*16 > v.opts.Memory {
			return fmt.Errorf("a read-only mount keeps the changes of the log in memory; mount read-write, which needs less: %w", txn.ErrMemory)
		}
		return nil
	}
	// Twice the limits of admission, so that few replays write roots.
	if pages <= 2*a.maxPages && nodes <= 2*a.maxNodes && inodes <= 2*maxIdle && freed <= 2*maxFreed {
		return nil
	}
	return v.com.commit(false)
}

// op prepares an operation as its first execution did, and applies it.
func (r *replayer) op(op *layout.Op) error {
	v := r.v
	if err := r.checkNames(op); err != nil {
		return err
	}
	switch op.Type {
	case layout.OpCreate, layout.OpRename:
		for _, made := range op.Makes() {
			if in, err := v.table.inode(vfs.Ino(made)); !errors.Is(err, vfs.ErrStale) {
				if err == nil {
					v.table.put(in)
					err = fmt.Errorf("%w: inode %d already exists", layout.ErrCorrupt, made)
				}
				return err
			}
		}
		return v.apply(op)
	case layout.OpLink, layout.OpUnlink, layout.OpGrow:
		return v.apply(op)
	}
	in, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	if err := r.file(in, op); err != nil {
		return err
	}
	return r.finishCut(in)
}

// checkNames refuses operations after which directories would not form a tree.
func (r *replayer) checkNames(op *layout.Op) error {
	v := r.v
	if op.Type != layout.OpLink && op.Type != layout.OpRename {
		return nil
	}
	in, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	switch {
	case !in.isDir():
		return nil
	case op.Type == layout.OpLink:
		return fmt.Errorf("%w: directory %d would get a second name", layout.ErrCorrupt, op.Ino)
	case op.Parent == op.Parent2:
		return nil
	}
	to, err := v.table.dir(vfs.Ino(op.Parent2))
	if err != nil {
		return err
	}
	defer v.table.put(to)
	inside, err := v.names.isInside(to, op.Ino)
	if err == nil && inside {
		err = fmt.Errorf("%w: directory %d would become its own ancestor", layout.ErrCorrupt, op.Ino)
	}
	return err
}

// file is op for operations on one file.
func (r *replayer) file(in *inode, op *layout.Op) (err error) {
	v := r.v
	defer v.data.unload(in)
	switch op.Type {
	case layout.OpWrite, layout.OpWriteRef:
		err = v.data.prepareWrite(in, op.Off, op.Off+op.Len)
	case layout.OpFallocate, layout.OpCopyRange:
		return r.long(in, op)
	case layout.OpSetAttr:
		if op.Flags&layout.SetSize != 0 {
			err = v.data.prepareTruncate(in, op.Len)
		}
	}
	if err == nil {
		err = v.apply(op)
	}
	return err
}

// finishCuts completes truncations that were interrupted.
func (r *replayer) finishCuts() error {
	v := r.v
	for last := uint64(0); ; {
		inos, err := v.background.reaper.orphans(last)
		if err != nil || len(inos) == 0 {
			return err
		}
		last = inos[len(inos)-1]
		for _, ino := range inos {
			in, err := v.table.inode(vfs.Ino(ino))
			if err != nil {
				return logMismatch(err)
			}
			if in.isReg() { // also without a name: it may get one (O_TMPFILE)
				in.cutting = true
				err = r.finishCut(in)
			}
			v.table.put(in)
			if err != nil {
				return err
			}
		}
	}
}

func (r *replayer) finishCut(in *inode) error {
	v := r.v
	for in.cutting {
		if err := v.data.cutMore(in); err != nil {
			return err
		}
		if err := r.limitMemory(); err != nil {
			return err
		}
	}
	return nil
}

// applyWriteRef replaces data of a file by extents that are already on the device.
func (v *Volume) applyWriteRef(in *inode, op *layout.Op) error {
	if op.Off%pageBytes != 0 || op.Len%pageBytes != 0 {
		return fmt.Errorf("%w: invalid reference to %d bytes at %d", layout.ErrCorrupt, op.Len, op.Off)
	}
	if op.Flags&layout.OpKill != 0 {
		if err := v.applyKill(in); err != nil {
			return err
		}
	}
	v.data.unpackInline(in, max(in.attr.Size, op.Off+op.Len))
	block := op.Off / pageBytes
	end := block + op.Len/pageBytes
	if err := v.data.cutBuffers(in, block, end); err != nil {
		return err
	}
	err := v.fs.Update(func(w *tree.Writer) error {
		if in.inlined.Swap(false) { // page 0 is in memory, and dirty
			if _, err := w.Delete(items.InlineKey(in.ino)); err != nil {
				return err
			}
		}
		for i := range op.Extents {
			e := &op.Extents[i]
			e.RefBirth = max(e.RefBirth, e.Birth)
			if err := v.data.put(w, in, block, e); err != nil {
				return err
			}
			block += e.Blocks()
		}
		if block != end {
			return fmt.Errorf("%w: references cover %d of %d blocks", layout.ErrCorrupt, block-op.Off/pageBytes, op.Len/pageBytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.table.touch(in)
	return nil
}
