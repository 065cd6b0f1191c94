package txn

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// spaceModel is the reference of Space: one flag for each block.
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

func newSpaceModel(t *testing.T, rng *rand.Rand, blocks uint64) *spaceModel {
	m := &spaceModel{t: t, rng: rng, gen: 1, lists: map[uint64][]layout.Run{}, stored: map[layout.Key][]byte{}}
	m.root = &layout.Root{DeviceBlocks: blocks, LogBlocks: 1024}
	m.root.FreeBlocks = blocks - m.root.DataStart()
	m.resize(blocks)
	for i := range m.root.DataStart() {
		m.used[i] = true
	}
	m.open()
	return m
}

func (m *spaceModel) resize(blocks uint64) {
	n := (blocks + layout.RegionBlocks - 1) / layout.RegionBlocks * layout.RegionBlocks
	old := uint64(len(m.used))
	m.used = append(m.used, make([]bool, n-old)...)
	m.waiting = append(m.waiting, make([]bool, n-old)...)
	for i := uint64(0); i < n; i++ {
		if i >= blocks {
			m.used[i] = true
		} else if i >= m.root.DeviceBlocks {
			m.used[i] = false
		}
	}
	m.root.DeviceBlocks = blocks
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
			m.t.Fatalf("block %d of %d+%d is handed out and in use (waiting: %t)", i, r.Start, r.Count, i < uint64(len(m.used)) && m.waiting[i])
		}
		m.used[i] = true
	}
}

func (m *spaceModel) aligned(i uint64) bool { // a whole free group
	i &^= 3
	return !m.used[i] && !m.used[i+1] && !m.used[i+2] && !m.used[i+3]
}

func (m *spaceModel) count() (free, nodeSlots, waiting int64) {
	for i := range m.used {
		if !m.used[i] {
			free++
		}
		if m.waiting[i] {
			waiting++
		}
		if i%4 == 0 && m.aligned(uint64(i)) {
			nodeSlots++
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
		if got.Free < want.Free || got.Largest < want.Largest || got.NodeSlots < want.NodeSlots || exact && got != want {
			m.t.Fatalf("region %d: summary %+v, truth %+v", idx, got, want)
		}
	}
}

func (m *spaceModel) bitmap(idx uint64, used []bool) *bitmap {
	b := new(bitmap)
	for i := range uint64(layout.RegionBlocks) {
		if used[idx*layout.RegionBlocks+i] {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

func slowCount(b *bitmap) (s layout.Summary) {
	run, four := uint32(0), 0
	for i := range layout.RegionBlocks {
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
			s.NodeSlots++
		}
	}
	return s
}

// commit makes a commit, with changes of the next generation in between, and compares
// all that it says.
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
	m.drop(c, snap)
	m.compareFreed(c)
	m.finish(c)
	for i := range inPool {
		snap[i], m.used[i] = false, false
	}
	m.root.Generation, m.root.AllocHint, m.root.FreeBlocks = c.Gen, c.Hint, c.Free
	m.compareStored(snap)
	m.hung = map[uint64][]layout.Run{c.Gen: m.lists[c.Gen], c.Gen - 1: m.lists[c.Gen-1]}
	if err := m.s.Reuse(c.Gen - 1); err != nil {
		m.t.Fatal(err)
	}
	m.reused(c.Gen - 1)
}

// drop has the commit drop a run, if all of it was in use at the freeze.
func (m *spaceModel) drop(c *SpaceCommit, snap []bool) {
	r, ok := m.pick()
	if !ok {
		return
	}
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
}

// compareFreed compares what the commit says was freed.
func (m *spaceModel) compareFreed(c *SpaceCommit) {
	m.t.Helper()
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
				m.t.Fatalf("block %d was freed and is not in the list", r.Start+i)
			}
		}
	}
	if want != len(freed) {
		m.t.Fatalf("the list has %d blocks, %d were freed", len(freed), want)
	}
}

// finish stores what the commit changed: what it announced, and no more.
func (m *spaceModel) finish(c *SpaceCommit) {
	m.t.Helper()
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
	if free != m.root.FreeBlocks {
		m.t.Fatalf("root says %d free, should be %d", m.root.FreeBlocks, free)
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
			blocks := uint64(16384 + 4*rng.IntN(8000) + rng.IntN(4))
			if seed%2 == 1 {
				blocks = 2*layout.RegionBlocks + rng.Uint64N(layout.RegionBlocks)
			}
			m := newSpaceModel(t, rng, blocks)
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
					end := m.root.DeviceBlocks + rng.Uint64N(20000)
					if rng.IntN(3) == 0 {
						end += 2 * layout.RegionBlocks
					}
					if end > 8*layout.RegionBlocks {
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
