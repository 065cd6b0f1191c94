package txn

import (
	"fmt"
	"math/bits"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

const (
	regionWords = layout.RegionBlocks / 64
	goodRun     = WriteBytes / layout.BlockBytes // the shortest runs that are worth starting a 256 KiB write in
)

type bitmap = [regionWords]uint64

type region struct {
	used      bitmap
	snap      *bitmap // as of the freeze, during a commit
	free      uint32
	nodeSlots uint32
	dirty     bool // changed since the last freeze

	shared     uint32 // blocks with further references; see Share
	snapShared uint32 // as of the freeze
}

type group struct {
	v     []byte
	dirty bool
}

func (s *Space) regionCount() uint64 {
	return (s.end + layout.RegionBlocks - 1) / layout.RegionBlocks
}

// fresh is the bitmap of a region that was never used.
func (s *Space) fresh(idx uint64) *bitmap {
	b := new(bitmap)
	base := idx * layout.RegionBlocks
	set := func(from, to uint64) { // blocks, absolute
		for x := max(from, base); x < min(to, base+layout.RegionBlocks); x++ {
			b[(x-base)/64] |= 1 << ((x - base) % 64)
		}
	}
	if base < s.dataStart {
		set(0, s.dataStart)
	}
	if base+layout.RegionBlocks > s.end {
		set(s.end, base+layout.RegionBlocks)
	}
	return b
}

// nodeSlotMask sets the lowest bit of each nibble whose four bits of free are all set.
func nodeSlotMask(free uint64) uint64 {
	return free & (free >> 1) & (free >> 2) & (free >> 3) & 0x1111111111111111
}

func countBitmap(b *bitmap) (sum layout.Summary) {
	run := uint32(0)
	for _, w := range b {
		f := ^w
		sum.Free += uint32(bits.OnesCount64(f))
		sum.NodeSlots += uint32(bits.OnesCount64(nodeSlotMask(f)))
		switch f {
		case 0:
			run = 0
		case ^uint64(0):
			run += 64
		default:
			for i := 0; i < 64; {
				if f>>i&1 == 0 {
					run = 0
					i += bits.TrailingZeros64(f>>i | 1<<63)
					if f>>i&1 == 0 {
						i = 64
					}
					continue
				}
				n := bits.TrailingZeros64(^(f >> i))
				if i+n > 64 {
					n = 64 - i
				}
				run += uint32(n)
				sum.Largest = max(sum.Largest, run)
				i += n
			}
		}
		sum.Largest = max(sum.Largest, run)
	}
	return sum
}

func (s *Space) freshSummary(idx uint64) layout.Summary {
	base := idx * layout.RegionBlocks
	if base >= s.dataStart && base+layout.RegionBlocks <= s.end {
		return layout.Summary{Free: layout.RegionBlocks, Largest: layout.RegionBlocks, NodeSlots: layout.RegionNodeSlots}
	}
	return countBitmap(s.fresh(idx))
}

// region returns a region. The caller holds mu.
func (s *Space) region(idx uint64) (*region, error) {
	if r := s.regions[idx]; r != nil {
		return r, nil
	}
	v, ok, err := s.load(layout.Key{Type: layout.KeyRegion, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("region %d: %w", idx, err)
	}
	r := &region{}
	if ok {
		_, shared, b, err := layout.GetRegion(v)
		if err != nil {
			return nil, fmt.Errorf("region %d: %w", idx, err)
		}
		r.used, r.shared = *b, shared
	}
	f := s.fresh(idx)
	for i := range r.used {
		r.used[i] |= f[i]
	}
	sum := countBitmap(&r.used)
	r.free, r.nodeSlots = sum.Free, sum.NodeSlots
	s.regions[idx] = r
	return r, nil
}

func (s *Space) group(idx uint64) (*group, error) {
	if g := s.groups[idx]; g != nil {
		return g, nil
	}
	v, ok, err := s.load(layout.Key{Type: layout.KeyGroup, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", idx, err)
	}
	g := &group{v: v}
	switch {
	case !ok:
		g.v = make([]byte, layout.GroupValue)
		for i := range layout.GroupRegions {
			r := idx*layout.GroupRegions + uint64(i)
			if r < s.regionCount() {
				s.freshSummary(r).Put(g.v, i)
			}
		}
	case len(v) != layout.GroupValue:
		return nil, fmt.Errorf("%w: group %d: invalid length of %d bytes", layout.ErrCorrupt, idx, len(v))
	}
	s.groups[idx] = g
	return g, nil
}

// freshGroup is the summary of a group that was never used.
func (s *Space) freshGroup(g uint64) (sum layout.Summary) {
	first, last := g*layout.GroupRegions, min((g+1)*layout.GroupRegions, s.regionCount())
	if first >= last {
		return sum
	}
	// Only the first and the last region of a device differ from a complete one.
	sum = s.freshSummary(first)
	if last-first > 1 {
		sum = sum.Add(s.freshSummary(last - 1))
	}
	if n := uint32(last - first); n > 2 {
		sum = sum.Add(layout.Summary{Free: (n - 2) * layout.RegionBlocks, Largest: layout.RegionBlocks, NodeSlots: (n - 2) * layout.RegionNodeSlots})
	}
	return sum
}

func (s *Space) top(idx uint64) ([]byte, error) {
	if t := s.tops[idx]; t != nil {
		return t, nil
	}
	t, ok, err := s.load(layout.Key{Type: layout.KeyTop, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("space summary: %w", err)
	}
	switch {
	case !ok:
		t = make([]byte, layout.TopValue)
		for i := range layout.TopGroups {
			s.freshGroup(idx*layout.TopGroups+uint64(i)).PutTop(t, i)
		}
	case len(t) != layout.TopValue:
		return nil, fmt.Errorf("%w: space summary: invalid length of %d bytes", layout.ErrCorrupt, len(t))
	}
	s.tops[idx] = t
	return t, nil
}

// summarize updates the summaries above a region.
func (s *Space) summarize(idx uint64, r *region) error {
	g, err := s.group(idx / layout.GroupRegions)
	if err != nil {
		return err
	}
	countBitmap(s.stored(idx, r)).Put(g.v, int(idx%layout.GroupRegions))
	g.dirty = true
	t, err := s.top(idx / layout.GroupRegions / layout.TopGroups)
	if err != nil {
		return err
	}
	s.sumGroup(g.v).PutTop(t, int(idx/layout.GroupRegions%layout.TopGroups))
	return nil
}

func (s *Space) sumGroup(v []byte) (sum layout.Summary) {
	for i := range layout.GroupRegions {
		sum = sum.Add(layout.GetSummary(v, i))
	}
	return sum
}

// find calls try for the regions whose summary is wanted, from a given one on and around the end,
// until it returns true. It skips groups whose summary is not wanted, so want must hold for a sum
// if it holds for a part. Summaries may promise too much, because allocations reach them late, but
// never too little.
func (s *Space) find(from uint64, want func(layout.Summary) bool, try func(idx uint64) (bool, error)) error {
	groups := (s.regionCount() + layout.GroupRegions - 1) / layout.GroupRegions
	for i := range groups + 1 {
		gi := (from/layout.GroupRegions + i) % groups
		t, err := s.top(gi / layout.TopGroups)
		if err != nil {
			return err
		}
		if !want(layout.GetTop(t, int(gi%layout.TopGroups))) {
			continue
		}
		g, err := s.group(gi)
		if err != nil {
			return err
		}
		first := uint64(0)
		if i == 0 {
			first = from % layout.GroupRegions
		}
		for j := first; j < layout.GroupRegions; j++ {
			if !want(layout.GetSummary(g.v, int(j))) {
				continue
			}
			idx := gi*layout.GroupRegions + j
			if ok, err := try(idx); ok || err != nil {
				return err
			}
			if err := s.summarize(idx, s.regions[idx]); err != nil {
				return err
			}
		}
	}
	return ErrNoSpace
}

// mark sets or clears the bits of a run inside one region. The caller holds mu.
func (s *Space) mark(r *region, bit, n uint64, used bool, inSnap bool) {
	for n > 0 {
		w, o := bit/64, bit%64
		c := min(64-o, n)
		m := ^uint64(0) >> (64 - c) << o
		old := r.used[w]
		q := bits.OnesCount64(nodeSlotMask(^old))
		if used {
			r.used[w] |= m
		} else {
			r.used[w] &^= m
		}
		df := int64(bits.OnesCount64(^r.used[w])) - int64(bits.OnesCount64(^old))
		dq := int64(bits.OnesCount64(nodeSlotMask(^r.used[w])) - q)
		r.free = uint32(int64(r.free) + df)
		r.nodeSlots = uint32(int64(r.nodeSlots) + dq)
		s.free += df
		s.nodeSlots += dq
		if inSnap && r.snap != nil {
			if used {
				r.snap[w] |= m
			} else {
				r.snap[w] &^= m
			}
		}
		bit += c
		n -= c
	}
	r.dirty = true
}

// nextRun finds the first free run at or after bit in a region, up to max long.
func nextRun(b *bitmap, bit, maxLen uint64) (start, n uint64) {
	for bit < layout.RegionBlocks {
		w, o := bit/64, bit%64
		f := ^b[w] >> o
		if f == 0 {
			bit = (w + 1) * 64
			continue
		}
		bit += uint64(bits.TrailingZeros64(f))
		start = bit
		for bit < layout.RegionBlocks && n < maxLen {
			w, o := bit/64, bit%64
			c := uint64(bits.TrailingZeros64(^(^b[w] >> o)))
			c = min(c, 64-o)
			if c == 0 {
				break
			}
			n += c
			bit += c
		}
		return start, min(n, maxLen)
	}
	return 0, 0
}
