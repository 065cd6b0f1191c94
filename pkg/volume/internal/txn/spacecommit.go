package txn

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// SpaceCommit is the state of Space at a freeze, which its commit writes.
type SpaceCommit struct {
	s      *Space
	Gen    uint64
	Hint   uint64
	Free   uint64 // free blocks; final after Finish
	idx    []uint64
	groups map[uint64][]byte
	tops   map[uint64][]byte
	pool   []layout.Run

	// Drop is called under the lock of the space tree, and a holder of Space.mu may wait for that
	// lock to load a region. So Drop has its own lock.
	dropMu  sync.Mutex
	dropped []layout.Run
}

// Freeze ends the open generation and takes estimate(n, f) node slots as the commit's pool. n
// bounds the number of values that will be stored, and f is the number of freed runs. Nothing else
// may allocate meanwhile.
func (s *Space) Freeze(estimate func(values, freedRuns int) int) (*SpaceCommit, error) {
	values, freed := s.pending()
	pool, err := s.AllocNodeSlots(estimate(values, freed))
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	// Taking the pool makes regions dirty, whose values need space as well: a page, or two if it is
	// split. If free space is fragmented, that may fail; then the spare part of the estimate must
	// suffice.
	for {
		now, _ := s.pending()
		if now <= values {
			break
		}
		more, err := s.AllocNodeSlots(now - values) // pending counts two for a region
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		pool, values = append(pool, more...), now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad != nil {
		return nil, s.bad
	}
	c := &SpaceCommit{s: s, Gen: s.gen, pool: pool, Hint: s.hint, Free: uint64(s.free + s.heldFree + s.claimedFree),
		groups: map[uint64][]byte{}, tops: map[uint64][]byte{}}
	for idx, r := range s.regions {
		r.snap = nil
		if !r.dirty {
			if _, ok := s.held[idx]; !ok && s.claims[idx] == nil {
				delete(s.regions, idx) // the tree has it
			}
			continue
		}
		b := *s.stored(idx, r)
		r.snap, r.snapShared, r.dirty = &b, r.shared, false
		c.idx = append(c.idx, idx)
		if err := s.summarize(idx, r); err != nil {
			return nil, err
		}
	}
	slices.Sort(c.idx)
	for gi, g := range s.groups {
		if g.dirty {
			c.groups[gi] = slices.Clone(g.v)
			g.dirty = false
		}
	}
	for gi := range c.groups {
		ti := gi / layout.TopGroups
		t, err := s.top(ti)
		if err != nil {
			return nil, err
		}
		c.tops[ti] = slices.Clone(t)
	}
	s.gen++
	return c, nil
}

// pending bounds the values that a commit would store now, and counts the runs that the open
// generation has freed.
func (s *Space) pending() (values, freedRuns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.regions {
		if r.dirty {
			values += 2 // its group may be new, too
		}
	}
	for _, g := range s.groups {
		if g.dirty {
			values++
		}
	}
	return values + len(s.tops), len(s.lists[s.gen])
}

// Drop records that the committed space tree no longer reaches a run. The commit itself frees it,
// in its own generation.
func (c *SpaceCommit) Drop(run layout.Run) {
	c.dropMu.Lock()
	defer c.dropMu.Unlock()
	c.dropped = append(c.dropped, run)
}

// Freed returns what the generation freed. Nothing may be dropped after that.
func (c *SpaceCommit) Freed() []layout.Run {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.dropMu.Lock()
	defer c.dropMu.Unlock()
	for _, r := range c.dropped {
		if !c.s.inside(r) {
			c.s.bad = fmt.Errorf("%w: blocks %d+%d of the space tree are outside the data area", layout.ErrCorrupt, r.Start, r.Count)
			continue
		}
		c.s.waiting += int64(r.Count)
		c.s.lists[c.Gen] = append(c.s.lists[c.Gen], r)
	}
	c.dropped = nil
	return c.s.lists[c.Gen]
}

// Take removes n node slots from the pool, in as few runs as possible.
func (c *SpaceCommit) Take(n int) ([]layout.Run, error) {
	var out []layout.Run
	for need := uint32(n * layout.NodeBlocks); need > 0; {
		if len(c.pool) == 0 {
			return nil, fmt.Errorf("%w: the commit's pool is used up", ErrNoSpace)
		}
		p := &c.pool[0]
		k := min(need, p.Count)
		out = append(out, layout.Run{Start: p.Start, Count: k})
		p.Start += uint64(k)
		p.Count -= k
		if p.Count == 0 {
			c.pool = c.pool[1:]
		}
		need -= k
	}
	return out, nil
}

// Keys passes the items that the commit stores. Their sizes are final before their values are.
func (c *SpaceCommit) Keys(fn func(k layout.Key, size int) error) error {
	for ti := range c.tops {
		if err := fn(layout.Key{Type: layout.KeyTop, Sub: ti}, layout.TopValue); err != nil {
			return err
		}
	}
	for gi := range c.groups {
		if err := fn(layout.Key{Type: layout.KeyGroup, Sub: gi}, layout.GroupValue); err != nil {
			return err
		}
	}
	for _, idx := range c.idx {
		if err := fn(layout.Key{Type: layout.KeyRegion, Sub: idx}, layout.RegionValue); err != nil {
			return err
		}
	}
	return nil
}

// Finish gives back the rest of the pool: everything is allocated, and the values are final. It
// passes them to put, which may take the lock of the space tree. The caller must not hold that
// lock.
func (c *SpaceCommit) Finish(put func(k layout.Key, v []byte) error) error {
	values, err := c.values()
	if err != nil {
		return err
	}
	for _, x := range values {
		if err := put(x.k, x.v); err != nil {
			return err
		}
	}
	return nil
}

type spaceValue struct {
	k layout.Key
	v []byte
}

func (c *SpaceCommit) values() (values []spaceValue, err error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range c.pool {
		idx := r.Start / layout.RegionBlocks
		reg := s.regions[idx]
		dirty := reg.dirty
		s.mark(reg, r.Start%layout.RegionBlocks, uint64(r.Count), false, true)
		reg.dirty = dirty // the values below include it
		if err := s.summarize(idx, reg); err != nil {
			return nil, err
		}
		c.Free += uint64(r.Count)
	}
	c.pool = nil
	for _, idx := range c.idx {
		b := s.regions[idx].snap
		sum := countBitmap(b)
		gi := idx / layout.GroupRegions
		if c.groups[gi] == nil {
			return nil, fmt.Errorf("%w: group %d was not frozen", layout.ErrCorrupt, gi)
		}
		sum.Put(c.groups[gi], int(idx%layout.GroupRegions))
		values = append(values, spaceValue{layout.Key{Type: layout.KeyRegion, Sub: idx}, layout.PutRegion(sum, s.regions[idx].snapShared, b)})
	}
	for gi, v := range c.groups {
		s.sumGroup(v).PutTop(c.tops[gi/layout.TopGroups], int(gi%layout.TopGroups))
		values = append(values, spaceValue{layout.Key{Type: layout.KeyGroup, Sub: gi}, v})
	}
	for ti, v := range c.tops {
		values = append(values, spaceValue{layout.Key{Type: layout.KeyTop, Sub: ti}, v})
	}
	return values, nil
}
