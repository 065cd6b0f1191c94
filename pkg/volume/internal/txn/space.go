package txn

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ErrNoSpace means that no run of the requested kind is free.
var ErrNoSpace = errors.New("no free blocks")

// SpaceLoader reads values of the space tree as of the last commit. ok is false if a value does not
// exist, because nothing was ever allocated there.
type SpaceLoader func(k layout.Key) (v []byte, ok bool, err error)

// Space knows which blocks are free. A region is read when something is allocated or freed in it,
// and written by the next commit. The memory it takes is bounded by what one generation touches.
//
// Summaries of 512 regions (group) and of groups (top) lead to free runs without a scan: a search
// looks at one group's summary, and at the top if the group has nothing.
type Space struct {
	load SpaceLoader

	mu        sync.Mutex
	cond      sync.Cond // signals the end of pins
	dataStart uint64    // first allocatable block
	end       uint64    // blocks of the device
	regions   map[uint64]*region
	groups    map[uint64]*group
	tops      map[uint64][]byte

	free      int64 // blocks that can be allocated now
	nodeSlots int64 // free

	cur, curEnd uint64 // run that is being filled
	hint        uint64 // region to search next
	broken      uint64 // region where AllocBroken last found something

	gen     uint64 // open generation
	lists   map[uint64][]layout.Run
	waiting int64 // blocks in free lists
	pins    map[uint64]int

	held                    map[uint64]held // by region, see hold.go
	heldFree, heldNodeSlots int64
	claims                  map[uint64]*claimed // by region, see claim.go
	claimedFree             int64
	bad                     error // error of the first freed run outside the data area
	reused                  func(layout.Run)
}

// NewSpace opens the free space of a root. gen is the following generation.
func NewSpace(root *layout.Root, gen uint64, load SpaceLoader) (*Space, error) {
	s := &Space{load: load, dataStart: root.DataStart(), end: root.DeviceBlocks, regions: map[uint64]*region{}, groups: map[uint64]*group{},
		tops: map[uint64][]byte{}, free: int64(root.FreeBlocks), hint: root.AllocHint, gen: gen,
		lists: map[uint64][]layout.Run{}, pins: map[uint64]int{}, held: map[uint64]held{}, claims: map[uint64]*claimed{}}
	s.cond.L = &s.mu
	groups := (s.regionCount() + layout.GroupRegions - 1) / layout.GroupRegions
	for g := range groups {
		t, err := s.top(g / layout.TopGroups)
		if err != nil {
			return nil, err
		}
		s.nodeSlots += int64(layout.GetTop(t, int(g%layout.TopGroups)).NodeSlots)
	}
	if s.hint >= s.regionCount() {
		s.hint = 0
	}
	return s, nil
}

// inside reports whether a run is in the data area.
func (s *Space) inside(r layout.Run) bool { return Area{s.dataStart, s.end}.Holds(r) }

// each calls fn for the part of the run in each region.
func (s *Space) each(run layout.Run, fn func(idx uint64, r *region, bit, n uint64) error) error {
	for at, n := run.Start, uint64(run.Count); n > 0; {
		r, err := s.region(at / layout.RegionBlocks)
		if err != nil {
			return err
		}
		c := min(n, layout.RegionBlocks-at%layout.RegionBlocks)
		if err := fn(at/layout.RegionBlocks, r, at%layout.RegionBlocks, c); err != nil {
			return err
		}
		at += c
		n -= c
	}
	return nil
}

// Counts returns the blocks that are free now, the free node slots, and the blocks that wait for
// I3.
func (s *Space) Counts() (free, nodeSlots, waiting int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free + s.heldFree, s.nodeSlots + s.heldNodeSlots, s.waiting
}

// FreedRuns is the number of runs that the open generation has freed so far.
func (s *Space) FreedRuns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lists[s.gen])
}

// Grow adds blocks at the end. The next commit must record the new size.
func (s *Space) Grow(end uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end <= s.end {
		return nil
	}
	// First bring the old last region, and the group and top entry that contain it, into memory:
	// what they record about the space beyond the end changes now.
	last := (s.end - 1) / layout.RegionBlocks
	if _, err := s.region(last); err != nil {
		return err
	}
	g0 := last / layout.GroupRegions
	if _, err := s.group(g0); err != nil {
		return err
	}
	if _, err := s.top(g0 / layout.TopGroups); err != nil {
		return err
	}
	old := s.end
	s.end = end
	r := s.regions[last]
	if to := min(end, (last+1)*layout.RegionBlocks); to > old {
		s.mark(r, old%layout.RegionBlocks, to-old, false, false)
	}
	r.dirty = true
	if err := s.summarize(last, r); err != nil {
		return err
	}
	for idx := last + 1; idx < s.regionCount(); idx++ {
		sum := s.freshSummary(idx)
		s.free += int64(sum.Free)
		s.nodeSlots += int64(sum.NodeSlots)
		gi := idx / layout.GroupRegions
		g := s.groups[gi]
		if g == nil && gi == g0 {
			panic("txn: group of the last region is in memory")
		}
		if g == nil {
			continue // made when needed; its top entry follows
		}
		sum.Put(g.v, int(idx%layout.GroupRegions))
		g.dirty = true
	}
	for gi := g0; gi <= (s.regionCount()-1)/layout.GroupRegions; gi++ {
		g, err := s.group(gi)
		if err != nil {
			return err
		}
		g.dirty = true
		t, err := s.top(gi / layout.TopGroups)
		if err != nil {
			return err
		}
		s.sumGroup(g.v).PutTop(t, int(gi%layout.TopGroups))
	}
	return nil
}
