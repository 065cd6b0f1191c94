package check

import (
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// spaceCheck reads tree 2 after all references are known.
type spaceCheck struct {
	c       *checker
	regions map[uint64]layout.Summary // as stored; regions without an item were never used
	groups  map[uint64]layout.Summary // sums of the entries
	tops    map[uint64]bool
	taken   int64 // free blocks of unused regions minus free blocks of stored regions
}

func (c *checker) checkSpace() {
	p := &c.root.Trees[layout.TreeSpace]
	if p.IsZero() {
		return
	}
	c.rep.Counts.UsedBlocks += c.root.DataStart()
	s := &spaceCheck{c: c, regions: map[uint64]layout.Summary{}, groups: map[uint64]layout.Summary{}, tops: map[uint64]bool{}}
	w := walk{c: c, id: layout.TreeSpace, item: s.item}
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
	if c.lostSpace {
		return
	}
	var missing []uint64
	for idx := range c.use {
		if _, ok := s.regions[idx]; !ok {
			missing = append(missing, idx)
		}
	}
	slices.Sort(missing)
	for _, idx := range missing {
		c.problem(fmt.Sprintf("region %d", idx), "%d blocks are in use, but it has no bitmap", c.use[idx].count)
	}
	for idx := range s.regions {
		if _, ok := s.groups[idx/layout.GroupRegions]; !ok {
			c.problem(fmt.Sprintf("region %d", idx), "its group has no summary")
		}
	}
	for g := range s.groups {
		if !s.tops[g/layout.TopGroups] {
			c.problem(fmt.Sprintf("group %d", g), "it has no top summary")
		}
	}
	free := int64(c.root.DeviceBlocks-c.root.DataStart()) - s.taken
	c.rep.Counts.FreeBlocks = uint64(max(free, 0))
	if free != int64(c.root.FreeBlocks) {
		c.problem("root", "it counts %d free blocks, but the bitmaps have %d", c.root.FreeBlocks, free)
	}
}

func (s *spaceCheck) item(_ uint64, k layout.Key, v []byte) {
	c := s.c
	switch {
	case k.Obj == 0 && k.Type == layout.KeyRegion && k.Sub < c.regions():
		s.region(k.Sub, v)
	case k.Obj == 0 && k.Type == layout.KeyGroup && k.Sub*layout.GroupRegions < c.regions():
		s.group(k.Sub, v)
	case k.Obj == 0 && k.Type == layout.KeyTop && k.Sub*layout.GroupRegions*layout.TopGroups < c.regions():
		s.top(k.Sub, v)
	default:
		c.problem(fmt.Sprintf("space item %v", k), "unexpected item type, or beyond the end of the device")
	}
}

func (s *spaceCheck) region(idx uint64, v []byte) {
	c := s.c
	where := fmt.Sprintf("region %d", idx)
	stored, shared, bits, err := layout.GetRegion(v)
	if err != nil {
		c.problem(where, "%v", err)
		return
	}
	sum := summarizeBits(bits)
	s.regions[idx] = sum
	s.taken += int64(c.fixedSummary(idx).Free) - int64(sum.Free)
	if stored != sum {
		c.problem(where, "summary is %+v, but its bitmap gives %+v", stored, sum)
	}
	if n := c.shares.count(idx); shared != n && !c.shares.lost {
		c.problem(where, "it counts %d shared blocks, but the reference-count tree has %d", shared, n)
	}
	want := c.fixed(idx)
	if u := c.use[idx]; u != nil {
		for i := range want {
			want[i] |= u.bits[i]
		}
	}
	base := idx * layout.RegionBlocks
	report := func(what string, differs func(i int) uint64) {
		first, count := uint64(0), 0
		for i := range want {
			for d := differs(i); d != 0; d &= d - 1 {
				if count++; count == 1 {
					first = base + uint64(i)*64
					for j := d; j&1 == 0; j >>= 1 {
						first++
					}
				}
			}
		}
		if count > 0 {
			c.problem(where, "%d blocks from block %d %s", count, first, what)
		}
	}
	report("are in use, but marked free", func(i int) uint64 { return want[i] &^ bits[i] })
	if !c.lostFS && !c.lostLists && !c.lostSpace && !c.lostSnaps {
		report("are marked used, but nothing refers to them", func(i int) uint64 { return bits[i] &^ want[i] })
	}
}

func (s *spaceCheck) group(g uint64, v []byte) {
	where := fmt.Sprintf("group %d", g)
	if len(v) != layout.GroupValue {
		s.c.problem(where, "invalid length of %d bytes", len(v))
		return
	}
	var sum layout.Summary
	for i := range layout.GroupRegions {
		idx := g*layout.GroupRegions + uint64(i)
		want, ok := s.regions[idx]
		if !ok {
			want = s.c.fixedSummary(idx)
		}
		if got := layout.GetSummary(v, i); got != want && (ok || !s.c.lostSpace) {
			s.c.problem(where, "its entry of region %d is %+v, but the region has %+v", idx, got, want)
		}
		sum = sum.Add(layout.GetSummary(v, i))
	}
	s.groups[g] = sum
}

func (s *spaceCheck) top(t uint64, v []byte) {
	where := fmt.Sprintf("top summary %d", t)
	if len(v) != layout.TopValue {
		s.c.problem(where, "invalid length of %d bytes", len(v))
		return
	}
	s.tops[t] = true
	for i := range layout.TopGroups {
		g := t*layout.TopGroups + uint64(i)
		want, ok := s.groups[g]
		if !ok {
			want = s.fixedGroup(g)
		}
		if got := layout.GetTop(v, i); got != want && (ok || !s.c.lostSpace) {
			s.c.problem(where, "its entry of group %d is %+v, but the group has %+v", g, got, want)
		}
	}
}

// fixedGroup is the sum of a group that was never used.
func (s *spaceCheck) fixedGroup(g uint64) (sum layout.Summary) {
	first, end := g*layout.GroupRegions, min((g+1)*layout.GroupRegions, s.c.regions())
	for idx := first; idx < end; idx++ {
		sum = sum.Add(s.c.fixedSummary(idx))
	}
	return sum
}
