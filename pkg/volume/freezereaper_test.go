package volume

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// frozenReaper is a volume with one file, which is frozen while snapshots come and go.
type frozenReaper struct {
	*frozenVolume
	rng *rand.Rand
	f   vfs.Ino
}

// rewrite gives the file other content.
func (x *frozenReaper) rewrite() {
	x.t.Helper()
	_, err := x.v.Write(crashReq, x.f, 0, noise(x.rng, 2<<20), false)
	ok(x.t, err)
}

// frozenDuring freezes the volume, has work begin, and thaws when it waits.
func (x *frozenReaper) frozenDuring(what string, begin func(), undone func() bool) {
	t, v := x.t, x.v
	t.Helper()
	parked := make(chan struct{}, 100)
	v.OnPark(func(n int) {
		if n > 0 {
			parked <- struct{}{}
		}
	})
	f, err := v.Freeze(t.Context(), time.Hour)
	ok(t, err)
	x.frozen.Store(1)
	image := x.mem.Clone()
	begin()
	<-parked
	if !undone() {
		t.Errorf("%s: done while frozen", what)
	}
	x.frozen.Store(0)
	if n := x.touched.Load(); n != 0 || !sameBytes(image, x.mem) {
		t.Errorf("%s: %d writes while frozen", what, n)
	}
	f.Thaw()
}

func (x *frozenReaper) exists(name string) bool {
	x.v.snap.mu.Lock()
	defer x.v.snap.mu.Unlock()
	return x.v.snap.byName[name] != nil
}

// leftovers tells whether the reaper has something to free.
func (x *frozenReaper) leftovers() bool {
	x.v.snap.mu.Lock()
	defer x.v.snap.mu.Unlock()
	return len(x.v.snap.dying) > 0 || x.v.snap.abandoned != nil
}

// stopReaper stops the reaper until it is started again.
func (x *frozenReaper) stopReaper() {
	x.v.snap.endReaper()
	x.v.snap.mu.Lock()
	defer x.v.snap.mu.Unlock()
	x.v.snap.stop = false
}

// TestFreezeHoldsReaper: whoever makes, deletes or frees snapshots, or frees what
// a rollback left, comes to a frozen volume, waits, and does it after the thaw.
func TestFreezeHoldsReaper(t *testing.T) {
	x := &frozenReaper{frozenVolume: newFrozenVolume(t, 80<<20, -1), rng: rand.New(rand.NewPCG(8, 8))}
	v := x.v
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	x.f = a.Ino
	x.rewrite()
	_, err = v.CreateSnapshot("s") // the first one of a volume writes its header as well
	ok(t, err)
	x.rewrite()
	result := make(chan error, 1)
	x.frozenDuring("create", func() { go func() { _, err := v.CreateSnapshot("t"); result <- err }() }, func() bool { return !x.exists("t") })
	ok(t, <-result)
	x.rewrite()
	x.frozenDuring("delete", func() { go func() { result <- v.DeleteSnapshot("s") }() }, func() bool { return x.exists("s") })
	ok(t, <-result)
	ok(t, v.WaitFreed())
	// The reaper, at the first step of much work.
	x.stopReaper()
	_, err = v.CreateSnapshot("u")
	ok(t, err)
	x.rewrite()
	ok(t, v.DeleteSnapshot("u"))
	x.frozenDuring("reaper", v.snap.startReaper, x.leftovers)
	ok(t, v.WaitFreed())
	ok(t, v.DeleteSnapshot("t"))
	ok(t, v.WaitFreed())
	x.rollback()
}

// rollback freezes the volume while it is rolled back, and its next mount while that
// frees what the rollback left.
func (x *frozenReaper) rollback() {
	t, v := x.t, x.v
	_, err := v.CreateSnapshot("back")
	ok(t, err)
	x.rewrite()
	ok(t, v.Sync(vfs.RootIno))
	old := map[int64]bool{} // pages of the head that the rollback leaves
	for _, p := range operate(t, x.mem).nodes(layout.TreeFS) {
		if p.Birth > v.snap.newest.Load() {
			old[int64(p.Addr)] = true
		}
	}
	result := make(chan error, 1)
	x.frozenDuring("rollback", func() { go func() { result <- v.Rollback("back", false) }() }, func() bool { return !v.life.closing.Load() })
	ok(t, <-result)
	checkClean(t, x.mem)
	// The reaper of the next mount reads what was left, and then finds the volume frozen.
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	x.dev.SetHook(func(_ int, op device.Op, off int64, _ int) error {
		if op != device.OpRead {
			x.touched.Add(x.frozen.Load())
		} else if old[off] {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	})
	x.v = mustOpen(t, x.dev, Options{CommitInterval: -1, Memory: minMemory})
	<-reached
	x.frozenDuring("what a rollback left", func() { close(goOn) }, x.leftovers)
	ok(t, x.v.WaitFreed())
	ok(t, x.v.Close())
	checkClean(t, x.mem)
}
