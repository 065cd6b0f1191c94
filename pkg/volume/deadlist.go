package volume

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// Dead lists. A run that the head drops while a snapshot holds it is recorded with two labels: the
// point, which is the newest snapshot at that time, and the bound, which is the newest snapshot
// older than the data. The snapshots with bound < id <= point hold the run. So taking a snapshot,
// or deleting an earlier or later one, changes nothing in a list. The runs that only
// snapshot s holds, between its neighbours p and n, are those with p <= bound < s <= point < n.
//
// The head appends runs of all bounds to one log for each point. So a commit makes only the end of
// the log and a few pages of sums dirty, however many snapshots exist. The first deletion that uses
// a log sorts it into pieces by bound. Later deletions find their pieces without reading others.

// deadRun is a run that died in the open generation.
type deadRun struct {
	layout.DeadRun
	point uint32
}

// keep adds a run that the head dropped to a dead list, if a snapshot holds it. birth is the
// generation in which the run was written.
func (s *snapshots) keep(r layout.Run, birth uint64) bool {
	if birth > s.newest.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.live); n == 0 || birth > s.live[n-1].gen {
		return false // the newest snapshot was deleted meanwhile
	}
	d := deadRun{layout.DeadRun{Run: r, Bound: s.bound(birth)}, s.state.Point}
	if n := len(s.pending); n > 0 && s.pending[n-1].extend(&d) {
		return true
	}
	s.pending = append(s.pending, d)
	s.pendingRuns.Store(int64(len(s.pending)))
	return true
}

// extend joins d to a if d follows it.
func (a *deadRun) extend(d *deadRun) bool {
	if a.point != d.point || a.Bound != d.Bound || !joins(a.Run, d.Run) {
		return false
	}
	a.Count += d.Count
	return true
}

func joins(a, b layout.Run) bool {
	return a.Start+uint64(a.Count) == b.Start && uint64(a.Count)+uint64(b.Count) < 1<<31
}

// bound is the newest snapshot that is older than a generation, 0 if there is none. The caller
// holds mu.
func (s *snapshots) bound(birth uint64) uint32 {
	i := sort.Search(len(s.live), func(i int) bool { return s.live[i].gen >= birth })
	if i == 0 {
		return 0
	}
	return s.live[i-1].id
}

// held reports whether a snapshot holds runs with this point and bound. The caller holds mu.
func (s *snapshots) held(bound, point uint32) bool {
	i := s.after(bound)
	return i < len(s.live) && s.live[i].id <= point
}

// after is the index in live of the first snapshot after id. The caller holds mu.
func (s *snapshots) after(id uint32) int {
	return sort.Search(len(s.live), func(i int) bool { return s.live[i].id > id })
}

// deadNodes bounds the pages that storing the pending runs makes dirty. Each of the given number of
// dirty data pages may drop another run.
func (s *snapshots) deadNodes(pages int) int64 {
	if s.newest.Load() == 0 {
		return 0
	}
	return (s.pendingRuns.Load()+int64(pages))/layout.DeadItemRuns/2 + s.sumPages.Load() + 8
}

// storeDead stores the runs that died in the ending generation. The caller holds the gate
// exclusively, and tree 1 is frozen.
func (s *snapshots) storeDead() error {
	s.mu.Lock()
	pending := s.pending
	s.pending = nil
	s.pendingRuns.Store(0)
	taken := s.taken
	s.taken = nil
	for i := range pending {
		s.state.DeadBlocks += uint64(pending[i].Count)
	}
	state := s.state
	changed := s.dirty || taken != nil || len(pending) > 0
	s.dirty = false
	s.mu.Unlock()
	if !changed {
		return nil
	}
	slices.SortStableFunc(pending, func(a, b deadRun) int { return cmp.Compare(a.point, b.point) })
	return s.tree.Update(func(w *tree.Writer) error {
		for len(pending) > 0 {
			n := 1
			for n < len(pending) && pending[n].point == pending[0].point {
				n++
			}
			if err := storePoint(w, pending[:n]); err != nil {
				return fmt.Errorf("dead list of snapshot %d: %w", pending[0].point, err)
			}
			pending = pending[n:]
		}
		if taken != nil {
			if err := s.nameSnapshot(w, taken); err != nil {
				return err
			}
		}
		return w.Put(layout.Key{Type: layout.KeySnapState}, state.Append(nil))
	})
}

// storePoint adds runs of one point to its log and sums.
func storePoint(w *tree.Writer, runs []deadRun) error {
	point := uint64(runs[0].point)
	logKey := layout.Key{Obj: point, Type: layout.KeyDeadLog}
	log, err := getDeadLog(w, logKey)
	if err != nil {
		return err
	}
	var item []layout.DeadRun
	if log.Next > log.First {
		log.Next--
		val, ok, err := w.Get(layout.Key{Obj: point, Type: layout.KeyDeadItem, Sub: uint64(log.Next)})
		if err == nil && !ok {
			err = fmt.Errorf("%w: item %d is missing", layout.ErrCorrupt, log.Next)
		}
		if err != nil {
			return err
		}
		if item, err = layout.DecodeDeadItem(val); err != nil {
			return err
		}
	}
	sums := map[uint32]uint64{}
	put := func() error {
		k := layout.Key{Obj: point, Type: layout.KeyDeadItem, Sub: uint64(log.Next)}
		log.Next++
		if log.Next == 0 {
			return fmt.Errorf("%w: dead list is too long", layout.ErrCorrupt)
		}
		return w.Put(k, layout.AppendDeadItem(nil, item))
	}
	for i := range runs {
		r := &runs[i]
		sums[r.Bound] += uint64(r.Count)
		if len(item) == layout.DeadItemRuns {
			if err := put(); err != nil {
				return err
			}
			item = item[:0]
		}
		item = append(item, r.DeadRun)
	}
	if err := put(); err != nil {
		return err
	}
	if err := w.Put(logKey, log.Append(nil)); err != nil {
		return err
	}
	for bound, n := range sums {
		k := layout.Key{Obj: point, Type: layout.KeyDeadSum, Sub: uint64(bound)}
		sum, _, err := getDeadSum(w, k)
		if err != nil {
			return err
		}
		sum.Blocks += n
		if err := w.Put(k, sum.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

func getDeadLog(w *tree.Writer, k layout.Key) (l layout.DeadLog, err error) {
	val, ok, err := w.Get(k)
	if err == nil && ok {
		l, err = layout.DecodeDeadLog(val)
	}
	return l, err
}

func getDeadSum(w *tree.Writer, k layout.Key) (s layout.DeadSum, ok bool, err error) {
	val, ok, err := w.Get(k)
	if err == nil && ok {
		s, err = layout.DecodeDeadSum(val)
	}
	return s, ok, err
}
