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

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestDefrag: a file written in pieces is in one place afterwards, with the same
// content, times and size, and nothing is left over; further runs soon have nothing to do, and make nothing worse.
func TestDefrag(t *testing.T) {
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	d, err := v.Mkdir(crashReq, vfs.RootIno, "d", 0o755)
	ok(t, err)
	want := fragmented(t, v, d.Ino, 3)
	ok(t, v.Sync(vfs.RootIno))
	check := func() {
		t.Helper()
		for ino, data := range want {
			got := make([]byte, len(data)+1)
			if n, err := v.Read(ino, 0, got); err != nil || !bytes.Equal(got[:n], data) {
				t.Fatalf("inode %d: %d bytes, %v", ino, n, err)
			}
			if hole, err := v.SeekHole(ino, 300000&^4095); err != nil || hole > 304*1024 {
				t.Errorf("inode %d: the hole at 300000 is at %d, %v", ino, hole, err)
			}
		}
	}
	before := map[vfs.Ino]vfs.Attr{}
	for ino := range want {
		before[ino], err = v.GetAttr(ino)
		ok(t, err)
	}
	rep, err := v.Defrag(t.Context(), DefragOptions{Root: d.Ino})
	ok(t, err)
	if rep.Files != 3 || rep.Rewritten != 3 || rep.FragmentsAfter*4 > rep.FragmentsBefore || rep.ExtentsAfter*2 > rep.ExtentsBefore || rep.Bytes == 0 {
		t.Errorf("%+v", rep)
	}
	check()
	for ino, b := range before {
		if a, err := v.GetAttr(ino); err != nil || a != b {
			t.Errorf("attributes changed: %+v, were %+v, %v", a, b, err)
		}
	}
	// Once more, it finds nothing to do: if not at once, as a flusher may have come to half of what was to be in one place, then soon.
	for last, turns := rep, 1; ; turns++ {
		again, err := v.Defrag(t.Context(), DefragOptions{})
		ok(t, err)
		if again.FragmentsBefore != last.FragmentsAfter || again.FragmentsAfter > again.FragmentsBefore || turns > 10 {
			t.Fatalf("turn %d: %+v after %+v", turns, again, last)
		}
		if again.Rewritten == 0 && again.Bytes == 0 {
			break
		}
		last = again
	}
	check()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Defrag(ctx, DefragOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ok(t, v.Close())
	checkClean(t, dev)
	v = mustOpen(t, dev, Options{CommitInterval: -1})
	check()
	ok(t, v.Close())
}

// fragmented makes files whose first halves were written a sector at a time, with
// holes, and returns what they hold.
func fragmented(t *testing.T, v *Volume, dir vfs.Ino, files int) map[vfs.Ino][]byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	want := map[vfs.Ino][]byte{}
	for i := range files {
		a, err := v.Mknod(crashReq, dir, fmt.Sprintf("f%d", i), 0o644, 0)
		ok(t, err)
		data := make([]byte, 1<<20+777)
		for range 150 { // holes stay between them
			off := rng.IntN(len(data)/2) &^ 4095
			if off >= 300000 && off < 400000 {
				continue
			}
			piece := noise(rng, 4096)
			_, err := v.Write(crashReq, a.Ino, uint64(off), piece, false)
			ok(t, err)
			copy(data[off:], piece)
			if rng.IntN(4) == 0 {
				ok(t, v.Sync(vfs.RootIno))
			}
		}
		_, err = v.Write(crashReq, a.Ino, uint64(len(data)-1), []byte{7}, false)
		ok(t, err)
		data[len(data)-1] = 7
		want[a.Ino] = data
	}
	return want
}

// unreferenced lists what the newest root of a closed volume leaves free.
func unreferenced(t *testing.T, dev *device.Mem) (free []uint64) {
	t.Helper()
	s := operate(t, dev)
	waiting := map[uint64]bool{}
	for i := range s.root.FreeLists {
		if p := &s.root.FreeLists[i]; !p.IsZero() {
			runs, _, err := s.store.ReadFreeList(p, txn.DataArea(s.root), minMemory)
			ok(t, err)
			for _, r := range runs {
				for n := range uint64(r.Count) {
					waiting[r.Start+n] = true
				}
			}
		}
	}
	s.items(layout.TreeSpace, func(k layout.Key, val []byte) {
		if k.Type != layout.KeyRegion {
			return
		}
		_, _, b, err := layout.GetRegion(val)
		ok(t, err)
		for i := range uint64(layout.RegionBlocks) {
			if at := k.Sub*layout.RegionBlocks + i; b[i/64]>>(i%64)&1 == 0 && !waiting[at] {
				free = append(free, at)
			}
		}
	})
	return free
}

