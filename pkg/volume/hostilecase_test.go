package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// forged is a small volume that change has forged.
func forged(t *testing.T, change func(f *forge)) *device.Mem {
	t.Helper()
	fx := newFixture(t, 80<<20)
	v := checkOpen(t, fx.dev, Options{})
	for i := range 40 {
		_, err := v.Mknod(&vfs.Req{}, vfs.RootIno, fmt.Sprint("f", i), 0o644, 0)
		ok(t, err)
	}
	d, err := v.Mkdir(&vfs.Req{}, vfs.RootIno, "d", 0o755) // inode 42
	ok(t, err)
	_, err = v.Mkdir(&vfs.Req{}, d.Ino, "e", 0o755)
	ok(t, err)
	ok(t, v.Close())
	f := newForge(t, fx.dev, rand.New(rand.NewPCG(1, 2)))
	defer f.close()
	f.next = 40 << 20
	change(f)
	f.writeRoot()
	return fx.dev
}

// refused fails unless both ways to mount a volume refuse it, with want, and fsck
// reports damage.
func refused(t *testing.T, dev *device.Mem, want string) {
	t.Helper()
	for _, readOnly := range []bool{true, false} {
		v, err := Open(dev, Options{Credential: checkKey(t), ReadOnly: readOnly, CommitInterval: -1, Memory: minMemory})
		if err == nil {
			_ = v.Close()
		}
		if !errors.Is(err, vfs.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("read-only %t: %v", readOnly, err)
		}
	}
	if findings(t, dev) == "" {
		t.Error("fsck finds nothing")
	}
}

// TestForgedFreeList has lists that only the holder of the key can make: of no length
// that they say themselves, and one that has no end.
func TestForgedFreeList(t *testing.T) {
	runs := []layout.Run{{Start: 9000, Count: 3}}
	for n := 1; n <= 3; n++ {
		dev := forged(t, func(f *forge) {
			p := f.loopList(n, runs)
			p.Blocks = 10_000 // there are as many
			f.root.FreeLists[0] = p
		})
		refused(t, dev, "is circular")
	}
	for _, c := range []struct {
		name, want string
		runs       []layout.Run
		blocks     uint64
	}{
		{"more blocks than there are", "the volume has", runs, 1 << 40},
		{"more runs than blocks", "exceeds the 2 blocks", runs, 2},
		{"less", "1 of 4 blocks are missing", runs, 4},
		{"outside", "outside the data area", []layout.Run{{Start: 3, Count: 1}}, 1},
		{"across the end", "outside the data area", []layout.Run{{Start: 20479, Count: 2}}, 2},
		{"nothing", "it is empty", nil, 0},
		{"twice", "freed twice", []layout.Run{{Start: 1100, Count: 1}, {Start: 1100, Count: 1}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := forged(t, func(f *forge) {
				rec, text, err := f.store.SealFreeList(f.root.Generation, layout.EncodeFreeList(c.runs, &layout.Pointer2{}))
				ok(t, err)
				rec.Addr = f.place(len(text))
				ok(t, f.store.Write(text, rec.Addr))
				f.root.FreeLists[1] = layout.Pointer2{Record: rec, Blocks: c.blocks}
			})
			if c.name == "twice" { // what a mount finds that makes it free
				if _, err := Open(dev, Options{Credential: checkKey(t), CommitInterval: -1}); !errors.Is(err, vfs.ErrCorrupt) {
					t.Error(err)
				}
				return
			}
			refused(t, dev, c.want)
		})
	}
	// A whole list that is larger than the mount may keep is no damage.
	dev := forged(t, func(f *forge) {
		var p layout.Pointer2
		for i := range 40 {
			var runs []layout.Run
			for j := range 300 {
				runs = append(runs, layout.Run{Start: uint64(4000 + 300*i + j), Count: 1})
			}
			rec, text, err := f.store.SealFreeList(f.root.Generation, layout.EncodeFreeList(runs, &p))
			ok(t, err)
			rec.Addr = f.place(len(text))
			ok(t, f.store.Write(text, rec.Addr))
			p = layout.Pointer2{Record: rec, Blocks: uint64(300 * (i + 1))}
		}
		f.root.FreeLists[0] = p
		if _, _, err := f.store.ReadFreeList(&p, txn.DataArea(f.root), 100_000); !errors.Is(err, txn.ErrMemory) {
			t.Errorf("12,000 runs in 100,000 bytes: %v", err)
		}
		if runs, pieces, err := f.store.ReadFreeList(&p, txn.DataArea(f.root), 250_000); err != nil || len(runs) != 12_000 || len(pieces) != 40 {
			t.Errorf("%d runs, %d pieces, %v", len(runs), len(pieces), err)
		}
	})
	_ = dev
}

