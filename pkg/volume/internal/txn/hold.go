package txn

import (
	"errors"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Held blocks are free, but nobody may allocate them until Release, because they are being
// discarded. In bitmaps on the device and in counts they are free. An allocation that finds nothing
// else waits for them.

// held are the held blocks of one region.
type held struct {
	runs []layout.Run
}

// Hold takes the free runs of at least minBlocks in [from, to), which is in one region, until
// Release.
func (s *Space) Hold(from, to uint64, minBlocks uint32) (runs []layout.Run, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, to = max(from, s.dataStart), min(to, s.end)
	if from >= to {
		return nil, nil
	}
	idx := from / layout.RegionBlocks
	base := idx * layout.RegionBlocks
	to = min(to, base+layout.RegionBlocks)
	_, resident := s.regions[idx]
	r, err := s.region(idx)
	if err != nil {
		return nil, err
	}
	for bit := from - base; bit < to-base; {
		start, n := nextRun(&r.used, bit, layout.RegionBlocks)
		if n == 0 || start >= to-base {
			break
		}
		bit = start + n
		if n = min(n, to-base-start); n >= uint64(max(minBlocks, 1)) {
			runs = append(runs, layout.Run{Start: base + start, Count: uint32(n)})
		}
	}
	if len(runs) == 0 {
		if !resident && r.snap == nil && !r.dirty {
			delete(s.regions, idx) // a scan must not keep all of them in memory
		}
		return nil, nil
	}
	if s.cur < to && s.curEnd > from { // the open run is allocated without reading the bits
		s.cur, s.curEnd = 0, 0
	}
	for _, x := range runs {
		s.hide(r, x.Start-base, uint64(x.Count), true)
	}
	h := s.held[idx]
	h.runs = append(h.runs, runs...)
	s.held[idx] = h
	return runs, nil
}

// Release makes held runs available again.
func (s *Space) Release(runs []layout.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range runs {
		idx := x.Start / layout.RegionBlocks
		h := s.held[idx]
		i := slices.Index(h.runs, x)
		if i < 0 {
			panic("txn: release of a run that is not held")
		}
		s.hide(s.regions[idx], x.Start%layout.RegionBlocks, uint64(x.Count), false)
		if h.runs = slices.Delete(h.runs, i, i+1); len(h.runs) > 0 {
			s.held[idx] = h
			continue
		}
		delete(s.held, idx)
		if r := s.regions[idx]; !r.dirty && r.snap == nil && s.claims[idx] == nil {
			delete(s.regions, idx)
		}
	}
	s.cond.Broadcast()
}

// hide marks a run as used, or free again, for allocation only.
func (s *Space) hide(r *region, bit, n uint64, on bool) {
	dirty, nodeSlots := r.dirty, s.nodeSlots
	s.mark(r, bit, n, on, false)
	r.dirty = dirty
	s.heldNodeSlots += nodeSlots - s.nodeSlots
	if on {
		s.heldFree += int64(n)
	} else {
		s.heldFree -= int64(n)
	}
	if s.heldFree == 0 { // a partly held node slot may have changed meanwhile
		s.heldNodeSlots = 0
	}
}

// stored is the bitmap of a region to be written: held and claimed blocks are free.
func (s *Space) stored(idx uint64, r *region) *bitmap {
	h, ok := s.held[idx]
	c := s.claims[idx]
	if !ok && c == nil {
		return &r.used
	}
	b := r.used
	if c != nil {
		for i, w := range c.bits {
			b[i] &^= w
		}
	}
	for _, x := range h.runs {
		for i := x.Start % layout.RegionBlocks; i < x.Start%layout.RegionBlocks+uint64(x.Count); i++ {
			b[i/64] &^= 1 << (i % 64)
		}
	}
	return &b
}

// orHeld repeats an allocation that found nothing once nothing is held any more. The caller holds
// mu.
func (s *Space) orHeld(alloc func() error) error {
	for {
		err := alloc()
		if !errors.Is(err, ErrNoSpace) || s.heldFree == 0 {
			return err
		}
		s.cond.Wait()
	}
}

// RegionWith returns the first region from idx on whose summary has a free run of at least
// minBlocks. ok is false if there is none.
func (s *Space) RegionWith(idx uint64, minBlocks uint32) (found uint64, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	minBlocks = min(max(minBlocks, 1), layout.RegionBlocks)
	for idx < s.regionCount() {
		gi := idx / layout.GroupRegions
		t, err := s.top(gi / layout.TopGroups)
		if err != nil {
			return 0, false, err
		}
		if layout.GetTop(t, int(gi%layout.TopGroups)).Largest < minBlocks {
			idx = (gi + 1) * layout.GroupRegions
			continue
		}
		g, err := s.group(gi)
		if err != nil {
			return 0, false, err
		}
		for end := min((gi+1)*layout.GroupRegions, s.regionCount()); idx < end; idx++ {
			if layout.GetSummary(g.v, int(idx%layout.GroupRegions)).Largest >= minBlocks {
				return idx, true, nil
			}
		}
	}
	return 0, false, nil
}

// SetReused sets a function that is called with runs that became free. It must be fast.
func (s *Space) SetReused(fn func(layout.Run)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reused = fn
}
