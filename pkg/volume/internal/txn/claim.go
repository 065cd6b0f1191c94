package txn

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// A claim is a run that an operation in the log refers to, but the tree does not yet. Nobody may
// allocate it. For a root that is written meanwhile it is free, because the log still refers to it.
// Once the operation is applied, it is used (Settle).

// claimed are the claims in one region.
type claimed struct {
	bits  bitmap
	count int
}

// Claim withholds a run that the log refers to. The run must be free.
func (s *Space) Claim(run layout.Run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside(run) {
		return fmt.Errorf("%w: run %d+%d is outside the device", layout.ErrCorrupt, run.Start, run.Count)
	}
	return s.each(run, func(idx uint64, r *region, bit, n uint64) error {
		for i := range n {
			if r.used[(bit+i)/64]>>((bit+i)%64)&1 != 0 {
				return fmt.Errorf("%w: run %d+%d is already in use", layout.ErrCorrupt, run.Start, run.Count)
			}
		}
		s.cur, s.curEnd = 0, 0
		dirty := r.dirty
		s.mark(r, bit, n, true, false)
		r.dirty = dirty
		c := s.claims[idx]
		if c == nil {
			c = &claimed{}
			s.claims[idx] = c
		}
		for i := range n {
			c.bits[(bit+i)/64] |= 1 << ((bit + i) % 64)
		}
		c.count += int(n)
		s.claimedFree += int64(n)
		return nil
	})
}

// Settle ends a claim: the open generation's tree refers to the run now.
func (s *Space) Settle(run layout.Run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside(run) {
		return fmt.Errorf("%w: run %d+%d is outside the device", layout.ErrCorrupt, run.Start, run.Count)
	}
	return s.each(run, func(idx uint64, r *region, bit, n uint64) error {
		c := s.claims[idx]
		for i := range n {
			w, m := (bit+i)/64, uint64(1)<<((bit+i)%64)
			if c == nil || c.bits[w]&m == 0 {
				return fmt.Errorf("%w: two operations in the log refer to run %d+%d", layout.ErrCorrupt, run.Start, run.Count)
			}
			c.bits[w] &^= m
		}
		r.dirty = true
		s.claimedFree -= int64(n)
		if c.count -= int(n); c.count == 0 {
			delete(s.claims, idx)
		}
		return nil
	})
}
