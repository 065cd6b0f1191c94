package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// shareCheck compares the reference-count tree with the references that exist. The tree is read
// first. Each further reference to a block then consumes one of its counted references.
type shareCheck struct {
	regions map[uint64]*sharedRegion
	last    items.Sharing // previous run
	lost    bool          // part of the tree could not be read: its counts are not compared
	bad     []badRun      // data that cannot be read; guarded by checker.mu
}

// badRun is data that cannot be read, regardless of what refers to it.
type badRun struct {
	layout.Run
	err error
}

// sharedRegion is a region with shared blocks.
type sharedRegion struct {
	blocks uint32                      // covered by items
	open   uint32                      // blocks whose references are not all found yet
	left   *[layout.RegionBlocks]uint8 // missing references of each block; nil when open is 0
	more   map[uint32]uint32           // those that are 255 or more
}

const manyLeft = math.MaxUint8 // the number is in more

func (r *sharedRegion) get(i uint32) uint32 {
	if r.left == nil {
		return 0
	}
	if n := r.left[i]; n < manyLeft {
		return uint32(n)
	}
	return r.more[i]
}

func (r *sharedRegion) set(i, n uint32) {
	old := r.get(i)
	switch {
	case old == 0 && n > 0:
		if r.open++; r.left == nil {
			r.left = new([layout.RegionBlocks]uint8)
		}
	case old > 0 && n == 0:
		r.open--
	}
	if old >= manyLeft {
		delete(r.more, i)
	}
	r.left[i] = uint8(min(n, manyLeft))
	if n >= manyLeft {
		if r.more == nil {
			r.more = map[uint32]uint32{}
		}
		r.more[i] = n
	}
	if r.open == 0 {
		r.left = nil
	}
}

// shareItem checks an item of the reference-count tree and records its counts.
func (c *checker) shareItem(_ uint64, k layout.Key, v []byte) {
	where := fmt.Sprintf("share item %v", k)
	s, err := items.GetSharing(k, v)
	if err == nil && (s.Start < c.root.DataStart() || s.End > c.root.DeviceBlocks) {
		err = fmt.Errorf("blocks %d to %d are outside the data area, %d to %d", s.Start, s.End, c.root.DataStart(), c.root.DeviceBlocks)
	}
	last := c.shares.last
	if err == nil && s.Start < last.End {
		err = fmt.Errorf("it overlaps its predecessor, blocks %d to %d", last.Start, last.End)
	}
	if err != nil {
		c.problem(where, "%v", err)
		return
	}
	if s.Start == last.End && s.Extra == last.Extra && s.Start%layout.RegionBlocks != 0 {
		c.problem(where, "it touches its predecessor, blocks %d to %d, with the same count: both must be one item", last.Start, last.End)
	}
	c.shares.last = s
	r := c.shares.regions[s.Start/layout.RegionBlocks]
	if r == nil {
		r = &sharedRegion{}
		c.shares.regions[s.Start/layout.RegionBlocks] = r
	}
	r.blocks += uint32(s.End - s.Start)
	for i := s.Start; i < s.End; i++ {
		r.set(uint32(i%layout.RegionBlocks), s.Extra)
	}
}

// take records a reference to a block beyond the first. It reports whether the reference-count tree
// counts it.
func (s *shareCheck) take(block uint64) bool {
	r, i := s.regions[block/layout.RegionBlocks], uint32(block%layout.RegionBlocks)
	if r == nil {
		return false
	}
	n := r.get(i)
	if n > 0 {
		r.set(i, n-1)
	}
	return n > 0
}

// count returns how many blocks of a region the reference-count tree covers.
func (s *shareCheck) count(region uint64) uint32 {
	if r := s.regions[region]; r != nil {
		return r.blocks
	}
	return 0
}

// checkShares reports counted references that were not found.
func (c *checker) checkShares() {
	if c.lostFS || c.shares.lost {
		return
	}
	for _, idx := range slices.Sorted(maps.Keys(c.shares.regions)) {
		r := c.shares.regions[idx]
		if r.open == 0 {
			continue
		}
		for i := uint32(0); i < layout.RegionBlocks; {
			n, first := r.get(i), i
			for i++; i < layout.RegionBlocks && r.get(i) == n; {
				i++
			}
			if n > 0 {
				c.problem(fmt.Sprintf("blocks %d+%d", idx*layout.RegionBlocks+uint64(first), i-first), "the reference-count tree counts %d references too many", n)
			}
		}
	}
}

func (c *checker) badData(ino, block uint64, blocks int, err error) {
	at := fmt.Sprintf(" at %d+%d", block*layout.BlockBytes, blocks*layout.BlockBytes)
	c.inodeProblem(ino, at, "data cannot be read: %v", err)
}

// keepBad records data that cannot be read. It returns false if the list is full.
func (c *checker) keepBad(run layout.Run, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.shares.bad) == maxProblems {
		return false
	}
	c.shares.bad = append(c.shares.bad, badRun{run, err})
	return true
}

// nameShared reports unreadable shared data once for each file that refers to it. It reads all
// extents once more.
func (c *checker) nameShared() {
	if len(c.shares.bad) == 0 {
		return
	}
	slices.SortFunc(c.shares.bad, func(a, b badRun) int { return cmp.Compare(a.Start, b.Start) })
	var bad []badRun // each block once: a partly shared extent is read again
	end := uint64(0)
	for _, b := range c.shares.bad {
		if to := b.Start + uint64(b.Count); to > end {
			b.Start = max(b.Start, end)
			b.Count = uint32(to - b.Start)
			bad, end = append(bad, b), to
		}
	}
	w := walk{c: c, id: layout.TreeFS, item: func(_ uint64, k layout.Key, v []byte) {
		if k.Type != layout.KeyExtent {
			return
		}
		e, err := layout.DecodeFileExtent(v)
		if err != nil {
			return
		}
		start := e.Addr / layout.BlockBytes
		end := start + e.Blocks()
		i, _ := slices.BinarySearchFunc(bad, start, func(b badRun, at uint64) int { return cmp.Compare(b.Start+uint64(b.Count), at+1) })
		for ; i < len(bad) && bad[i].Start < end; i++ {
			a, b := max(start, bad[i].Start), min(end, bad[i].Start+uint64(bad[i].Count))
			if a < b {
				c.badData(k.Obj, k.Sub+a-start, int(b-a), bad[i].err)
			}
		}
	}}
	p := &c.root.Trees[layout.TreeFS]
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
}
