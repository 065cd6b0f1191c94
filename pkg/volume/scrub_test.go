package volume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func scrubAll(t testing.TB, v *Volume, opts ScrubOptions) *ScrubReport {
	t.Helper()
	rep, err := v.Scrub(t.Context(), opts)
	ok(t, err)
	if !rep.Done || rep.Position != "" {
		t.Fatalf("scrub: %+v", rep)
	}
	return rep
}

// want checks that a scrub found nothing but one damage.
func (rep *ScrubReport) want(t testing.TB, where string, mended bool) *Damage {
	t.Helper()
	if rep.Total != 1 || len(rep.Damages) != 1 || rep.Damages[0].Where != where || rep.Damages[0].Mended != mended || rep.Mended == 1 != mended {
		t.Fatalf("%s: %+v", where, rep)
	}
	return &rep.Damages[0]
}

// scrubbed is a volume in use whose device is damaged, one place at a time.
type scrubbed struct {
	t     *testing.T
	fx    *fixture
	paths map[uint64][]string
	v     *Volume
	s     *surgeon
	image *device.Mem // the device without damage
}

// TestScrub: whatever is damaged on the device of a volume in use is found, told
// precisely, and mended if it has a second copy.
func TestScrub(t *testing.T) {
	fx, _ := populated(t)
	x := &scrubbed{t: t, fx: fx, paths: fx.pathsOf(t, fx.dev), v: checkOpen(t, fx.dev, Options{})}
	var last [2]uint64
	rep := scrubAll(t, x.v, ScrubOptions{Progress: func(done, total uint64) { last = [2]uint64{done, total} }})
	if rep.Total != 0 || rep.Bytes < 5<<20 || last[0] < last[1]*9/10 {
		t.Fatalf("%+v, progress %v", rep, last)
	}
	x.s = operate(t, fx.dev)
	x.image = fx.dev.Clone()
	x.copyAt(layout.HeaderOffsetA, "header copy A")
	x.copyAt(layout.HeaderOffsetB, "header copy B")
	roots, _, err := x.s.store.ReadRoots()
	ok(t, err)
	for _, r := range roots {
		for n := range layout.RootCopies {
			x.copyAt(uint64(layout.RootCopyOff(r.Slot, n)), fmt.Sprintf("root slot %d, copy %d", r.Slot, n+1))
		}
	}
	x.trees()
	for i := range x.s.root.FreeLists {
		if p := &x.s.root.FreeLists[i]; !p.IsZero() {
			flip(fx.dev, p.Addr)
			scrubAll(t, x.v, ScrubOptions{}).want(t, fmt.Sprintf("free list %d", i), false)
			flip(fx.dev, p.Addr)
		}
	}
	x.data()
	ok(t, x.v.Close())
	checkClean(t, fx.dev)
}

// copyAt damages a block that has a second copy.
func (x *scrubbed) copyAt(addr uint64, where string) {
	t := x.t
	t.Helper()
	flip(x.fx.dev, addr)
	scrubAll(t, x.v, ScrubOptions{ReadOnly: true}).want(t, where, false)
	if sameBytes(x.image, x.fx.dev) {
		t.Fatalf("%s: mended by one that was to write nothing", where)
	}
	scrubAll(t, x.v, ScrubOptions{}).want(t, where, true)
	if !sameBytes(x.image, x.fx.dev) {
		t.Fatalf("%s: not mended", where)
	}
}

// trees damages nodes of all trees.
func (x *scrubbed) trees() {
	t, dev := x.t, x.fx.dev
	t.Helper()
	seconds := 0
	for id := range x.s.root.Trees {
		if x.s.root.Trees[id].IsZero() {
			continue
		}
		for _, p := range x.s.nodes(id) {
			where := fmt.Sprintf("tree %d, level %d, node at %d", id, p.Level, p.Addr)
			if p.Addr2 != 0 {
				seconds++
				x.copyAt(p.Addr, where)
				x.copyAt(p.Addr2+8192, where)
				// Both: nothing to mend it from.
				flip(dev, p.Addr2)
			} else if p.Addr%3 != 0 {
				continue // some of the leaves
			}
			flip(dev, p.Addr)
			d := scrubAll(t, x.v, ScrubOptions{}).want(t, where, false)
			if id == layout.TreeFS && p.Level == 0 && len(d.Files) == 0 {
				t.Errorf("%s: no file is named: %+v", where, d)
			}
			flip(dev, p.Addr)
			if p.Addr2 != 0 {
				flip(dev, p.Addr2)
			}
		}
	}
	if seconds < 2 {
		t.Fatalf("%d pages have second copies", seconds)
	}
}

