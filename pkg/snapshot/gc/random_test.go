package gc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

var (
	gcRuns = flag.Int("gc.runs", 10_000, "random interleavings of TestRandomModel")
	gcSeed = flag.Uint64("gc.seed", 0, "the first of them; 0: another each time")
)

// randomRun is one random interleaving of writers, pruners, forgets and
// undeletes, any of which may die or get no answer at any operation.
type randomRun struct {
	w       *world
	rng     *rand.Rand
	budget  int // successors of writers that died
	names   []format.ID
	trace   []string
	faults  bool
	tracing bool
	rules   skipped

	// Half of the runs are made so that what races for is likely: some snapshots
	// are whole, then all forget, prune and build on them.
	eager bool
	burst int // the most operations that a process does before another goes on
	lazy  int // the most operations that a process waits before it begins
	// In some runs a process goes on alone until it ends or stalls, at one random
	// operation each: so much can happen while it does.
	ranked bool
}

var errInjected = errors.New("the store does not answer")

func newRandomRun(seed uint64, rules skipped, lacks broken) *randomRun {
	r := &randomRun{w: newWorld(), rng: rand.New(rand.NewPCG(seed, 0)), budget: 4, rules: rules}
	r.w.broken = lacks
	r.w.pages = 1 + r.rng.IntN(4)
	r.faults = r.rng.IntN(2) == 0
	r.w.fault = func(*proc, string) (before, after error) {
		if !r.faults || r.rng.IntN(150) != 0 {
			return nil, nil
		}
		if r.rng.IntN(2) == 0 {
			return errInjected, nil // refused
		}
		return nil, errInjected // done, and the answer lost
	}
	r.eager, r.burst = r.rng.IntN(2) == 0, []int{2, 6, 30}[r.rng.IntN(3)]
	if r.eager {
		for range 2 {
			r.writer(r.some(), nil)
			for p := r.w.procs[len(r.w.procs)-1]; !p.done; {
				p.step()
			}
		}
	}
	r.lazy = 40
	if r.ranked = r.rng.IntN(2) == 0; r.ranked {
		r.lazy = 0
	}
	for range 8 {
		r.writer(r.some(), nil)
	}
	for range 3 {
		r.pruner(1 + r.rng.IntN(3))
	}
	for range 2 + r.rng.IntN(5) {
		r.forgetter()
	}
	return r
}

// some returns a snapshot of this run, or none.
func (r *randomRun) some() format.ID {
	if r.eager && len(r.names) >= 2 {
		return r.names[r.rng.IntN(2)]
	}
	if len(r.names) == 0 || r.rng.IntN(4) == 0 {
		return format.ID{}
	}
	return r.names[r.rng.IntN(len(r.names))]
}

func (r *randomRun) writer(base format.ID, predecessors []format.ID) {
	s := format.ID{1, byte(len(r.names) + 1)}
	r.names = append(r.names, s)
	packs, late := r.rng.IntN(3), r.rng.IntN(3) == 0
	p := r.w.start(fmt.Sprintf("writer %x", s[1]), func(ctx context.Context, self *proc) error {
		if err := r.idle(self); err != nil {
			return err
		}
		if late { // what is known only when it begins
			base = r.some()
		}
		return write(ctx, self, s, base, predecessors, packs)
	})
	p.restart = func() {
		if r.rng.IntN(2) == 0 {
			r.writer(p.base, p.attempts)
		} else {
			r.successor(s, packs)
		}
	}
}

// successor goes on with the same snapshot.
func (r *randomRun) successor(s format.ID, packs int) {
	p := r.w.start(fmt.Sprintf("writer %x, successor", s[1]), func(ctx context.Context, self *proc) error {
		if err := r.idle(self); err != nil {
			return err
		}
		return goOn(ctx, self, s, packs)
	})
	p.restart = func() { r.successor(s, packs) }
}

// idle lets some time pass before a process begins.
func (r *randomRun) idle(p *proc) error {
	for range r.rng.IntN(r.lazy + 1) {
		if _, err := p.op("idle", ""); err != nil {
			return err
		}
	}
	return nil
}

func (r *randomRun) pruner(passes int) {
	waits := []time.Duration{-1, modelTTL / 2, 3 * modelTTL}
	o := Options{Undelete: waits[r.rng.IntN(3)], Grace: waits[r.rng.IntN(3)], skip: r.rules}
	if r.eager {
		o.Undelete, o.Grace = -1, -1
	}
	r.w.start(fmt.Sprint("pruner ", len(r.w.procs)), func(ctx context.Context, p *proc) error {
		if err := r.idle(p); err != nil {
			return err
		}
		return prune(ctx, p, o, passes)
	})
}

