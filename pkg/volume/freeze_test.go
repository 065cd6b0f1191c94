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
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// frozenVolume is a volume that is frozen again and again while others work on it.
type frozenVolume struct {
	t               *testing.T
	mem             *device.Mem
	dev             *device.Fault
	v               *Volume
	frozen, touched *atomic.Int64 // see quietDevice

	stop    atomic.Bool // the workers are to stop
	workers sync.WaitGroup
	steps   chan struct{} // one for each step of a worker, until done
	done    chan struct{}
}

func newFrozenVolume(t *testing.T, sizeBytes int64, commits time.Duration) *frozenVolume {
	t.Helper()
	x := &frozenVolume{t: t, mem: device.NewMem(sizeBytes), steps: make(chan struct{}), done: make(chan struct{})}
	mustFormat(t, x.mem)
	x.dev, x.frozen, x.touched = quietDevice(x.mem)
	watch := time.AfterFunc(5*time.Minute, func() { panic("freeze: hangs") })
	t.Cleanup(func() { watch.Stop() })
	x.v = mustOpen(t, x.dev, Options{CommitInterval: commits, Memory: minMemory})
	return x
}

// step tells of a step, and waits until somebody has heard of it.
func (x *frozenVolume) step() {
	select {
	case x.steps <- struct{}{}:
	case <-x.done:
	}
}

// change changes files until it is to stop; told is called after each operation.
func (x *frozenVolume) change(r *crashRun, told func()) {
	x.workers.Go(func() {
		for !x.stop.Load() {
			if err := r.step(); err != nil {
				x.t.Errorf("step: %v", err)
				return
			}
			told()
		}
	})
}

// changeKeys adds and removes keys, which writes headers.
func (x *frozenVolume) changeKeys() {
	for i := byte(1); !x.stop.Load(); i++ {
		k, err := crypto.NewKey(bytes.Repeat([]byte{i}, 32))
		if err != nil {
			x.t.Error(err)
			return
		}
		slot, err := x.v.AddKey(Key{Recipient: crypto.SecretCredential(k)})
		if err == nil {
			err = x.v.RemoveKey(slot, false)
		}
		k.Erase()
		if err != nil {
			x.t.Errorf("keys: %v", err)
			return
		}
	}
}

// end stops the workers.
func (x *frozenVolume) end() {
	x.stop.Store(true)
	close(x.done)
	x.workers.Wait()
}

// TestFreeze: with writers, deletes, syncs and commits going on, a frozen volume
// writes nothing, its image is the state of a moment and needs no replay, reads
// and syncs answer, and everything goes on after the thaw.
func TestFreeze(t *testing.T) {
	x := newFrozenVolume(t, 128<<20, time.Millisecond)
	tighten(x.v)
	runs := newRuns(t, x.v, 5, 4)
	for _, r := range runs {
		x.change(r, x.step)
	}
	x.workers.Go(x.changeKeys)
	for range 15 {
		for range 40 {
			<-x.steps
		}
		x.freeze(len(runs))
	}
	x.end()
	for _, r := range runs {
		got, err := readBelow(x.v, r.base)
		ok(t, err)
		if !sameState(got, r.state()) {
			t.Errorf("after the thaws: %s", diffState(got, r.state()))
		}
	}
	ok(t, x.v.Close())
	checkClean(t, x.mem)
}

// freeze freezes the volume, twice at the same time, and thaws it.
func (x *frozenVolume) freeze(workers int) {
	t, v := x.t, x.v
	t.Helper()
	f, err := v.Freeze(t.Context(), time.Hour)
	ok(t, err)
	x.frozen.Store(1)
	image := x.mem.Clone()
	crashed := x.mem.Crash(device.CrashLoseAll, nil)
	for range workers { // of each that ended before the freeze; the next waits
		select {
		case <-x.steps:
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
	x.frozen.Store(0)
	if n := x.touched.Load(); n != 0 {
		t.Fatalf("%d writes while frozen", n)
	}
	if !sameBytes(image, x.mem) {
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
	x := newFrozenVolume(t, 128<<20, time.Millisecond)
	tighten(x.v)
	for _, r := range newRuns(t, x.v, 6, 2) {
		x.change(r, func() {})
	}
	x.workers.Go(x.changeSnapshots)
	for range 12 {
		for range 4 {
			<-x.steps
		}
		f, err := x.v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		x.frozen.Store(1)
		image := x.mem.Clone()
		if _, err := readTree(x.v); err != nil {
			t.Error(err)
		}
		if _, err := x.v.Snapshots(); err != nil {
			t.Error(err)
		}
		ok(t, x.v.Sync(vfs.RootIno))
		x.frozen.Store(0)
		if n := x.touched.Load(); n != 0 || !sameBytes(image, x.mem) {
			t.Fatalf("%d writes while frozen", n)
		}
		f.Thaw()
		if rep := checkClean(t, image); rep.NeedsReplay {
			t.Fatal("a frozen image needs replay")
		}
	}
	x.end()
	ok(t, x.v.WaitFreed())
	ok(t, x.v.Close())
	checkClean(t, x.mem)
}

// changeSnapshots makes and deletes snapshots.
func (x *frozenVolume) changeSnapshots() {
	for i := 0; !x.stop.Load(); i++ {
		_, err := x.v.CreateSnapshot(fmt.Sprint("s", i))
		if err == nil && i >= 3 {
			err = x.v.DeleteSnapshot(fmt.Sprint("s", i-3))
		}
		if err != nil {
			x.t.Errorf("snapshots: %v", err)
		}
		x.step()
	}
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
