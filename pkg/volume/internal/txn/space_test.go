package txn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// spaceModel is the reference of Space: one flag for each sector.
type spaceModel struct {
	t    *testing.T
	rng  *rand.Rand
	root *layout.Root
	s    *Space
	gen  uint64

	used    []bool
	waiting []bool       // freed, and not to be handed out
	live    []layout.Run // what the open generation reaches
	lists   map[uint64][]layout.Run
	hung    map[uint64][]layout.Run // the two that hang from the newest root
	stored  map[layout.Key][]byte
	held    []layout.Run
}

func newSpaceModel(t *testing.T, rng *rand.Rand, sectors uint64) *spaceModel {
	m := &spaceModel{t: t, rng: rng, gen: 1, lists: map[uint64][]layout.Run{}, stored: map[layout.Key][]byte{}}
	m.root = &layout.Root{DeviceSectors: sectors, LogSectors: 1024}
	m.root.FreeSectors = sectors - m.root.DataStart()
	m.resize(sectors)
	for i := range m.root.DataStart() {
		m.used[i] = true
	}
	m.open()
	return m
}

func (m *spaceModel) resize(sectors uint64) {
	n := (sectors + layout.RegionSector - 1) / layout.RegionSector * layout.RegionSector
	old := uint64(len(m.used))
	m.used = append(m.used, make([]bool, n-old)...)
	m.waiting = append(m.waiting, make([]bool, n-old)...)
	for i := uint64(0); i < n; i++ {
		if i >= sectors {
			m.used[i] = true
		} else if i >= m.root.DeviceSectors {
			m.used[i] = false
		}
	}
	m.root.DeviceSectors = sectors
}

