package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Fallocate implements vfs.FS. Unless mode has FallocPunchHole, it also reserves the range
// (reserve.go). If there is no space for that, it changes nothing and returns ErrNoSpace. A hole
// ends the reservation of its range.
func (v *Volume) Fallocate(req *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	if err := v.isFile(ino); err != nil {
		return err
	}
	punch, zero := mode&vfs.FallocPunchHole != 0, mode&vfs.FallocZeroRange != 0
	switch {
	case length == 0:
		return vfs.ErrInvalid
	case off > layout.MaxFileBytes || length > layout.MaxFileBytes-off:
		return vfs.ErrFileTooBig
	case mode&^(vfs.FallocKeepSize|vfs.FallocPunchHole|vfs.FallocZeroRange) != 0 || punch && zero:
		return vfs.ErrNotSupported
	case punch && mode&vfs.FallocKeepSize == 0:
		return vfs.ErrNotSupported
	}
	f := falloc{v: v, req: req, mode: mode, off: off, end: off + length}
	if !punch {
		if length/pageBytes > v.blocks.Load() {
			return vfs.ErrNoSpace
		}
		if err := v.keys.requireFeature(layout.FeatureReserved); err != nil {
			return err
		}
		f.mode |= layout.FallocReserve
	}
	in, err := v.table.inode(ino)
	if err != nil {
		return err
	}
	defer v.table.put(in)
	f.in = in
	return v.ranges.inReserved(in, f.edges, f.run)
}

// falloc is the state of one call of Fallocate.
type falloc struct {
	v        *Volume
	req      *vfs.Req
	in       *inode
	mode     uint32
	off, end uint64
	room     reservation // withheld for the blocks that become reserved
}

func (f *falloc) reserves() bool { return f.mode&layout.FallocReserve != 0 }
func (f *falloc) clears() bool {
	return f.mode&(vfs.FallocPunchHole|vfs.FallocZeroRange) != 0
}

// edges are the bytes in partly cleared blocks that the call writes, at both ends of the range.
func (f *falloc) edges() (spans []items.Interval) {
	for _, off := range []uint64{f.off, f.end} {
		if f.clears() && off%pageBytes != 0 {
			spans = append(spans, items.Interval{From: off, To: off + 1})
		}
	}
	return spans
}

// run makes the call, if the edges are still reserved where promised says so. A long call is split
// into several operations. Between them, the file is as after a shorter call.
func (f *falloc) run(promised bool) (again bool, err error) {
	v := f.v
	_, dropped := v.data.dropStep()
	c := reservation{ring: 256, nodes: opNodes + dropped, pages: 2, promised: promised}
	if err := v.adm.reserve(c); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	in := f.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := v.regular(in); err != nil {
		return false, err
	}
	if err := mayAllocate(in, f.mode&^layout.FallocReserve); err != nil {
		return false, err
	}
	if promised {
		if ok, err := v.ranges.coversAll(in, f.edges()); err != nil || !ok {
			return true, err
		}
	}
	if err := v.data.cutRest(in); err != nil {
		return false, err
	}
	if f.reserves() {
		if f.room, err = f.takeRoom(); err != nil {
			return false, err
		}
		defer func() { v.adm.done(f.room) }()
	}
	defer v.data.unload(in)
	if f.clears() {
		err = v.data.prepareWrite(in, f.off, f.end)
	} else {
		err = v.data.loadSmall(in)
	}
	if err != nil {
		return false, err
	}
	return false, f.steps(dropped)
}

// takeRoom withholds the space that the call will promise. The caller holds in.mu, so the range
// does not change meanwhile, except by flushes, which reduce the need.
func (f *falloc) takeRoom() (reservation, error) {
	v := f.v
	sum, err := v.unreserved(f.in, f.off/pageBytes, (f.end+pageBytes-1)/pageBytes)
	if err != nil {
		return reservation{}, err
	}
	c := reservation{hold: int64(sum.owed) + metaFor(int64(sum.promised), 1, true), promises: 1, nested: true}
	return c, v.adm.reserve(c)
}

// unreserved counts the blocks in [from, to) of a file that would become reserved.
func (v *Volume) unreserved(in *inode, from, to uint64) (sum reserveSum, err error) {
	mark := max(v.ranges.mark.Load(), v.snap.newest.Load())
	for at := from; at < to; {
		spans, err := items.ScanReserved(v.fs.ScanFloor, in.ino, at, to, 1)
		if err != nil {
			return sum, txn.Wrap(err)
		}
		gap, next := items.Interval{From: at, To: to}, to
		if len(spans) > 0 {
			gap.To, next = max(at, spans[0].From), min(to, spans[0].To)
		}
		sum.promised += gap.To - gap.From
		sum.owed += gap.To - gap.From
		for gap.From < gap.To {
			es, err := v.data.extents(in.ino, gap.From, gap.To, cutStep)
			if err != nil {
				return sum, txn.Wrap(err)
			}
			for i := range es {
				e := &es[i]
				shared, err := v.shares.Most(e.Run())
				if err != nil {
					return sum, txn.Wrap(err)
				}
				if shared == 0 && !e.Owed && e.RefBirth > mark {
					sum.owed -= min(e.End(), gap.To) - max(e.Block, gap.From)
				}
			}
			if gap.From = gap.To; len(es) == cutStep {
				gap.From = min(gap.To, es[len(es)-1].End())
			}
		}
		at = next
	}
	return sum, nil
}

