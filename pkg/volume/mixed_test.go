package volume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// mixed is maintenance of all kinds, at the same time, on a volume that workers change.
type mixed struct {
	v    *Volume
	key  Key
	seed uint64
	stop atomic.Bool
	ends atomic.Bool // the volume is being closed
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

func (m *mixed) failed(err error) bool {
	if m.ends.Load() && errors.Is(err, vfs.ErrClosed) {
		return true
	}
	for _, ok := range []error{device.ErrCrashed, vfs.ErrReadOnly, vfs.ErrClosed, vfs.ErrIO, ErrSnapshotInUse, ErrNoSnapshot, context.Canceled} {
		if err == nil || errors.Is(err, ok) && (errors.Is(ok, ErrSnapshotInUse) || errors.Is(ok, ErrNoSnapshot) || !m.v.store.Dev.(*device.Mem).Alive()) {
			return m.v.Failed() != nil
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
	return true
}

// loop repeats work, with some commits in between, until the volume fails or the workers have ended.
func (m *mixed) loop(id uint64, what string, pause int, fn func(rng *rand.Rand, n int) error) {
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		rng := rand.New(rand.NewPCG(m.seed, 1000+id))
		for n := 0; !m.stop.Load(); n++ {
			err := fn(rng, n)
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			if m.failed(err) {
				return
			}
			_ = m.v.com.since(m.v.com.commits.Load() + uint64(pause+rng.IntN(pause+1))) // the workers are to get on, too
		}
	}()
}

func (m *mixed) start() {
	v, ctx := m.v, context.Background()
	m.loop(0, "snapshots", 3, m.snapshots)
	m.loop(1, "rotation", 4, func(rng *rand.Rand, n int) error {
		again := rng.IntN(3) == 0 && v.RotationStatus().Phase != RotationNone && len(v.RotationStatus().Epochs) < crypto.MaxEpochs
		_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{m.key.Credential}, Again: again, BytesPerSecond: -1})
		if err == nil {
			_, err = v.WaitRotation(ctx, nil)
		}
		return err
	})
	m.loop(2, "freeze", 12, m.freeze)
	m.loop(3, "scrub", 2, func(rng *rand.Rand, n int) error {
		rep, err := v.Scrub(ctx, ScrubOptions{ReadOnly: rng.IntN(2) == 0})
		if err == nil && rep.Total > 0 && v.store.Dev.(*device.Mem).Alive() {
			err = fmt.Errorf("damages: %+v", rep.Damages)
		}
		return err
	})
	m.loop(4, "trim and defrag", 5, func(rng *rand.Rand, n int) error {
		if _, err := v.Trim(ctx, TrimOptions{}); err != nil {
			return err
		}
		_, err := v.Defrag(ctx, DefragOptions{})
		return err
	})
	m.loop(5, "views", 2, func(rng *rand.Rand, n int) error {
		infos, err := v.Snapshots()
		if err != nil {
			return err
		}
		for _, i := range infos {
			if !i.Deleting && rng.IntN(2) == 0 {
				if _, err := readSnap(v, i.Name); err != nil {
					return fmt.Errorf("%s: %w", i.Name, err)
				}
			}
		}
		return nil
	})
}

// snapshots makes a snapshot, and deletes others.
func (m *mixed) snapshots(rng *rand.Rand, n int) error {
	v := m.v
	if _, err := v.CreateSnapshot(fmt.Sprint("s", n)); err != nil {
		return err
	}
	if n < 3 || rng.IntN(4) == 0 {
		return nil
	}
	infos, err := v.Snapshots()
	for _, i := range infos {
		if err == nil && !i.Deleting && rng.IntN(2) == 0 {
			err = v.DeleteSnapshot(i.Name)
		}
	}
	if rng.IntN(2) == 0 && err == nil {
		err = v.WaitFreed()
	}
	return err
}

// freeze freezes the volume for a moment, in which nothing may be written.
func (m *mixed) freeze(rng *rand.Rand, _ int) error {
	v := m.v
	f, err := v.Freeze(context.Background(), time.Minute)
	if err != nil {
		return err
	}
	before := v.store.Dev.(*device.Mem).Writes()
	for range rng.IntN(200) { // reads go on
		if _, err := v.GetAttr(vfs.RootIno); err != nil {
			return err
		}
	}
	if n := v.store.Dev.(*device.Mem).Writes() - before; n != 0 && f.Thaw() {
		return fmt.Errorf("%d writes in a freeze", n)
	}
	f.Thaw()
	return nil
}

// end waits for the maintenance.
func (m *mixed) end() error {
	m.stop.Store(true)
	m.wg.Wait()
	return errors.Join(m.errs...)
}

