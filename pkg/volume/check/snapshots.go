package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// snapCheck checks snapshots and dead lists. It reads tree 3 first and records the blocks that its
// dead lists name. Then it reads the snapshots' trees from the newest to the oldest, each without
// the parts that it shares with the next newer one. What it finds there must be in a dead list,
// under the right bound and point, and belong to nothing else. No entry of a dead list may remain.
//
// Memory: a few hundred bytes for each snapshot, 24 bytes for each page of the head and of
// snapshots, 4 KiB for each region that dead lists name, and 32 KiB for each region where they name
// shared blocks more than once.
type snapCheck struct {
	c     *checker
	state *layout.SnapState
	live  []checkedSnap // ascending
	dying []checkedSnap
	left  *layout.Abandoned
	point uint64 // of left

	pages map[uint64]uint64 // address of each page of tree 1 that was read → hash of its pointer
	dead  map[uint64]*[layout.RegionBlocks / 64]uint64
	again map[uint64]*sharedRegion // how often dead lists name a block beyond the first time
	marks map[[2]uint32]uint64     // oldest and newest holder → sum of hashes: of lists, minus of trees

	list  uint64 // object whose items are being read
	log   layout.DeadLog
	sums  map[uint32]*layout.DeadSum
	total uint64 // blocks
	lost  bool   // a part could not be read
}

type checkedSnap struct {
	id   uint32
	gen  uint64
	tree layout.Pointer
	name string

	promised, ranges uint64
}

func newSnapCheck(c *checker) *snapCheck {
	return &snapCheck{c: c, pages: map[uint64]uint64{}, dead: map[uint64]*[layout.RegionBlocks / 64]uint64{},
		again: map[uint64]*sharedRegion{}, marks: map[[2]uint32]uint64{}, sums: map[uint32]*layout.DeadSum{}}
}

// item checks an item of tree 3.
func (s *snapCheck) item(_ uint64, k layout.Key, v []byte) {
	if err := s.read(k, v); err != nil {
		s.c.problem(fmt.Sprintf("snapshot item %v", k), "%v", err)
		s.lost = true
	}
}

func (s *snapCheck) read(k layout.Key, v []byte) error {
	if k.Obj != 0 {
		return s.readDead(k, v)
	}
	switch k.Type {
	case layout.KeySnapState:
		x, err := layout.DecodeSnapState(v)
		if err != nil || k.Sub != 0 {
			return cmp.Or(err, fmt.Errorf("the state item has a sub that is not 0"))
		}
		s.state = &x
		return nil
	case layout.KeySnapshot:
		x, err := layout.DecodeSnapshot(v)
		if err != nil {
			return err
		}
		if s.state == nil || k.Sub == 0 || k.Sub >= uint64(s.state.NextID) {
			return fmt.Errorf("the ID of snapshot %q was never assigned", x.Name)
		}
		t := checkedSnap{uint32(k.Sub), x.Generation, x.Tree, x.Name, x.Promised, x.Ranges}
		for _, l := range [][]checkedSnap{s.live, s.dying} {
			if n := len(l); n > 0 && l[n-1].gen >= t.gen {
				return fmt.Errorf("snapshot %q has generation %d, its predecessor %d", t.name, t.gen, l[n-1].gen)
			}
		}
		if t.gen >= s.c.root.Generation {
			return fmt.Errorf("snapshot %q has generation %d, the root %d", t.name, t.gen, s.c.root.Generation)
		}
		if x.Deleting {
			s.dying = append(s.dying, t)
			return nil
		}
		if slices.ContainsFunc(s.live, func(o checkedSnap) bool { return o.name == t.name }) {
			return fmt.Errorf("duplicate snapshot name %q", t.name)
		}
		s.live = append(s.live, t)
		return nil
	case layout.KeyAbandoned:
		x, err := layout.DecodeAbandoned(v)
		if err == nil && s.left != nil {
			err = fmt.Errorf("more than one abandoned head")
		}
		s.left, s.point = &x, k.Sub
		return err
	}
	return fmt.Errorf("unexpected item type")
}

// endList checks a dead list after its last item: everything that its sums count must have been
// found.
func (s *snapCheck) endList() {
	where := fmt.Sprintf("dead list %d", s.list)
	if s.log.First != s.log.Next {
		s.c.problem(where, "items %d to %d are missing", s.log.First, s.log.Next)
	}
	for bound, x := range s.sums {
		if x.Blocks != 0 || x.First != x.Next {
			s.c.problem(where, "bound %d: %d blocks and %d pieces are missing", bound, x.Blocks, x.Next-x.First)
		}
	}
	s.log = layout.DeadLog{}
	clear(s.sums)
}

// finish reads the snapshots' trees after all items of tree 3.
func (s *snapCheck) finish() {
	c := s.c
	s.endList()
	if s.state != nil && s.state.DeadBlocks != s.total && !s.lost {
		c.problem("snapshots", "the state counts %d blocks in dead lists, but they hold %d", s.state.DeadBlocks, s.total)
	}
	newest := uint64(0)
	if n := len(s.live); n > 0 {
		newest = s.live[n-1].gen
	}
	if newest != c.root.NewestSnapshot {
		c.problem("root", "the newest snapshot has generation %d in the root, but %d in tree 3", c.root.NewestSnapshot, newest)
	}
	newer := c.lookup()
	for i := len(s.live) - 1; i >= 0; i-- {
		t := &s.live[i]
		w := snapWalk{s: s, t: t, newer: newer}
		w.walk(c.root.Generation)
		newer = c.lookupAt(t.tree, t.gen)
		c.checkSnapReserved(t.name, t.promised, t.ranges, newer)
	}
	if s.left != nil {
		s.walkAbandoned()
	}
	if s.lost || c.lostFS || c.lostSnaps {
		return
	}
	// If bounds or points differ, two sums are not 0.
	for who, sum := range s.marks {
		if sum != 0 {
			c.problem("dead lists", "the blocks that only snapshots %s to %s hold differ from the lists", s.name(who[0]), s.name(who[1]))
		}
	}
	regions := make([]uint64, 0, len(s.dead))
	for idx := range s.dead {
		regions = append(regions, idx)
	}
	slices.Sort(regions)
	for _, idx := range regions {
		first, count := uint64(0), 0
		for i, b := range s.dead[idx] {
			for j := range uint64(64) {
				if b>>j&1 == 1 {
					if count++; count == 1 {
						first = idx*layout.RegionBlocks + uint64(i)*64 + j
					}
				}
			}
		}
		if count > 0 {
			c.problem(fmt.Sprintf("region %d", idx), "%d blocks from block %d are in a dead list, but no snapshot holds them or the head uses them", count, first)
		}
	}
}

func (s *snapCheck) name(id uint32) string {
	for i := range s.live {
		if s.live[i].id == id {
			return fmt.Sprintf("%q", s.live[i].name)
		}
	}
	return fmt.Sprint(id)
}
