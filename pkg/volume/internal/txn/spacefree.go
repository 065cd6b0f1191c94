package txn

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Free frees a run that the open generation no longer reaches (I3). If the run is outside the data
// area, which only a forged structure can cause, the next Freeze fails.
func (s *Space) Free(run layout.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside(run) {
		if s.bad == nil {
			s.bad = fmt.Errorf("%w: attempt to free blocks %d+%d, which are outside the data area", layout.ErrCorrupt, run.Start, run.Count)
		}
		return
	}
	l := s.lists[s.gen]
	s.waiting += int64(run.Count)
	if n := len(l); n > 0 && l[n-1].Start+uint64(l[n-1].Count) == run.Start && uint64(l[n-1].Count)+uint64(run.Count) < 1<<31 {
		l[n-1].Count += run.Count
		return
	}
	s.lists[s.gen] = append(l, run)
}

// Share counts blocks of a region that got further references, or, if n is negative, lost the last
// of them. It only keeps the count.
func (s *Space) Share(idx uint64, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.regionInside(idx)
	if err != nil {
		return err
	}
	sum := int64(r.shared) + int64(n)
	if sum < 0 || sum > layout.RegionBlocks {
		return fmt.Errorf("%w: region %d: invalid number of shared blocks %d", layout.ErrCorrupt, idx, sum)
	}
	r.shared, r.dirty = uint32(sum), true
	return nil
}

// Shared is the number of blocks of a region with further references.
func (s *Space) Shared(idx uint64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.regionInside(idx)
	if err != nil {
		return 0, err
	}
	return int(r.shared), nil
}

func (s *Space) regionInside(idx uint64) (*region, error) {
	if idx >= s.regionCount() {
		return nil, fmt.Errorf("%w: region %d is beyond the last of %d", layout.ErrCorrupt, idx, s.regionCount())
	}
	return s.region(idx)
}

// AddList installs the free list of generation gen, read from a root.
func (s *Space) AddList(gen uint64, runs []layout.Run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		if !s.inside(r) {
			return fmt.Errorf("%w: free list: run %d+%d is outside the device", layout.ErrCorrupt, r.Start, r.Count)
		}
		s.waiting += int64(r.Count)
	}
	s.lists[gen] = append(s.lists[gen], runs...)
	return nil
}

// Touch makes the next commit rewrite the value of a region.
func (s *Space) Touch(idx uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if idx >= s.regionCount() {
		return fmt.Errorf("%w: region %d is beyond the last of %d", layout.ErrCorrupt, idx, s.regionCount())
	}
	r, err := s.region(idx)
	if err == nil {
		r.dirty = true
	}
	return err
}

// Drain waits for all readers that began before the call, or before what they read was committed
// again.
func (s *Space) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for gen := s.gen - 1; s.pinned(gen); {
		s.cond.Wait()
	}
}

// Pin prevents the reuse of everything that a reader may read, until Unpin.
func (s *Space) Pin() (gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[s.gen]++
	return s.gen
}

// PinAt prevents the reuse of everything that generation gen and later ones free, until Unpin. That
// is everything that root gen-1 reaches, if root gen+1 is not durable yet. The caller must check
// that after PinAt.
func (s *Space) PinAt(gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[gen]++
}

// Unpin ends a Pin.
func (s *Space) Unpin(gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[gen]--; s.pins[gen] == 0 {
		delete(s.pins, gen)
		s.cond.Broadcast()
	}
}

// Reuse frees what generations up to gen have dropped. Generation gen+1 is durable. It waits for
// readers that started before.
func (s *Space) Reuse(gen uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pinned(gen) {
		s.cond.Wait()
	}
	touched := map[uint64]struct{}{}
	for g, l := range s.lists {
		if g > gen {
			continue
		}
		for _, run := range l {
			for idx := run.Start / layout.RegionBlocks; idx <= (run.Start+uint64(run.Count)-1)/layout.RegionBlocks; idx++ {
				touched[idx] = struct{}{}
			}
			err := s.each(run, func(_ uint64, r *region, bit, n uint64) error {
				for i := range n {
					if r.used[(bit+i)/64]>>((bit+i)%64)&1 == 0 {
						return fmt.Errorf("%w: run %d+%d was freed twice", layout.ErrCorrupt, run.Start, run.Count)
					}
				}
				s.mark(r, bit, n, false, false)
				return nil
			})
			if err != nil {
				return err
			}
			if s.reused != nil {
				s.reused(run)
			}
			s.waiting -= int64(run.Count)
		}
		delete(s.lists, g)
	}
	for idx := range touched {
		if err := s.summarize(idx, s.regions[idx]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Space) pinned(gen uint64) bool {
	for g := range s.pins {
		if g <= gen {
			return true
		}
	}
	return false
}
