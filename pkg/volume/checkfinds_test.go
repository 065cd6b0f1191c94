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

	both(withHeaders(t, fx.dev, func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 3) }), checkKey(t), ErrNewerFormat)
	both(withHeaders(t, fx.dev, func(b []byte) { b[32] = 0x80 }), checkKey(t), ErrNewerFormat)
	// An unknown ro_compat bit can be set by nobody without the key: it is forged.
	dev := withHeaders(t, fx.dev, func(b []byte) { b[24] = 1 })
	if _, err := Open(dev, Options{Credential: checkKey(t)}); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
	// Another UUID: the key slots are bound to it.
	both(withHeaders(t, fx.dev, func(b []byte) { b[40] ^= 1 }), checkKey(t), ErrWrongKey)

	headerOfAnother(t, fx.dev)
	deviceThatWasCut(t, fx.dev)
}

// withHeaders is a copy of a device, with both headers changed and under a right checksum.
func withHeaders(t *testing.T, of *device.Mem, change func(b []byte)) *device.Mem {
	t.Helper()
	dev := of.Clone()
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

// headerOfAnother gives a volume the header of another one, whose key opens it: nothing verifies.
func headerOfAnother(t *testing.T, of *device.Mem) {
	t.Helper()
	other := newFixture(t, 64<<20)
	dev := of.Clone()
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
}

// deviceThatWasCut has the first half of a volume, and no more.
func deviceThatWasCut(t *testing.T, of *device.Mem) {
	t.Helper()
	small := device.NewMem(128 << 20)
	b := make([]byte, 1<<20)
	for off := int64(0); off < 128<<20; off += 1 << 20 {
		_, err := of.ReadAt(b, off)
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
	for _, c := range []struct {
		name, want string
		do         func(s *surgeon)
	}{
		{"link count", "names", func(s *surgeon) { s.editInode(s.inodeOf("big2"), func(n *layout.Inode) { n.Nlink++ }) }},
		{"directory link count", "link count is", func(s *surgeon) { s.editInode(s.inodeOf("young"), func(n *layout.Inode) { n.Nlink++ }) }},
		{"directory size", "the directory's size is", func(s *surgeon) { s.editInode(s.inodeOf("many"), func(n *layout.Inode) { n.Size++ }) }},
		{"blocks", "block count is", func(s *surgeon) { s.editInode(s.inodeOf("big2"), func(n *layout.Inode) { n.Blocks++ }) }},
		{"size below the extents", "its extents end at", func(s *surgeon) { s.editInode(s.inodeOf("big2"), func(n *layout.Inode) { n.Size = 10000 }) }},
		{"inline size", "of inline content", func(s *surgeon) { s.editInode(s.inodeOf("young/b/small"), func(n *layout.Inode) { n.Size++ }) }},
		{"inline flag", "inline flag is", func(s *surgeon) {
			s.editInode(s.inodeOf("young/b/small"), func(n *layout.Inode) { n.Flags &^= layout.InodeInline })
		}},
		{"xattr flag", "its attributes require", func(s *surgeon) {
			s.editInode(s.inodeOf("big2"), func(n *layout.Inode) { n.Flags &^= layout.InodeXattrs })
		}},
		{"acl flag", "its attributes require", func(s *surgeon) {
			s.editInode(s.inodeOf("young/b"), func(n *layout.Inode) { n.Flags &^= layout.InodeAccessACL })
		}},
		{"parent", "its parent field is", func(s *surgeon) {
			s.editInode(s.inodeOf("young/b"), func(n *layout.Inode) { n.Parent = s.inodeOf("many") })
		}},
		{"cycle", "is not reachable", func(s *surgeon) {
			b := s.inodeOf("young/b")
			s.editInode(s.inodeOf("young"), func(n *layout.Inode) { n.Parent = b })
		}},
		{"file turned symlink", "disagree on its type", func(s *surgeon) {
			s.editInode(s.inodeOf("young/b/small"), func(n *layout.Inode) { n.Mode = 0o120777 })
		}},
		{"symlink size", "the symlink's size", func(s *surgeon) { s.editInode(s.inodeOf("a/link"), func(n *layout.Inode) { n.Size-- }) }},
		{"symlink target", "the symlink's size", func(s *surgeon) { s.drop(s.inodeOf("a/link"), layout.KeyInline, 0) }},
		{"no inode", "its items exist, but no inode item", func(s *surgeon) { s.drop(s.inodeOf("big2"), layout.KeyInode, 0) }},
		{"inode gone", "does not exist", func(s *surgeon) { s.drop(s.inodeOf("a/empty"), layout.KeyInode, 0) }},
		{"name gone", "size is 5 names, but it has 4", func(s *surgeon) { s.drop(1, layout.KeyName, 0) }},
		{"orphan item gone", "no name and no orphan item", func(s *surgeon) { s.drop(0, layout.KeyOrphan, 0) }},
		{"orphan item too many", "an orphan item exists, but no inode", func(s *surgeon) {
			s.insert(layout.TreeFS, layout.Key{Type: layout.KeyOrphan, Sub: 1 << 30}, []byte{})
		}},
		{"xattr piece", "has no predecessor", func(s *surgeon) { s.drop(s.inodeOf("big2"), layout.KeyXattr, 4) }},
		{"name hash", "stored under a wrong hash", func(s *surgeon) {
			s.editName(1, "big2", func(k *layout.Key, n *layout.Name) { n.Name = "big9" })
		}},
		{"name type", "disagree on its type", func(s *surgeon) {
			s.editName(1, "big2", func(k *layout.Key, n *layout.Name) { n.Type = 0o010000 })
		}},
		{"name of nobody", "the root's next inode number is", func(s *surgeon) {
			s.editName(1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = 1 << 40 })
		}},
		{"name of another", "link count requires", func(s *surgeon) {
			s.editName(1, "big2", func(k *layout.Key, n *layout.Name) { n.Ino = s.inodeOf("a/empty") })
		}},
		{"extent elsewhere", "was sealed for", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { k.Sub++ })
		}},
		{"extent outside", "outside the data area", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 1 << 40 })
		}},
		{"extent in the system area", "outside the data area", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = 4096 })
		}},
		{"extent over a node", "belong to something else", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { e.Addr = s.root.Trees[layout.TreeFS].Addr })
		}},
		{"extent of the future", "but its page has generation", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { e.Birth, e.RefBirth = 1<<40, 1<<40 })
		}},
		{"extent of another epoch", "data cannot be read", func(s *surgeon) {
			s.editExtent(3, func(k *layout.Key, e *layout.FileExtent) { e.Epoch = 9 })
		}},
		{"leak", "nothing refers to them", func(s *surgeon) { s.editSpace(layout.KeyRegion, func(v []byte) { v[16+4000] |= 0x10 }) }},
		{"used and free", "marked free", func(s *surgeon) {
			bit := s.root.Trees[layout.TreeFS].Addr / 4096
			s.editSpace(layout.KeyRegion, func(v []byte) { v[16+bit/8] &^= 1 << (bit % 8) })
		}},
		{"region summary", "summary is", func(s *surgeon) { s.editSpace(layout.KeyRegion, func(v []byte) { v[4]++ }) }},
		{"group summary", "its entry of region 0", func(s *surgeon) { s.editSpace(layout.KeyGroup, func(v []byte) { v[2]++ }) }},
		{"group summary of a fresh region", "its entry of region 1", func(s *surgeon) { s.editSpace(layout.KeyGroup, func(v []byte) { v[8]++ }) }},
		{"top summary", "its entry of group 0", func(s *surgeon) { s.editSpace(layout.KeyTop, func(v []byte) { v[0]++ }) }},
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
		{"separator", "bound", moveSeparator},
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

// moveSeparator changes the key of a child: what that holds comes before it then.
func moveSeparator(s *surgeon) {
	s.edit(layout.TreeFS, 1, func(n *layout.Node) bool {
		k := n.Key(2)
		if k.Sub--; k.Sub == ^uint64(0) {
			k.Type--
		}
		n.SetKey(1, k)
		return true
	})
}

// Pages that are changed at random and sealed under the right keys: decoders
// and everything above them hold.
func TestMutationsUnderValidKeys(t *testing.T) {
	t.Parallel()
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