// steps executes the operations of the call.
func (f *falloc) steps(dropped int) error {
	v := f.v
	for off := f.off; off < f.end; {
		stop, err := v.fallocStep(f.in, off, f.end)
		if err != nil {
			return err
		}
		var sum reserveSum
		if f.reserves() && stop < f.end {
			if sum, err = v.unreserved(f.in, off/pageBytes, (stop+pageBytes-1)/pageBytes); err != nil {
				return err
			}
		}
		op := &layout.Op{Type: layout.OpFallocate, Unique: f.req.Unique, Ino: f.in.ino, Time: vfs.Now(), Flags: f.mode, Off: off, Len: stop - off}
		if err := v.perform(op); err != nil {
			return err
		}
		if off = stop; off < f.end {
			f.settle(sum)
			more := reservation{ring: 256, nodes: opNodes + dropped, urgent: true, nested: true}
			if err := v.adm.reserve(more); err != nil {
				return err
			}
			v.adm.done(more)
		}
	}
	return nil
}

// settle gives back the space withheld for a part that is reserved now, because it is counted as
// owed. If both counted, the next piece might not find space.
func (f *falloc) settle(sum reserveSum) {
	n := min(int64(sum.owed)+int64(sum.promised)/reservedShare, f.room.hold)
	f.room.hold -= n
	f.v.adm.unhold(n)
}

// fallocStep returns where an operation from off must end, so that it changes no more extents and
// reserved ranges than one step may.
func (v *Volume) fallocStep(in *inode, off, end uint64) (uint64, error) {
	step, _ := v.data.dropStep()
	from, to := off/pageBytes, (end+pageBytes-1)/pageBytes
	es, err := v.data.extents(in.ino, from, to, step)
	if err != nil {
		return 0, txn.Wrap(err)
	}
	stop := end
	if len(es) == step {
		stop = min(stop, max(off+pageBytes, es[step-1].End()*pageBytes))
	}
	if !in.reserved.Load() {
		return stop, nil
	}
	spans, err := items.ScanReserved(v.fs.ScanFloor, in.ino, from, to, step)
	if err != nil {
		return 0, txn.Wrap(err)
	}
	if len(spans) == step {
		stop = min(stop, max(off+pageBytes, spans[step-1].To*pageBytes))
	}
	return stop, nil
}

func (v *Volume) applyFallocate(in *inode, op *layout.Op) error {
	end := op.Off + op.Len
	size := in.attr.Size
	if op.Flags&vfs.FallocKeepSize == 0 {
		size = max(size, end)
	}
	reserve := op.Flags&layout.FallocReserve != 0
	if reserve {
		in.reserved.Store(true) // from here on, no flusher stores its content in the tree
	}
	v.data.unpackInline(in, size)
	if op.Flags&(vfs.FallocPunchHole|vfs.FallocZeroRange) != 0 {
		if err := v.punch(in, op.Off, end, reserve); err != nil {
			return err
		}
	}
	if reserve {
		from, to := op.Off/pageBytes, (end+pageBytes-1)/pageBytes
		err := v.fs.Update(func(w *tree.Writer) error { return v.ranges.reserve(w, in, from, to) })
		if err != nil {
			return fmt.Errorf("reserve blocks %d to %d: %w", from, to, err)
		}
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.table.touch(in)
	return nil
}

// punch makes [off, end) a hole. Partly cleared blocks at both ends are in memory. Reservations of
// the range end, unless keep is set.
func (v *Volume) punch(in *inode, off, end uint64, keep bool) error {
	a, b := (off+pageBytes-1)/pageBytes, end/pageBytes // whole blocks
	if end >= in.attr.Size {
		b = max(b, (in.attr.Size+pageBytes-1)/pageBytes)
	}
	if off/pageBytes == end/pageBytes && off%pageBytes != 0 {
		v.data.zeroPage(in, off/pageBytes, int(off%pageBytes), int(end%pageBytes))
		return nil
	}
	if off%pageBytes != 0 {
		v.data.zeroPage(in, off/pageBytes, int(off%pageBytes), pageBytes)
	}
	if end%pageBytes != 0 && end/pageBytes >= b {
		v.data.zeroPage(in, end/pageBytes, 0, int(end%pageBytes))
	}
	if a >= b {
		return nil
	}
	if err := v.data.cutBuffers(in, a, b); err != nil {
		return err
	}
	return v.cutHole(in, a, b, keep)
}

// cutHole removes the extents of blocks [from, to). The caller bounds their number.
func (v *Volume) cutHole(in *inode, from, to uint64, keep bool) error {
	return v.fs.Update(func(w *tree.Writer) error {
		d, err := v.data.drop(w, in, from, to, 0)
		if err != nil {
			return err
		}
		v.data.countDropped(in, d)
		if !keep {
			_, err = v.ranges.unreserve(w, in, from, to, 0)
		}
		return err
	})
}
