package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// outcome is what a damaged volume does: it refuses to open, or reads give
// ErrCorrupt for the named blocks and the right data for all others.
type outcome struct {
	open error
	bad  map[string][]int
}

func (fx *fixture) examine(t *testing.T, dev device.Device) (v outcome) {
	t.Helper()
	vol, err := Open(dev, Options{Credential: checkKey(t), ReadOnly: true})
	if err != nil {
		if !errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, ErrNoRoot) && !errors.Is(err, ErrLogDamaged) && !errors.Is(err, ErrHeader) {
			t.Fatalf("open: %v", err)
		}
		v.open = err
		return v
	}
	v.bad = map[string][]int{}
	for path := range fx.files {
		if bad := fx.readAll(t, vol, path); bad != nil {
			v.bad[path] = bad
		}
	}
	ok(t, vol.Close())
	return v
}

// use opens a volume for writing and works on it. Whatever it holds, nothing panics.
func use(t testing.TB, dev device.Device) {
	t.Helper()
	v, err := Open(dev, Options{Credential: checkKey(t), CommitInterval: -1})
	if err != nil {
		return
	}
	req := &vfs.Req{}
	var inos []vfs.Ino
	_ = v.ReadDir(vfs.RootIno, 0, true, func(d vfs.Dirent, _ *vfs.Attr) bool {
		inos = append(inos, d.Ino)
		return len(inos) < 50
	})
	for i, ino := range inos {
		_, _ = v.ListXattr(ino)
		_, _ = v.Readlink(ino)
		_, _ = v.Write(req, ino, uint64(i)*5000, make([]byte, 9000), true)
		_, _ = v.Read(ino, 0, make([]byte, 20000))
		_ = v.ReadDir(ino, 0, true, func(d vfs.Dirent, _ *vfs.Attr) bool { return true })
		_, _ = v.Mknod(req, ino, "new", 0o644, 0)
	}
	_ = v.Sync(vfs.RootIno)
	_ = v.Close()
}

// findings checks that fsck finds something, and returns it as one text.
func findings(t testing.TB, dev device.Device) string {
	t.Helper()
	rep, err := check.Run(dev, check.Options{Credential: checkKey(t), Data: true})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	var b strings.Builder
	for _, p := range rep.Problems {
		fmt.Fprintln(&b, p)
	}
	if rep.Clean != (rep.Total == 0) || rep.Clean != (len(rep.Problems) == 0) {
		t.Fatal("the report contradicts itself")
	}
	return b.String()
}

// pathsOf are the names of files by inode.
func (fx *fixture) pathsOf(t testing.TB, dev device.Device) map[uint64][]string {
	t.Helper()
	v := checkOpen(t, dev, Options{ReadOnly: true})
	out := map[uint64][]string{}
	for path := range fx.files {
		a, err := walkTo(v, path)
		ok(t, err)
		out[uint64(a.Ino)] = append(out[uint64(a.Ino)], path)
	}
	ok(t, v.Close())
	return out
}

// place is a block of a file.
type place struct {
	ino, block, addr uint64
}

// places are the blocks of all files that have a name.
func places(t *testing.T, s *surgeon, paths map[uint64][]string) (all []place) {
	t.Helper()
	s.items(layout.TreeFS, func(k layout.Key, v []byte) {
		if k.Type != layout.KeyExtent {
			return
		}
		e, err := layout.DecodeFileExtent(v)
		ok(t, err)
		for i := range e.Blocks() {
			all = append(all, place{k.Obj, k.Sub + i, e.Addr + i*layout.BlockBytes})
		}
	})
	return slices.DeleteFunc(all, func(p place) bool { return paths[p.ino] == nil }) // unlinked ones
}

func TestDamageData(t *testing.T) {
	fx, old := populated(t)
	checkClean(t, fx.dev)
	s := operate(t, fx.dev)
	paths := fx.pathsOf(t, fx.dev)
	all := places(t, s, paths)
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range 20 {
		p := all[rng.IntN(len(all))]
		other := all[rng.IntN(len(all))]
		if other.addr == p.addr {
			continue
		}
		dev := fx.dev.Clone()
		kind := []string{"flip", "zero", "swap", "old", "copy"}[i%5]
		hit := damageData(t, dev, old, kind, p, other)
		if hit == nil {
			continue
		}
		v := fx.examine(t, dev)
		if v.open != nil {
			t.Fatalf("%s: %v", kind, v.open)
		}
		noticed(t, kind, hit, paths, v, findings(t, dev))
	}
}

