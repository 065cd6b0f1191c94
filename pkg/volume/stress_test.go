package volume

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var (
	stressSeed = flag.Uint64("stress.seed", 0, "seed of the concurrent tests; 0: from the clock")
	stressRuns = flag.Int("stress.runs", 40, "cuts of the concurrent crash test, with several images each")
	stressOps  = flag.Int("stress.ops", 1500, "operations of each goroutine of the stress test")
)

func stressStart(t *testing.T) uint64 {
	seed := *stressSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-stress.seed=%d", seed)
	return seed
}

// tighten makes the limits of a volume so small that everybody waits often.
func tighten(v *Volume) {
	v.adm.mu.Lock()
	defer v.adm.mu.Unlock()
	v.adm.maxPages, v.adm.soft, v.adm.maxNodes = 400, 60, 200
}

// newRuns makes n runs on a volume, each in a directory of its own.
func newRuns(t testing.TB, v *Volume, seed uint64, n int) []*crashRun {
	clock := &atomic.Uint64{}
	runs := make([]*crashRun, n)
	for i := range runs {
		a, err := v.Mkdir(crashReq, vfs.RootIno, fmt.Sprintf("w%d", i), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		runs[i] = &crashRun{v: v, rng: rand.New(rand.NewPCG(seed, uint64(100+i))), base: a.Ino, clock: clock,
			states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}, begun: []uint64{0}, ended: []uint64{1}}
	}
	clock.Add(1)
	return runs
}

// look compares one file with the model.
func (r *crashRun) look() error {
	p, ok := r.pick()
	if !ok {
		return nil
	}
	want := r.state().files[p]
	d, n := r.split(p)
	a, err := r.v.Lookup(d, n)
	if err != nil {
		return fmt.Errorf("lookup %s: %w", p, err)
	}
	if a.Ino != r.inos[p] || a.Size != uint64(len(want)) {
		return fmt.Errorf("%s: inode %d of %d bytes, want %d of %d", p, a.Ino, a.Size, r.inos[p], len(want))
	}
	off := r.rng.IntN(len(want) + 1)
	if r.rng.IntN(2) == 0 {
		off = 0
	}
	got := make([]byte, len(want)+100)
	k, err := r.v.Read(a.Ino, uint64(off), got)
	if err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	if !bytes.Equal(got[:k], want[off:]) {
		i := 0
		for i < min(k, len(want)-off) && got[i] == want[off+i] {
			i++
		}
		return fmt.Errorf("%s (inode %d): read %d bytes at %d, want %d; first difference at %d", p, a.Ino, k, off, len(want)-off, off+i)
	}
	return nil
}

// TestStress has many goroutines change and read one volume whose limits are
// tight, with a commit nearly always in progress.
func TestStress(t *testing.T) {
	seed := stressStart(t)
	ops := *stressOps
	if testing.Short() {
		ops = min(ops, 200)
	}
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	runs := newRuns(t, v, seed, 6)
	// A hang must show who waits for whom, so it ends the process.
	watch := time.AfterFunc(5*time.Minute, func() { panic("stress: hangs") })
	defer watch.Stop()
	var wg, readers sync.WaitGroup
	var stop atomic.Bool
	for i := range 2 { // look at what belongs to others
		readers.Go(func() { readOthers(t, v, rand.New(rand.NewPCG(seed, uint64(i))), &stop) })
	}
	for i, r := range runs {
		wg.Go(func() { workAlone(t, i, r, ops) })
	}
	wg.Wait()
	stop.Store(true)
	readers.Wait()
	compareRuns(t, v, runs)
	v.background.reaper.wait()
	if err := v.com.commitAll(); err != nil {
		t.Fatal(err)
	}
	v.adm.mu.Lock()
	if v.adm.pages != 0 || v.adm.inodes != 0 || v.adm.buffers != 0 || v.adm.granted != (reservation{}) {
		t.Errorf("admission is left with pages %d, inodes %d, blocks %d, granted %+v", v.adm.pages, v.adm.inodes, v.adm.buffers, v.adm.granted)
	}
	v.adm.mu.Unlock()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev); err != nil {
		t.Fatal(err)
	}
	v = mustOpen(t, dev, Options{})
	compareRuns(t, v, runs)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// readOthers reads any inodes until it is stopped.
func readOthers(t *testing.T, v *Volume, rng *rand.Rand, stop *atomic.Bool) {
	buf := make([]byte, 300000)
	for !stop.Load() {
		v.com.inos.mu.Lock()
		ino := vfs.Ino(v.com.inos.next - min(v.com.inos.next, uint64(rng.IntN(300))))
		v.com.inos.mu.Unlock()
		var err error
		switch rng.IntN(4) {
		case 0:
			_, err = v.GetAttr(ino)
		case 1:
			_, err = v.Read(ino, uint64(rng.IntN(400000)), buf)
		case 2:
			err = v.ReadDir(ino, 0, true, func(vfs.Dirent, *vfs.Attr) bool { return true })
		case 3:
			_, err = v.SeekHole(ino, uint64(rng.IntN(100000)))
		}
		switch {
		case err == nil, errors.Is(err, vfs.ErrStale), errors.Is(err, vfs.ErrIsDir), errors.Is(err, vfs.ErrNotDir), errors.Is(err, vfs.ErrNoData):
		default:
			t.Errorf("reader: inode %d: %v", ino, err)
			return
		}
	}
}