// TestForgedTower has trees that are none: pages with many parents, without items,
// and below themselves. Nothing recurses into them, and nothing walks all ways.
func TestForgedTower(t *testing.T) {
	for items := range 3 {
		for height := uint8(2); height <= 16; height += 7 {
			dev := forged(t, func(f *forge) {
				p := &f.root.Trees[layout.TreeFS]
				low := layout.Key{Type: layout.KeyOrphan, Sub: 1}
				leaf := &cells{tree: layout.TreeFS}
				for k := low; len(leaf.keys) < items; k, _ = k.Next() {
					leaf.keys, leaf.vals = append(leaf.keys, k), append(leaf.vals, nil)
				}
				q := f.seal(layout.TreeFS, 0, f.root.Generation, leaf.page())
				for l := uint8(1); l <= height; l++ {
					q = f.seal(layout.TreeFS, l, f.root.Generation, fanPage(layout.TreeFS, l, low, &q))
				}
				*p = q
			})
			refused(t, dev, "stored structure is damaged")
		}
	}
	// A child that has the address and the birth of the page itself, which is in the cache.
	dev := forged(t, func(f *forge) {
		p := &f.root.Trees[layout.TreeFS]
		at := f.next
		self := *p
		self.Addr, self.Addr2, self.Birth = at, 0, f.root.Generation
		*p = f.seal(layout.TreeFS, 1, f.root.Generation, fanPage(layout.TreeFS, 1, layout.Key{}, &self))
		if p.Addr != at {
			t.Fatal("another place")
		}
	})
	refused(t, dev, "")
}

// TestForgedLog has logs with operations that no volume records.
func TestForgedLog(t *testing.T) {
	write := func(t *testing.T, ops ...*layout.Op) *device.Mem {
		return forged(t, func(f *forge) {
			f.rng = rand.New(rand.NewPCG(3, 3))
			for i, op := range ops {
				op.Seq = f.root.OpSeq + uint64(i)
				if op.Ino == 0 {
					op.Ino = f.root.NextIno
				}
			}
			f.putLog([][]*layout.Op{ops}, 0, false)
		})
	}
	for name, op := range map[string]layout.Op{
		"a target that fits no page":      {Type: layout.OpCreate, Parent: 1, Mode: items.ModeLink | 0o777, Name: "l", Name2: strings.Repeat("t", 10_000)},
		"a name with a separator":         {Type: layout.OpCreate, Parent: 1, Mode: items.ModeReg, Name: "../x"},
		"an unknown type":                 {Type: layout.OpCreate, Parent: 1, Mode: 0o070000, Name: "x"},
		"the inode of another file":       {Type: layout.OpCreate, Ino: 2, Parent: 1, Mode: items.ModeReg, Name: "x"},
		"an inode beyond all":             {Type: layout.OpCreate, Ino: layout.MaxNumber, Parent: 1, Mode: items.ModeReg, Name: "x"},
		"a missing inode":                 {Type: layout.OpSetAttr, Ino: 999, Flags: layout.SetMode},
		"a range beyond the largest file": {Type: layout.OpFallocate, Ino: 2, Off: layout.MaxFileBytes, Len: layout.MaxFileBytes},
		"a range of nothing":              {Type: layout.OpFallocate, Ino: 2, Off: 4096, Flags: layout.FallocReserve},
		"a second name of a directory":    {Type: layout.OpLink, Ino: 1, Parent: 1, Name: "x"},
		"a directory into itself":         {Type: layout.OpRename, Ino: 42, Parent: 1, Name: "d", Parent2: 42, Name2: "d"},
		"an attribute with a long name":   {Type: layout.OpSetXattr, Ino: 2, Name: strings.Repeat("n", 300), Data: []byte{1}},
	} {
		t.Run(name, func(t *testing.T) {
			dev := write(t, &op)
			v, err := Open(dev, Options{Credential: checkKey(t), CommitInterval: -1})
			if err == nil {
				_ = v.Close()
			}
			if !errors.Is(err, vfs.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
}

// TestForgedNames has directories that lead to one above, and a name at whose place
// none can be: what walks names ends.
func TestForgedNames(t *testing.T) {
	for _, above := range []uint64{1, 42} {
		dev := forged(t, func(*forge) {})
		s := operate(t, dev)
		s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			n, err := layout.DecodeName(v)
			if k.Type != layout.KeyName || err != nil || n.Name != "e" {
				return k, v, false
			}
			n.Ino = above
			return k, n.Append(nil), true
		})
		findings(t, dev)
		v := checkOpen(t, dev, Options{})
		for _, root := range []vfs.Ino{0, 42, 43} {
			rep, err := v.Defrag(t.Context(), DefragOptions{Root: root})
			if err != nil || rep.Files > 40 {
				t.Errorf("defrag of inode %d: %+v, %v", root, rep, err)
			}
		}
		if err := v.Rename(&vfs.Req{}, 42, "e", vfs.RootIno, "x", 0); err == nil && above == 1 {
			t.Error("the root directory was moved")
		}
		_ = v.Close()
	}
	dev := forged(t, func(*forge) {})
	s := operate(t, dev)
	n := layout.Name{Ino: 5, Type: items.ModeReg, Name: "zero"}
	s.insert(layout.TreeFS, layout.Key{Obj: 42, Type: layout.KeyName}, n.Append(nil))
	v := checkOpen(t, dev, Options{ReadOnly: true})
	count := 0
	ok(t, v.ReadDir(42, 0, false, func(vfs.Dirent, *vfs.Attr) bool { count++; return count < 100 }))
	if count != 1 {
		t.Errorf("%d names", count)
	}
	ok(t, v.Close())
}