func (m *spaceModel) open() {
	m.t.Helper()
	s, err := NewSpace(m.root, m.gen, func(k layout.Key) ([]byte, bool, error) {
		v, ok := m.stored[k]
		return append([]byte(nil), v...), ok, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.s = s
}

func (m *spaceModel) take(r layout.Run) {
	m.t.Helper()
	if r.Count == 0 {
		m.t.Fatal("empty run")
	}
	for _, h := range m.held {
		if r.Start < h.Start+uint64(h.Count) && h.Start < r.Start+uint64(r.Count) {
			m.t.Fatalf("%d+%d is handed out while %d+%d is held", r.Start, r.Count, h.Start, h.Count)
		}
	}
	for i := r.Start; i < r.Start+uint64(r.Count); i++ {
		if i >= uint64(len(m.used)) || m.used[i] {
			m.t.Fatalf("sector %d of %d+%d is handed out and in use (waiting: %t)", i, r.Start, r.Count, i < uint64(len(m.used)) && m.waiting[i])
		}
		m.used[i] = true
	}
}

func (m *spaceModel) aligned(i uint64) bool { // a whole free group
	i &^= 3
	return !m.used[i] && !m.used[i+1] && !m.used[i+2] && !m.used[i+3]
}

func (m *spaceModel) count() (free, quads, waiting int64) {
	for i := range m.used {
		if !m.used[i] {
			free++
		}
		if m.waiting[i] {
			waiting++
		}
		if i%4 == 0 && m.aligned(uint64(i)) {
			quads++
		}
	}
	return
}

// check compares counts, and the summaries: they may promise too much, never too little.
func (m *spaceModel) check(exact bool) {
	m.t.Helper()
	f, q, w := m.s.Counts()
	if wf, wq, ww := m.count(); f != wf || q != wq && len(m.held) == 0 || w != ww {
		m.t.Fatalf("counts %d %d %d, should be %d %d %d", f, q, w, wf, wq, ww)
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for idx := range m.s.regionCount() {
		want := countBitmap(m.bitmap(idx, m.used))
		if slow := slowCount(m.bitmap(idx, m.used)); slow != want {
			m.t.Fatalf("countBitmap gives %+v instead of %+v", want, slow)
		}
		g, err := m.s.group(idx / layout.GroupRegions)
		if err != nil {
			m.t.Fatal(err)
		}
		got := layout.GetSummary(g.v, int(idx%layout.GroupRegions))
		if got.Free < want.Free || got.Largest < want.Largest || got.Quads < want.Quads || exact && got != want {
			m.t.Fatalf("region %d: summary %+v, truth %+v", idx, got, want)
		}
	}
}

func (m *spaceModel) bitmap(idx uint64, used []bool) *bitmap {
	b := new(bitmap)
	for i := range uint64(layout.RegionSector) {
		if used[idx*layout.RegionSector+i] {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

func slowCount(b *bitmap) (s layout.Summary) {
	run, four := uint32(0), 0
	for i := range layout.RegionSector {
		if i%4 == 0 {
			four = 0
		}
		if b[i/64]>>(i%64)&1 != 0 {
			run = 0
			continue
		}
		s.Free++
		if run++; run > s.Largest {
			s.Largest = run
		}
		if four++; four == 4 {
			s.Quads++
		}
	}
	return s
}

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
		_, quads, _ := m.s.Counts()
		n := 1 + m.rng.IntN(100)
		rs, err := m.s.AllocQuads(n)
		if errors.Is(err, ErrNoSpace) && quads < int64(n) {
			return
		}
		if err != nil {
			m.t.Fatalf("%d groups with %d free: %v", n, quads, err)
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
		free, quads, _ := m.s.Counts()
		r, err := m.s.AllocBroken(uint32(1 + m.rng.IntN(8)))
		if errors.Is(err, ErrNoSpace) && (free == 4*quads || len(m.held) > 0) {
			return
		}
		if err != nil {
			m.t.Fatalf("broken with %d free, %d groups: %v", free, quads, err)
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

// hold holds free sectors somewhere, or releases what is held.
func (m *spaceModel) hold() {
	m.t.Helper()
	if len(m.held) > 0 && m.rng.IntN(3) > 0 {
		m.release()
		return
	}
	from := m.rng.Uint64N(m.root.DeviceSectors)
	to := min(from+m.rng.Uint64N(maxHold/4), (from/layout.RegionSector+1)*layout.RegionSector, m.root.DeviceSectors)
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

func (m *spaceModel) commit(between func()) {
	m.t.Helper()
	if _, q, _ := m.s.Counts(); q < 400+maxHold/4 {
		m.release()
	}
	pool := min(20+m.rng.IntN(100), func() int { _, q, _ := m.s.Counts(); return int(q) }())
	c, err := m.s.Freeze(func(int, int) int { return pool })
	if err != nil {
		m.t.Fatal(err)
	}
	if c.Gen != m.gen {
		m.t.Fatal("generation")
	}
	inPool := map[uint64]bool{}
	for _, r := range c.pool {
		m.take(r)
		for i := range uint64(r.Count) {
			inPool[r.Start+i] = true
		}
	}
	snap := append([]bool(nil), m.used...)
	m.gen++
	if between != nil {
		between()
	}
	// The commit takes some of its pool, and drops pages of the space tree.
	n := m.rng.IntN(pool + 1)
	taken, err := c.Take(n)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range taken {
		for i := range uint64(r.Count) {
			delete(inPool, r.Start+i)
		}
		m.live = append(m.live, r)
	}
	if r, ok := m.pick(); ok && snap[r.Start] {
		old := true // it must have existed at the freeze
		for i := range uint64(r.Count) {
			old = old && snap[r.Start+i]
		}
		if old {
			c.Drop(r)
			m.wait(r, c.Gen)
		} else {
			m.live = append(m.live, r)
		}
	} else if ok {
		m.live = append(m.live, r)
	}
	freed := map[uint64]bool{}
	for _, r := range c.Freed() {
		for i := range uint64(r.Count) {
			freed[r.Start+i] = true
		}
	}
	want := 0
	for _, r := range m.lists[c.Gen] {
		for i := range uint64(r.Count) {
			if want++; !freed[r.Start+i] {
				m.t.Fatalf("sector %d was freed and is not in the list", r.Start+i)
			}
		}
	}
	if want != len(freed) {
		m.t.Fatalf("the list has %d sectors, %d were freed", len(freed), want)
	}
	sizes := map[layout.Key]int{}
	if err := c.Keys(func(k layout.Key, size int) error { sizes[k] = size; return nil }); err != nil {
		m.t.Fatal(err)
	}
	if err := c.Finish(func(k layout.Key, v []byte) error {
		if sizes[k] != len(v) {
			return fmt.Errorf("%v has %d bytes, %d were announced", k, len(v), sizes[k])
		}
		delete(sizes, k)
		m.stored[k] = append([]byte(nil), v...)
		return nil
	}); err != nil || len(sizes) != 0 {
		m.t.Fatal(err, sizes)
	}
	for i := range inPool {
		snap[i], m.used[i] = false, false
	}
	m.root.Generation, m.root.AllocHint, m.root.FreeSectors = c.Gen, c.Hint, c.Free
	m.compareStored(snap)
	m.hung = map[uint64][]layout.Run{c.Gen: m.lists[c.Gen], c.Gen - 1: m.lists[c.Gen-1]}
	if err := m.s.Reuse(c.Gen - 1); err != nil {
		m.t.Fatal(err)
	}
	m.reused(c.Gen - 1)
}

func (m *spaceModel) reused(gen uint64) {
	for g, l := range m.lists {
		if g > gen {
			continue
		}
		for _, r := range l {
			for i := range uint64(r.Count) {
				m.used[r.Start+i], m.waiting[r.Start+i] = false, false
			}
		}
		delete(m.lists, g)
	}
}

// compareStored checks the values of a commit: bitmaps and summaries are exact.
func (m *spaceModel) compareStored(snap []bool) {
	m.t.Helper()
	free := uint64(0)
	regions := m.s.regionCount()
	groups := map[uint64]layout.Summary{}
	for idx := range regions {
		want := m.bitmap(idx, snap)
		sum := slowCount(want)
		free += uint64(sum.Free)
		if v, ok := m.stored[layout.Key{Type: layout.KeyRegion, Sub: idx}]; ok {
			s, _, b, err := layout.GetRegion(v)
			if err != nil || *b != *want || s != sum {
				m.t.Fatalf("region %d: stored %+v, should be %+v (bitmaps equal: %t) %v", idx, s, sum, *b == *want, err)
			}
		} else if *want != *m.s.fresh(idx) {
			m.t.Fatalf("region %d was not stored", idx)
		}
		gi := idx / layout.GroupRegions
		if v, ok := m.stored[layout.Key{Type: layout.KeyGroup, Sub: gi}]; ok {
			if got := layout.GetSummary(v, int(idx%layout.GroupRegions)); got != sum {
				m.t.Fatalf("region %d: its group says %+v, should be %+v", idx, got, sum)
			}
		}
		groups[gi] = groups[gi].Add(sum)
	}
	for gi, sum := range groups {
		v, ok := m.stored[layout.Key{Type: layout.KeyTop, Sub: gi / layout.TopGroups}]
		if got := layout.GetTop(v, int(gi%layout.TopGroups)); !ok || got != sum {
			m.t.Fatalf("group %d: top says %+v, should be %+v", gi, got, sum)
		}
	}
	if free != m.root.FreeSectors {
		m.t.Fatalf("root says %d free, should be %d", m.root.FreeSectors, free)
	}
}

// reopen drops everything that is not committed.
func (m *spaceModel) reopen() {
	m.t.Helper()
	m.held = nil
	m.open()
	for g, l := range m.hung {
		if err := m.s.AddList(g, l); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.s.Reuse(m.root.Generation - 1); err != nil {
		m.t.Fatal(err)
	}
}

func TestSpaceModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 3))
			sectors := uint64(16384 + 4*rng.IntN(8000) + rng.IntN(4))
			if seed%2 == 1 {
				sectors = 2*layout.RegionSector + rng.Uint64N(layout.RegionSector)
			}
			m := newSpaceModel(t, rng, sectors)
			m.check(true)
			for round := range 30 {
				share := []int{2, 7, 10}[rng.IntN(3)]
				if round < 3 {
					share = 1
				}
				m.steps(rng.IntN(300), share)
				m.check(false)
				var between func()
				if rng.IntN(2) == 0 {
					between = func() { m.steps(rng.IntN(200), share) }
				}
				m.commit(between)
				m.check(false)
				if between == nil && rng.IntN(3) == 0 {
					m.reopen()
					m.check(true)
				}
				if rng.IntN(8) == 0 {
					end := m.root.DeviceSectors + rng.Uint64N(20000)
					if rng.IntN(3) == 0 {
						end += 2 * layout.RegionSector
					}
					if end > 8*layout.RegionSector {
						continue
					}
					if err := m.s.Grow(end); err != nil {
						t.Fatal(err)
					}
					m.resize(end)
					m.check(false)
					m.commit(nil)
					m.reopen()
					m.check(true)
				}
			}
		})
	}
}

// Every sector can be had before ErrNoSpace, and every group of four.
func TestSpaceExhausted(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	m := newSpaceModel(t, rng, layout.RegionSector+9999)
	m.steps(400, 4)
	m.commit(nil)
	m.commit(nil)
	_, quads, _ := m.s.Counts()
	if _, err := m.s.AllocQuads(int(quads) + 1); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	m.check(false)
	rs, err := m.s.AllocQuads(int(quads))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		m.take(r)
	}
	m.check(false)
	for {
		r, err := m.s.Alloc(7)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m.take(r)
	}
	if free, _, _ := m.count(); free != 0 {
		t.Fatalf("%d sectors are free and can not be had", free)
	}
	m.check(false)
}

// A large device costs nothing until it is used: summaries lead across groups.
func TestSpaceLarge(t *testing.T) {
	root := &layout.Root{DeviceSectors: 3*layout.GroupRegions*layout.RegionSector + 12345, LogSectors: 16384}
	root.FreeSectors = root.DeviceSectors - root.DataStart()
	root.AllocHint = 2*layout.GroupRegions + 7
	loads := 0
	s, err := NewSpace(root, 1, func(k layout.Key) ([]byte, bool, error) { loads++; return nil, false, nil })
	if err != nil {
		t.Fatal(err)
	}
	if free, quads, _ := s.Counts(); uint64(free) != root.FreeSectors || quads != free/4 {
		t.Fatalf("%d free, %d groups", free, quads)
	}
	r, err := s.Alloc(100)
	if err != nil || r.Start/layout.RegionSector != root.AllocHint || loads > 10 {
		t.Fatalf("%+v after %d loads, %v", r, loads, err)
	}
}

// Claim takes what is free and refuses what is not.
func TestSpaceClaim(t *testing.T) {
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 30000)
	r := layout.Run{Start: 20000, Count: 100}
	if err := m.s.Claim(r); err != nil {
		t.Fatal(err)
	}
	m.take(r)
	for _, bad := range []layout.Run{r, {Start: 20099, Count: 2}, {Start: 19999, Count: 2}, {Start: 0, Count: 1}, {Start: 29999, Count: 2}, {Start: ^uint64(0) - 1, Count: 4}} {
		before, _, _ := m.s.Counts()
		if err := m.s.Claim(bad); !errors.Is(err, layout.ErrCorrupt) {
			t.Fatalf("%+v: %v", bad, err)
		}
		if after, _, _ := m.s.Counts(); after != before {
			t.Fatalf("%+v: a refused claim changed something", bad)
		}
	}
	m.steps(300, 0)
	m.check(false)
}

// Lists of a root are not trusted.
func TestSpaceBadLists(t *testing.T) {
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 30000)
	for _, bad := range []layout.Run{{Start: 1, Count: 1}, {Start: 29999, Count: 2}, {Start: ^uint64(0) - 1, Count: 4}, {Start: 1 << 49, Count: 1}} {
		if err := m.s.AddList(1, []layout.Run{bad}); !errors.Is(err, layout.ErrCorrupt) {
			t.Fatalf("%+v: %v", bad, err)
		}
	}
	if err := m.s.AddList(1, []layout.Run{{Start: 20000, Count: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := m.s.Reuse(1); !errors.Is(err, layout.ErrCorrupt) { // it is free already
		t.Fatal(err)
	}
}

// A pin holds Reuse back.
func TestSpacePin(t *testing.T) {
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 30000)
	m.steps(50, 0)
	pin := m.s.Pin()
	m.steps(10, 16)
	m.commit(nil) // frees nothing yet
	done := make(chan error)
	go func() { done <- m.s.Reuse(1) }()
	free, _, _ := m.s.Counts()
	select {
	case err := <-done:
		t.Fatal("reused under a pin:", err)
	default:
	}
	m.s.Unpin(pin)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if after, _, _ := m.s.Counts(); after <= free {
		t.Fatal("nothing was reused")
	}
}

// The committer drops pages under the space tree's lock, which a loader of
// regions, under Space.mu, may be waiting for.
func TestSpaceDropWhileLoading(t *testing.T) {
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 2*layout.RegionSector)
	c, err := m.s.Freeze(func(int, int) int { return 4 })
	if err != nil {
		t.Fatal(err)
	}
	loading, dropped := make(chan struct{}), make(chan struct{})
	m.s.load = func(k layout.Key) ([]byte, bool, error) {
		if k.Type == layout.KeyRegion {
			close(loading)
			<-dropped
		}
		return nil, false, nil
	}
	done := make(chan error)
	go func() { done <- m.s.Claim(layout.Run{Start: layout.RegionSector + 50, Count: 1}) }()
	<-loading
	c.Drop(layout.Run{Start: 20000, Count: 4})
	close(dropped)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l := c.Freed(); len(l) != 1 {
		t.Fatal(l)
	}
}

// The pool of a commit covers the regions that the pool itself makes dirty,
// even where each has a single free group.
func TestSpacePoolOfFragments(t *testing.T) {
	const regions = 40
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), regions*layout.RegionSector)
	_, quads, _ := m.s.Counts()
	if _, err := m.s.AllocQuads(int(quads)); err != nil {
		t.Fatal(err)
	}
	for idx := uint64(1); idx < regions; idx++ {
		m.s.Free(layout.Run{Start: idx*layout.RegionSector + 400, Count: 16})
	}
	m.s.gen++ // as if two commits had passed
	if err := m.s.Reuse(1); err != nil {
		t.Fatal(err)
	}
	for _, r := range m.s.regions {
		r.dirty = false
	}
	for _, g := range m.s.groups {
		g.dirty = false
	}
	c, err := m.s.Freeze(func(n, _ int) int { return 10 + n })
	if err != nil {
		t.Fatal(err)
	}
	pool := 0
	for _, r := range c.pool {
		pool += int(r.Count / 4)
	}
	if len(c.idx) < 4 || pool < 10+2*len(c.idx) {
		t.Fatalf("%d groups for the values of %d regions", pool, len(c.idx))
	}
	// Where there is not enough, nothing is taken.
	before, quads, _ := m.s.Counts()
	if _, err := m.s.Freeze(func(int, int) int { return int(quads) + 1 }); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if after, _, _ := m.s.Counts(); after != before {
		t.Fatalf("%d free sectors became %d", before, after)
	}
}

// TestSpaceHeld: who finds nothing but what is held waits for its release, and is
// not told that the device is full.
func TestSpaceHeld(t *testing.T) {
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 16384)
	runs, err := m.s.Hold(0, 16384, 1)
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	m.check(false)
	for _, alloc := range []func() error{
		func() error { _, err := m.s.Alloc(10); return err },
		func() error { _, err := m.s.AllocQuads(10); return err },
	} {
		got := make(chan error)
		go func() { got <- alloc() }()
		select {
		case err := <-got:
			t.Fatalf("before the release: %v", err)
		default:
		}
		m.s.Release(runs)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if runs, err = m.s.Hold(0, 16384, 1); err != nil || len(runs) == 0 {
			t.Fatal(runs, err)
		}
	}
}