// damageData damages the block at a place, and tells which places have other content then.
func damageData(t *testing.T, dev, old *device.Mem, kind string, p, other place) (hit []place) {
	t.Helper()
	hit = []place{p}
	switch kind {
	case "flip":
		flip(dev, p.addr)
	case "zero":
		dev.Corrupt(int64(p.addr), func(b []byte) { clear(b) })
	case "swap":
		a, b := block(t, dev, p.addr), block(t, dev, other.addr)
		dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
		dev.Corrupt(int64(other.addr), func(x []byte) { copy(x, a) })
		hit = append(hit, other)
	case "old": // what the older image has there, if that differs
		b := block(t, old, p.addr)
		if bytes.Equal(b, block(t, dev, p.addr)) {
			return nil
		}
		dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
	case "copy":
		b := block(t, dev, other.addr)
		dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
	}
	return hit
}

// noticed wants reads and fsck to notice damage at each place that was hit, and nowhere else.
func noticed(t *testing.T, kind string, hit []place, paths map[uint64][]string, v outcome, found string) {
	t.Helper()
	for _, h := range hit {
		for _, path := range paths[h.ino] {
			if !slices.Contains(v.bad[path], int(h.block)) {
				t.Errorf("%s: %s, block %d was not noticed", kind, path, h.block)
			}
		}
		if want := fmt.Sprintf("inode %d ", h.ino); !strings.Contains(found, want) || !strings.Contains(found, fmt.Sprintf(" at %d+", h.block*4096)) {
			t.Errorf("%s of inode %d, block %d: fsck says\n%s", kind, h.ino, h.block, found)
		}
		if !strings.Contains(found, fmt.Sprintf("%q", "/"+paths[h.ino][0])) && len(paths[h.ino]) == 1 {
			t.Errorf("fsck does not name %s:\n%s", paths[h.ino][0], found)
		}
	}
	for path, bad := range v.bad {
		for _, b := range bad {
			if !slices.ContainsFunc(hit, func(h place) bool { return int(h.block) == b && slices.Contains(paths[h.ino], path) }) {
				t.Errorf("%s: %s, block %d is whole and cannot be read", kind, path, b)
			}
		}
	}
}

func TestDamageNodes(t *testing.T) {
	fx, old := populated(t)
	s := operate(t, fx.dev)
	for _, id := range []int{layout.TreeFS, layout.TreeSpace} {
		for i, p := range s.nodes(id) {
			if p.Level == 0 && i%3 > 0 && i > 10 {
				continue // enough of these
			}
			where := fmt.Sprintf("node at %d", p.Addr)
			dev := fx.dev.Clone()
			at := p.Addr + uint64(i%4)*layout.BlockBytes
			switch b := block(t, old, at); {
			case i%4 == 0:
				dev.Corrupt(int64(at), func(x []byte) { clear(x) })
			case i%2 == 1 && !bytes.Equal(b, block(t, dev, at)):
				dev.Corrupt(int64(at), func(x []byte) { copy(x, b) })
			default:
				flip(dev, at)
			}
			if found := findings(t, dev); !strings.Contains(found, where) {
				t.Errorf("tree %d, %s: fsck says\n%s", id, where, found)
			}
			v := fx.examine(t, dev)
			if p.Addr2 != 0 {
				if v.open != nil || len(v.bad) != 0 {
					t.Errorf("tree %d, %s has a second copy, and is missed: %+v", id, where, v)
				}
				flip(dev, p.Addr2)
				fx.examine(t, dev)
				if found := findings(t, dev); !strings.Contains(found, where) {
					t.Errorf("tree %d, %s: fsck says\n%s", id, where, found)
				}
				// A second copy alone: all can be read, and fsck tells.
				dev2 := fx.dev.Clone()
				flip(dev2, p.Addr2)
				if found := findings(t, dev2); !strings.Contains(found, "second copy") {
					t.Errorf("tree %d, second copy of %s: fsck says\n%s", id, where, found)
				}
			}
			if i%5 == 0 {
				use(t, dev)
			}
		}
	}
}

