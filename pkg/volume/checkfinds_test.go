package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

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
		{"directory size", "the directory's size is", func(s *surgeon) { editInode(s, inodeOf(s, "many"), func(n *layout.Inode) { n.Size++ }) }},
		{"blocks", "block count is", func(s *surgeon) { editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Blocks++ }) }},
		{"size below the extents", "its extents end at", func(s *surgeon) { editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Size = 10000 }) }},
		{"inline size", "of inline content", func(s *surgeon) { editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Size++ }) }},
		{"inline flag", "inline flag is", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Flags &^= layout.InodeInline })
		}},
		{"xattr flag", "its attributes require", func(s *surgeon) {
			editInode(s, inodeOf(s, "big2"), func(n *layout.Inode) { n.Flags &^= layout.InodeXattrs })
		}},
		{"acl flag", "its attributes require", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b"), func(n *layout.Inode) { n.Flags &^= layout.InodeAccessACL })
		}},
		{"parent", "its parent field is", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b"), func(n *layout.Inode) { n.Parent = inodeOf(s, "many") })
		}},
		{"cycle", "is not reachable", func(s *surgeon) {
			b := inodeOf(s, "young/b")
			editInode(s, inodeOf(s, "young"), func(n *layout.Inode) { n.Parent = b })
		}},
		{"file turned symlink", "disagree on its type", func(s *surgeon) {
			editInode(s, inodeOf(s, "young/b/small"), func(n *layout.Inode) { n.Mode = 0o120777 })
		}},
		{"symlink size", "the symlink's size", func(s *surgeon) { editInode(s, inodeOf(s, "a/link"), func(n *layout.Inode) { n.Size-- }) }},
		{"symlink target", "the symlink's size", func(s *surgeon) { drop(s, inodeOf(s, "a/link"), layout.KeyInline, 0) }},
		{"no inode", "its items exist, but no inode item", func(s *surgeon) { drop(s, inodeOf(s, "big2"), layout.KeyInode, 0) }},
		{"inode gone", "does not exist", func(s *surgeon) { drop(s, inodeOf(s, "a/empty"), layout.KeyInode, 0) }},
		{"name gone", "size is 5 names, but it has 4", func(s *surgeon) { drop(s, 1, layout.KeyName, 0) }},
		{"orphan item gone", "no name and no orphan item", func(s *surgeon) { drop(s, 0, layout.KeyOrphan, 0) }},
		{"orphan item too many", "an orphan item exists, but no inode", func(s *surgeon) {
			s.insert(layout.TreeFS, layout.Key{Type: layout.KeyOrphan, Sub: 1 << 30}, []byte{})
		}},
		{"xattr piece", "has no predecessor", func(s *surgeon) { drop(s, inodeOf(s, "big2"), layout.KeyXattr, 4) }},
		{"name hash", "stored under a wrong hash", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Name = "big9" })
		}},
		{"name type", "disagree on its type", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Type = 0o010000 })
		}},
		{"name of nobody", "the root's next inode number is", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = 1 << 40 })
		}},
		{"name of another", "link count requires", func(s *surgeon) {
			editName(s, 1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = inodeOf(s, "a/empty") })
		}},
		{"extent elsewhere", "was sealed for", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { k.Sub++ })
		}},
		{"extent outside", "outside the data area", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 1 << 40 })
		}},
		{"extent in the system area", "outside the data area", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 4096 })
		}},
		{"extent over a node", "belong to something else", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = s.root.Trees[layout.TreeFS].Addr })
		}},
		{"extent of the future", "but its page has generation", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Birth, e.RefBirth = 1<<40, 1<<40 })
		}},
		{"extent of another epoch", "data cannot be read", func(s *surgeon) {
			editExtent(s, 3, func(k *layout.Key, e *layout.FileExtent) { e.Epoch = 9 })
		}},
		{"leak", "nothing refers to them", func(s *surgeon) { editSpace(s, layout.KeyRegion, func(v []byte) { v[16+4000] |= 0x10 }) }},
		{"used and free", "marked free", func(s *surgeon) {
			bit := s.root.Trees[layout.TreeFS].Addr / 4096
			editSpace(s, layout.KeyRegion, func(v []byte) { v[16+bit/8] &^= 1 << (bit % 8) })
		}},
		{"region summary", "summary is", func(s *surgeon) { editSpace(s, layout.KeyRegion, func(v []byte) { v[4]++ }) }},
		{"group summary", "its entry of region 0", func(s *surgeon) { editSpace(s, layout.KeyGroup, func(v []byte) { v[2]++ }) }},
		{"group summary of a fresh region", "its entry of region 1", func(s *surgeon) { editSpace(s, layout.KeyGroup, func(v []byte) { v[8]++ }) }},
		{"top summary", "its entry of group 0", func(s *surgeon) { editSpace(s, layout.KeyTop, func(v []byte) { v[0]++ }) }},
		{"no region", "no bitmap", func(s *surgeon) {
			s.item(layout.TreeSpace, func(k layout.Key, v []byte) (layout.Key, []byte, bool) { return k, nil, k.Type == layout.KeyRegion })
		}},
		{"free blocks", "free blocks, but the bitmaps have", func(s *surgeon) { s.root.FreeBlocks--; s.writeRoot() }},
		{"inodes", "inode count is", func(s *surgeon) { s.root.Inodes++; s.writeRoot() }},
		{"next inode", "next inode number", func(s *surgeon) { s.root.NextIno = 100; s.writeRoot() }},
		{"no tree", "it has no pointer to tree", func(s *surgeon) { s.root.Trees[layout.TreeFS] = layout.Pointer{}; s.writeRoot() }},
		{"no free list", "nothing refers to them", func(s *surgeon) { s.root.FreeLists = [2]layout.Pointer2{}; s.writeRoot() }},
		{"free list count", "the root counts", func(s *surgeon) { s.root.FreeLists[0].Blocks++; s.writeRoot() }},
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
