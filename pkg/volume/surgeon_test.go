package volume

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
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
	b := device.AlignedBytes(layout.BlockBytes)
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

// inodeOf is the number of the inode at a path.
func (s *surgeon) inodeOf(path string) uint64 {
	v := checkOpen(s.t, s.dev, Options{ReadOnly: true})
	a, err := walkTo(v, path)
	ok(s.t, err)
	ok(s.t, v.Close())
	return uint64(a.Ino)
}

// editInode changes an inode.
func (s *surgeon) editInode(ino uint64, change func(n *layout.Inode)) {
	s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
		if k.Obj != ino || k.Type != layout.KeyInode {
			return k, nil, false
		}
		n, err := layout.DecodeInode(v)
		ok(s.t, err)
		change(&n)
		return k, n.Append(nil), true
	})
}

// drop removes the item of an object's type that comes after nth others.
func (s *surgeon) drop(ino uint64, typ uint8, nth int) {
	s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
		if k.Obj != ino || k.Type != typ {
			return k, nil, false
		}
		nth--
		return k, nil, nth < 0
	})
}

// editName changes an entry of a directory.
func (s *surgeon) editName(dir uint64, name string, change func(k *layout.Key, n *layout.Name)) {
	s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
		if k.Obj != dir || k.Type != layout.KeyName {
			return k, nil, false
		}
		n, err := layout.DecodeName(v)
		ok(s.t, err)
		if n.Name != name {
			return k, nil, false
		}
		change(&k, &n)
		return k, n.Append(nil), true
	})
}

// editExtent changes the extent that comes after nth others.
func (s *surgeon) editExtent(nth int, change func(k *layout.Key, e *layout.FileExtent)) {
	s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
		if k.Type != layout.KeyExtent {
			return k, nil, false
		}
		if nth--; nth >= 0 {
			return k, nil, false
		}
		e, err := layout.DecodeFileExtent(v)
		ok(s.t, err)
		change(&k, &e)
		return k, e.Append(nil), true
	})
}

// editSpace changes all items of a type in the tree of free space.
func (s *surgeon) editSpace(typ uint8, change func(v []byte)) {
	s.item(layout.TreeSpace, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
		if k.Type == typ {
			change(v)
		}
		return k, v, k.Type == typ
	})
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

func block(t testing.TB, dev device.Device, addr uint64) []byte {
	t.Helper()
	b := make([]byte, layout.BlockBytes)
	_, err := dev.ReadAt(b, int64(addr))
	ok(t, err)
	return b
}