// TestTrim: free space is discarded, and nothing else; the limits are kept.
func TestTrim(t *testing.T) {
	fx, _ := populated(t)
	v := checkOpen(t, fx.dev, Options{})
	big, err := walkTo(v, "young/b/inherits")
	ok(t, err)
	_, err = v.Write(crashReq, big.Ino, 0, noise(rand.New(rand.NewPCG(9, 9)), 1<<20), false)
	ok(t, err)
	ok(t, v.Unlink(crashReq, mustWalk(t, v, "young/b").Ino, "inherits"))
	v.Forget(big.Ino)
	delete(fx.files, "young/b/inherits")
	v.background.reaper.wait()
	for range 3 { // until all that was freed is free (I3)
		ok(t, v.Sync(vfs.RootIno))
	}
	free, _, _ := v.space.Counts()
	var looked [2]uint64
	n, err := v.Trim(t.Context(), TrimOptions{Progress: func(done, total uint64) { looked = [2]uint64{done, total} }})
	ok(t, err)
	if n != uint64(free)*layout.BlockBytes || looked[0] > looked[1] || looked[0] == 0 {
		t.Errorf("%d bytes of %d free blocks, %v", n, free, looked)
	}
	if now, _, _ := v.space.Counts(); now != free {
		t.Errorf("%d blocks are free, were %d", now, free)
	}
	image := fx.dev.Clone()
	for _, at := range unreferenced(t, image) {
		for _, b := range block(t, image, at*layout.BlockBytes) {
			if b != 0 {
				t.Fatalf("free block %d was not discarded", at)
			}
		}
	}
	checkClean(t, image)
	// Limits.
	for _, x := range []struct {
		o    TrimOptions
		want func(n uint64) bool
	}{
		{TrimOptions{MinLength: 256 << 20}, func(n uint64) bool { return n == 0 }},
		{TrimOptions{Offset: 256 << 20}, func(n uint64) bool { return n == 0 }},
		{TrimOptions{Length: layout.LogOff}, func(n uint64) bool { return n == 0 }},
		{TrimOptions{Offset: 200<<20 + 1, Length: 10 << 20}, func(n uint64) bool { return n == 10<<20-4096 }},
		{TrimOptions{MinLength: 1 << 20}, func(m uint64) bool { return m < n && m > n/2 }},
	} {
		if got, err := v.Trim(t.Context(), x.o); err != nil || !x.want(got) {
			t.Errorf("%+v: %d of %d, %v", x.o, got, n, err)
		}
	}
	if _, err := v.Trim(t.Context(), TrimOptions{Offset: -1}); !errors.Is(err, vfs.ErrInvalid) {
		t.Error(err)
	}
	ok(t, v.Close())
	checkClean(t, fx.dev)
	v = checkOpen(t, fx.dev, Options{ReadOnly: true})
	for path := range fx.files {
		if bad := fx.readAll(t, v, path); bad != nil {
			t.Errorf("%s: %v", path, bad)
		}
	}
	if _, err := v.Trim(t.Context(), TrimOptions{}); !errors.Is(err, vfs.ErrReadOnly) {
		t.Error(err)
	}
	ok(t, v.Close())
}

func mustWalk(t *testing.T, v *Volume, path string) vfs.Attr {
	t.Helper()
	a, err := walkTo(v, path)
	ok(t, err)
	return a
}

// TestDiscardOption: what is freed is discarded once it is reusable; a device
// that cannot do that is told once and works on.
func TestDiscardOption(t *testing.T) {
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	dev := device.NewFault(mem, nil)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Discard: true})
	discarded := make(chan int, 100)
	hook := func(err error) {
		dev.SetHook(func(_ int, op device.Op, off int64, n int) error {
			if op == device.OpDiscard {
				discarded <- n
				return err
			}
			return nil
		})
	}
	hook(nil)
	cycle := func() {
		a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
		ok(t, err)
		_, err = v.Write(crashReq, a.Ino, 0, make([]byte, 1<<20), false)
		ok(t, err)
		ok(t, v.Sync(vfs.RootIno))
		ok(t, v.Unlink(crashReq, vfs.RootIno, "f"))
		v.Forget(a.Ino)
		v.background.reaper.wait()
		ok(t, v.Sync(vfs.RootIno))
		if len(discarded) > 0 {
			t.Error("discarded before it was reusable")
		}
		ok(t, v.Sync(vfs.RootIno))
	}
	cycle()
	for total := 0; total < 1<<20; {
		total += <-discarded
	}
	// Now it fails: once.
	hook(device.ErrNotSupported)
	cycle()
	<-discarded
	<-v.background.discards.done
	ok(t, v.Close())
	checkClean(t, mem)
}

