package volume

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// area is a range of dead lists: points [from, to) and bounds [low, high).
type area struct {
	from, to  uint64
	low, high uint32
}

// only is the area that only snapshot id holds. The caller holds mu, and id is not in live.
func (s *snapshots) only(id uint32) area {
	a := area{from: uint64(id), to: 1 << 32, high: id}
	i := s.after(id)
	if i > 0 {
		a.low = s.live[i-1].id
	}
	if i < len(s.live) {
		a.to = uint64(s.live[i].id)
	}
	return a
}

// freer frees dead lists in bounded steps.
type freer struct {
	v       *Volume
	w       *tree.Writer
	point   uint64 // where the next step continues
	changed bool   // of the tree or the free space
	dead    uint64 // blocks removed from dead lists
	// What the current step may still free of shared data: the counts of each run may be in another
	// leaf, and a long run may have many.
	runs, blocks int
}

// freePlaces bounds the runs of shared data that a step frees. shareLeaf bounds the blocks of such
// a run: it is below the number of counts in a half-full leaf of the reference-count tree, so that
// a run changes at most two leaves.
const (
	freePlaces = 64
	shareLeaf  = 256
)

// freeBudget returns how many runs of shared data a step may free, and how many pages of the
// reference-count tree that makes dirty. If the tree is high and the reserve small, these are
// fewer, so that a full volume has room for them.
func (s *snapshots) freeBudget() (runs, pages int) {
	v := s.v
	if v.shares.Height() == 0 {
		return math.MaxInt, 0
	}
	v.adm.mu.Lock()
	room := int(min(v.adm.reserveSlots/10, math.MaxInt32))
	v.adm.mu.Unlock()
	for runs = int(s.places.Load()); runs > 4 && v.shares.OverwritePages(2*runs) > room; runs /= 2 {
	}
	return runs, v.shares.OverwritePages(2 * runs)
}

// begin starts a step that may free this many runs.
func (f *freer) begin(runs int) {
	f.changed, f.dead = false, 0
	f.runs, f.blocks = runs, math.MaxInt
	if runs < math.MaxInt {
		f.blocks = runs * shareLeaf
	}
}

// free drops references to a run, within the limits of the step. rest is what remains.
func (f *freer) free(r layout.Run) (rest layout.Run, err error) {
	if f.runs == 0 || f.blocks == 0 {
		return r, nil
	}
	n := uint32(min(f.blocks, int(r.Count)))
	f.runs--
	f.blocks -= int(n)
	f.changed = true
	return layout.Run{Start: r.Start + uint64(n), Count: r.Count - n}, f.v.shares.Drop(layout.Run{Start: r.Start, Count: n})
}

// freeNodes bounds the pages that one step makes dirty: each run of an item may belong to a
// different page.
const freeNodes = layout.DeadItemRuns + 32

// pass frees a part of what an area holds. done is true when nothing is left.
func (f *freer) pass(a area) (done bool, err error) {
	f.point = max(f.point, a.from)
	for range 32 { // looks
		if f.point >= a.to {
			return true, nil
		}
		k, _, err := f.first(layout.Key{Obj: f.point}, layout.Key{Obj: a.to - 1, Type: 0xff, Sub: ^uint64(0)})
		if err != nil || k.Obj == 0 {
			return err == nil, err
		}
		f.point = k.Obj
		if k.Type == layout.KeyDeadLog {
			return false, f.sortItem(k)
		}
		if a.low < a.high {
			k, val, err := f.first(layout.Key{Obj: f.point, Type: layout.KeyDeadSum, Sub: uint64(a.low)},
				layout.Key{Obj: f.point, Type: layout.KeyDeadSum, Sub: uint64(a.high) - 1})
			if err != nil {
				return false, err
			}
			if k.Obj != 0 {
				return false, f.freePiece(k, val, true)
			}
		}
		f.point++
	}
	return false, nil
}

// first returns the first item of a range, or the zero key if there is none.
func (f *freer) first(from, to layout.Key) (k layout.Key, val []byte, err error) {
	err = f.w.Scan(from, to, func(at layout.Key, v []byte) bool {
		k, val = at, slices.Clone(v)
		return false
	})
	return k, val, err
}

