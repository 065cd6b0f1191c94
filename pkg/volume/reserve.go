package volume

import (
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Reserved ranges. fallocate promises that whatever is written to a range finds
// room, however often and whatever holds the data. A block of a range is *owed* if
// the next write to it takes room that does not come back: nothing lies there yet,
// or a snapshot or another file keeps what does. What is owed nobody else gets.
// A block that is not owed costs its place only until the one before is free: the
// reserve lends that, which no operation takes for good (admission.go).
//
// Whether an extent is owed is written down where all of it can be counted anew:
// it is if it began in generation mark or before, or carries a bit. A snapshot sets
// mark, so that it owes all ranges at once; a copy that shares sets the bit. What
// makes them stale (a snapshot was deleted, a copy overwritten) only leaves too
// much owed, until restamp looks at the extents.
//
// So at all times owed is the sum over the head's tree, which fsck compares.

// reservations counts what ranges promise. The counts change inside Volume.fs.Update,
// in the gate; owed and mark also where a snapshot is taken, with the gate held alone.
type reservedRanges struct {
	v *Volume

	promised, owed, ranges atomic.Int64  // blocks, blocks, ranges
	mark                   atomic.Uint64 // generation; see layout.Reservations
	made                   atomic.Uint64 // ranges made since the volume was opened; see restamp
	stale                  atomic.Bool   // something that was shared may not be any more
	wanted                 atomic.Bool   // somebody has found no room meanwhile
	passed, seen           atomic.Uint64 // mark of the last pass of restamp, and the newest snapshot that it knew

	// From when somebody has counted what sharing will owe until it is owed nothing
	// that is owed stops being so: held alone by steps of restamp. It comes after the
	// locks of inodes and admission, before the gate.
	steady sync.RWMutex
}

func (r *reservedRanges) load(x layout.Reservations) {
	r.promised.Store(int64(x.Promised))
	r.owed.Store(int64(x.Owed))
	r.ranges.Store(int64(x.Ranges))
	r.mark.Store(x.Mark)
	r.stale.Store(x.Owed > 0) // perhaps: what happened before the volume was opened is not known
}

// owing is how many blocks are owed. Sums of a forged root do not fit the tree, and get below zero:
// then nothing is.
func (r *reservedRanges) owing() int64 { return max(r.owed.Load(), 0) }

// stored is what a root says. The caller holds the gate alone. Counts that do not fit
// together are those of a damaged volume: it stays one that can be opened.
func (r *reservedRanges) stored() layout.Reservations {
	promised := min(max(r.promised.Load(), 0), layout.MaxReserved)
	x := layout.Reservations{Promised: uint64(promised), Owed: uint64(min(max(r.owed.Load(), 0), promised)), Mark: r.mark.Load()}
	x.Ranges = uint64(min(max(r.ranges.Load(), min(1, promised)), promised))
	return x
}

// pin is told that a snapshot of generation gen was taken: it holds all that ranges
// have. The caller holds the gate alone.
func (r *reservedRanges) pin(gen uint64) {
	if n := r.promised.Load(); n > 0 {
		r.owed.Store(n)
		r.mark.Store(gen)
	}
}

// rollBack is told that a snapshot's tree becomes the head. The snapshot holds all
// that ranges have. When it was taken there was room for that, and there is again once
// what the old head had is free.
func (r *reservedRanges) rollBack(x *layout.Snapshot) {
	mark := r.mark.Load()
	if x.Promised > 0 {
		mark = max(mark, x.Generation)
	}
	r.load(layout.Reservations{Promised: x.Promised, Owed: x.Promised, Ranges: x.Ranges, Mark: mark})
}

// Metadata of reserved ranges. Each block may become an extent of its own: 125
// bytes of a leaf, which may be half empty, and the pages above; and while snapshots
// or copies keep what was there before, an entry in a dead list and two in the
// reference-count tree. Together 0.09 blocks: one of reservedShare. A page that a snapshot
// holds is copied before it changes: of a range that is small, the leaves that have
// it and its inode are all there is to it.
const (
	reservedShare  = 11
	reservedLeaves = 2
)

// metaFor bounds the blocks that metadata of ranges may come to take.
func metaFor(promised, ranges int64, snapshots bool) int64 {
	n := (promised + reservedShare - 1) / reservedShare
	if snapshots {
		n += ranges * reservedLeaves * layout.NodeBlocks
	}
	return n
}

// held is what is kept for reserved ranges, in blocks; of these, meta as groups of
// four. pinning: a snapshot is about to be taken. The caller holds adm.mu.
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

// owes tells whether writing what an extent of a reserved range has takes room
// that does not come back.
func (r *reservedRanges) owes(e *layout.FileExtent) bool {
	return e.Owed || e.RefBirth <= r.mark.Load()
}

// unowed tells whether blocks of an extent are reserved and not owed: nothing else
// refers to what they have then, and may begin to only once they are owed.
func (r *reservedRanges) unowed(scan items.Scanner, ino uint64, e *items.Placed) (bool, error) {
	if r.promised.Load() <= 0 || r.owes(&e.FileExtent) {
		return false, nil
	}
	spans, err := items.ScanReserved(scan, ino, e.Block, e.End(), 1)
	return len(spans) > 0, err
}

// promisedIn is how many blocks of [from, to) are reserved.
func promisedIn(w *tree.Writer, in *inode, from, to uint64) (uint64, error) {
	if !in.reserved.Load() || from >= to {
		return 0, nil
	}
	spans, err := items.ScanReserved(w.ScanFloor, in.ino, from, to, 0)
	return items.Overlap(spans, from, to), err
}

// covers tells whether all bytes of [off, end) lie in reserved blocks. It holds
// for as long as the caller holds in.mu, or else is a guess.
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

// reserve makes [from, to) of a file a reserved range, joined with those that it
// overlaps or touches. Inside the gate, in.mu held.
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

// reserveSum counts what a new range covers, in blocks.
type reserveSum struct{ promised, owed, filled uint64 }

// reserveGap counts a part of a file that becomes reserved, and has the extents there
// that something shares say so.
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

// unreserve gives back what ranges promise of [from, to) of a file, where no extent
// is left: at most limit ranges (0: all). Inside the gate, in.mu held.
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

// unlist ends the reservations of an inode that has no range any more.
func (r *reservedRanges) unlist(w *tree.Writer, in *inode) error {
	left, err := items.ScanReserved(w.ScanFloor, in.ino, 0, 1<<62, 1)
	if err != nil || len(left) > 0 {
		return err
	}
	in.reserved.Store(false)
	_, err = w.Delete(items.ReserverKey(in.ino))
	return err
}

// coversAll tells whether all bytes of some spans are reserved, of a file that has
// reserved ranges at all. See covers.
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

// inReserved calls run with whether bytes that it will write are reserved: then it
// may be admitted as promised. run looks again once it holds in.mu, and returns
// again if that is not so any more.
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
