package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// populated makes a volume with one of everything, closed, and an older image
// of the same volume.
func populated(t testing.TB) (fx *fixture, old *device.Mem) {
	t.Helper()
	fx = newFixture(t, 256<<20)
	v := checkOpen(t, fx.dev, Options{})
	fx.populate(t, v)
	ok(t, v.Sync(vfs.RootIno))
	old = fx.dev.Clone()
	// What follows replaces some of it.
	rng := rand.New(rand.NewPCG(8, 8))
	for _, path := range []string{"young/b/big", "young/b/inherits"} {
		a, err := walkTo(v, path)
		ok(t, err)
		data := noise(rng, 30000)
		_, err = v.Write(&vfs.Req{}, a.Ino, 8192, data, false)
		ok(t, err)
		copy(fx.files[path][8192:], data)
	}
	ok(t, v.Close())
	return fx, old
}

// surgeon reads and changes a volume's structures, under its own keys.
type surgeon struct {
	t     testing.TB
	dev   *device.Mem
	store *txn.Store
	root  *layout.Root
	slot  int
}

func operate(t testing.TB, dev *device.Mem) *surgeon {
	t.Helper()
	u, keys, err := header.Unlock(dev, checkKey(t), nil)
	ok(t, err)
	crypto.EraseEpochs(u.Epochs)
	t.Cleanup(keys.Erase)
	s := &surgeon{t: t, dev: dev, store: &txn.Store{Dev: dev, Keys: keys}}
	roots, _, err := s.store.ReadRoots()
	ok(t, err)
	s.root, s.slot = roots[0].Root, roots[0].Slot
	return s
}

// nodes are the pointers of all pages of a tree.
func (s *surgeon) nodes(id int) (all []layout.Pointer) {
	var visit func(p layout.Pointer)
	visit = func(p layout.Pointer) {
		all = append(all, p)
		if p.Level == 0 {
			return
		}
		n := s.read(&p)
		for i := range n.Count() {
			c, err := layout.GetPointer(n.PointerBytesAt(i), p.Object)
			ok(s.t, err)
			visit(c)
		}
	}
	visit(s.root.Trees[id])
	return all
}

func (s *surgeon) read(p *layout.Pointer) layout.Node {
	b, err := s.store.ReadNode(p)
	ok(s.t, err)
	n, err := layout.DecodeNode(b, p.Object, p.Level)
	ok(s.t, err)
	return n
}

// items calls fn for all items of a tree.
func (s *surgeon) items(id int, fn func(k layout.Key, v []byte)) {
	for _, p := range s.nodes(id) {
		if p.Level > 0 {
			continue
		}
		n := s.read(&p)
		for i := range n.Count() {
			fn(n.Key(i), n.Value(i))
		}
	}
}

// edit changes the first page for which change returns true, and seals it and
// all above it anew, in place.
func (s *surgeon) edit(id int, level uint8, change func(n *layout.Node) bool) {
	s.t.Helper()
	var visit func(p *layout.Pointer) bool
	visit = func(p *layout.Pointer) bool {
		n := s.read(p)
		page := n.Page
		if p.Level == level {
			if !change(&n) {
				return false
			}
			page = n.Page
		} else {
			done := false
			for i := 0; i < n.Count() && !done; i++ {
				c, err := layout.GetPointer(n.PointerBytesAt(i), p.Object)
				ok(s.t, err)
				if done = visit(&c); done {
					c.Put(n.PointerBytesAt(i))
				}
			}
			if !done {
				return false
			}
		}
		buf := device.AlignedBytes(layout.NodeBytes)
		rec, err := s.store.SealNode(p.Object, p.Level, p.Birth, page, buf)
		ok(s.t, err)
		rec.Addr = p.Addr
		ok(s.t, s.store.Write(buf, p.Addr))
		if p.Addr2 != 0 {
			ok(s.t, s.store.Write(buf, p.Addr2))
		}
		p.Record = rec
		return true
	}
	if !visit(&s.root.Trees[id]) {
		s.t.Fatal("nothing to change was found")
	}
	s.writeRoot()
}

func (s *surgeon) writeRoot() {
	b := device.AlignedBytes(layout.SectorBytes)
	ok(s.t, s.store.Keys.Newest().SealRoot(uint8(s.slot), s.root.Encode(), b))
	for n := range layout.RootCopies {
		ok(s.t, s.store.Write(b, uint64(layout.RootCopyOff(s.slot, n))))
	}
	ok(s.t, s.dev.Sync())
}