// checkViews reads each snapshot: each worker must have been in the state that it
// shows, and all of them at once.
func checkViews(v *Volume, runs []*crashRun) error {
	infos, err := v.Snapshots()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Deleting {
			continue
		}
		got, err := readSnap(v, i.Name)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", i.Name, err)
		}
		for w, r := range runs {
			below := modelState{files: map[string][]byte{}}
			prefix := fmt.Sprintf("w%d/", w)
			for p, c := range got.files {
				if rest, ok := strings.CutPrefix(p, prefix); ok {
					below.files[rest] = c
				}
			}
			found := false
			for i := len(r.states) - 1; i >= 0 && !found; i-- {
				found = sameState(below, r.states[i])
			}
			if !found {
				return fmt.Errorf("snapshot %s shows a state of worker %d that never was", i.Name, w)
			}
		}
	}
	return nil
}

// oneMixed has workers change a volume during maintenance of all kinds; cut, the
// power goes in between.
func oneMixed(t testing.TB, seed uint64, ops, cut, images int) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory, Discard: seed%3 > 0})
	if seed%2 == 0 {
		tighten(v)
	}
	runs := newRuns(t, v, seed, 3)
	if err := v.Sync(vfs.RootIno); err != nil {
		return err
	}
	m := &mixed{v: v, key: testKey(t), seed: seed}
	if cut > 0 {
		dev.CutAfter(1 + rng.IntN(cut))
	}
	m.start()
	errs := workMixed(runs, ops)
	if cut > 0 {
		dev.Cut()
		v.fail(device.ErrCrashed)
	}
	err := m.end()
	for i, e := range errs {
		if e != nil && (cut == 0 || !errors.Is(e, device.ErrCrashed) && !errors.Is(e, vfs.ErrReadOnly) && !errors.Is(e, vfs.ErrIO)) {
			err = errors.Join(err, fmt.Errorf("worker %d: %w", i, e))
		}
	}
	if err != nil {
		return errors.Join(err, v.Failed())
	}
	if cut == 0 {
		if err := v.WaitFreed(); err != nil {
			return err
		}
		if err := checkViews(v, runs); err != nil {
			return err
		}
	}
	switch err := v.Close(); {
	case cut > 0 && err == nil:
		return errors.New("close of a cut volume says nothing")
	case cut == 0 && err != nil:
		return err
	}
	for i := range images {
		img := dev.Clone()
		if cut > 0 {
			img = dev.Crash([]device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashDiscards, device.CrashMix}[min(i, 3)], rng)
		} else {
			for _, r := range runs {
				r.synced = len(r.states) - 1
			}
		}
		if err := checkMixed(t, img, runs); err != nil {
			return fmt.Errorf("image %d: %w", i, err)
		}
	}
	return nil
}

// workMixed has each worker make so many operations, or as many as it can, and returns
// what each said.
func workMixed(runs []*crashRun, ops int) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(runs))
	for i, r := range runs {
		wg.Go(func() {
			for n := 0; errs[i] == nil && len(r.states) < ops; n++ {
				if errs[i] = r.step(); errs[i] == nil && n%3 == 0 {
					errs[i] = r.look()
				}
			}
		})
	}
	wg.Wait()
	return errs
}

// checkMixed examines what is left: the workers' files, the snapshots, and free
// space to the block once nothing is being freed or rotated any more.
func checkMixed(t testing.TB, img *device.Mem, runs []*crashRun) error {
	if err := checkStress(t, img, runs); err != nil {
		return err
	}
	v, err := Open(img, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return err
	}
	if err := checkViews(v, runs); err != nil {
		return err
	}
	if err := v.WaitFreed(); err != nil {
		return err
	}
	v.rot.rate.Store(-1)
	if _, err := v.WaitRotation(context.Background(), nil); err != nil {
		return err
	}
	infos, err := v.Snapshots()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := v.DeleteSnapshot(i.Name); err != nil {
			return err
		}
	}
	if err := v.WaitFreed(); err != nil {
		return err
	}
	v.background.reaper.wait()
	if err := v.Close(); err != nil {
		return err
	}
	return cleanErr(img)
}

// TestMixed mixes copies, snapshots, rotations, freezes, scrubs, trims and defrags,
// without a cut and with one.
func TestMixed(t *testing.T) {
	seed := stressStart(t)
	rounds, ops := max(*stressRuns/4, 1), min(*stressOps, 400)
	if testing.Short() {
		rounds, ops = min(rounds, 2), min(ops, 60)
	}
	watch := time.AfterFunc(8*time.Minute, func() { panic("mixed stress: hangs") })
	defer watch.Stop()
	for i := range rounds {
		s := seed + uint64(i)
		cut, images := 0, 1
		if i%2 == 1 {
			cut, images = 1500, 5
		}
		if err := oneMixed(t, s, ops, cut, images); err != nil {
			t.Fatalf("-stress.seed=%d, round %d: %v", s, i, err)
		}
	}
}
