package volume

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// committed makes an image of a volume that was not closed, whose newest root
// alone knows of the file "new": no frame of the log followed it.
func committed(t *testing.T) *device.Mem {
	t.Helper()
	fx := newFixture(t, 64<<20)
	v := checkOpen(t, fx.dev, Options{CommitInterval: -1})
	for i := range 20 { // roots in all slots
		if i == 19 {
			_, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "new", 0o644, 0)
			ok(t, err)
		}
		ok(t, v.Sync(vfs.RootIno))
	}
	image := fx.dev.Clone()
	ok(t, v.Close())
	return image
}

// TestMendRoots: no single damaged place hides what only the newest root has
// acknowledged, and a read-write mount mends it.
func TestMendRoots(t *testing.T) {
	image := committed(t)
	s := operate(t, image)
	roots, _, err := s.store.ReadRoots()
	ok(t, err)
	if len(roots) != layout.RootSlots {
		t.Fatalf("%d roots", len(roots))
	}
	for _, r := range roots {
		for n := range layout.RootCopies {
			dev := image.Clone()
			at := layout.RootCopyOff(r.Slot, n)
			whole := block(t, dev, uint64(at))
			flip(dev, uint64(at))
			v := checkOpen(t, dev, Options{ReadOnly: true})
			if _, err := walkTo(v, "new"); err != nil {
				t.Errorf("slot %d, copy %d: what was acknowledged is lost: %v", r.Slot, n, err)
			}
			ok(t, v.Close())
			rep, err := check.Run(dev, check.Options{Credential: checkKey(t)})
			ok(t, err)
			where := fmt.Sprintf("root slot %d, copy %d", r.Slot, n+1)
			if found := fmt.Sprint(rep.Problems, rep.Notes); !strings.Contains(found, where) || rep.Clean != (r.Slot == s.slot) {
				t.Errorf("slot %d, copy %d: %v", r.Slot, n, found)
			}
			v = checkOpen(t, dev, Options{CommitInterval: -1})
			over := false // by the commits of this mount
			for g := s.root.Generation + 1; g <= v.durable.root.Generation; g++ {
				over = over || int(g%layout.RootSlots) == r.Slot
			}
			if !over && !bytes.Equal(block(t, dev, uint64(at)), whole) {
				t.Errorf("slot %d, copy %d: not mended", r.Slot, n)
			}
			ok(t, v.Close())
			if rep, err = check.Run(dev, check.Options{Credential: checkKey(t)}); err != nil || len(rep.Problems)+len(rep.Notes) != 0 {
				t.Errorf("slot %d, copy %d: %v %v, %v", r.Slot, n, rep.Problems, rep.Notes, err)
			}
		}
	}
}

// TestMendHeader: a damaged copy of the header is rewritten at a read-write mount.
func TestMendHeader(t *testing.T) {
	image := committed(t)
	whole := make([]byte, layout.HeaderBytes)
	_, err := image.ReadAt(whole, layout.HeaderOffsetA)
	ok(t, err)
	for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		dev := image.Clone()
		flip(dev, uint64(off))
		ok(t, checkOpen(t, dev, Options{}).Close())
		b := make([]byte, layout.HeaderBytes)
		_, err := dev.ReadAt(b, off)
		ok(t, err)
		if !bytes.Equal(b, whole) {
			t.Errorf("header at %d: not mended", off)
		}
	}
}

// TestWithoutSecondCopies: a volume of a version that wrote roots once opens, is
// clean, and has second copies after a read-write mount.
func TestWithoutSecondCopies(t *testing.T) {
	dev := committed(t)
	for slot := range layout.RootSlots {
		dev.Corrupt(layout.RootCopyOff(slot, 1), func(b []byte) { clear(b) })
	}
	checkClean(t, dev)
	ok(t, checkOpen(t, dev, Options{}).Close())
	roots, bad, err := operate(t, dev).store.ReadRoots()
	ok(t, err)
	if len(roots) != layout.RootSlots || len(bad) != 0 {
		t.Errorf("%d roots, bad %v", len(roots), bad)
	}
	for _, r := range roots {
		if r.Copies != [layout.RootCopies]txn.CopyState{} {
			t.Errorf("slot %d: %v", r.Slot, r.Copies)
		}
	}
}
