package volume

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var (
	crashSeed = flag.Uint64("crash.seed", 0, "seed of the crash model; 0: from the clock")
	crashCuts = flag.Int("crash.cuts", 500, "cuts of the crash model; `make cuts` does 20,000")
)

// The crash model: random operations with syncs on a device that loses power
// after any write. Whatever is opened afterwards must be a state that the
// volume went through, not older than the last acknowledged sync, whole.
//
// Operations are small and their effect is checked by a simple model: a state
// is a map from path to content. The volume is one ordered stream, so a crash
// leaves some prefix of the operations; states[i] is the model after i of them.

// readTree reads a whole volume as a model state.
func readTree(v *Volume) (modelState, error) { return readBelow(v, vfs.RootIno) }

func readBelow(v *Volume, top vfs.Ino) (modelState, error) {
	s := modelState{files: map[string][]byte{}}
	var walk func(dir vfs.Ino, prefix string) error
	walk = func(dir vfs.Ino, prefix string) error {
		type ent struct {
			d vfs.Dirent
			a vfs.Attr
		}
		var ents []ent
		if err := v.ReadDir(dir, 0, true, func(d vfs.Dirent, a *vfs.Attr) bool {
			ents = append(ents, ent{d, *a})
			return true
		}); err != nil {
			return err
		}
		for _, e := range ents {
			p := prefix + e.d.Name
			if e.a.Mode&items.ModeType == items.ModeDir {
				s.files[p] = nil
				if err := walk(e.d.Ino, p+"/"); err != nil {
					return err
				}
				continue
			}
			b := make([]byte, e.a.Size)
			n, err := v.Read(e.d.Ino, 0, b)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			s.files[p] = b[:n]
		}
		return nil
	}
	return s, walk(top, "")
}

func sameState(a, b modelState) bool {
	if len(a.files) != len(b.files) {
		return false
	}
	for p, c := range a.files {
		d, ok := b.files[p]
		if !ok || (c == nil) != (d == nil) || !bytes.Equal(c, d) {
			return false
		}
	}
	return true
}

func diffState(got, want modelState) string {
	var out []string
	for p, c := range want.files {
		d, ok := got.files[p]
		if !ok {
			out = append(out, p+": missing")
		} else if !bytes.Equal(c, d) {
			i := 0
			for i < min(len(c), len(d)) && c[i] == d[i] {
				i++
			}
			out = append(out, fmt.Sprintf("%s: %d bytes, want %d, first difference at %d", p, len(d), len(c), i))
		}
	}
	for p := range got.files {
		if _, ok := want.files[p]; !ok {
			out = append(out, p+": should not exist")
		}
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// checkCrash opens an image and compares what it finds with the states that are possible.
func checkCrash(dev *device.Mem, r *crashRun, t testing.TB) error {
	v, err := Open(dev, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	got, err := readTree(v)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	found := -1
	for i := len(r.states) - 1; i >= r.synced; i-- {
		if sameState(got, r.states[i]) {
			found = i
			break
		}
	}
	if found < 0 {
		for i := r.synced - 1; i >= 0; i-- {
			if sameState(got, r.states[i]) {
				return fmt.Errorf("found state %d, but %d was synced (of %d)", i, r.synced, len(r.states)-1)
			}
		}
		return fmt.Errorf("found a state that never was; against the synced one (%d of %d): %s; against the last: %s", r.synced, len(r.states)-1,
			diffState(got, r.states[r.synced]), diffState(got, r.state()))
	}
	if err := v.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return cleanErr(dev)
}

// cleanErr is checkClean as an error.
func cleanErr(dev device.Device) error {
	k, err := crypto.NewKey(testKeyBytes())
	if err != nil {
		return err
	}
	cred := crypto.SecretCredential(k)
	defer cred.Erase()
	rep, err := check.Run(dev, check.Options{Credential: cred})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if !rep.Clean {
		return fmt.Errorf("check: %v", rep.Problems)
	}
	return nil
}

// oneCrashRun works on a device until it is cut, then examines images.
func oneCrashRun(t testing.TB, seed uint64, images int) (cuts int, r *crashRun, err error) {
	rng := rand.New(rand.NewPCG(seed, 7))
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	r = &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	opts := Options{CommitInterval: -1, Memory: minMemory}
	r.v = mustOpen(t, dev, opts)
	dev.CutAfter(1 + rng.IntN(150))
	var opErr error
	for opErr == nil && len(r.states) < 2000 {
		opErr = r.step()
	}
	dev.Cut()
	r.v.fail(device.ErrCrashed)
	if r.v.Close() == nil {
		return 0, r, errors.New("close after the crash: no error")
	}
	if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) {
		return 0, r, fmt.Errorf("operation: %w", opErr)
	}
	for i := range images {
		mode := device.CrashMix
		switch i {
		case 0:
			mode = device.CrashLoseAll
		case 1:
			mode = device.CrashKeepAll
		}
		img := dev.Crash(mode, rng)
		// Half of the images crash once more, while they are being opened.
		if i%2 == 1 {
			again := img.Clone()
			again.CutAfter(1 + rng.IntN(24))
			v, err := Open(again, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
			if err == nil {
				v.fail(device.ErrCrashed)
				if v.Close() == nil {
					return cuts, r, fmt.Errorf("image %d, close after the crash: no error", i)
				}
			} else if !errors.Is(err, device.ErrCrashed) {
				return cuts, r, fmt.Errorf("image %d, interrupted open: %w", i, err)
			}
			again.Cut()
			img = again.Crash(device.CrashMix, rng)
		}
		cuts++
		if err := checkCrash(img, r, t); err != nil {
			return cuts, r, fmt.Errorf("image %d: %w", i, err)
		}
	}
	return cuts, r, nil
}

func TestCrash(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	want := *crashCuts
	if testing.Short() {
		want = min(want, 200)
	}
	t.Logf("seed %d", seed)
	const images = 20
	var (
		mu   sync.Mutex
		cuts int
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				mu.Lock()
				if cuts >= want || t.Failed() {
					mu.Unlock()
					return
				}
				s := seed
				seed++
				mu.Unlock()
				n, r, err := oneCrashRun(t, s, images)
				mu.Lock()
				cuts += n
				mu.Unlock()
				if err != nil {
					t.Errorf("-crash.seed=%d: %v", s, err)
					if r != nil && testing.Verbose() {
						t.Log(strings.Join(r.trace, "\n"))
					}
					return
				}
			}
		}()
	}
	wg.Wait()
	t.Logf("%d cuts", cuts)
}