// data damages sectors of files.
func (x *scrubbed) data() {
	t, dev := x.t, x.fx.dev
	t.Helper()
	checked := 0
	x.s.items(layout.TreeFS, func(k layout.Key, val []byte) {
		if k.Type != layout.KeyExtent {
			return
		}
		e, err := layout.DecodeFileExtent(val)
		ok(t, err)
		if checked++; checked%23 != 0 || x.paths[k.Obj] == nil { // unlinked
			return
		}
		i := e.Blocks() / 2
		flip(dev, e.Addr+i*layout.BlockBytes)
		d := scrubAll(t, x.v, ScrubOptions{}).want(t, fmt.Sprintf("data at %d", e.Addr+i*layout.BlockBytes), false)
		if d.Ino != k.Obj || d.Offset != (k.Sub+i)*layout.BlockBytes || d.Length != layout.BlockBytes ||
			!slices.Contains(x.paths[k.Obj], strings.TrimPrefix(d.Path, "/")) {
			t.Errorf("damage of inode %d, block %d: %+v", k.Obj, k.Sub+i, d)
		}
		flip(dev, e.Addr+i*layout.BlockBytes)
	})
	if checked < 100 {
		t.Fatalf("%d extents", checked)
	}
}

// TestScrubReadOnly: a volume that is mounted read-only is read, and left alone.
func TestScrubReadOnly(t *testing.T) {
	fx, _ := populated(t)
	flip(fx.dev, layout.HeaderOffsetB)
	image := fx.dev.Clone()
	v := checkOpen(t, fx.dev, Options{ReadOnly: true})
	scrubAll(t, v, ScrubOptions{}).want(t, "header copy B", false)
	ok(t, v.Close())
	if !sameBytes(image, fx.dev) {
		t.Error("something was written")
	}
}

// TestScrubResumes: a scrub that is stopped anywhere goes on there after a
// remount, and the parts find together what is damaged, each once.
func TestScrubResumes(t *testing.T) {
	fx, _ := populated(t)
	paths := fx.pathsOf(t, fx.dev)
	var all []uint64
	operate(t, fx.dev).items(layout.TreeFS, func(k layout.Key, val []byte) {
		if k.Type == layout.KeyExtent && paths[k.Obj] != nil {
			e, err := layout.DecodeFileExtent(val)
			ok(t, err)
			all = append(all, e.Addr)
		}
	})
	rng := rand.New(rand.NewPCG(3, 3))
	bad := map[string]int{}
	for range 30 {
		addr := all[rng.IntN(len(all))]
		if where := fmt.Sprintf("data at %d", addr); bad[where] == 0 {
			flip(fx.dev, addr)
			bad[where] = 1
		}
	}
	parts, from := 0, ""
	for done := false; !done; parts++ {
		v := checkOpen(t, fx.dev, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		rep, err := v.Scrub(ctx, ScrubOptions{From: from, Progress: func(uint64, uint64) { cancel() }})
		cancel()
		if done = rep.Done; !done && !errors.Is(err, context.Canceled) || rep.Position == from && !done {
			t.Fatalf("part %d: %+v, %v", parts, rep, err)
		}
		for _, d := range rep.Damages {
			bad[d.Where]--
		}
		from = rep.Position
		ok(t, v.Close())
	}
	if parts < 5 {
		t.Errorf("only %d parts", parts)
	}
	for where, n := range bad {
		if n != 0 {
			t.Errorf("%s was not told once", where)
		}
	}
	v := checkOpen(t, fx.dev, Options{})
	for _, from := range []string{"x", "1-1-0-0-0-0", "2-0-0-0-0-0-0-0", "2-9-0-0-0-0-0-0-0", "2-1-0-0-2-0-0-0-0", "2-1-3-3-0-0-0-0-0",
		"2-1-0-ffffffff-0-0-0-0-0", "2-1-0-0-0-0-0-0-0 ", "3-1-0-0-0-0-0-0-0"} {
		if _, err := v.Scrub(t.Context(), ScrubOptions{From: from}); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: %v", from, err)
		}
	}
	ok(t, v.Close())
}

// TestScrubUnderLoad: no false alarm while everything changes, with a commit
// nearly always in progress; and one scrub at a time.
func TestScrubUnderLoad(t *testing.T) {
	seed := stressStart(t)
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	watch := time.AfterFunc(5*time.Minute, func() { panic("scrub: hangs") })
	defer watch.Stop()
	var wg sync.WaitGroup
	var stop atomic.Bool
	runs := newRuns(t, v, seed, 3)
	for _, r := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !stop.Load() && len(r.states) < 3000 {
				if err := r.step(); err != nil {
					t.Errorf("step: %v", err)
					return
				}
			}
		}()
	}
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	for range rounds {
		if rep := scrubAll(t, v, ScrubOptions{}); rep.Total != 0 {
			t.Fatalf("false alarm: %+v", rep.Damages)
		}
		f, err := v.Freeze(t.Context(), time.Hour)
		ok(t, err)
		f.Thaw()
	}
	// Nothing of it was kept from being reused for good.
	stop.Store(true)
	wg.Wait()
	v.space.Rewind()
	ok(t, v.com.commitAll())
	started := make(chan struct{})
	flip(dev, layout.HeaderOffsetB)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() {
		// The rate holds it up for years once it has begun, so that Close finds it.
		_, err := v.Scrub(ctx, ScrubOptions{BytesPerSecond: 1, From: "2-1-0-0-0-0-0-0-0", Damage: func(Damage) { close(started) }})
		done <- err
	}()
	<-started
	if _, err := v.Scrub(t.Context(), ScrubOptions{}); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	ok(t, v.Close())
	if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, vfs.ErrClosed) {
		t.Errorf("a scrub that Close ended: %v", err)
	}
	checkClean(t, dev)
}