// logItem reads the first item of a log, sorted by bound.
func (f *freer) logItem(logKey layout.Key) (log layout.DeadLog, itemKey layout.Key, runs []layout.DeadRun, err error) {
	if log, err = getDeadLog(f.w, logKey); err != nil {
		return
	}
	itemKey = layout.Key{Obj: logKey.Obj, Type: layout.KeyDeadItem, Sub: uint64(log.First)}
	val, ok, err := f.w.Get(itemKey)
	if err == nil && !ok {
		err = fmt.Errorf("%w: item %d of dead list %d is missing", layout.ErrCorrupt, log.First, logKey.Obj)
	}
	if err == nil {
		runs, err = layout.DecodeDeadItem(val)
	}
	slices.SortFunc(runs, func(a, b layout.DeadRun) int {
		return cmp.Or(cmp.Compare(a.Bound, b.Bound), cmp.Compare(a.Start, b.Start))
	})
	return log, itemKey, runs, err
}

// dropItem removes the first item of a log.
func (f *freer) dropItem(logKey layout.Key, log layout.DeadLog, itemKey layout.Key) error {
	if _, err := f.w.Delete(itemKey); err != nil {
		return err
	}
	if log.First++; log.First < log.Next {
		return f.w.Put(logKey, log.Append(nil))
	}
	_, err := f.w.Delete(logKey)
	return err
}

// sameBound is the number of runs at the start of a list, sorted by bound, that have the same
// bound.
func sameBound(runs []layout.DeadRun) (n int) {
	for n = 1; n < len(runs) && runs[n].Bound == runs[0].Bound; n++ {
	}
	return n
}

// takeItem removes the first item of a log. It frees runs whose bound is at least from. The other
// runs belong to the head again.
func (f *freer) takeItem(logKey layout.Key, from uint32) error {
	log, itemKey, runs, err := f.logItem(logKey)
	if err != nil {
		return err
	}
	f.changed = true
	for len(runs) > 0 {
		n := sameBound(runs)
		key := layout.Key{Obj: logKey.Obj, Type: layout.KeyDeadSum, Sub: uint64(runs[0].Bound)}
		sum, err := f.needSum(key)
		if err != nil {
			return err
		}
		total, left, err := f.freeSome(runs[:n], func(r layout.DeadRun) bool { return r.Bound >= from })
		if err != nil {
			return err
		}
		if err := f.takeSum(key, sum, total); err != nil {
			return err
		}
		if left > 0 {
			return f.w.Put(itemKey, layout.AppendDeadItem(nil, runs[n-left:]))
		}
		runs = runs[n:]
	}
	return f.dropItem(logKey, log, itemKey)
}

// freeSome takes runs from an item of a log and frees those for which gone returns true. It returns
// the number of blocks taken, and the number of runs left at the end of the list, the first of
// which may have been shortened.
func (f *freer) freeSome(runs []layout.DeadRun, gone func(layout.DeadRun) bool) (taken uint64, left int, err error) {
	for i := range runs {
		r := &runs[i]
		rest := layout.Run{Start: r.Start + uint64(r.Count)}
		if gone(*r) {
			if rest, err = f.free(r.Run); err != nil {
				return 0, 0, err
			}
		}
		taken += uint64(r.Count) - uint64(rest.Count)
		if rest.Count > 0 {
			r.Run = rest
			return taken, len(runs) - i, nil
		}
	}
	return taken, 0, nil
}

// needSum reads a sum that must exist.
func (f *freer) needSum(key layout.Key) (layout.DeadSum, error) {
	sum, ok, err := getDeadSum(f.w, key)
	if err == nil && !ok {
		err = fmt.Errorf("%w: dead list %d has no sum for bound %d", layout.ErrCorrupt, key.Obj, key.Sub)
	}
	return sum, err
}

// sortItem moves the first item of a log to the pieces of its bounds. It frees what no snapshot
// holds any more.
func (f *freer) sortItem(logKey layout.Key) error {
	log, itemKey, runs, err := f.logItem(logKey)
	if err != nil {
		return err
	}
	f.changed = true
	for len(runs) > 0 {
		n := sameBound(runs)
		left, err := f.sortRuns(logKey.Obj, runs[:n])
		if err != nil {
			return err
		}
		if left > 0 {
			return f.w.Put(itemKey, layout.AppendDeadItem(nil, runs[n-left:]))
		}
		runs = runs[n:]
	}
	return f.dropItem(logKey, log, itemKey)
}

