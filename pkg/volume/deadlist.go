package volume

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// Dead lists. What the head drops and a snapshot holds is noted as a run with
// two labels: the point, which is the newest snapshot when it was dropped, and
// the bound, which is the newest snapshot that is older than what lies there.
// The snapshots with bound < id <= point hold it. So nothing is to be done to a
// list when a snapshot is made or when one before or after it is deleted; and
// what only snapshot s holds, between its neighbours p and n, are exactly the
// lists with p <= bound < s <= point < n.
//
// The head appends runs of all bounds to one log for each point: a commit
// dirties the end of it and the few pages of the sums, however many snapshots
// there are. A deletion that comes to a log for the first time sorts it into
// pieces by bound; later ones find theirs without reading others.

// deadRun is a dead run of the open generation.
type deadRun struct {
	layout.DeadRun
	point uint32
}

// keep tells whether a snapshot holds what was made in generation birth and
// the head has dropped; if so, the run goes to a dead list.
func (s *snapshots) keep(r layout.Run, birth uint64) bool {
	if birth > s.newest.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.live); n == 0 || birth > s.live[n-1].gen {
		return false // the newest was deleted after that look
	}
	d := deadRun{layout.DeadRun{Run: r, Bound: s.bound(birth)}, s.state.Point}
	if n := len(s.pending); n > 0 && s.pending[n-1].extend(&d) {
		return true
	}
	s.pending = append(s.pending, d)
	s.pendingRuns.Store(int64(len(s.pending)))
	return true
}

// extend joins d to what lies right before it.
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

// bound is the newest snapshot that is older than a generation, 0 if there is
// none; the caller holds mu.
func (s *snapshots) bound(birth uint64) uint32 {
	i := sort.Search(len(s.live), func(i int) bool { return s.live[i].gen >= birth })
	if i == 0 {
		return 0
	}
	return s.live[i-1].id
}

// held tells whether a snapshot holds what died at point and has a bound; the caller holds mu.
func (s *snapshots) held(bound, point uint32) bool {
	i := s.after(bound)
	return i < len(s.live) && s.live[i].id <= point
}

// after is the place in live of the first snapshot after id; the caller holds mu.
func (s *snapshots) after(id uint32) int {
	return sort.Search(len(s.live), func(i int) bool { return s.live[i].id > id })
}

// deadNodes bounds the pages that storing the pending runs would dirty, of dirty
// pages of data that may each drop a run as well.
func (s *snapshots) deadNodes(pages int) int64 {
	if s.newest.Load() == 0 {
		return 0
	}
	return (s.pendingRuns.Load()+int64(pages))/layout.DeadItemRuns/2 + s.sumPages.Load() + 8
}

// storeDead puts what the ending generation adds to dead lists into the tree.
// The caller holds the gate alone, and the filesystem's tree is frozen.
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
