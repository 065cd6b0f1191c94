package txn

import (
	"errors"
	"io"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// rootSlots is a device with the roots of many generations. The newest is 39.
type rootSlots struct {
	t   *testing.T
	dev *device.Mem
	s   *Store
	r   *layout.Root // the newest
}

func newRootSlots(t *testing.T) *rootSlots {
	t.Helper()
	dev := device.NewMem(64 << 20)
	return &rootSlots{t: t, dev: dev, s: testStore(t, dev), r: &layout.Root{DeviceBlocks: 16384, LogBlocks: 1024, NextIno: 2, FreeBlocks: 1}}
}

// write writes all roots, and reads those that there are after each.
func (x *rootSlots) write() {
	t, s, r := x.t, x.s, x.r
	t.Helper()
	var hashes [40][32]byte
	for g := uint64(1); g < 40; g++ {
		r.Generation, r.PrevR = g, hashes[g-1]
		h, err := s.WriteRoot(r)
		if err != nil {
			t.Fatal(err)
		}
		hashes[g] = h
		roots, bad, err := s.ReadRoots()
		if err != nil || len(bad) != 0 || len(roots) != int(min(g, layout.RootSlots)) {
			t.Fatalf("generation %d: %d roots, bad %v, %v", g, len(roots), bad, err)
		}
		for i, f := range roots {
			want := g - uint64(i)
			if f.Root.Generation != want || f.R != hashes[want] || f.Root.PrevR != hashes[want-1] || f.Slot != int(want%layout.RootSlots) {
				t.Fatalf("generation %d: root %d is %d in slot %d", g, i, f.Root.Generation, f.Slot)
			}
		}
	}
}

// rootAt is the place of a copy of a generation's root.
func rootAt(g, n int) int64 { return layout.RootCopyOff(g%layout.RootSlots, n) }

func tearRoot(b []byte) { clear(b[512:]) }

// newest reads the roots and compares the newest that there is.
func (x *rootSlots) newest(want uint64, badSlots int, copies [2]CopyState) {
	x.t.Helper()
	roots, bad, err := x.s.ReadRoots()
	if err != nil || roots[0].Root.Generation != want || len(bad) != badSlots || roots[0].Copies != copies {
		x.t.Fatal(roots[0].Root.Generation, bad, roots[0].Copies, err)
	}
}

func TestReadRoots(t *testing.T) {
	x := newRootSlots(t)
	if _, _, err := x.s.ReadRoots(); !errors.Is(err, ErrNoRoot) {
		t.Fatal(err)
	}
	x.write()
	x.oneCopyDamaged()
	// Both are torn: the next one serves.
	torn := x.dev.Clone()
	torn.Corrupt(rootAt(39, 0), tearRoot)
	torn.Corrupt(rootAt(39, 1), tearRoot)
	x.s.Dev = torn
	x.newest(38, 1, [2]CopyState{})
	x.inAnotherSlot()
	// One that cannot be read may be the newest, unless an older one belongs
	// there, or the other copy is whole.
	lost := x.dev.Clone()
	lost.Corrupt(rootAt(39, 1), tearRoot)
	x.s.Dev = &badBlock{lost, rootAt(39, 0)}
	if _, _, err := x.s.ReadRoots(); !errors.Is(err, ErrDevice) {
		t.Fatal(err)
	}
	lost = x.dev.Clone()
	lost.Corrupt(rootAt(30, 1), tearRoot)
	x.s.Dev = &badBlock{lost, rootAt(30, 0)}
	x.newest(39, 1, [2]CopyState{})
	x.copiesDiffer()
}

// oneCopyDamaged has one copy of the newest root torn, blank, old or unreadable: the
// other one serves, and mends it.
func (x *rootSlots) oneCopyDamaged() {
	t, s := x.t, x.s
	t.Helper()
	for n := range 2 {
		for state, damage := range map[CopyState]func(d *device.Mem) device.Device{
			CopyBad:    func(d *device.Mem) device.Device { d.Corrupt(rootAt(39, n), tearRoot); return d },
			CopyBlank:  func(d *device.Mem) device.Device { d.Corrupt(rootAt(39, n), func(b []byte) { clear(b) }); return d },
			CopyUnread: func(d *device.Mem) device.Device { return &badBlock{d, rootAt(39, n)} },
			CopyOld: func(d *device.Mem) device.Device {
				x.copyOld(d, rootAt(39, n))
				return d
			},
		} {
			s.Dev = damage(x.dev.Clone())
			want := [2]CopyState{}
			want[n] = state
			x.newest(39, 0, want)
			rep := s.MendRoots(false)
			if len(rep.Mended) != 1 || rep.Mended[0].Copy != n || rep.Mended[0].Was() != state {
				t.Fatalf("%v: %+v", state, rep)
			}
			x.newest(39, 0, want)
			if rep = s.MendRoots(true); len(rep.Mended) != 1 || (rep.Mended[0].Err != nil) != (state == CopyUnread) {
				t.Fatalf("%v: %+v", state, rep)
			}
			if state != CopyUnread {
				x.newest(39, 0, [2]CopyState{})
			}
		}
	}
}

// copyOld puts root 23 at the place of a copy of root 39.
func (x *rootSlots) copyOld(d *device.Mem, at int64) {
	x.t.Helper()
	old := *x.r
	old.Generation = 23
	b := make([]byte, layout.BlockBytes)
	if err := x.s.Keys.Newest().SealRoot(uint8(old.Generation%layout.RootSlots), old.Encode(), b); err != nil {
		x.t.Fatal(err)
	}
	d.Corrupt(at, func(x []byte) { copy(x, b) })
}

// inAnotherSlot copies a root to another slot: it does not verify there.
func (x *rootSlots) inAnotherSlot() {
	t := x.t
	t.Helper()
	swapped := x.dev.Clone()
	b := make([]byte, layout.BlockBytes)
	if _, err := swapped.ReadAt(b, rootAt(39, 0)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for n := range 2 {
		if _, err := swapped.WriteAt(b, rootAt(38, n)); err != nil {
			t.Fatal(err)
		}
	}
	x.s.Dev = swapped
	if roots, bad, err := x.s.ReadRoots(); err != nil || len(roots) != layout.RootSlots-1 || len(bad) != 1 {
		t.Fatal(len(roots), bad, err)
	}
}

// copiesDiffer has two whole copies of one generation that differ: they are refused.
func (x *rootSlots) copiesDiffer() {
	t, s := x.t, x.s
	t.Helper()
	s.Dev = x.dev.Clone()
	x.r.NextIno++
	if _, err := s.WriteRoot(x.r); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, layout.BlockBytes)
	if _, err := s.Dev.ReadAt(b, rootAt(39, 1)); err != nil {
		t.Fatal(err)
	}
	s.Dev = x.dev
	if _, err := s.Dev.WriteAt(b, rootAt(39, 1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ReadRoots(); !errors.Is(err, ErrTwoRoots) {
		t.Fatal(err)
	}
}