func TestDamageHeaders(t *testing.T) {
	fx, _ := populated(t)
	for i, off := range []uint64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		for _, at := range []uint64{0, 4096, 60 << 10} {
			dev := fx.dev.Clone()
			flip(dev, off+at)
			if found := findings(t, dev); !strings.Contains(found, "header copy "+string("AB"[i])) {
				t.Errorf("copy %d: fsck says\n%s", i, found)
			}
			if v := fx.examine(t, dev); v.open != nil || len(v.bad) != 0 {
				t.Errorf("copy %d: %+v", i, v)
			}
			ok(t, checkOpen(t, dev, Options{}).Close()) // repairs it
			checkClean(t, dev)
			dev = fx.dev.Clone()
			flip(dev, layout.HeaderOffsetA+at)
			flip(dev, layout.HeaderOffsetB+at)
			if _, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, ErrHeader) && !errors.Is(err, ErrNotSealvol) {
				t.Errorf("both copies: %v", err)
			}
			if found := findings(t, dev); !strings.Contains(found, "header") {
				t.Errorf("both copies: fsck says\n%s", found)
			}
		}
	}
}

func TestDamageRoots(t *testing.T) {
	fx, old := populated(t)
	s := operate(t, fx.dev)
	// The newest: the one before has the same content, as Close commits twice.
	dev := fx.dev.Clone()
	flipRoot(dev, s.slot)
	if v := fx.examine(t, dev); v.open != nil || len(v.bad) != 0 {
		t.Errorf("newest: %+v", v)
	}
	rep, err := check.Run(dev, check.Options{Credential: checkKey(t)})
	ok(t, err)
	if len(rep.Notes) != 1 || rep.Notes[0].Where != fmt.Sprintf("root slot %d", s.slot) {
		t.Errorf("newest: %+v", rep)
	}
	ok(t, checkOpen(t, dev, Options{}).Close())
	checkClean(t, dev)
	// Any other: fsck names it, and nothing else suffers.
	roots, _, err := s.store.ReadRoots()
	ok(t, err)
	for _, r := range roots[1:] {
		dev := fx.dev.Clone()
		flipRoot(dev, r.Slot)
		rep, err := check.Run(dev, check.Options{Credential: checkKey(t)})
		ok(t, err)
		where := fmt.Sprintf("root slot %d", r.Slot)
		named := slices.ContainsFunc(append(rep.Problems, rep.Notes...), func(p check.Problem) bool { return p.Where == where })
		if !named || rep.Clean && r.Slot != (s.slot+1)%layout.RootSlots {
			t.Errorf("%s: %+v", where, rep)
		}
		if v := fx.examine(t, dev); v.open != nil || len(v.bad) != 0 {
			t.Errorf("%s: %+v", where, v)
		}
	}
	// All.
	dev = fx.dev.Clone()
	for i := range layout.RootSlots {
		flipRoot(dev, i)
	}
	if v := fx.examine(t, dev); !errors.Is(v.open, ErrNoRoot) {
		t.Errorf("all: %v", v.open)
	}
	if found := findings(t, dev); !strings.Contains(found, "root slots") {
		t.Errorf("all: fsck says\n%s", found)
	}
	// A root that is copied to another slot is none there.
	dev = fx.dev.Clone()
	b := block(t, dev, uint64(layout.RootSlotOff(s.slot)))
	next := (s.slot + 2) % layout.RootSlots
	setRoot(dev, next, b)
	if found := findings(t, dev); !strings.Contains(found, fmt.Sprintf("root slot %d", next)) {
		t.Errorf("copied: fsck says\n%s", found)
	}
	// The root slots of an older image over the newer ones: a rollback. Without an
	// anchor it cannot be told, but nothing wrong may be read: pages that were
	// replaced since do not verify.
	dev = fx.dev.Clone()
	for i := range layout.RootSlots {
		b := block(t, old, uint64(layout.RootSlotOff(i)))
		setRoot(dev, i, b)
	}
	vol, err := Open(dev, Options{Credential: checkKey(t), ReadOnly: true})
	if err == nil {
		for path := range fx.files {
			if path != "young/b/big" && path != "young/b/inherits" && !strings.HasPrefix(path, "big") {
				fx.readAll(t, vol, path)
			}
		}
		ok(t, vol.Close())
	}
}

