package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maintained is a volume during maintenance of all kinds, on a device that fails.
type maintained struct {
	*snapRun
	t     *testing.T
	fault *device.Fault
}

// do is one piece of maintenance. An error must be one of the device.
func (m *maintained) do(what string, fn func() error) error {
	err := fn()
	if err == nil {
		return nil
	}
	for _, e := range []error{vfs.ErrIO, vfs.ErrReadOnly, vfs.ErrCorrupt, ErrHeader, syscall.EIO} {
		if errors.Is(err, e) {
			return err
		}
	}
	m.t.Fatalf("%s: %v", what, err)
	return err
}

// work steps n times.
func (m *maintained) work(n int) {
	for range n {
		if m.v.Failed() != nil {
			return
		}
		if err := m.do("operation", m.crashRun.step); err != nil && m.v.Failed() == nil {
			m.states = m.states[:max(m.made, 1)] // what was in progress did not happen
		}
	}
}

func (m *maintained) create(name string) {
	s := &crashSnap{name: name, state: m.state(), made: 1}
	m.snaps = append(m.snaps, s)
	n := len(m.states) - 1
	if m.do("snapshot", func() error { _, err := m.v.CreateSnapshot(name); return err }) == nil {
		s.made, m.synced = 2, n
	}
}

func (m *maintained) remove(i int) {
	s := m.snaps[i]
	if s.made < 2 {
		return
	}
	n := len(m.states) - 1
	s.deleted = 1
	if m.do("delete", func() error { return m.v.DeleteSnapshot(s.name) }) == nil {
		s.deleted, m.synced = 2, n
	}
}

// rotate waits until the rotation has ended, or waits itself.
func (m *maintained) rotate() {
	_ = m.do("rotate", func() error {
		if m.v.RotationStatus().Phase == RotationNone {
			if _, err := m.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(m.t).Credential, secretKey(m.t, 7).Credential}, BytesPerSecond: -1}); err != nil {
				return err
			}
		}
		_, err := m.v.WaitRotation(m.t.Context(), nil)
		return err
	})
}

// run is the whole of it.
func (m *maintained) run(mem *device.Mem) error {
	ctx := m.t.Context()
	m.work(30)
	m.create("a")
	m.work(15)
	_ = m.do("sync", func() error { return m.v.Sync(vfs.RootIno) })
	m.rotate()
	_ = m.do("defrag", func() error { _, err := m.v.Defrag(ctx, DefragOptions{}); return err })
	m.create("b")
	m.work(15)
	_ = m.do("scrub", func() error { _, err := m.v.Scrub(ctx, ScrubOptions{}); return err })
	_ = m.do("trim", func() error { _, err := m.v.Trim(ctx, TrimOptions{}); return err })
	mem.Grow(96 << 20)
	_ = m.do("grow", func() error { _, err := m.v.Grow(); return err })
	_ = m.do("freeze", func() error {
		f, err := m.v.Freeze(ctx, time.Hour)
		if err == nil {
			f.Thaw()
		}
		return err
	})
	m.remove(0)
	_ = m.do("free", m.v.WaitFreed)
	_ = m.do("key", func() error { _, err := m.v.AddKey(secretKey(m.t, 7)); return err })
	_ = m.do("anchor", func() error {
		a, err := m.v.OfferAnchor()
		if err == nil {
			err = m.v.ConfirmAnchor(a)
		}
		return err
	})
	m.work(10)
	m.remove(1)
	m.rotate()
	return m.v.Close()
}

