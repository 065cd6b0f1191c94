package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Power goes at any write of a rotation under load, again and again; in the end
// the volume holds a state that it went through, and the old keys open nothing.
func TestCrashRotation(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	runs := 6
	if testing.Short() {
		runs = 2
	}
	for range runs {
		crashRotation(t, seed)
		seed++
	}
}

func crashRotation(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 31))
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	second := secretKey(t, 2)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.AddKey(second)
	ok(t, err)
	r := &crashRun{v: v, rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	for range 150 {
		ok(t, r.step())
	}
	ok(t, v.Sync(vfs.RootIno))
	stolen := oldKeys(t, v)
	mounts := [][16]byte{mountOf(v)}
	mustClose(t, v)
	r.synced = len(r.states) - 1
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("-crash.seed=%d: %s", seed, fmt.Sprintf(format, args...))
	}
	all := []crypto.Credential{testKey(t).Credential, second.Credential}
	under, ended := 0, 0 // cuts that found a rotation under way, and after it
	defer func() { t.Logf("-crash.seed=%d: %d cuts of a rotation, %d after it", seed, under, ended) }()
	for cut := 0; ; cut++ {
		c := all[rng.IntN(2)]
		last := cut == 25
		if !last {
			dev.CutAfter(1 + rng.IntN([]int{20, 60, 120, 250, 1500}[rng.IntN(5)]))
		}
		v, err := openWith(t, dev, c, false)
		var opErr error = err
		if err == nil {
			mounts = append(mounts, mountOf(v))
			switch _, epochs := v.Keys(); {
			case len(epochs) == 2:
				under++
			case epochs[0] == 1 || cut < 20:
				_, opErr = v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1})
			default:
				ended++
			}
			got, rerr := readTree(v)
			if rerr == nil {
				rerr = r.adopt(v, got, fail)
			}
			if rerr == nil {
				for i := 0; opErr == nil && i < 60; i++ {
					opErr = r.step()
				}
				if opErr == nil && (last || rng.IntN(2) == 0) {
					var s RotationStatus
					s, opErr = v.WaitRotation(t.Context(), nil)
					switch {
					case opErr != nil || s.Phase == RotationNone:
					case dev.Alive():
						fail("%+v", s)
					default: // what it could not read
						opErr = device.ErrCrashed
					}
				}
				if opErr == nil {
					opErr = v.Sync(vfs.RootIno)
				}
				if opErr == nil {
					r.synced = len(r.states) - 1
				}
			} else {
				opErr = errors.Join(opErr, rerr)
			}
			_ = v.Close() // cut, as a rule
		}
		if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) {
			fail("cut %d: %v", cut, opErr)
		}
		if last {
			if opErr != nil {
				fail("without a cut: %v", opErr)
			}
			break
		}
		dev.Cut()
		dev = dev.Crash(device.CrashMode(rng.IntN(3)), rng)
		if rng.IntN(3) == 0 {
			img := dev.Clone()
			ok(t, opens(t, img, all[rng.IntN(2)]))
		}
	}
	for _, c := range all {
		if err := cleanWith(dev, c); err != nil {
			fail("%v", err)
		}
	}
	got, err := theft(dev, all[0], stolen, mounts)
	if err != nil || len(got) > 0 {
		fail("the old keys open %v %v", got[:min(len(got), 20)], err)
	}
}

// The same, after each single write and flush of a small one, from its beginning
// to the end.
func TestCutRotation(t *testing.T) {
	second := secretKey(t, 2)
	all := []crypto.Credential{testKey(t).Credential, second.Credential}
	var stolen []*crypto.EpochKeys
	var want modelState
	var blocks int
	c := cutCase{step: 7}
	c.prepare = func(t *testing.T, dev *device.Mem) {
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
		_, err := v.AddKey(second)
		ok(t, err)
		for i, n := range []int{10, 5000, 200000} {
			a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("f", i), 0o600, 0)
			ok(t, err)
			_, err = v.Write(crashReq, a.Ino, 0, []byte(strings.Repeat("x", n)), false)
			ok(t, err)
			share(t, v, a.Ino, 0, writeFile(t, v, fmt.Sprint("g", i), nil), 0, uint64(n))
		}
		want, err = readTree(v)
		ok(t, err)
		stolen = oldKeys(t, v)
		blocks = len(dataBlocks(t, v))
		mustClose(t, v)
	}
	rotate := func(v *Volume) error {
		if _, epochs := v.Keys(); len(epochs) == 1 && epochs[0] == 1 {
			if _, err := v.RotateDataKey(RotateOptions{Keys: all, BytesPerSecond: -1}); err != nil {
				return err
			}
		}
		s, err := v.WaitRotation(t.Context(), nil)
		if err == nil && s.Phase != RotationNone {
			err = fmt.Errorf("%+v", s)
		}
		return err
	}
	c.change = func(t *testing.T, dev device.Device) error {
		v, err := openWith(t, dev, all[0], false)
		if err != nil {
			return err
		}
		return crashClose(v, rotate(v))
	}
	c.judge = func(dev *device.Mem, done bool) error {
		for _, k := range all {
			if err := opens(t, dev, k); err != nil {
				return err
			}
		}
		v, err := openWith(t, dev, all[1], false)
		if err != nil {
			return err
		}
		if _, epochs := v.Keys(); done && (len(epochs) != 1 || epochs[0] != 2) {
			return fmt.Errorf("ended, and epochs are %v", epochs)
		}
		got, err := readTree(v)
		if err == nil && !sameState(got, want) {
			err = errors.New(diffState(got, want))
		}
		err = errors.Join(err, rotate(v))
		if n := len(dataBlocks(t, v)); err == nil && n != blocks {
			err = fmt.Errorf("data takes %d blocks, %d before", n, blocks)
		}
		if err := errors.Join(err, v.Close()); err != nil {
			return err
		}
		if opened, err := theft(dev, all[0], stolen, nil); err != nil || len(opened) > 0 {
			return fmt.Errorf("the old keys open %v %w", opened, err)
		}
		return cleanWith(dev, all[0])
	}
	c.run(t, 3)
}

// adopt finds the state that a crash left among those that are possible, and goes
// on from there.
func (r *crashRun) adopt(v *Volume, got modelState, fail func(string, ...any)) error {
	for i := len(r.states) - 1; i >= r.synced; i-- {
		if sameState(got, r.states[i]) {
			r.v, r.states, r.synced = v, []modelState{r.states[i]}, 0
			r.inos, r.dirs = map[string]vfs.Ino{}, nil
			return r.learn(vfs.RootIno, "")
		}
	}
	fail("a state that never was, or an old one; against the last: %s", diffState(got, r.state()))
	return nil
}

// learn finds the inodes of all names.
func (r *crashRun) learn(dir vfs.Ino, prefix string) error {
	var ents []vfs.Dirent
	if err := r.v.ReadDir(dir, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool { ents = append(ents, d); return true }); err != nil {
		return err
	}
	for _, d := range ents {
		p := prefix + d.Name
		r.inos[p] = d.Ino
		if c, known := r.state().files[p]; known && c == nil {
			r.dirs = append(r.dirs, p)
			if err := r.learn(d.Ino, p+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}
