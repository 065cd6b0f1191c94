package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestFreeze: with writers, deletes, syncs and commits going on, a frozen volume
// writes nothing, its image is the state of a moment and needs no replay, reads
// and syncs answer, and everything goes on after the thaw.
func TestFreeze(t *testing.T) {
	mem := device.NewMem(128 << 20)
	mustFormat(t, mem)
	dev, frozen, touched := quietDevice(mem)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	runs := newRuns(t, v, 5, 4)
	watch := time.AfterFunc(5*time.Minute, func() { panic("freeze: hangs") })
	defer watch.Stop()
	var stop atomic.Bool
	var wg sync.WaitGroup
	steps := make(chan struct{})
	done := make(chan struct{})
	for _, r := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !stop.Load() {
				if err := r.step(); err != nil {
					t.Errorf("step: %v", err)
					return
				}
				select {
				case steps <- struct{}{}:
				case <-done:
				}
			}
		}()
	}
	wg.Add(1)
	go func() { // writes headers
		defer wg.Done()
		for i := byte(1); !stop.Load(); i++ {
			k, err := crypto.NewKey(bytes.Repeat([]byte{i}, 32))
			if err != nil {
				t.Error(err)
				return
			}
			slot, err := v.AddKey(Key{Recipient: crypto.SecretCredential(k)})
			if err == nil {
				err = v.RemoveKey(slot, false)
			}
			k.Erase()
			if err != nil {
				t.Errorf("keys: %v", err)
				return
			}
		}
	}()
	for range 15 {
		for range 40 {
			<-steps
		}
		f, err := v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		frozen.Store(1)
		image := mem.Clone()
		crashed := mem.Crash(device.CrashLoseAll, nil)
		for range len(runs) { // of each that ended before the freeze; the next waits
			select {
			case <-steps:
			default:
			}
		}
		if _, err := readTree(v); err != nil {
			t.Error(err)
		}
		ok(t, v.Sync(vfs.RootIno))
		ok(t, v.Sync(vfs.Ino(2)))
		second, err := v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		if v.Frozen() != 2 || !second.Thaw() || v.Frozen() != 1 {
			t.Error("a second freeze")
		}
		frozen.Store(0)
		if n := touched.Load(); n != 0 {
			t.Fatalf("%d writes while frozen", n)
		}
		if !sameBytes(image, mem) {
			t.Fatal("the image changed while frozen")
		}
		if !f.Thaw() || f.Thaw() != true || v.Frozen() != 0 {
			t.Error("thaw")
		}
		// What was on the device is whole, without the cache and without replay.
		for _, img := range []*device.Mem{image, crashed} {
			if rep := checkClean(t, img); rep.NeedsReplay {
				t.Fatal("a frozen image needs replay")
			}
		}
	}
	stop.Store(true)
	close(done)
	wg.Wait()
	for _, r := range runs {
		got, err := readBelow(v, r.base)
		ok(t, err)
		if !sameState(got, r.state()) {
			t.Errorf("after the thaws: %s", diffState(got, r.state()))
		}
	}
	ok(t, v.Close())
	checkClean(t, mem)
}

// sameBytes compares the present contents of two devices.
func sameBytes(a, b *device.Mem) bool {
	n, _ := a.Size()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(x)) {
		_, _ = a.ReadAt(x, off)
		_, _ = b.ReadAt(y, off)
		if string(x) != string(y) {
			return false
		}
	}
	return true
}

