package txn

import (
	"errors"
	"math/bits"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// openRun chooses the run to fill next: one of at least goodRun in this or the next region that has
// one, otherwise the largest.
func (s *Space) openRun() error {
	if s.curEnd > 0 {
		if ok, err := s.openIn(s.hint, s.curEnd%layout.RegionBlocks, goodRun); ok || err != nil {
			return err
		}
	}
	want := uint32(goodRun)
	for want > 0 {
		err := s.find(s.hint, func(x layout.Summary) bool { return x.Largest >= want },
			func(idx uint64) (bool, error) { return s.openIn(idx, 0, uint64(want)) })
		if !errors.Is(err, ErrNoSpace) {
			return err
		}
		want /= 2
	}
	return ErrNoSpace
}

// openIn searches one region, from a bit on, for a run of at least want blocks.
func (s *Space) openIn(idx, bit, want uint64) (bool, error) {
	r, err := s.region(idx)
	if err != nil {
		return false, err
	}
	for r.free >= uint32(want) {
		start, n := nextRun(&r.used, bit, layout.RegionBlocks)
		if n == 0 {
			break
		}
		if n >= want {
			s.cur = idx*layout.RegionBlocks + start
			s.curEnd = s.cur + n
			s.hint = idx
			return true, nil
		}
		bit = start + n
	}
	return false, nil
}

// Alloc takes a run of 1 to n blocks.
func (s *Space) Alloc(n uint32) (layout.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var run layout.Run
	err := s.orHeld(func() (err error) {
		run, err = s.alloc(n)
		return err
	})
	return run, err
}

func (s *Space) alloc(n uint32) (layout.Run, error) {
	if s.cur == s.curEnd {
		if err := s.leaveRegion(); err != nil {
			return layout.Run{}, err
		}
		if err := s.openRun(); err != nil {
			return layout.Run{}, err
		}
	}
	c := min(uint64(n), s.curEnd-s.cur)
	run := layout.Run{Start: s.cur, Count: uint32(c)}
	r, err := s.region(s.cur / layout.RegionBlocks)
	if err != nil {
		return layout.Run{}, err
	}
	s.mark(r, s.cur%layout.RegionBlocks, c, true, false)
	s.cur += c
	return run, nil
}

// leaveRegion updates the summary of the region that was being filled.
func (s *Space) leaveRegion() error {
	if r := s.regions[s.hint]; r != nil {
		return s.summarize(s.hint, r)
	}
	return nil
}

// Rewind makes the next allocations begin at the start of the device, for tests.
func (s *Space) Rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur, s.curEnd, s.hint = 0, 0, 0
}

// AllocBroken takes a run of 1 to n blocks from node slots that are partly used. Data may use these
// even when only the reserve is left.
func (s *Space) AllocBroken(n uint32) (layout.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free+s.heldFree <= 4*(s.nodeSlots+s.heldNodeSlots) {
		return layout.Run{}, ErrNoSpace
	}
	run, err := s.findBroken(n)
	if errors.Is(err, ErrNoSpace) {
		// Allocations reach the summary of their region late. Until then, partly used node slots
		// may look free.
		if err = s.leaveRegion(); err == nil {
			run, err = s.findBroken(n)
		}
	}
	return run, err
}

func (s *Space) findBroken(n uint32) (run layout.Run, err error) {
	err = s.find(s.broken, func(x layout.Summary) bool { return x.Free > 4*x.NodeSlots }, func(idx uint64) (bool, error) {
		r, err := s.region(idx)
		if err != nil {
			return false, err
		}
		stored := s.stored(idx, r) // held blocks do not break a node slot
		for w, u := range r.used {
			f := ^u &^ (nodeSlotMask(^stored[w]) * 15)
			if f == 0 {
				continue
			}
			o := uint64(bits.TrailingZeros64(f))
			c := min(uint64(bits.TrailingZeros64(^(f >> o))), uint64(n), 64-o)
			run = layout.Run{Start: idx*layout.RegionBlocks + uint64(w)*64 + o, Count: uint32(c)}
			if run.Start < s.curEnd && run.Start+c > s.cur {
				s.cur, s.curEnd = 0, 0 // the open run is no longer complete
			}
			s.broken = idx
			s.mark(r, uint64(w)*64+o, c, true, false)
			return true, nil
		}
		return false, nil
	})
	return run, err
}

// AllocNodeSlots takes n node slots, in as few runs as possible.
func (s *Space) AllocNodeSlots(n int) (runs []layout.Run, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.orHeld(func() (err error) {
		runs, err = s.allocNodeSlots(n)
		return err
	})
	return runs, err
}

func (s *Space) allocNodeSlots(n int) ([]layout.Run, error) {
	if int64(n) > s.nodeSlots {
		return nil, ErrNoSpace
	}
	var runs []layout.Run
	for n > 0 {
		start := (s.cur + 3) &^ 3
		if start+4 > s.curEnd {
			if err := s.openNodeSlot(); err != nil {
				return nil, errors.Join(err, s.unalloc(runs))
			}
			continue
		}
		c := min(uint64(n), (s.curEnd-start)/4) * 4
		r, err := s.region(start / layout.RegionBlocks)
		if err != nil {
			return nil, errors.Join(err, s.unalloc(runs))
		}
		s.mark(r, start%layout.RegionBlocks, c, true, false)
		s.cur = start + c
		runs = append(runs, layout.Run{Start: start, Count: uint32(c)})
		n -= int(c / 4)
	}
	return runs, nil
}

// openNodeSlot opens a run that contains a node slot.
func (s *Space) openNodeSlot() error {
	if err := s.leaveRegion(); err != nil {
		return err
	}
	err := s.openRun()
	if err == nil && (s.cur+3)&^3+4 <= s.curEnd || err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	return s.find(s.hint, func(x layout.Summary) bool { return x.NodeSlots > 0 }, func(idx uint64) (bool, error) {
		r, err := s.region(idx)
		if err != nil {
			return false, err
		}
		for w, u := range r.used {
			if q := nodeSlotMask(^u); q != 0 {
				s.cur = idx*layout.RegionBlocks + uint64(w)*64 + uint64(bits.TrailingZeros64(q))
				s.curEnd = s.cur + 4
				s.hint = idx
				return true, nil
			}
		}
		return false, nil
	})
}

func (s *Space) unalloc(runs []layout.Run) error {
	for _, r := range runs {
		idx := r.Start / layout.RegionBlocks
		s.mark(s.regions[idx], r.Start%layout.RegionBlocks, uint64(r.Count), false, true)
		if err := s.summarize(idx, s.regions[idx]); err != nil {
			return err
		}
	}
	return nil
}
