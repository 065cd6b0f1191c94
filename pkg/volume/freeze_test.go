package volume

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestFreeze: with writers, deletes, syncs and commits going on, a frozen volume
// writes nothing, its image is the state of a moment and needs no replay, reads
// and syncs answer, and everything goes on after the thaw.
func TestFreeze(t *testing.T) {
	mem := device.NewMem(128 << 20)
	mustFormat(t, mem)
	dev := device.NewFault(mem, nil)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	var frozen, touched atomic.Int64
	dev.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
		if op != device.OpRead {
			touched.Add(frozen.Load())
		}
		return nil
	})
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

// A rollback closes the volume while it is admitted itself: a freeze that waits for
// it must not keep those waiting for whom the rollback waits.
func TestFreezeGivesWayToClose(t *testing.T) {
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{})
	c := cost{quads: opQuads, urgent: true}
	if err := v.admit(c); err != nil {
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
