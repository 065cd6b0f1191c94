package txn

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

func (m *spaceModel) alloc() {
	m.t.Helper()
	switch m.rng.IntN(4) {
	case 0, 1:
		free, _, _ := m.s.Counts()
		r, err := m.s.Alloc(uint32(1 + m.rng.IntN(300)))
		if errors.Is(err, ErrNoSpace) && free == 0 {
			return
		}
		if err != nil {
			m.t.Fatalf("alloc with %d free: %v", free, err)
		}
		m.take(r)
		m.live = append(m.live, r)
	case 2:
		_, nodeSlots, _ := m.s.Counts()
		n := 1 + m.rng.IntN(100)
		rs, err := m.s.AllocNodeSlots(n)
		if errors.Is(err, ErrNoSpace) && nodeSlots < int64(n) {
			return
		}
		if err != nil {
			m.t.Fatalf("%d groups with %d free: %v", n, nodeSlots, err)
		}
		got := 0
		for _, r := range rs {
			if r.Start%4 != 0 || r.Count%4 != 0 {
				m.t.Fatalf("group %d+%d", r.Start, r.Count)
			}
			m.take(r)
			got += int(r.Count / 4)
			m.live = append(m.live, r)
		}
		if got != n {
			m.t.Fatalf("%d groups of %d", got, n)
		}
	case 3:
		free, nodeSlots, _ := m.s.Counts()
		r, err := m.s.AllocBroken(uint32(1 + m.rng.IntN(8)))
		if errors.Is(err, ErrNoSpace) && (free == 4*nodeSlots || len(m.held) > 0) {
			return
		}
		if err != nil {
			m.t.Fatalf("broken with %d free, %d groups: %v", free, nodeSlots, err)
		}
		for i := r.Start; i < r.Start+uint64(r.Count); i++ {
			if m.aligned(i) {
				m.t.Fatalf("%d+%d breaks a group", r.Start, r.Count)
			}
		}
		m.take(r)
		m.live = append(m.live, r)
	}
}

// pick removes part of a run from what is live.
func (m *spaceModel) pick() (layout.Run, bool) {
	if len(m.live) == 0 {
		return layout.Run{}, false
	}
	i := m.rng.IntN(len(m.live))
	r := m.live[i]
	m.live[i] = m.live[len(m.live)-1]
	m.live = m.live[:len(m.live)-1]
	if a := uint32(m.rng.IntN(int(r.Count))); m.rng.IntN(2) == 0 && a > 0 {
		m.live = append(m.live, layout.Run{Start: r.Start, Count: a})
		r = layout.Run{Start: r.Start + uint64(a), Count: r.Count - a}
	}
	return r, true
}

func (m *spaceModel) wait(r layout.Run, gen uint64) {
	for i := r.Start; i < r.Start+uint64(r.Count); i++ {
		m.waiting[i] = true
	}
	m.lists[gen] = append(m.lists[gen], r)
}

func (m *spaceModel) free() {
	if r, ok := m.pick(); ok {
		m.s.Free(r)
		m.wait(r, m.gen)
	}
}

func (m *spaceModel) steps(n, freeOf16 int) {
	m.t.Helper()
	for range n {
		if m.rng.IntN(20) == 0 {
			m.hold()
		}
		if _, q, _ := m.s.Counts(); q < 400+maxHold/4 {
			m.release() // an allocation would wait for it
		}
		if m.rng.IntN(16) < freeOf16 {
			m.free()
		} else {
			m.alloc()
		}
	}
}

// maxHold bounds what is held at once.
const maxHold = 3000

// hold holds free blocks somewhere, or releases what is held.
func (m *spaceModel) hold() {
	m.t.Helper()
	if len(m.held) > 0 && m.rng.IntN(3) > 0 {
		m.release()
		return
	}
	from := m.rng.Uint64N(m.root.DeviceBlocks)
	to := min(from+m.rng.Uint64N(maxHold/4), (from/layout.RegionBlocks+1)*layout.RegionBlocks, m.root.DeviceBlocks)
	shortest := uint32(1 + m.rng.IntN(20))
	total := 0
	for _, h := range m.held {
		total += int(h.Count)
	}
	if total > maxHold/2 {
		return
	}
	runs, err := m.s.Hold(from, to, shortest)
	if err != nil {
		m.t.Fatal(err)
	}
	free := make([]bool, to-from)
	for i := range free {
		free[i] = !m.used[from+uint64(i)] && from+uint64(i) >= m.root.DataStart()
	}
	for _, h := range m.held {
		for i := h.Start; i < h.Start+uint64(h.Count); i++ {
			if i >= from && i < to {
				free[i-from] = false
			}
		}
	}
	for i := 0; i < len(free); i++ {
		n := 0
		for ; i < len(free) && free[i]; i++ {
			n++
		}
		if n < int(shortest) {
			continue
		}
		if want := (layout.Run{Start: from + uint64(i-n), Count: uint32(n)}); len(runs) == 0 || runs[0] != want {
			m.t.Fatalf("held are %v, should be %v", runs, want)
		}
		m.held, runs = append(m.held, runs[0]), runs[1:]
	}
	if len(runs) > 0 {
		m.t.Fatalf("held as well: %v", runs)
	}
}

func (m *spaceModel) release() {
	m.s.Release(m.held)
	m.held = nil
}