func (r *randomRun) forgetter() {
	r.w.start(fmt.Sprint("forget ", len(r.w.procs)), func(ctx context.Context, p *proc) (err error) {
		for range 1 + r.rng.IntN(3) {
			if err := r.idle(p); err != nil {
				return err
			}
			s := r.names[r.rng.IntN(len(r.names))]
			if r.eager {
				s = r.some()
			}
			if r.rng.IntN(3) > 0 {
				err = forget(ctx, p, s)
			} else {
				err = undelete(ctx, p, s)
			}
			if err != nil && !isRefusal(err) {
				return err
			}
		}
		return nil
	})
}

// run lets processes go on in random order until all have ended.
func (r *randomRun) run() error {
	for {
		var can []*proc
		for _, p := range r.w.procs {
			if !p.done {
				can = append(can, p)
			}
		}
		if len(can) == 0 {
			return r.settle()
		}
		if r.ranked {
			r.step(r.highest(can))
		} else {
			p := can[r.rng.IntN(len(can))]
			for range 1 + r.rng.IntN(r.burst) {
				if !p.done {
					r.step(p)
				}
			}
		}
		if r.w.bad != nil {
			return r.w.bad
		}
	}
}

// highest returns the process of highest priority, which falls when it stalls.
func (r *randomRun) highest(can []*proc) (best *proc) {
	for _, p := range can {
		if p.priority == 0 {
			p.priority, p.stalls = 1+r.rng.Float64(), r.rng.IntN(24)
		}
		if best == nil || p.priority > best.priority {
			best = p
		}
	}
	if best.stalls--; best.stalls == 0 {
		best.priority = r.rng.Float64()
	}
	return best
}

func (r *randomRun) step(p *proc) {
	if r.tracing {
		r.trace = append(r.trace, p.name+": "+p.at)
	}
	r.w.clock += int64(r.rng.IntN(int(time.Minute)))
	switch r.rng.IntN(300) {
	case 0, 1:
		r.w.clock += int64(modelTTL) * int64(r.rng.IntN(5)-1) // the store's clock may go back
	case 2, 3:
		p.kill()
	default:
		p.step()
	}
	if p.done && p.restart != nil && (p.err != nil || p.at == "killed") && r.budget > 0 && len(p.attempts) > 0 && !errors.Is(p.err, commit.ErrTaken) {
		r.budget--
		p.restart()
	}
}

// settle prunes alone at the end: nothing that was promised is lost, and nothing
// stays that nobody needs.
func (r *randomRun) settle() error {
	for _, p := range r.w.procs {
		if p.err != nil && !isRefusal(p.err) && !errors.Is(p.err, errInjected) {
			return fmt.Errorf("%s: %w", p.name, p.err)
		}
	}
	r.faults = false
	r.w.clock += int64(100 * modelTTL)
	p := r.w.start("the last pruner", func(ctx context.Context, p *proc) error {
		return prune(ctx, p, Options{Undelete: -1, Grace: -1}, 3)
	})
	for !p.done {
		p.step()
	}
	if p.err != nil {
		return p.err
	}
	if r.w.bad != nil {
		return r.w.bad
	}
	needs := map[string]bool{format.ClockKey: true}
	for s, shot := range r.w.known {
		real := r.w.real(s)
		if r.w.whole[s] && !r.w.gone[s] && !real {
			return fmt.Errorf("snapshot %s was whole, nobody forgot it, and it is void", s)
		}
		if real {
			needs[format.SnapKey(s, format.ManifestPart)] = true
			for _, n := range shot.names() {
				needs[n.Key()] = true
			}
		}
	}
	for _, k := range r.w.keys {
		card := strings.HasSuffix(k, "/"+format.CardPart)
		if _, part, err := format.ParseSnapKey(k); err == nil {
			_, verdict, ok := format.ParseTomb(part)
			card = card || ok && verdict // KEEP stays as long as the snapshot
		}
		if !needs[k] && !card {
			return fmt.Errorf("%s stays for ever", k)
		}
	}
	return nil
}

// TestRandomModel: eight writers, three pruners, forgets and undeletes at once.
func TestRandomModel(t *testing.T) {
	first, runs := *gcSeed, *gcRuns
	if first == 0 {
		first = rand.Uint64() >> 16
	}
	if testing.Short() {
		runs = min(runs, 500)
	}
	t.Logf("seeds from %d on", first)
	for seed := first; seed < first+uint64(runs); seed++ {
		r := newRandomRun(seed, skipped{}, broken{})
		err := r.run()
		r.w.stopAll()
		if err == nil {
			continue
		}
		again := newRandomRun(seed, skipped{}, broken{})
		again.tracing = true
		_ = again.run()
		again.w.stopAll()
		t.Fatalf("-gc.seed %d -gc.runs 1: %v\n  %s", seed, err, strings.Join(again.trace[max(0, len(again.trace)-300):], "\n  "))
	}
}
