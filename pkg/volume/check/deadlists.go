package check

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// readDead checks an item of a dead list. Sums precede the other items.
func (s *snapCheck) readDead(k layout.Key, v []byte) error {
	if k.Obj != s.list {
		s.endList()
		s.list = k.Obj
	}
	if s.state == nil || k.Obj >= uint64(s.state.NextID) {
		return fmt.Errorf("the point of the dead list was never assigned")
	}
	switch k.Type {
	case layout.KeyDeadLog:
		l, err := layout.DecodeDeadLog(v)
		s.log = l
		return err
	case layout.KeyDeadSum:
		x, err := layout.DecodeDeadSum(v)
		if err != nil {
			return err
		}
		if k.Sub >= k.Obj {
			return fmt.Errorf("the bound is not below the point")
		}
		s.sums[uint32(k.Sub)] = &x
		return nil
	case layout.KeyDeadItem:
		runs, err := layout.DecodeDeadItem(v)
		if err != nil {
			return err
		}
		if k.Sub != uint64(s.log.First) || s.log.First == s.log.Next {
			return fmt.Errorf("expected items %d to %d", s.log.First, s.log.Next)
		}
		s.log.First++
		for _, r := range runs {
			if err := s.deadRun(r); err != nil {
				return err
			}
		}
		return nil
	case layout.KeyDeadPiece:
		runs, err := layout.DecodeDeadPiece(v)
		if err != nil {
			return err
		}
		bound := uint32(k.Sub >> 32)
		if x := s.sums[bound]; x == nil || x.First == x.Next || uint64(x.First) != k.Sub&(1<<32-1) {
			return fmt.Errorf("the sum of its bound does not count this piece")
		}
		s.sums[bound].First++
		for _, r := range runs {
			if err := s.deadRun(layout.DeadRun{Run: r, Bound: bound}); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unexpected item type")
}

// deadRun records an entry of a dead list.
func (s *snapCheck) deadRun(r layout.DeadRun) error {
	x := s.sums[r.Bound]
	if x == nil || x.Blocks < uint64(r.Count) {
		return fmt.Errorf("run %d+%d of bound %d exceeds the sum of the list", r.Start, r.Count, r.Bound)
	}
	x.Blocks -= uint64(r.Count)
	s.total += uint64(r.Count)
	where := fmt.Sprintf("dead list %d", s.list)
	if end := r.Start + uint64(r.Count); r.Start < s.c.root.DataStart() || end > s.c.root.DeviceBlocks {
		return fmt.Errorf("run %d+%d is outside the data area", r.Start, r.Count)
	}
	if a := s.left; a != nil && !a.Lists && s.list >= uint64(a.Snapshot) && s.list < s.point {
		if r.Bound >= a.Snapshot { // made and dropped after the snapshot: to be freed
			s.c.mark(r.Run, where, 0, true)
		}
		return nil // it belongs to the head again
	}
	oldest := sort.Search(len(s.live), func(i int) bool { return s.live[i].id > r.Bound })
	newest := sort.Search(len(s.live), func(i int) bool { return uint64(s.live[i].id) > s.list }) - 1
	if oldest > newest {
		if !s.lost && !slices.ContainsFunc(s.dying, func(d checkedSnap) bool { return d.id > r.Bound && uint64(d.id) <= s.list }) {
			s.c.problem(where, "no snapshot holds blocks %d+%d, and no snapshot that is being deleted held them", r.Start, r.Count)
		}
		s.c.mark(r.Run, where, 0, true)
		return nil
	}
	twice := s.toggle(r.Run, true, [2]uint32{s.live[oldest].id, s.live[newest].id})
	if twice > 0 {
		s.c.problem(where, "%d of blocks %d+%d are in the dead lists twice", twice, r.Start, r.Count)
	}
	return nil
}

// toggle records that a dead list names a run, or that a snapshot holds it. It returns how many
// blocks already had that state.
func (s *snapCheck) toggle(r layout.Run, list bool, who [2]uint32) (wrong int) {
	for x := r.Start; x < r.Start+uint64(r.Count); x++ {
		b := s.dead[x/layout.RegionBlocks]
		if b == nil {
			b = new([layout.RegionBlocks / 64]uint64)
			s.dead[x/layout.RegionBlocks] = b
		}
		i := x % layout.RegionBlocks
		named := b[i/64]>>(i%64)&1 == 1
		switch again := s.again[x/layout.RegionBlocks]; {
		case named && list && s.c.sharing:
			if again == nil {
				again = &sharedRegion{}
				s.again[x/layout.RegionBlocks] = again
			}
			again.set(uint32(i), again.get(uint32(i))+1)
		case named && !list && again != nil && again.get(uint32(i)) > 0:
			again.set(uint32(i), again.get(uint32(i))-1)
		case named == list:
			wrong++
			continue
		default:
			b[i/64] ^= 1 << (i % 64)
		}
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], x)
		h := s.c.hash.Sum(n[:])
		if !list {
			h = -h
		}
		s.marks[who] += h
	}
	return wrong
}