// logged makes an image whose log holds acknowledged operations.
func logged(t *testing.T) (dev *device.Mem, synced []string) {
	fx := newFixture(t, 64<<20)
	v := checkOpen(t, fx.dev, Options{})
	req := &vfs.Req{}
	for i := range 12 {
		name := fmt.Sprintf("f%d", i)
		a, err := v.Mknod(req, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		_, err = v.Write(req, a.Ino, 0, bytes.Repeat([]byte{byte(i)}, 3000*(i%3+1)), false)
		ok(t, err)
		if i%4 == 3 { // by reference
			_, err = v.Write(req, a.Ino, 65536, bytes.Repeat([]byte{byte(i)}, 300000), false)
			ok(t, err)
		}
		ok(t, v.Sync(a.Ino))
		synced = append(synced, name)
	}
	dev = fx.dev.Clone()
	ok(t, v.Close())
	return dev, synced
}

func TestDamageLog(t *testing.T) {
	image, names := logged(t)
	s := operate(t, image)
	rp, err := s.store.ReadLog(s.root)
	ok(t, err)
	if len(rp.Ends) != len(names) || rp.Certain < len(names)-1 {
		t.Fatalf("%d records, %d certain, %d syncs", len(rp.Ends), rp.Certain, len(names))
	}
	last := -1
	for f := s.root.LogSeq; f < rp.Next; f++ {
		dev := image.Clone()
		flip(dev, layout.LogOff+f%s.root.LogBlocks*layout.BlockBytes)
		v, err := Open(dev, Options{Credential: checkKey(t), ReadOnly: true})
		if err != nil {
			if !errors.Is(err, ErrLogDamaged) {
				t.Fatalf("frame %d: %v", f, err)
			}
			if found := findings(t, dev); !strings.Contains(found, "log: ") {
				t.Errorf("frame %d: fsck says\n%s", f, found)
			}
			last = int(f)
			continue
		}
		// Only the last record may go: nobody is left to say that it was acknowledged.
		for _, name := range names[:len(names)-1] {
			if _, err := v.Lookup(vfs.RootIno, name); err != nil {
				t.Errorf("frame %d: %s: %v", f, name, err)
			}
		}
		ok(t, v.Close())
	}
	if last < int(rp.Next)/2 {
		t.Fatalf("only damage up to frame %d of %d was refused", last, rp.Next)
	}
	// Data that an acknowledged record refers to: the record is applied, and the
	// data gives an error for its range.
	found := false
	ok(t, s.store.EachOp(s.root, rp, rp.Certain, func(_ int, op *layout.Op) error {
		if len(op.Extents) == 0 {
			return nil
		}
		found = true
		dev := image.Clone()
		flip(dev, op.Extents[0].Addr+8192)
		if text := findings(t, dev); !strings.Contains(text, fmt.Sprintf("inode %d", op.Ino)) {
			t.Errorf("fsck says\n%s", text)
		}
		v := checkOpen(t, dev, Options{ReadOnly: true})
		b := make([]byte, 4096)
		if _, err := v.Read(vfs.Ino(op.Ino), op.Off+8192, b); !errors.Is(err, vfs.ErrCorrupt) {
			t.Errorf("damaged data: %v", err)
		}
		if _, err := v.Read(vfs.Ino(op.Ino), op.Off+12288, b); err != nil {
			t.Errorf("the block behind it: %v", err)
		}
		return v.Close()
	}))
	if !found {
		t.Fatal("no record refers to data")
	}
	// The newest root is lost, and the log knows of it: refused (I4).
	dev := image.Clone()
	flipRoot(dev, s.slot)
	if v, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, ErrLogDamaged) {
		t.Errorf("a newer root than can be read: %v", err)
		if err == nil {
			_ = v.Close()
		}
	}
}

func TestDamageFreeLists(t *testing.T) {
	fx, _ := populated(t)
	// Close frees little: work on an image that was not closed.
	v := checkOpen(t, fx.dev, Options{})
	a, err := walkTo(v, "young/b/big")
	ok(t, err)
	zero := uint64(0)
	_, err = v.SetAttr(&vfs.Req{}, a.Ino, &vfs.SetAttr{Size: &zero})
	ok(t, err)
	ok(t, v.Sync(vfs.RootIno))
	image := fx.dev.Clone()
	ok(t, v.Close())
	s := operate(t, image)
	for i, p := range s.root.FreeLists {
		if p.IsZero() {
			continue
		}
		dev := image.Clone()
		flip(dev, p.Addr)
		if found := findings(t, dev); !strings.Contains(found, fmt.Sprintf("free list %d", i)) {
			t.Errorf("list %d: fsck says\n%s", i, found)
		}
		if _, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, vfs.ErrCorrupt) {
			t.Errorf("list %d: %v", i, err)
		}
	}
	if s.root.FreeLists[0].IsZero() {
		t.Error("there is no free list")
	}
}