// TestGrowUnderLoad: the device grows again and again while others write, trim,
// scrub and defragment.
func TestGrowUnderLoad(t *testing.T) {
	t.Parallel()
	seed := stressStart(t)
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory, Discard: true})
	tighten(v)
	runs := newRuns(t, v, seed, 3)
	watch := time.AfterFunc(5*time.Minute, func() { panic("grow: hangs") })
	defer watch.Stop()
	var wg, others sync.WaitGroup
	var stop atomic.Bool
	for _, r := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 400 && !t.Failed(); i++ {
				if err := r.step(); err != nil {
					t.Errorf("step: %v", err)
				}
			}
		}()
	}
	for _, work := range []func() error{
		func() error { _, err := v.Trim(t.Context(), TrimOptions{}); return err },
		func() error { _, err := v.Defrag(t.Context(), DefragOptions{}); return err },
		func() error {
			rep, err := v.Scrub(t.Context(), ScrubOptions{})
			if err == nil && rep.Total > 0 {
				err = fmt.Errorf("false alarm: %+v", rep.Damages)
			}
			return err
		},
		func() error {
			f, err := v.Freeze(t.Context(), time.Hour)
			if err == nil {
				f.Thaw()
			}
			return err
		},
	} {
		others.Add(1)
		go func() {
			defer others.Done()
			for !stop.Load() && !t.Failed() {
				if err := work(); err != nil {
					t.Errorf("in the background: %v", err)
				}
			}
		}()
	}
	for size := int64(64 << 20); size <= 300<<20; size += 4<<20 + 8192 {
		dev.Grow(size)
		if n, err := v.Grow(); err != nil || n != size {
			t.Fatalf("%d of %d: %v", n, size, err)
		}
	}
	wg.Wait()
	stop.Store(true)
	others.Wait()
	for _, r := range runs {
		got, err := readBelow(v, r.base)
		ok(t, err)
		if !sameState(got, r.state()) {
			t.Errorf("%s", diffState(got, r.state()))
		}
	}
	ok(t, v.Close())
	checkClean(t, dev)
}

// TestCrashOnline: power cuts while the volume grows, trims, discards, scrubs with
// something to mend, defragments, freezes and thaws, between operations of the
// crash model.
func TestCrashOnline(t *testing.T) {
	t.Parallel()
	seed := stressStart(t)
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	for i := range uint64(rounds) {
		if r, err := onlineCrashRun(t, seed+i); err != nil {
			t.Fatalf("-stress.seed=%d: %v\n%v", seed+i, err, r.trace)
		}
	}
}

func onlineCrashRun(t *testing.T, seed uint64) (r *crashRun, err error) {
	rng := rand.New(rand.NewPCG(seed, 21))
	size := int64(64 << 20)
	dev := device.NewMem(size)
	mustFormat(t, dev)
	r = &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory, Discard: rng.IntN(2) == 0})
	r.v = v
	dev.CutAfter(1 + rng.IntN(250))
	online := func() error {
		switch k := rng.IntN(6); k {
		case 0:
			r.note("trim")
			_, err := v.Trim(t.Context(), TrimOptions{})
			return err
		case 1:
			r.note("defrag")
			_, err := v.Defrag(t.Context(), DefragOptions{})
			return err
		case 2, 3:
			r.note("scrub")
			if k == 3 {
				s := v.durable.generation() % layout.RootSlots
				flip(dev, uint64(layout.RootCopyOff(int(s), rng.IntN(2))))
			}
			rep, err := v.Scrub(t.Context(), ScrubOptions{})
			if err == nil && rep.Mended < rep.Total && v.Failed() == nil && dev.Alive() {
				return fmt.Errorf("scrub: %+v", rep.Damages)
			}
			return err
		case 4:
			size += rng.Int64N(3000) * layout.BlockBytes
			dev.Grow(size)
			r.note("grow to %d", size)
			_, err := v.Grow()
			return err
		}
		r.note("freeze")
		n := len(r.states) - 1
		f, err := v.Freeze(t.Context(), time.Hour)
		if err == nil {
			r.synced = n
			f.Thaw()
		}
		return err
	}
	var opErr error
	for opErr == nil && len(r.states) < 2000 {
		if opErr = r.step(); opErr == nil && rng.IntN(6) == 0 {
			opErr = online()
		}
	}
	dev.Cut()
	v.fail(device.ErrCrashed)
	if v.Close() == nil {
		return r, errors.New("close after the crash: no error")
	}
	if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) && !errors.Is(opErr, vfs.ErrIO) {
		return r, fmt.Errorf("operation: %w", opErr)
	}
	for i, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashDiscards, device.CrashKeepAll,
		device.CrashMix, device.CrashMix, device.CrashMix, device.CrashMix} {
		if err := checkCrash(dev.Crash(mode, rng), r, t); err != nil {
			return r, fmt.Errorf("image %d: %w", i, err)
		}
	}
	return r, nil
}
