package txn

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Every block can be had before ErrNoSpace, and every node slot.
func TestSpaceExhausted(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	m := newSpaceModel(t, rng, layout.RegionBlocks+9999)
	m.steps(400, 4)
	m.commit(nil)
	m.commit(nil)
	_, nodeSlots, _ := m.s.Counts()
	if _, err := m.s.AllocNodeSlots(int(nodeSlots) + 1); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	m.check(false)
	rs, err := m.s.AllocNodeSlots(int(nodeSlots))
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
		t.Fatalf("%d blocks are free and cannot be had", free)
	}
	m.check(false)
}

// A large device costs nothing until it is used: summaries lead across groups.
func TestSpaceLarge(t *testing.T) {
	root := &layout.Root{DeviceBlocks: 3*layout.GroupRegions*layout.RegionBlocks + 12345, LogBlocks: 16384}
	root.FreeBlocks = root.DeviceBlocks - root.DataStart()
	root.AllocHint = 2*layout.GroupRegions + 7
	loads := 0
	s, err := NewSpace(root, 1, func(k layout.Key) ([]byte, bool, error) { loads++; return nil, false, nil })
	if err != nil {
		t.Fatal(err)
	}
	if free, nodeSlots, _ := s.Counts(); uint64(free) != root.FreeBlocks || nodeSlots != free/4 {
		t.Fatalf("%d free, %d groups", free, nodeSlots)
	}
	r, err := s.Alloc(100)
	if err != nil || r.Start/layout.RegionBlocks != root.AllocHint || loads > 10 {
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
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), 2*layout.RegionBlocks)
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
	go func() { done <- m.s.Claim(layout.Run{Start: layout.RegionBlocks + 50, Count: 1}) }()
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
	m := newSpaceModel(t, rand.New(rand.NewPCG(1, 1)), regions*layout.RegionBlocks)
	_, nodeSlots, _ := m.s.Counts()
	if _, err := m.s.AllocNodeSlots(int(nodeSlots)); err != nil {
		t.Fatal(err)
	}
	for idx := uint64(1); idx < regions; idx++ {
		m.s.Free(layout.Run{Start: idx*layout.RegionBlocks + 400, Count: 16})
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
	before, nodeSlots, _ := m.s.Counts()
	if _, err := m.s.Freeze(func(int, int) int { return int(nodeSlots) + 1 }); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if after, _, _ := m.s.Counts(); after != before {
		t.Fatalf("%d free blocks became %d", before, after)
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
		func() error { _, err := m.s.AllocNodeSlots(10); return err },
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