// TestFreezeEnds: a freeze ends with its limit, with Thaw of the volume, and
// with Close; a caller that goes away while it waits leaves nothing behind.
func TestFreezeEnds(t *testing.T) {
	mem := device.NewMem(64 << 20)
	mustFormat(t, mem)
	dev := device.NewFault(mem, nil)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	if _, err := v.Freeze(t.Context(), 0); !errors.Is(err, ErrFreezeLimit) {
		t.Error(err)
	}
	f, err := v.Freeze(t.Context(), time.Millisecond)
	ok(t, err)
	a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "late", 0o644, 0) // waits for the limit
	ok(t, err)
	<-f.Ended()
	if f.Thaw() {
		t.Error("a freeze that had ended says that it held")
	}
	f, err = v.Freeze(t.Context(), time.Hour)
	ok(t, err)
	if v.Thaw() != 1 || f.Thaw() || v.Thaw() != 0 {
		t.Error("thaw by another")
	}
	// An operation in the middle of a read keeps the freeze waiting.
	data := noise(rand.New(rand.NewPCG(1, 1)), 200000)
	_, err = v.Write(&vfs.Req{}, a.Ino, 0, data, false)
	ok(t, err)
	ok(t, v.Close())
	v = mustOpen(t, dev, Options{CommitInterval: -1})
	reading, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	dev.SetHook(func(_ int, op device.Op, off int64, n int) error {
		if op == device.OpRead && n == pageBytes {
			once.Do(func() { close(reading); <-goOn })
		}
		return nil
	})
	wrote := make(chan error, 1)
	go func() {
		_, err := v.Write(&vfs.Req{}, a.Ino, 5, []byte("x"), false)
		wrote <- err
	}()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Freeze(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(goOn)
	ok(t, <-wrote)
	_, err = v.Mknod(&vfs.Req{}, vfs.RootIno, "goes on", 0o644, 0)
	ok(t, err)
	// Close thaws.
	f, err = v.Freeze(t.Context(), time.Hour)
	ok(t, err)
	ok(t, v.Close())
	<-f.Ended()
	if _, err := v.Freeze(t.Context(), time.Hour); err == nil {
		t.Error("a closed volume was frozen")
	}
	checkClean(t, mem)
}

// quietDevice counts what is written while it should not be.
func quietDevice(mem *device.Mem) (dev *device.Fault, frozen, touched *atomic.Int64) {
	dev, frozen, touched = device.NewFault(mem, nil), &atomic.Int64{}, &atomic.Int64{}
	dev.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
		if op != device.OpRead {
			touched.Add(frozen.Load())
		}
		return nil
	})
	return dev, frozen, touched
}

// TestFreezeSnapshots: snapshots are made and deleted all the time, and what they
// held is freed. A frozen volume writes nothing of it, and it goes on after the thaw.
func TestFreezeSnapshots(t *testing.T) {
	mem := device.NewMem(128 << 20)
	mustFormat(t, mem)
	dev, frozen, touched := quietDevice(mem)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	watch := time.AfterFunc(5*time.Minute, func() { panic("freeze: hangs") })
	defer watch.Stop()
	runs := newRuns(t, v, 6, 2)
	var stop atomic.Bool
	var wg sync.WaitGroup
	steps, done := make(chan struct{}), make(chan struct{})
	tell := func() {
		select {
		case steps <- struct{}{}:
		case <-done:
		}
	}
	for _, r := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !stop.Load() {
				if err := r.step(); err != nil {
					t.Errorf("step: %v", err)
					return
				}
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; !stop.Load(); i++ {
			_, err := v.CreateSnapshot(fmt.Sprint("s", i))
			if err == nil && i >= 3 {
				err = v.DeleteSnapshot(fmt.Sprint("s", i-3))
			}
			if err != nil {
				t.Errorf("snapshots: %v", err)
			}
			tell()
		}
	}()
	for range 12 {
		for range 4 {
			<-steps
		}
		f, err := v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		frozen.Store(1)
		image := mem.Clone()
		if _, err := readTree(v); err != nil {
			t.Error(err)
		}
		if _, err := v.Snapshots(); err != nil {
			t.Error(err)
		}
		ok(t, v.Sync(vfs.RootIno))
		frozen.Store(0)
		if n := touched.Load(); n != 0 || !sameBytes(image, mem) {
			t.Fatalf("%d writes while frozen", n)
		}
		f.Thaw()
		if rep := checkClean(t, image); rep.NeedsReplay {
			t.Fatal("a frozen image needs replay")
		}
	}
	stop.Store(true)
	close(done)
	wg.Wait()
	ok(t, v.WaitFreed())
	ok(t, v.Close())
	checkClean(t, mem)
}

