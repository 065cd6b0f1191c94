package gc

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// scenario sets up processes on a new world.
type scenario struct {
	name  string
	setup func(w *world, rules skipped)
}

// Snapshots of the scenarios.
var (
	snapA = format.ID{0xaa}
	snapB = format.ID{0xbb}
)

// prepare runs a process alone to its end.
func (w *world) prepare(body func(ctx context.Context, p *proc) error) *proc {
	p := w.start("prepare", body)
	for !p.done {
		p.step()
	}
	if p.err != nil {
		panic(p.err)
	}
	w.procs = w.procs[:0]
	return p
}

// baseA makes snapshot A, whole, of one pack.
func baseA(w *world) {
	w.prepare(func(ctx context.Context, p *proc) error { return write(ctx, p, snapA, format.ID{}, nil, 1) })
}

// orphan makes an attempt that died with one pack put.
func orphan(w *world) []format.ID {
	p := w.start("orphan", func(ctx context.Context, p *proc) error { return write(ctx, p, snapB, format.ID{}, nil, 1) })
	for !strings.HasPrefix(p.at, "put "+format.PagePrefix) {
		p.step()
	}
	p.kill()
	w.procs = w.procs[:0]
	return p.attempts
}

// expire has all leases expire at some moment.
func expire(_ context.Context, p *proc) error {
	if _, err := p.op("clock", ""); err != nil {
		return err
	}
	p.w.clock += 2 * int64(modelTTL)
	return nil
}

func startPruner(w *world, rules skipped, passes int) {
	o := Options{Undelete: -1, Grace: -1, skip: rules}
	w.start(fmt.Sprint("pruner ", len(w.procs)), func(ctx context.Context, p *proc) error { return prune(ctx, p, o, passes) })
}

func startWriter(w *world, s, base format.ID, predecessors []format.ID, packs int) {
	w.start("writer", func(ctx context.Context, p *proc) error {
		if err := write(ctx, p, s, base, predecessors, packs); !isRefusal(err) {
			return err
		}
		return nil
	})
}

// startSuccessor goes on with a snapshot that another writer writes, or wrote.
func startSuccessor(w *world, s format.ID) {
	w.start("writer, successor", func(ctx context.Context, p *proc) error {
		if err := goOn(ctx, p, s, 0); !isRefusal(err) {
			return err
		}
		return nil
	})
}

func startForget(w *world, andUndelete bool) {
	w.start("forget", func(ctx context.Context, p *proc) error {
		err := forget(ctx, p, snapA)
		if err == nil && andUndelete {
			err = undelete(ctx, p, snapA)
		}
		if !isRefusal(err) {
			return err
		}
		return nil
	})
}

var scenarios = []scenario{
	{"forget and undelete", func(w *world, rules skipped) {
		baseA(w)
		startPruner(w, rules, 2)
		startForget(w, true)
	}},
	{"resume", func(w *world, rules skipped) {
		dead := orphan(w)
		w.clock += 2 * int64(modelTTL)
		startPruner(w, rules, 2)
		startWriter(w, format.ID{0xcc}, format.ID{}, dead, 0)
	}},
	{"one writer, one pruner, forget", func(w *world, rules skipped) {
		baseA(w)
		startPruner(w, rules, 2)
		startForget(w, false)
		startWriter(w, format.ID{0xcc}, snapA, nil, 0)
	}},
	{"base, a lease that expires", func(w *world, rules skipped) {
		baseA(w)
		w.prepare(func(ctx context.Context, p *proc) error { return forget(ctx, p, snapA) })
		startPruner(w, rules, 2)
		w.start("clock", expire)
		startWriter(w, format.ID{0xcc}, snapA, nil, 0)
	}},
	{"own packs, a lease that expires", func(w *world, rules skipped) {
		startPruner(w, rules, 2)
		w.start("clock", expire)
		startWriter(w, format.ID{0xcc}, format.ID{}, nil, 1)
	}},
	{"resume, two pruners", func(w *world, rules skipped) {
		dead := orphan(w)
		w.clock += 2 * int64(modelTTL)
		w.prepare(func(ctx context.Context, p *proc) error { // condemns it
			_, err := Prune(ctx, p, Options{Undelete: -1, Grace: -1, Parallel: 1, probeless: true})
			return err
		})
		startPruner(w, rules, 1)
		startPruner(w, rules, 1)
		startWriter(w, format.ID{0xcc}, format.ID{}, dead, 0)
	}},
}

// goingOn are scenarios of a writer that died before each of its operations, and
// its successor at the same snapshot. Its base is being forgotten.
func goingOn() (all []scenario) {
	for n := 0; ; n++ {
		before := ""
		die := func(w *world) bool {
			baseA(w)
			w.prepare(func(ctx context.Context, p *proc) error { return forget(ctx, p, snapA) })
			p := w.start("orphan", func(ctx context.Context, p *proc) error { return write(ctx, p, snapB, snapA, nil, 1) })
			for range n {
				p.step()
			}
			before = p.at
			whole := p.done
			p.kill()
			w.procs = w.procs[:0]
			return whole
		}
		if die(newWorld()) {
			return all
		}
		late := n > 2 && n%2 == 0 // its lease expires at some moment; else there are fewer states
		all = append(all, scenario{"died before " + before, func(w *world, rules skipped) {
			die(w)
			startPruner(w, rules, 2)
			if late {
				w.start("clock", expire)
			}
			startSuccessor(w, snapB)
		}})
	}
}

