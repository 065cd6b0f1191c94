package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// copies has a run begin with a file and copies of it.
func (r *crashRun) copies(n int) error {
	data := noise(r.rng, (10+r.rng.IntN(40))*pageBytes)
	state := r.state().clone()
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		a, err := r.v.Mknod(crashReq, r.root(), name, 0o644, 0)
		if err != nil {
			return err
		}
		r.inos[name], state.files[name] = a.Ino, data
		if i == 0 {
			_, err = r.v.Write(crashReq, a.Ino, 0, data, false)
		} else {
			_, err = r.v.CopyRange(crashReq, r.inos["n0"], 0, a.Ino, 0, uint64(len(data)))
		}
		if err != nil {
			return err
		}
	}
	r.states[0] = state
	return nil
}

// disturb rotates the data key again and again, before the last time has ended,
// between freezes, snapshots and defragmentation, until an error.
func disturb(t testing.TB, v *Volume, rng *rand.Rand, snapshots bool) error {
	for n := 0; ; n++ {
		var err error
		switch k := rng.IntN(8); {
		case k < 4:
			if _, epochs := v.Keys(); len(epochs) < crypto.MaxEpochs {
				_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1, Again: true})
			}
		case k == 4 && snapshots:
			name := fmt.Sprint(n)
			if _, err = v.CreateSnapshot(name); err == nil {
				_, err = v.WaitRotation(t.Context(), nil)
			}
			if err == nil {
				err = v.DeleteSnapshot(name)
			}
		case k == 5:
			var f *Freeze
			if f, err = v.Freeze(t.Context(), time.Hour); err == nil {
				f.Thaw()
			}
		case k == 6:
			_, err = v.Defrag(t.Context(), DefragOptions{})
		default:
			_, err = v.WaitRotation(t.Context(), nil)
		}
		if err == nil {
			err = v.writable()
		}
		if err != nil {
			return err
		}
	}
}

// finishRotation opens what a cut left, and ends what it finds.
func finishRotation(t testing.TB, dev *device.Mem) error {
	v, err := Open(dev, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return err
	}
	before, err := readTree(v)
	if err != nil {
		return err
	}
	v.rot.rate.Store(-1)
	if err := v.WaitFreed(); err != nil {
		return err
	}
	if _, err := v.WaitRotation(t.Context(), nil); err != nil {
		return err
	}
	v.background.reaper.wait()
	if err := v.Sync(vfs.RootIno); err != nil {
		return err
	}
	if after, err := readTree(v); err != nil || !sameState(before, after) {
		return fmt.Errorf("after the rotation: %s %w", diffState(before, after), err)
	}
	checkSpace(t, v)
	if err := v.Close(); err != nil {
		return err
	}
	return cleanErr(dev)
}

func oneRotateStress(t testing.TB, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	if seed%2 == 0 {
		tighten(v)
	}
	v.rot.look = []int{1, 3, 17, 1000}[seed%4]
	runs := newRuns(t, v, seed, 3)
	for _, r := range runs {
		ok(t, r.copies(36))
	}
	ok(t, v.Sync(vfs.RootIno))
	dev.CutAfter(1 + rng.IntN(6000))
	errs := make([]error, len(runs)+1)
	var wg, disturbed sync.WaitGroup
	disturbed.Go(func() { errs[len(runs)] = disturb(t, v, rand.New(rand.NewPCG(seed, 4)), seed%3 == 0) })
	for i, r := range runs {
		wg.Go(func() {
			for errs[i] == nil && len(r.states) < 4000 {
				if errs[i] = r.step(); errs[i] == nil && len(r.states)%5 == 0 {
					errs[i] = r.look()
				}
			}
		})
	}
	wg.Wait()
	dev.Cut()
	v.fail(device.ErrCrashed)
	disturbed.Wait()
	if v.Close() == nil {
		return errors.New("close of a cut volume says nothing")
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, device.ErrCrashed) && !errors.Is(err, vfs.ErrReadOnly) {
			return fmt.Errorf("worker %d: %w", i, err)
		}
	}
	for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix} {
		img := dev.Crash(mode, rng)
		if err := checkStress(t, img, runs); err != nil {
			return fmt.Errorf("image %v: %w", mode, err)
		}
		if err := finishRotation(t, img); err != nil {
			return fmt.Errorf("image %v: %w", mode, err)
		}
	}
	return nil
}

// TestRotateStress cuts the power while files that share are changed, copied and
// removed under rotations that follow one another. As in TestStressCrash each
// image holds a state that there was; there the rotation goes on and changes nothing.
func TestRotateStress(t *testing.T) {
	seed := stressStart(t)
	watch := time.AfterFunc(5*time.Minute, func() { panic("stress of rotations: hangs") })
	defer watch.Stop()
	for range max(1, *stressRuns/20) { // with the race detector each takes a while
		if err := oneRotateStress(t, seed); err != nil {
			t.Fatalf("-stress.seed=%d: %v", seed, err)
		}
		seed++
	}
}