// TestFreezeHoldsReaper: whoever makes, deletes or frees snapshots, or frees what
// a rollback left, comes to a frozen volume, waits, and does it after the thaw.
func TestFreezeHoldsReaper(t *testing.T) {
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	dev, frozen, touched := quietDevice(mem)
	watch := time.AfterFunc(5*time.Minute, func() { panic("freeze: hangs") })
	defer watch.Stop()
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(8, 8))
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	rewrite := func() {
		t.Helper()
		_, err := v.Write(crashReq, a.Ino, 0, noise(rng, 2<<20), false)
		ok(t, err)
	}
	// frozenDuring freezes the volume, has work begin, and thaws when all of it waits.
	frozenDuring := func(what string, begin func(), waiters int, undone func() bool) {
		t.Helper()
		parked := make(chan struct{}, 100)
		v.OnPark(func(n int) {
			if n > 0 {
				parked <- struct{}{}
			}
		})
		f, err := v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		frozen.Store(1)
		image := mem.Clone()
		begin()
		for range waiters {
			<-parked
		}
		if !undone() {
			t.Errorf("%s: done while frozen", what)
		}
		frozen.Store(0)
		if n := touched.Load(); n != 0 || !sameBytes(image, mem) {
			t.Errorf("%s: %d writes while frozen", what, n)
		}
		f.Thaw()
	}
	exists := func(name string) bool {
		v.snap.mu.Lock()
		defer v.snap.mu.Unlock()
		return v.snap.byName[name] != nil
	}
	leftovers := func() bool {
		v.snap.mu.Lock()
		defer v.snap.mu.Unlock()
		return len(v.snap.dying) > 0 || v.snap.abandoned != nil
	}
	rewrite()
	_, err = v.CreateSnapshot("s") // the first one of a volume writes its header as well
	ok(t, err)
	rewrite()
	result := make(chan error, 1)
	frozenDuring("create", func() { go func() { _, err := v.CreateSnapshot("t"); result <- err }() }, 1, func() bool { return !exists("t") })
	ok(t, <-result)
	rewrite()
	frozenDuring("delete", func() { go func() { result <- v.DeleteSnapshot("s") }() }, 1, func() bool { return exists("s") })
	ok(t, <-result)
	ok(t, v.WaitFreed())
	// The reaper, at the first step of much work.
	stopReaper := func() {
		v.snap.endReaper()
		v.snap.mu.Lock()
		defer v.snap.mu.Unlock()
		v.snap.stop = false
	}
	stopReaper()
	_, err = v.CreateSnapshot("u")
	ok(t, err)
	rewrite()
	ok(t, v.DeleteSnapshot("u"))
	frozenDuring("reaper", v.snap.startReaper, 1, leftovers)
	ok(t, v.WaitFreed())
	ok(t, v.DeleteSnapshot("t"))
	ok(t, v.WaitFreed())
	_, err = v.CreateSnapshot("back")
	ok(t, err)
	rewrite()
	ok(t, v.Sync(vfs.RootIno))
	old := map[int64]bool{} // pages of the head that the rollback leaves
	for _, p := range operate(t, mem).nodes(layout.TreeFS) {
		if p.Birth > v.snap.newest.Load() {
			old[int64(p.Addr)] = true
		}
	}
	frozenDuring("rollback", func() { go func() { result <- v.Rollback("back", false) }() }, 1, func() bool { return !v.life.closing.Load() })
	ok(t, <-result)
	checkClean(t, mem)
	// The reaper of the next mount reads what was left, and then finds the volume frozen.
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	dev.SetHook(func(_ int, op device.Op, off int64, _ int) error {
		if op != device.OpRead {
			touched.Add(frozen.Load())
		} else if old[off] {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	})
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	<-reached
	frozenDuring("what a rollback left", func() { close(goOn) }, 1, leftovers)
	ok(t, v.WaitFreed())
	ok(t, v.Close())
	checkClean(t, mem)
}

// A rollback closes the volume while it is admitted itself: a freeze that waits for
// it must not keep those waiting for whom the rollback waits.
func TestFreezeGivesWayToClose(t *testing.T) {
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{})
	c := reservation{nodes: opNodes, urgent: true}
	if err := v.adm.reserve(c); err != nil {
		t.Fatal(err)
	}
	defer v.adm.done(c)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := v.Freeze(ctx, time.Minute)
		done <- err
	}()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, vfs.ErrClosed) {
		t.Fatalf("freeze of a volume that is being closed: %v", err)
	}
}