// TestScrubCrash: power is lost at any write of a scrub that mends.
func TestScrubCrash(t *testing.T) {
	fx, _ := populated(t)
	rng := rand.New(rand.NewPCG(4, 4))
	for cut := 1; ; cut++ {
		dev := fx.dev.Clone()
		v := checkOpen(t, dev, Options{})
		flip(dev, layout.HeaderOffsetA)
		for n := range 2 {
			flip(dev, uint64(layout.RootCopyOff((int(v.durable.root.Generation)-n)%layout.RootSlots, n)))
		}
		for i, id := range []int{layout.TreeFS, layout.TreeSpace} {
			p := operate(t, dev).root.Trees[id]
			flip(dev, []uint64{p.Addr, p.Addr2}[i])
		}
		dev.CutAfter(cut)
		rep, err := v.Scrub(t.Context(), ScrubOptions{})
		ended := err == nil && rep.Mended == rep.Total && rep.Total == 5
		dev.Cut()
		v.fail(device.ErrCrashed)
		if v.Close() == nil {
			t.Fatal("close after the crash: no error")
		}
		for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashMix} {
			img := dev.Crash(mode, rng)
			if out := fx.examine(t, img.Clone()); out.open != nil || len(out.bad) != 0 {
				t.Fatalf("cut %d: %+v", cut, out)
			}
			again := checkOpen(t, img, Options{})
			if rep := scrubAll(t, again, ScrubOptions{}); rep.Mended != rep.Total {
				t.Fatalf("cut %d: %+v", cut, rep)
			}
			ok(t, again.Close())
			checkClean(t, img)
		}
		if ended {
			return
		}
		if cut > 100 {
			t.Fatalf("a scrub of %d writes: %+v", cut, rep)
		}
	}
}

func FuzzScrubPosition(f *testing.F) {
	for _, s := range []string{"2-0-0-0-0-0-0-0-0", "2-1-3-4-0-2a-50-10-fffff", "2-8-0-5-1-ffffffffffffffff-ff-ffffffffffffffff-0", "2-1-0-0-0--1-0-0-0", "",
		"2-1-0-0-0-0x1-0-0-0", "1-1-2a-50-10-fffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseScrubPosition(s)
		if err == nil && p.String() != s || err != nil && !errors.Is(err, ErrPosition) {
			t.Errorf("%q: %+v, %v", s, p, err)
		}
	})
}

// TestScrubPin: what a step of a scrub reads is not reused under it, however many
// commits pass meanwhile.
func TestScrubPin(t *testing.T) {
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	dev := device.NewFault(mem, nil)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	data := noise(rand.New(rand.NewPCG(1, 1)), 4*bufferBytes)
	rewrite := func(off uint64) {
		v.space.Rewind()
		if _, err := v.Write(crashReq, a.Ino, off, data, false); err != nil {
			t.Error(err)
		}
		v.flush.settleFull()
	}
	rewrite(0)
	ok(t, v.Sync(vfs.RootIno))
	var once sync.Once
	done := make(chan struct{})
	dev.SetHook(func(_ int, op device.Op, off int64, n int) error {
		if op != device.OpRead || n < bufferBytes || off < layout.LogOff { // data alone
			return nil
		}
		once.Do(func() {
			gen := v.durable.generation()
			rewrite(0)
			go func() {
				defer close(done)
				for range 3 {
					if err := v.Sync(vfs.RootIno); err != nil {
						t.Error(err)
					}
				}
			}()
			for v.durable.generation() < gen+2 {
				runtime.Gosched()
			}
			for i := range uint64(20) { // where it was, if it could
				rewrite(i * uint64(len(data)))
			}
		})
		return nil
	})
	if rep := scrubAll(t, v, ScrubOptions{}); rep.Total != 0 {
		t.Errorf("what was read was reused: %+v", rep.Damages)
	}
	<-done
	dev.SetHook(nil)
	ok(t, v.Close())
	checkClean(t, mem)
}
