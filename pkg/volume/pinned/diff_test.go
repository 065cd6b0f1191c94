package pinned_test

import (
	"flag"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

var (
	histories = flag.Int("pinned.histories", 6, "random histories to compare")
	seed      = flag.Uint64("pinned.seed", 0, "seed of the first history; 0: from the clock")
)

// TestDiff compares states of random histories. Facts of one state with what Diff tells about
// another must be the facts of that one, and those must be what the engine reads.
func TestDiff(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range *histories {
		s := first + uint64(i)
		t.Logf("-pinned.histories=1 -pinned.seed=%d", s)
		diffHistory(t, s)
	}
}

func diffHistory(t *testing.T, seed uint64) {
	h := newHistory(t, seed, 128<<20)
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t), Memory: 1})
	ok(t, err)
	defer p.Close()
	states, known := map[string]*pinned.State{}, map[string]*facts{}
	for range 25 {
		h.Steps(40)
		if h.Rng.IntN(4) == 0 {
			h.Maintain()
		}
		name := h.Snapshot()
		s, err := p.Snapshot(name)
		ok(t, err)
		states[name], known[name] = s, all(t, s)
		checkFacts(t, h.V, p.Identity().HashSeed, s, known[name])
		for _, other := range h.Snaps {
			mustDiff(t, states[other], s, known[other], known[name])
			mustDiff(t, s, states[other], known[name], known[other])
		}
	}
	h.Close()
}

// mustDiff applies a difference.
func mustDiff(t *testing.T, from, to *pinned.State, was, want *facts) {
	t.Helper()
	a := &applier{facts: was.clone(), to: to}
	if err := pinned.Diff(t.Context(), from, to, a); err != nil {
		t.Fatalf("from %q to %q: %v", from.Info().Name, to.Info().Name, err)
	}
	if err := a.same(want); err != nil {
		t.Fatalf("from %q to %q: %v", from.Info().Name, to.Info().Name, err)
	}
	if from == to && a.calls > 0 {
		t.Fatalf("%q differs from itself", from.Info().Name)
	}
}