// item replaces the first item for which change returns ok; a nil value
// removes it.
func (s *surgeon) item(id int, change func(k layout.Key, v []byte) (layout.Key, []byte, bool)) {
	s.t.Helper()
	s.edit(id, 0, func(n *layout.Node) bool {
		for i := range n.Count() {
			k, v, hit := change(n.Key(i), bytes.Clone(n.Value(i)))
			if !hit {
				continue
			}
			n.Delete(i)
			if v != nil {
				n.Insert(i, k, v)
			}
			n.Compact()
			return true
		}
		return false
	})
}

// insert adds an item to the page where it belongs, which must have room.
func (s *surgeon) insert(id int, k layout.Key, v []byte) {
	s.t.Helper()
	leaf := -1
	all := s.nodes(id)
	for i, p := range all {
		if n := s.read(&p); p.Level == 0 && !k.Less(n.Key(0)) {
			leaf = i
		}
	}
	first := s.read(&all[leaf])
	at := first.Key(0)
	s.edit(id, 0, func(n *layout.Node) bool {
		if n.Key(0) != at {
			return false
		}
		i, _ := n.Search(k)
		n.Insert(i, k, v)
		n.Compact()
		return true
	})
}

// outcome is what a damaged volume does: it refuses to open, or reads give
// ErrCorrupt for the named sectors and the right data for all others.
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

func flip(dev *device.Mem, addr uint64) {
	dev.Corrupt(int64(addr), func(b []byte) { b[77] ^= 4 })
}

// flipRoot damages both copies of a root.
func flipRoot(dev *device.Mem, slot int) {
	for n := range layout.RootCopies {
		flip(dev, uint64(layout.RootCopyOff(slot, n)))
	}
}

// setRoot puts b into both copies of a root slot.
func setRoot(dev *device.Mem, slot int, b []byte) {
	for n := range layout.RootCopies {
		dev.Corrupt(layout.RootCopyOff(slot, n), func(x []byte) { copy(x, b) })
	}
}

