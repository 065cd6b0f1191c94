package volume

import (
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Reserved ranges. fallocate promises that each write to a range finds space, however often and
// whatever shares the data. A block of a range is *owed* if the next write to it takes space
// permanently: it has no data yet, or a snapshot or another file keeps its data. Nobody else gets
// owed blocks. A write to a block that is not owed takes a new place only until the old one is
// free. The reserve lends that, and no operation takes the reserve permanently (admission.go).
//
// Whether an extent is owed is stored so that all of it can be recounted: it is owed if its
// refbirth is at most mark, or if it has a bit. A snapshot sets mark, so that all ranges are owed
// at once. A copy that shares extents sets the bit. When these become stale (a snapshot was
// deleted, a copy overwritten), too much is owed, until restamp examines the extents.
//
// So owed is always the sum over the head's tree, which fsck compares.

// reservedRanges counts what ranges promise. The counts change inside Volume.fs.Update, in the
// gate. owed and mark also change when a snapshot is taken, with the gate held exclusively.
type reservedRanges struct {
	v *Volume

	promised, owed, ranges atomic.Int64  // blocks, blocks, ranges
	mark                   atomic.Uint64 // generation; see layout.Reservations
	made                   atomic.Uint64 // ranges made since the volume was opened; see restamp
	stale                  atomic.Bool   // something may no longer be shared
	wanted                 atomic.Bool   // somebody found no space since the last pass
	passed, seen           atomic.Uint64 // mark at the last pass of restamp, and the newest snapshot that it knew

	// Held by those who count what sharing will make owed, until it is owed. Held exclusively by
	// steps of restamp, which end debts. It comes after the locks of inodes and admission, before
	// the gate.
	steady sync.RWMutex
}

func (r *reservedRanges) load(x layout.Reservations) {
	r.promised.Store(int64(x.Promised))
	r.owed.Store(int64(x.Owed))
	r.ranges.Store(int64(x.Ranges))
	r.mark.Store(x.Mark)
	r.stale.Store(x.Owed > 0) // possibly: it is unknown what happened before the volume was opened
}

// owing is the number of owed blocks. The sums of a forged root may not match the tree, and fall
// below zero: then it is 0.
func (r *reservedRanges) owing() int64 { return max(r.owed.Load(), 0) }

// stored is what the next root records. The caller holds the gate exclusively. Inconsistent counts
// belong to a damaged volume, and are corrected so that it can still be opened.
func (r *reservedRanges) stored() layout.Reservations {
	promised := min(max(r.promised.Load(), 0), layout.MaxReserved)
	x := layout.Reservations{Promised: uint64(promised), Owed: uint64(min(max(r.owed.Load(), 0), promised)), Mark: r.mark.Load()}
	x.Ranges = uint64(min(max(r.ranges.Load(), min(1, promised)), promised))
	return x
}

// pin records that a snapshot of generation gen was taken: it holds everything in ranges. The
// caller holds the gate exclusively.
func (r *reservedRanges) pin(gen uint64) {
	if n := r.promised.Load(); n > 0 {
		r.owed.Store(n)
		r.mark.Store(gen)
	}
}

// rollBack records that a snapshot's tree becomes the head. The snapshot holds everything in its
// ranges. There was space for that when it was taken, and will be again once the old head is freed.
func (r *reservedRanges) rollBack(x *layout.Snapshot) {
	mark := r.mark.Load()
	if x.Promised > 0 {
		mark = max(mark, x.Generation)
	}
	r.load(layout.Reservations{Promised: x.Promised, Owed: x.Promised, Ranges: x.Ranges, Mark: mark})
}

// Metadata of reserved ranges. Each block may become a separate extent: 125 bytes in a leaf, which
// may be half empty, and pages above. While snapshots or copies keep the old data, there are also
// an entry in a dead list and two in the reference-count tree. Together these are 0.09 blocks: one
// in reservedShare. A page that a snapshot holds is copied before it changes: for a small range,
// these are the leaves with its extents and its inode.
const (
	reservedShare  = 11
	reservedLeaves = 2
)

// metaFor bounds the blocks that metadata of ranges may need.
func metaFor(promised, ranges int64, snapshots bool) int64 {
	n := (promised + reservedShare - 1) / reservedShare
	if snapshots {
		n += ranges * reservedLeaves * layout.NodeBlocks
	}
	return n
}

// held returns the blocks withheld for reserved ranges, and how many of them are for metadata.
// pinning means that a snapshot is about to be taken. The caller holds admission.mu.
func (r *reservedRanges) held(pinning bool) (blocks, meta int64) {
	v := r.v
	promised, owed := r.promised.Load(), r.owing()
	if promised <= 0 {
		return 0, 0
	}
	if pinning {
		owed = promised
	}
	meta = metaFor(promised, r.ranges.Load(), pinning || v.snap.newest.Load() > 0)
	return owed + meta, meta
}

// owes reports whether a write to an extent of a reserved range takes space permanently.
func (r *reservedRanges) owes(e *layout.FileExtent) bool {
	return e.Owed || e.RefBirth <= r.mark.Load()
}

// unowed reports whether blocks of an extent are reserved and not owed. Then nothing else refers to
// them, and nothing may begin to before they are owed.
func (r *reservedRanges) unowed(scan items.Scanner, ino uint64, e *items.Placed) (bool, error) {
	if r.promised.Load() <= 0 || r.owes(&e.FileExtent) {
		return false, nil
	}
	spans, err := items.ScanReserved(scan, ino, e.Block, e.End(), 1)
	return len(spans) > 0, err
}

// promisedIn counts the reserved blocks in [from, to).
func promisedIn(w *tree.Writer, in *inode, from, to uint64) (uint64, error) {
	if !in.reserved.Load() || from >= to {
		return 0, nil
	}
	spans, err := items.ScanReserved(w.ScanFloor, in.ino, from, to, 0)
	return items.Overlap(spans, from, to), err
}

// covers reports whether all bytes of [off, end) are in reserved blocks. This stays true while the
// caller holds in.mu. Otherwise it is a guess.
func (r *reservedRanges) covers(in *inode, off, end uint64) (bool, error) {
	v := r.v
	if !in.reserved.Load() || off >= end {
		return false, nil
	}
	from, to := off/pageBytes, (end+pageBytes-1)/pageBytes
	spans, err := items.ScanReserved(v.fs.ScanFloor, in.ino, from, to, 1)
	if err != nil {
		return false, txn.Wrap(err)
	}
	return items.Overlap(spans, from, to) == to-from, nil
}

// reserve makes [from, to) of a file a reserved range, merged with ranges that it overlaps or
// touches. The caller is in the gate and holds in.mu.
func (r *reservedRanges) reserve(w *tree.Writer, in *inode, from, to uint64) error {
	v := r.v
	if r.promised.Load() == 0 {
		r.mark.Store(max(r.mark.Load(), v.snap.newest.Load()))
	}
	old, err := items.ScanReserved(w.ScanFloor, in.ino, max(from, 1)-1, to+1, 0)
	if err != nil {
		return err
	}
	whole := items.Interval{From: from, To: to}
	at, added := from, reserveSum{}
	for _, s := range old {
		whole = items.Interval{From: min(whole.From, s.From), To: max(whole.To, s.To)}
		if err := r.reserveGap(w, in, at, min(s.From, to), &added); err != nil {
			return err
		}
		at = max(at, s.To)
		if _, err := w.Delete(items.ReservedKey(in.ino, s.From)); err != nil {
			return err
		}
	}
	if err := r.reserveGap(w, in, at, to, &added); err != nil {
		return err
	}
	if err := w.Put(items.ReservedKey(in.ino, whole.From), layout.AppendReserved(nil, whole.To-whole.From)); err != nil {
		return err
	}
	if len(old) == 0 {
		if err := w.Put(items.ReserverKey(in.ino), nil); err != nil {
			return err
		}
	}
	in.reserved.Store(true)
	in.vacate(added.promised, added.filled)
	r.made.Add(1)
	r.ranges.Add(1 - int64(len(old)))
	r.owed.Add(int64(added.owed))
	r.promised.Add(int64(added.promised))
	return nil
}

// reserveSum counts the blocks of a new range.
type reserveSum struct{ promised, owed, filled uint64 }

// reserveGap counts a part of a file that becomes reserved, and sets the owed bit of its shared
// extents.
func (r *reservedRanges) reserveGap(w *tree.Writer, in *inode, from, to uint64, sum *reserveSum) error {
	v := r.v
	if from >= to {
		return nil
	}
	es, err := items.ScanExtents(w.ScanFloor, in.ino, from, to, 0)
	if err != nil {
		return err
	}
	sum.promised += to - from
	sum.owed += to - from
	for i := range es {
		e := &es[i]
		n := min(e.End(), to) - max(e.Block, from)
		sum.filled += n
		if shared, err := v.shares.Most(e.Run()); err != nil {
			return err
		} else if shared > 0 && !e.Owed {
			e.Owed = true
			if err := w.Put(items.ExtentKey(in.ino, e.Block), e.FileExtent.Append(nil)); err != nil {
				return err
			}
		}
		if !r.owes(&e.FileExtent) {
			sum.owed -= n
		}
	}
	return nil
}

// unreserve ends reservations of [from, to) of a file, where it has no extents any more: at most
// limit ranges (0: all). The caller is in the gate and holds in.mu.
func (r *reservedRanges) unreserve(w *tree.Writer, in *inode, from, to uint64, limit int) (done bool, err error) {
	if !in.reserved.Load() || from >= to {
		return true, nil
	}
	hit, err := items.ScanReserved(w.ScanFloor, in.ino, from, to, limit)
	if err != nil {
		return false, err
	}
	ranges := 0
	for _, s := range hit {
		if _, err := w.Delete(items.ReservedKey(in.ino, s.From)); err != nil {
			return false, err
		}
		ranges--
		for _, rest := range []items.Interval{{From: s.From, To: from}, {From: to, To: s.To}} {
			if rest.From >= rest.To {
				continue
			}
			ranges++
			if err := w.Put(items.ReservedKey(in.ino, rest.From), layout.AppendReserved(nil, rest.To-rest.From)); err != nil {
				return false, err
			}
		}
	}
	n := items.Overlap(hit, from, to)
	in.vacate(0, n)
	r.promised.Add(-int64(n))
	r.owed.Add(-int64(n))
	r.ranges.Add(int64(ranges))
	if limit > 0 && len(hit) == limit {
		return false, nil
	}
	return true, r.unlist(w, in)
}

// unlist updates an inode that has no reserved range any more.
func (r *reservedRanges) unlist(w *tree.Writer, in *inode) error {
	left, err := items.ScanReserved(w.ScanFloor, in.ino, 0, 1<<62, 1)
	if err != nil || len(left) > 0 {
		return err
	}
	in.reserved.Store(false)
	_, err = w.Delete(items.ReserverKey(in.ino))
	return err
}

// coversAll reports whether all bytes of some spans are reserved. If the file has no reserved
// ranges, they are not. See covers.
func (r *reservedRanges) coversAll(in *inode, spans []items.Interval) (bool, error) {
	if !in.reserved.Load() {
		return false, nil
	}
	for _, s := range spans {
		if ok, err := r.covers(in, s.From, s.To); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// inReserved calls run with promised set if the bytes that it will write are reserved. run must
// check again once it holds in.mu, and return again if that is no longer true.
func (r *reservedRanges) inReserved(in *inode, spans func() []items.Interval, run func(promised bool) (again bool, err error)) error {
	for {
		promised, err := r.coversAll(in, spans())
		if err != nil {
			return err
		}
		if again, err := run(promised); err != nil || !again {
			return err
		}
	}
}