// sortRuns frees runs of one bound, or appends them to the pieces of that bound. It returns how
// many are left for another step.
func (f *freer) sortRuns(point uint64, runs []layout.DeadRun) (left int, err error) {
	bound := runs[0].Bound
	key := layout.Key{Obj: point, Type: layout.KeyDeadSum, Sub: uint64(bound)}
	sum, err := f.needSum(key)
	if err != nil {
		return 0, err
	}
	s := &f.v.snap
	s.mu.Lock()
	held := s.held(bound, uint32(point))
	s.mu.Unlock()
	if !held {
		total, left, err := f.freeSome(runs, func(layout.DeadRun) bool { return true })
		if err != nil {
			return 0, err
		}
		return left, f.takeSum(key, sum, total)
	}
	return 0, f.appendPieces(key, sum, runs)
}

// appendPieces appends runs to the pieces of their bound.
func (f *freer) appendPieces(key layout.Key, sum layout.DeadSum, runs []layout.DeadRun) error {
	piece := func(n uint32) layout.Key {
		return layout.Key{Obj: key.Obj, Type: layout.KeyDeadPiece, Sub: key.Sub<<32 | uint64(n)}
	}
	var list []layout.Run
	if sum.Next > sum.First {
		sum.Next--
		val, ok, err := f.w.Get(piece(sum.Next))
		if err == nil && !ok {
			err = fmt.Errorf("%w: a piece of dead list %d is missing", layout.ErrCorrupt, key.Obj)
		}
		if err != nil {
			return err
		}
		if list, err = layout.DecodeDeadPiece(val); err != nil {
			return err
		}
	}
	for i := range runs {
		if n := len(list); n > 0 && joins(list[n-1], runs[i].Run) {
			list[n-1].Count += runs[i].Count
			continue
		}
		if len(list) == layout.DeadPieceRuns {
			if err := f.w.Put(piece(sum.Next), layout.AppendDeadPiece(nil, list)); err != nil {
				return err
			}
			sum.Next++
			list = list[:0]
		}
		list = append(list, runs[i].Run)
	}
	if err := f.w.Put(piece(sum.Next), layout.AppendDeadPiece(nil, list)); err != nil {
		return err
	}
	sum.Next++
	return f.w.Put(key, sum.Append(nil))
}

// takeSum records that blocks left a dead list.
func (f *freer) takeSum(key layout.Key, sum layout.DeadSum, n uint64) error {
	if n > sum.Blocks || n == sum.Blocks && sum.First != sum.Next {
		return fmt.Errorf("%w: dead list %d, bound %d has more blocks than its sum of %d", layout.ErrCorrupt, key.Obj, key.Sub, sum.Blocks)
	}
	sum.Blocks -= n
	f.dead += n
	if sum.Blocks > 0 {
		return f.w.Put(key, sum.Append(nil))
	}
	_, err := f.w.Delete(key)
	return err
}

// freePiece removes the first piece of a bound whose log is sorted. free means that nothing holds
// its runs any more.
func (f *freer) freePiece(key layout.Key, val []byte, free bool) error {
	sum, err := layout.DecodeDeadSum(val)
	if err != nil {
		return err
	}
	k := layout.Key{Obj: key.Obj, Type: layout.KeyDeadPiece, Sub: key.Sub<<32 | uint64(sum.First)}
	val, ok, err := f.w.Get(k)
	if err == nil && (!ok || sum.First == sum.Next) {
		err = fmt.Errorf("%w: dead list %d, bound %d: its last %d blocks are in no piece", layout.ErrCorrupt, key.Obj, key.Sub, sum.Blocks)
	}
	if err != nil {
		return err
	}
	runs, err := layout.DecodeDeadPiece(val)
	if err != nil {
		return err
	}
	f.changed = true
	total := uint64(0)
	for i := 0; i < len(runs); i++ {
		rest := layout.Run{}
		if free {
			if rest, err = f.free(runs[i]); err != nil {
				return err
			}
		}
		total += uint64(runs[i].Count) - uint64(rest.Count)
		if rest.Count > 0 {
			runs[i] = rest
			if err := f.w.Put(k, layout.AppendDeadPiece(nil, runs[i:])); err != nil {
				return err
			}
			return f.takeSum(key, sum, total)
		}
	}
	if _, err := f.w.Delete(k); err != nil {
		return err
	}
	sum.First++
	return f.takeSum(key, sum, total)
}