func sector(t testing.TB, dev device.Device, addr uint64) []byte {
	t.Helper()
	b := make([]byte, layout.SectorBytes)
	_, err := dev.ReadAt(b, int64(addr))
	ok(t, err)
	return b
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

func TestDamageData(t *testing.T) {
	fx, old := populated(t)
	checkClean(t, fx.dev)
	s := operate(t, fx.dev)
	type place struct {
		ino, sector, addr uint64
	}
	var all []place
	s.items(layout.TreeFS, func(k layout.Key, v []byte) {
		if k.Type != layout.KeyExtent {
			return
		}
		e, err := layout.DecodeFileExtent(v)
		ok(t, err)
		for i := range e.Sectors() {
			all = append(all, place{k.Obj, k.Sub + i, e.Addr + i*layout.SectorBytes})
		}
	})
	paths := fx.pathsOf(t, fx.dev)
	all = slices.DeleteFunc(all, func(p place) bool { return paths[p.ino] == nil }) // unlinked ones
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range 20 {
		p := all[rng.IntN(len(all))]
		other := all[rng.IntN(len(all))]
		if other.addr == p.addr {
			continue
		}
		dev := fx.dev.Clone()
		hit := []place{p}
		kind := []string{"flip", "zero", "swap", "old", "copy"}[i%5]
		switch kind {
		case "flip":
			flip(dev, p.addr)
		case "zero":
			dev.Corrupt(int64(p.addr), func(b []byte) { clear(b) })
		case "swap":
			a, b := sector(t, dev, p.addr), sector(t, dev, other.addr)
			dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
			dev.Corrupt(int64(other.addr), func(x []byte) { copy(x, a) })
			hit = append(hit, other)
		case "old": // what the older image has there, if that differs
			b := sector(t, old, p.addr)
			if bytes.Equal(b, sector(t, dev, p.addr)) {
				continue
			}
			dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
		case "copy":
			b := sector(t, dev, other.addr)
			dev.Corrupt(int64(p.addr), func(x []byte) { copy(x, b) })
		}
		v := fx.examine(t, dev)
		if v.open != nil {
			t.Fatalf("%s: %v", kind, v.open)
		}
		found := findings(t, dev)
		for _, h := range hit {
			for _, path := range paths[h.ino] {
				if !slices.Contains(v.bad[path], int(h.sector)) {
					t.Errorf("%s: %s, sector %d was not noticed", kind, path, h.sector)
				}
			}
			if want := fmt.Sprintf("inode %d ", h.ino); !strings.Contains(found, want) || !strings.Contains(found, fmt.Sprintf(" at %d+", h.sector*4096)) {
				t.Errorf("%s of inode %d, sector %d: fsck says\n%s", kind, h.ino, h.sector, found)
			}
			if !strings.Contains(found, fmt.Sprintf("%q", "/"+paths[h.ino][0])) && len(paths[h.ino]) == 1 {
				t.Errorf("fsck does not name %s:\n%s", paths[h.ino][0], found)
			}
		}
		for path, bad := range v.bad {
			for _, b := range bad {
				if !slices.ContainsFunc(hit, func(h place) bool { return int(h.sector) == b && slices.Contains(paths[h.ino], path) }) {
					t.Errorf("%s: %s, sector %d is whole and can not be read", kind, path, b)
				}
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
			at := p.Addr + uint64(i%4)*layout.SectorBytes
			switch b := sector(t, old, at); {
			case i%4 == 0:
				dev.Corrupt(int64(at), func(x []byte) { clear(x) })
			case i%2 == 1 && !bytes.Equal(b, sector(t, dev, at)):
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
	b := sector(t, dev, uint64(layout.RootSlotOff(s.slot)))
	next := (s.slot + 2) % layout.RootSlots
	setRoot(dev, next, b)
	if found := findings(t, dev); !strings.Contains(found, fmt.Sprintf("root slot %d", next)) {
		t.Errorf("copied: fsck says\n%s", found)
	}
	// The root slots of an older image over the newer ones: a rollback. Without an
	// anchor it can not be told, but nothing wrong may be read: pages that were
	// replaced since do not verify.
	dev = fx.dev.Clone()
	for i := range layout.RootSlots {
		b := sector(t, old, uint64(layout.RootSlotOff(i)))
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
		flip(dev, layout.LogOff+f%s.root.LogSectors*layout.SectorBytes)
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
			t.Errorf("the sector behind it: %v", err)
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

func TestRefusals(t *testing.T) {
	fx, _ := populated(t)
	wrong, err := crypto.NewKey(bytes.Repeat([]byte{99}, 32))
	ok(t, err)
	both := func(dev *device.Mem, cred crypto.Credential, want error) {
		t.Helper()
		if v, err := Open(dev, Options{Credential: cred}); !errors.Is(err, want) {
			t.Errorf("open: %v, want %v", err, want)
			if err == nil {
				_ = v.Close()
			}
		}
		if _, err := check.Run(dev, check.Options{Credential: cred}); !errors.Is(err, want) {
			t.Errorf("check: %v, want %v", err, want)
		}
	}
	both(fx.dev.Clone(), crypto.SecretCredential(wrong), ErrWrongKey)
	both(device.NewMem(64<<20), checkKey(t), ErrNotSealvol)
	foreign := device.NewMem(64 << 20)
	foreign.Corrupt(0, func(b []byte) { copy(b[1080:], "\x53\xef") })
	both(foreign, checkKey(t), ErrNotSealvol)

	rewrite := func(change func(b []byte)) *device.Mem { // of both headers, with a right checksum
		dev := fx.dev.Clone()
		for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
			b := make([]byte, layout.HeaderBytes)
			_, err := dev.ReadAt(b, off)
			ok(t, err)
			change(b)
			sum := sha256.Sum256(b[:layout.HeaderBytes-32])
			copy(b[layout.HeaderBytes-32:], sum[:])
			_, err = dev.WriteAt(b, off)
			ok(t, err)
		}
		return dev
	}
	both(rewrite(func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 3) }), checkKey(t), ErrNewerFormat)
	both(rewrite(func(b []byte) { b[32] = 0x80 }), checkKey(t), ErrNewerFormat)
	// An unknown ro_compat bit can be set by nobody without the key: it is forged.
	dev := rewrite(func(b []byte) { b[24] = 1 })
	if _, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
	// Another UUID: the key slots are bound to it.
	both(rewrite(func(b []byte) { b[40] ^= 1 }), checkKey(t), ErrWrongKey)

	// The header of another volume, whose key opens it: nothing verifies.
	other := newFixture(t, 64<<20)
	dev = fx.dev.Clone()
	for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		b := make([]byte, layout.HeaderBytes)
		_, err := other.dev.ReadAt(b, off)
		ok(t, err)
		_, err = dev.WriteAt(b, off)
		ok(t, err)
	}
	if _, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, ErrNoRoot) {
		t.Error(err)
	}
	if found := findings(t, dev); !strings.Contains(found, "root slots") {
		t.Error(found)
	}

	// A device that was cut.
	small := device.NewMem(128 << 20)
	b := make([]byte, 1<<20)
	for off := int64(0); off < 128<<20; off += 1 << 20 {
		_, err := fx.dev.ReadAt(b, off)
		ok(t, err)
		_, err = small.WriteAt(b, off)
		ok(t, err)
	}
	if _, err := Open(small, Options{Credential: checkKey(t)}); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
	if found := findings(t, small); !strings.Contains(found, "device: ") {
		t.Error(found)
	}
}

// Everything that fsck has to notice although all of it verifies.
func TestCheckFinds(t *testing.T) {
	fx, _ := populated(t)
	checkClean(t, fx.dev)
	inodeOf := func(s *surgeon, path string) uint64 {
		v := checkOpen(t, s.dev, Options{ReadOnly: true})
		a, err := walkTo(v, path)
		ok(t, err)
		ok(t, v.Close())
		return uint64(a.Ino)
	}
	editInode := func(s *surgeon, ino uint64, change func(n *layout.Inode)) {
		s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Obj != ino || k.Type != layout.KeyInode {
				return k, nil, false
			}
			n, err := layout.DecodeInode(v)
			ok(t, err)
			change(&n)
			return k, n.Append(nil), true
		})
	}
	drop := func(s *surgeon, ino uint64, typ uint8, nth int) {
		s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Obj != ino || k.Type != typ {
				return k, nil, false
			}
			nth--
			return k, nil, nth < 0
		})
	}
	editName := func(s *surgeon, dir uint64, name string, change func(k *layout.Key, n *layout.Name)) {
		s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Obj != dir || k.Type != layout.KeyName {
				return k, nil, false
			}
			n, err := layout.DecodeName(v)
			ok(t, err)
			if n.Name != name {
				return k, nil, false
			}
			change(&k, &n)
			return k, n.Append(nil), true
		})
	}
	editExtent := func(s *surgeon, nth int, change func(k *layout.Key, e *layout.FileExtent)) {
		s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Type != layout.KeyExtent {
				return k, nil, false
			}
			if nth--; nth >= 0 {
				return k, nil, false
			}
			e, err := layout.DecodeFileExtent(v)
			ok(t, err)
			change(&k, &e)
			return k, e.Append(nil), true
		})
	}
	editSpace := func(s *surgeon, typ uint8, change func(v []byte)) {
		s.item(layout.TreeSpace, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Type == typ {
				change(v)
			}
			return k, v, k.Type == typ
		})
	}
	for _, c := range []struct {
		name, want string
		do         func(s *surgeon)
	}{
		{"link count", "names", func(s *surgeon) { editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Nlink++ }) }},
		{"directory link count", "link count is", func(s *surgeon) { editInode(s, inodeOf(s, "young"), func(n *layout.Inode) { n.Nlink++ }) }},
		{"directory size", "the directory says that it has", func(s *surgeon) { editInode(s, inodeOf(s, "many"), func(n *layout.Inode) { n.Size++ }) }},
		{"sectors", "sectors, there are", func(s *surgeon) { editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Sectors++ }) }},
		{"size below the extents", "its extents reach to", func(s *surgeon) { editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Size = 10000 }) }},
		{"inline size", "of them in the tree", func(s *surgeon) { editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Size++ }) }},
		{"inline flag", "flags say", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Flags &^= layout.InodeInline })
		}},
		{"xattr flag", "its attributes call for", func(s *surgeon) {
			editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Flags &^= layout.InodeXattrs })
		}},
		{"acl flag", "its attributes call for", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b"), func(n *layout.Inode) { n.Flags &^= layout.InodeAccessACL })
		}},
		{"parent", "its parent is", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b"), func(n *layout.Inode) { n.Parent = inodeOf(s, "many") })
		}},
		{"cycle", "can not be reached", func(s *surgeon) {
			b := inodeOf(s, "young/b")
			editInode(s, inodeOf(s, "young"), func(n *layout.Inode) { n.Parent = b })
		}},
		{"file turned symlink", "do not agree on its type", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Mode = 0o120777 })
		}},
		{"symlink size", "the symlink's size", func(s *surgeon) { editInode(s, inodeOf(s, "a/link"), func(n *layout.Inode) { n.Size-- }) }},
		{"symlink target", "the symlink's size", func(s *surgeon) { drop(s, inodeOf(s, "a/link"), layout.KeyInline, 0) }},
		{"no inode", "there are items of it, but no inode", func(s *surgeon) { drop(s, inodeOf(s, "big2"), layout.KeyInode, 0) }},
		{"inode gone", "does not exist", func(s *surgeon) { drop(s, inodeOf(s, "a/empty"), layout.KeyInode, 0) }},
		{"name gone", "it has 5 names, there are 4", func(s *surgeon) { drop(s, 1, layout.KeyName, 0) }},
		{"orphan item gone", "no name and no orphan item", func(s *surgeon) { drop(s, 0, layout.KeyOrphan, 0) }},
		{"orphan item too many", "there is an orphan item, but no inode", func(s *surgeon) {
			s.insert(layout.TreeFS, layout.Key{Type: layout.KeyOrphan, Sub: 1 << 30}, []byte{})
		}},
		{"xattr piece", "follows nothing", func(s *surgeon) { drop(s, inodeOf(s, "big2"), layout.KeyXattr, 4) }},
		{"name hash", "under the hash of another name", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Name = "big9" })
		}},
		{"name type", "do not agree on its type", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Type = 0o010000 })
		}},
		{"name of nobody", "the next inode is", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = 1 << 40 })
		}},
		{"name of another", "there are", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = inodeOf(s, "a/empty") })
		}},
		{"extent elsewhere", "was written for", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { k.Sub++ })
		}},
		{"extent outside", "outside the volume's data area", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 1 << 40 })
		}},
		{"extent in the system area", "outside the volume's data area", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 4096 })
		}},
		{"extent over a node", "belong to something else", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = s.root.Trees[layout.TreeFS].Addr })
		}},
		{"extent of the future", "is of generation", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Birth, e.RefBirth = 1<<40, 1<<40 })
		}},
		{"extent of another epoch", "data can not be read", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Epoch = 9 })
		}},
		{"leak", "nothing refers to them", func(s *surgeon) { editSpace(s, layout.KeyRegion, func(v []byte) { v[16+4000] |= 0x10 }) }},
		{"used and free", "marked free", func(s *surgeon) {
			bit := s.root.Trees[layout.TreeFS].Addr / 4096
			editSpace(s, layout.KeyRegion, func(v []byte) { v[16+bit/8] &^= 1 << (bit % 8) })
		}},
		{"region summary", "its summary says", func(s *surgeon) { editSpace(s, layout.KeyRegion, func(v []byte) { v[4]++ }) }},
		{"group summary", "it says of region 0", func(s *surgeon) { editSpace(s, layout.KeyGroup, func(v []byte) { v[2]++ }) }},
		{"group summary of a fresh region", "it says of region 1", func(s *surgeon) { editSpace(s, layout.KeyGroup, func(v []byte) { v[8]++ }) }},
		{"top summary", "it says of group 0", func(s *surgeon) { editSpace(s, layout.KeyTop, func(v []byte) { v[0]++ }) }},
		{"no region", "no bitmap", func(s *surgeon) {
			s.item(layout.TreeSpace, func(k layout.Key, v []byte) (layout.Key, []byte, bool) { return k, nil, k.Type == layout.KeyRegion })
		}},
		{"free sectors", "sectors are free", func(s *surgeon) { s.root.FreeSectors--; s.writeRoot() }},
		{"inodes", "it says that there are", func(s *surgeon) { s.root.Inodes++; s.writeRoot() }},
		{"next inode", "the next inode", func(s *surgeon) { s.root.NextIno = 100; s.writeRoot() }},
		{"no tree", "it names no tree", func(s *surgeon) { s.root.Trees[layout.TreeFS] = layout.Pointer{}; s.writeRoot() }},
		{"no free list", "nothing refers to them", func(s *surgeon) { s.root.FreeLists = [2]layout.Pointer2{}; s.writeRoot() }},
		{"free list count", "it should hold", func(s *surgeon) { s.root.FreeLists[0].Sectors++; s.writeRoot() }},
		{"header sequence", "sequence number", func(s *surgeon) { s.root.HeaderSeq = 9; s.writeRoot() }},
		{"unknown item", "unknown type", func(s *surgeon) { s.insert(layout.TreeFS, layout.Key{Obj: 2, Type: 0x77}, []byte{1}) }},
		{"separator", "bound", func(s *surgeon) {
			s.edit(layout.TreeFS, 1, func(n *layout.Node) bool { // what child 1 holds comes before it now
				k := n.Key(2)
				if k.Sub--; k.Sub == ^uint64(0) {
					k.Type--
				}
				n.SetKey(1, k)
				return true
			})
		}},
		{"page of another generation", "its pointer says", func(s *surgeon) {
			s.edit(layout.TreeFS, 1, func(n *layout.Node) bool {
				binary.LittleEndian.PutUint64(n.PointerBytesAt(1)[8:], 1<<40)
				return true
			})
		}},
		{"page twice", "belong to something else", func(s *surgeon) {
			s.edit(layout.TreeFS, 1, func(n *layout.Node) bool { copy(n.PointerBytesAt(2), n.PointerBytesAt(1)); return true })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := fx.dev.Clone()
			s := operate(t, dev)
			c.do(s)
			if found := findings(t, dev); !strings.Contains(found, c.want) {
				t.Errorf("fsck says\n%s", found)
			}
			use(t, dev)
		})
	}
}

