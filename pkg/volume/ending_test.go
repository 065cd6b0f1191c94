package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// startMore starts what mixed.start leaves out.
func (m *mixed) startMore(dev *device.Mem) {
	v := m.v
	size, err := dev.Size()
	m.failed(err)
	m.loop(6, "grow", 6, func(rng *rand.Rand, _ int) error {
		if size < 200<<20 {
			size += 1<<20 + rng.Int64N(1<<20)
		}
		dev.Grow(size)
		_, err := v.Grow()
		return err
	})
	m.loop(7, "anchors", 2, func(rng *rand.Rand, _ int) error {
		a, err := v.OfferAnchor()
		if err == nil && rng.IntN(3) > 0 {
			err = v.ConfirmAnchor(a)
		}
		return err
	})
	m.loop(8, "diffs", 3, func(rng *rand.Rand, _ int) error {
		infos, err := v.Snapshots()
		if err != nil || len(infos) == 0 {
			return err
		}
		_ = v.Statistics()
		return v.Diff(infos[rng.IntN(len(infos))].Name, "", DiffOptions{}, func(Change) error { return nil })
	})
}

// TestEndings closes a volume, rolls it back, or both at once with freezes, in the
// middle of everything: that ends, nobody waits for ever, and the device is whole.
func TestEndings(t *testing.T) {
	seed := stressStart(t)
	rounds := max(*stressRuns/8, 2)
	if testing.Short() {
		rounds = 2
	}
	watch := time.AfterFunc(5*time.Minute, func() { panic("endings: hangs") })
	defer watch.Stop()
	for i := range rounds {
		if err := oneEnding(t, seed+uint64(i)); err != nil {
			t.Fatalf("-stress.seed=%d: %v", seed+uint64(i), err)
		}
	}
}

// someSnapshot is the name of one, if there are any.
func someSnapshot(v *Volume, rng *rand.Rand) string {
	infos, err := v.Snapshots()
	if err != nil || len(infos) == 0 {
		return "none"
	}
	return infos[rng.IntN(len(infos))].Name
}

// ending is a volume that ends in the middle of everything.
type ending struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	dev     *device.Mem
	v       *Volume
	m       *mixed
	workers sync.WaitGroup
	halt    atomic.Bool // the workers are to stop
}

func oneEnding(t *testing.T, seed uint64) error {
	e := &ending{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 15)), dev: device.NewMem(128 << 20)}
	mustFormat(t, e.dev)
	e.v = mustOpen(t, e.dev, Options{CommitInterval: time.Millisecond, Memory: minMemory, Discard: seed%2 == 0})
	if seed%3 == 0 {
		tighten(e.v)
	}
	runs := newRuns(t, e.v, seed, 2)
	e.m = &mixed{v: e.v, key: testKey(t), seed: seed}
	_, err := e.v.CreateSnapshot("base")
	ok(t, err)
	e.m.start()
	e.m.startMore(e.dev)
	for _, r := range runs {
		e.workers.Go(func() { e.work(r) })
	}
	some := 150
	if testing.Short() {
		some = 30
	}
	for range 10 + e.rng.IntN(some) { // commits later
		ok(t, e.v.com.since(e.v.com.commits.Load()))
	}
	errs := e.end()
	for _, err := range append(errs, e.v.Failed()) {
		if err != nil && !errors.Is(err, vfs.ErrClosed) && !errors.Is(err, ErrNoSnapshot) && !errors.Is(err, ErrSnapshotInUse) {
			return err
		}
	}
	return e.whole()
}

// work changes files until the volume ends.
func (e *ending) work(r *crashRun) {
	for !e.halt.Load() {
		if err := r.step(); err != nil {
			if !e.m.ends.Load() || !errors.Is(err, vfs.ErrClosed) {
				e.m.failed(fmt.Errorf("worker: %w", err))
			}
			return
		}
	}
}

// end closes the volume, rolls it back, or both at once, and waits for everybody. It
// returns what all of them said.
func (e *ending) end() []error {
	v := e.v
	e.m.ends.Store(true)
	if e.seed%4 != 0 { // who rolls a volume back says that nobody uses its files
		e.halt.Store(true)
		e.workers.Wait()
	}
	ends := []func() error{v.Close, func() error { return v.Rollback(someSnapshot(v, e.rng), true) }}
	switch e.seed % 4 {
	case 0:
		ends = ends[:1]
	case 1:
		ends = ends[1:]
	}
	errs := make([]error, len(ends))
	var ending sync.WaitGroup
	for i, end := range ends {
		ending.Go(func() {
			for range 1000 {
				errs[i] = end()
				// What is looked at cannot be given up at that moment.
				if !errors.Is(errs[i], ErrSnapshotInUse) {
					return
				}
			}
		})
	}
	ending.Wait()
	errs = append(errs, e.m.end())
	if !v.life.closing.Load() { // there was always somebody who looked
		errs = append(errs, v.Close())
	}
	e.workers.Wait()
	return errs
}

// whole wants the device to be whole, and all that was in progress to end.
func (e *ending) whole() error {
	if err := cleanErr(e.dev.Clone()); err != nil {
		return err
	}
	v, err := Open(e.dev, Options{Credential: testCred(e.t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return err
	}
	if _, err := readTree(v); err != nil {
		return err
	}
	if err := v.WaitFreed(); err != nil {
		return err
	}
	v.rot.rate.Store(-1)
	if _, err := v.WaitRotation(e.t.Context(), nil); err != nil {
		return err
	}
	v.background.reaper.wait()
	if err := v.Sync(vfs.RootIno); err != nil {
		return err
	}
	checkSpace(e.t, v)
	if err := v.Close(); err != nil {
		return err
	}
	return cleanErr(e.dev)
}