// workAlone makes operations, and keeps the newest state alone.
func workAlone(t *testing.T, worker int, r *crashRun, ops int) {
	for n := range ops {
		err := r.step()
		if err == nil && n%3 == 0 {
			err = r.look()
		}
		r.trace = nil
		r.states = r.states[len(r.states)-1:]
		if err != nil {
			t.Errorf("worker %d, operation %d: %v", worker, n, err)
			return
		}
	}
}

// compareRuns wants each worker's files to be as it left them.
func compareRuns(t *testing.T, v *Volume, runs []*crashRun) {
	t.Helper()
	for i, r := range runs {
		got, err := readBelow(v, r.base)
		if err != nil {
			t.Fatal(err)
		}
		if !sameState(got, r.state()) {
			t.Fatalf("worker %d: %s", i, diffState(got, r.state()))
		}
	}
}

// checkStress opens an image after a cut. Each worker must find one of its
// states, not older than what it synced, and what the volume is left with must
// be a prefix: no operation without all that had ended before it began.
func checkStress(t testing.TB, dev *device.Mem, runs []*crashRun) error {
	// Without writing, the same is to be seen.
	ro, err := Open(dev, Options{Credential: testCred(t), ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open read-only: %w", err)
	}
	seen, err := readTree(ro)
	if err != nil {
		return fmt.Errorf("read read-only: %w", err)
	}
	if err := ro.Close(); err != nil {
		return err
	}
	v, err := Open(dev, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if now, err := readTree(v); err != nil || !sameState(now, seen) {
		return fmt.Errorf("read-only differs: %s, %w", diffState(seen, now), err)
	}
	first, last := make([]int, len(runs)), make([]int, len(runs))
	for w, r := range runs {
		got, err := readBelow(v, r.base)
		if err != nil {
			return fmt.Errorf("worker %d: read: %w", w, err)
		}
		first[w], last[w] = -1, -1
		for i := r.synced; i < len(r.states); i++ {
			if sameState(got, r.states[i]) {
				if first[w] < 0 {
					first[w] = i
				}
				last[w] = i
			}
		}
		if first[w] < 0 {
			return fmt.Errorf("worker %d found a state that never was; against the synced one (%d of %d): %s; against the last: %s", w, r.synced, len(r.states)-1,
				diffState(got, r.states[r.synced]), diffState(got, r.state()))
		}
	}
	for a, r := range runs {
		for b, s := range runs {
			for i := last[b] + 1; i < len(s.states); i++ { // missing of b
				if s.ended[i] != 0 && s.ended[i] < r.begun[first[a]] {
					return fmt.Errorf("worker %d has its operation %d, but worker %d lacks operation %d, which ended before", a, first[a], b, i)
				}
			}
		}
	}
	if err := v.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return cleanErr(dev)
}

func oneStressCrash(t testing.TB, seed uint64, images int) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	if seed%2 == 0 {
		tighten(v)
	}
	runs := newRuns(t, v, seed, 4)
	if err := v.Sync(vfs.RootIno); err != nil {
		return err
	}
	dev.CutAfter(1 + rng.IntN(400))
	var wg sync.WaitGroup
	errs := make([]error, len(runs))
	for i, r := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for errs[i] == nil && len(r.states) < 3000 {
				errs[i] = r.step()
			}
		}()
	}
	wg.Wait()
	dev.Cut()
	v.fail(device.ErrCrashed)
	if v.Close() == nil {
		return errors.New("close of a cut volume says nothing")
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, device.ErrCrashed) && !errors.Is(err, vfs.ErrReadOnly) {
			return fmt.Errorf("worker %d: %w", i, err)
		}
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
		for k := 0; k < i%3; k++ { // and again while it is opened
			again := img.Clone()
			again.CutAfter(1 + rng.IntN(24))
			v, err := Open(again, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
			if err == nil {
				v.fail(device.ErrCrashed)
				if v.Close() == nil {
					return errors.New("close of a cut volume says nothing")
				}
			} else if !errors.Is(err, device.ErrCrashed) {
				return fmt.Errorf("image %d, interrupted open: %w", i, err)
			}
			again.Cut()
			img = again.Crash(device.CrashMix, rng)
		}
		if err := checkStress(t, img, runs); err != nil {
			return fmt.Errorf("image %d: %w", i, err)
		}
	}
	return nil
}

// TestStressCrash cuts the power while several goroutines work and sync and
// commits follow one another. The seed gives the operations and the cut; the
// goroutines' order differs from run to run.
func TestStressCrash(t *testing.T) {
	seed := stressStart(t)
	n := *stressRuns
	if testing.Short() {
		n = min(n, 4)
	}
	for i := range n {
		if err := oneStressCrash(t, seed+uint64(i), 6); err != nil {
			t.Fatal(strings.TrimSpace(fmt.Sprintf("-stress.seed=%d: %v", seed+uint64(i), err)))
		}
	}
}