// maintenanceRun does maintenance on a device that fails as hook says, and then
// looks at what is left without faults.
func maintenanceRun(t *testing.T, seed uint64, hook func(n int, op device.Op) error) (calls int, failed bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 12))
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	m := &maintained{t: t, fault: device.NewFault(mem, nil), snapRun: &snapRun{dev: mem,
		cred:     func() crypto.Credential { return testCred(t) },
		crashRun: &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}}}
	m.v = mustOpen(t, m.fault, Options{CommitInterval: -1, Memory: minMemory})
	m.fault.SetHook(func(n int, op device.Op, _ int64, _ int) error { return hook(n, op) })
	closeErr := m.run(mem)
	calls = m.fault.Calls()
	m.fault.SetHook(nil)
	switch failed = m.v.Failed() != nil; {
	case failed && closeErr == nil:
		t.Fatal("close of a failed volume says nothing")
	case !failed && closeErr != nil:
		t.Fatalf("close: %v", closeErr)
	case !failed:
		m.synced = len(m.states) - 1
	}
	images := []*device.Mem{mem.Clone()}
	if failed { // power goes as well
		images = append(images, mem.Crash(device.CrashMix, rng))
	}
	for i, img := range images {
		v := mustOpen(t, img, Options{CommitInterval: -1, Memory: minMemory})
		ok(t, m.check(v))
		ok(t, v.WaitFreed())
		v.rot.rate.Store(-1)
		_, err := v.WaitRotation(t.Context(), nil)
		ok(t, err)
		v.background.reaper.wait()
		ok(t, v.Sync(vfs.RootIno))
		checkSpace(t, v)
		mustClose(t, v)
		if err := checkCrash(img, m.crashRun, t); err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
	}
	return calls, failed
}

// TestMaintenanceFaults fails device calls during snapshots, rotations, growth, scrub,
// defrag, trim and changes of keys, once and for ever: nothing hangs, what is lost
// is said, and what is left is whole.
func TestMaintenanceFaults(t *testing.T) {
	t.Parallel()
	watch := time.AfterFunc(5*time.Minute, func() { panic("maintenance: hangs") })
	defer watch.Stop()
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	name := fmt.Sprintf("-crash.seed=%d: without a fault", seed)
	defer func() { // also after a t.Fatal from below
		if t.Failed() {
			t.Log(name)
		}
	}()
	calls, failed := maintenanceRun(t, seed, func(int, device.Op) error { return nil })
	if failed {
		t.Fatal("failed without a fault")
	}
	rng := rand.New(rand.NewPCG(seed, 13))
	rounds := *crashCuts / 20
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		at, forever := rng.IntN(calls), rng.IntN(3) == 0
		only := []device.Op{device.OpRead, device.OpWrite, device.OpSync}[rng.IntN(3)] // the first of this kind from there on
		name = fmt.Sprintf("-crash.seed=%d: round %d, call %d, kind %d, forever %v", seed, i, at, only, forever)
		var mu sync.Mutex
		hit, lost := false, false
		_, failed := maintenanceRun(t, seed, func(n int, op device.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if n < at || !forever && (hit || op != only) {
				return nil
			}
			hit = true
			lost = lost || op == device.OpWrite || op == device.OpSync
			return syscall.EIO
		})
		if lost && !failed {
			t.Fatal("a failed write or flush went unnoticed")
		}
	}
}

// A copy of which a later step fails keeps the steps before it, in the volume as in
// the model: each is an operation of its own.
func TestCopyKeepsTheStepsBeforeAnError(t *testing.T) {
	base := newDev(t, 80<<20)
	v := mustOpen(t, base, Options{CommitInterval: -1, Memory: minMemory})
	first := modelState{files: map[string][]byte{"a": bytes.Repeat([]byte{1}, 6050), "b": bytes.Repeat([]byte{2}, 20000)}}
	inos := map[string]vfs.Ino{}
	for _, name := range []string{"a", "b"} {
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		_, err = v.Write(crashReq, a.Ino, 0, first.files[name], false)
		ok(t, err)
		inos[name] = a.Ino
	}
	mustClose(t, v)
	seen := 0
	for seed := range uint64(40) {
		for at := range 4 { // the read that fails
			fault := device.NewFault(base.Clone(), nil)
			v := mustOpen(t, fault, Options{CommitInterval: -1, Memory: minMemory})
			r := &crashRun{v: v, rng: rand.New(rand.NewPCG(seed, 1)), states: []modelState{first}, made: 1, inos: inos}
			var reads atomic.Int64
			fault.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
				if op == device.OpRead && reads.Add(1) == int64(at)+1 {
					return syscall.EIO
				}
				return nil
			})
			err := r.copyRange()
			fault.SetHook(nil)
			if err != nil && v.Failed() == nil && len(r.states) > 2 {
				seen++
				got, err := readTree(v)
				if ok(t, err); !sameState(got, r.states[r.made-1]) {
					t.Errorf("seed %d, read %d: %s", seed, at, diffState(got, r.states[r.made-1]))
				}
			}
			_ = v.Close()
		}
	}
	if seen == 0 {
		t.Error("no copy failed after a step")
	}
	t.Logf("%d copies failed after a step", seen)
}