// TestGoingOn visits every interleaving of a successor and a pruner, wherever the
// first writer died.
func TestGoingOn(t *testing.T) {
	all := goingOn()
	if len(all) < 7 {
		t.Fatalf("%d operations", len(all))
	}
	if testing.Short() {
		all = all[len(all)-2:]
	}
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			e := &explorer{scenario: s, seen: map[uint64]struct{}{}}
			if err := e.visit(e.replay(nil), nil); err != nil {
				t.Fatalf("%v\n%s", err, e.story())
			}
			t.Logf("%d states, %d steps", len(e.seen), e.steps)
		})
	}
}

// verdict says what is wrong with a state.
func (w *world) verdict() error {
	if w.bad != nil {
		return w.bad
	}
	for s := range w.whole {
		if !w.gone[s] && !w.real(s) {
			return fmt.Errorf("snapshot %s was whole, nobody forgot it, and it is void", s)
		}
	}
	for _, p := range w.procs {
		if p.done && p.err != nil {
			return fmt.Errorf("%s: %w", p.name, p.err)
		}
	}
	return nil
}

// explorer visits all states that a scenario can reach.
type explorer struct {
	scenario scenario
	rules    skipped
	broken   broken
	seen     map[uint64]struct{}
	steps    int
	trace    []string
}

// replay makes the world of a schedule.
func (e *explorer) replay(schedule []byte) *world {
	w := newWorld()
	w.broken = e.broken
	e.scenario.setup(w, e.rules)
	for _, i := range schedule {
		w.procs[i].step()
		e.steps++
	}
	return w
}

// visit looks at a state and all that follow it. It uses up the world.
func (e *explorer) visit(w *world, schedule []byte) error {
	defer func() { w.stopAll() }()
	if err := w.verdict(); err != nil {
		return err
	}
	sum := w.sum()
	if _, ok := e.seen[sum]; ok {
		return nil
	}
	e.seen[sum] = struct{}{}
	if len(e.seen)%200_000 == 0 {
		fmt.Fprintf(os.Stderr, "%d states\n", len(e.seen))
	}
	var can []byte
	for i, p := range w.procs {
		if !p.done {
			can = append(can, byte(i))
		}
	}
	for n, i := range can {
		at := w
		if n < len(can)-1 {
			at = e.replay(schedule)
		}
		op := at.procs[i].name + ": " + at.procs[i].at
		at.procs[i].step()
		e.steps++
		if err := e.visit(at, append(schedule[:len(schedule):len(schedule)], i)); err != nil {
			e.trace = append(e.trace, op)
			return err
		}
	}
	return nil
}

// briefly are the scenarios for runs with the race detector, in which nothing
// runs at once anyway.
func briefly() []scenario {
	if testing.Short() {
		return scenarios[:3]
	}
	return scenarios
}

// TestModel visits every interleaving of each scenario.
func TestModel(t *testing.T) {
	for _, s := range briefly() {
		t.Run(s.name, func(t *testing.T) {
			e := &explorer{scenario: s, seen: map[uint64]struct{}{}}
			if err := e.visit(e.replay(nil), nil); err != nil {
				t.Fatalf("%v\n%s", err, e.story())
			}
			t.Logf("%d states, %d steps", len(e.seen), e.steps)
		})
	}
}

// story is what happened, from the first step on.
func (e *explorer) story() string {
	var b strings.Builder
	for i := len(e.trace) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "  %s\n", e.trace[i])
	}
	return b.String()
}

var gcDeep = flag.Bool("gc.deep", false, "TestDeepModel visits everything at once")

// deep is all of it together, as the model of the design had it: a writer that
// builds on A and takes over an orphan, A forgotten and undeleted, leases that
// expire, two passes.
var deep = scenario{"everything", func(w *world, rules skipped) {
	baseA(w)
	dead := orphan(w)
	startPruner(w, rules, 2)
	startForget(w, true)
	startWriter(w, format.ID{0xcc}, snapA, dead, 0)
	w.start("clock", expire)
}}

// twins is a writer that lives, although another one considers it dead and goes on.
var twins = scenario{"twins", func(w *world, rules skipped) {
	startPruner(w, rules, 2)
	startWriter(w, snapB, format.ID{}, nil, 1)
	startSuccessor(w, snapB)
}}

// TestDeepModel needs more than a quarter of an hour: make gc-model GC_FLAGS=-gc.deep.
func TestDeepModel(t *testing.T) {
	if !*gcDeep {
		return
	}
	for _, s := range []scenario{twins, deep} {
		e := &explorer{scenario: s, seen: map[uint64]struct{}{}}
		if err := e.visit(e.replay(nil), nil); err != nil {
			t.Fatalf("%s: %v\n%s", s.name, err, e.story())
		}
		t.Logf("%s: %d states, %d steps", s.name, len(e.seen), e.steps)
	}
}