// Pages that are changed at random and sealed under the right keys: decoders
// and everything above them hold.
func TestMutationsUnderValidKeys(t *testing.T) {
	fx, _ := populated(t)
	sizes := map[int][]int{} // pages of each level
	s := operate(t, fx.dev)
	for _, id := range []int{layout.TreeFS, layout.TreeSpace} {
		sizes[id] = make([]int, s.root.Trees[id].Level+1)
		for _, p := range s.nodes(id) {
			sizes[id][p.Level]++
		}
	}
	for seed := range uint64(fewer(120)) {
		rng := rand.New(rand.NewPCG(seed, 9))
		dev := fx.dev.Clone()
		s := operate(t, dev)
		id := []int{layout.TreeFS, layout.TreeFS, layout.TreeFS, layout.TreeSpace}[rng.IntN(4)]
		level := uint8(rng.IntN(len(sizes[id])))
		if rng.IntN(3) > 0 {
			level = 0
		}
		nth := rng.IntN(sizes[id][level])
		s.edit(id, level, func(n *layout.Node) bool {
			if nth--; nth >= 0 {
				return false
			}
			for range 1 + rng.IntN(8) {
				switch i := rng.IntN(n.Count()); rng.IntN(4) {
				case 0:
					n.Page[rng.IntN(len(n.Page))] ^= 1 << rng.IntN(8)
				case 1: // somewhere in a value, where it is no structure of the page
					b := n.Page[layout.NodeBytes/2:]
					if n.Level() == 0 {
						b = n.Value(i)
					}
					if len(b) > 0 {
						b[rng.IntN(len(b))] = byte(rng.Uint32())
					}
				case 2:
					k := n.Key(i)
					k.Sub += rng.Uint64N(3)
					k.Obj += rng.Uint64N(2)
					n.SetKey(i, k)
				case 3:
					if n.Level() == 0 {
						if b := n.Value(i); len(b) >= 8 {
							binary.LittleEndian.PutUint64(b[len(b)-8-rng.IntN(len(b)-7):], rng.Uint64()>>rng.IntN(64))
						}
					}
				}
			}
			return true
		})
		_ = findings(t, dev)
		if v, err := Open(dev, Options{Credential: checkKey(t), ReadOnly: true}); err == nil {
			for path := range fx.files {
				if a, err := walkTo(v, path); err == nil {
					_, _ = v.Read(a.Ino, 0, make([]byte, 1<<16))
					_, _ = v.SeekHole(a.Ino, 0)
					_, _ = v.ListXattr(a.Ino)
				}
			}
			_ = v.Close()
		}
		use(t, dev)
	}
}
