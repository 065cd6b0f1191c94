package volume

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// sharedFixture is a volume of files that share blocks, closed: whole copies, and
// one that shares every other block, so that the reference-count tree has several pages.
func sharedFixture(t testing.TB) *fixture {
	t.Helper()
	fx := newFixture(t, 256<<20)
	v := checkOpen(t, fx.dev, Options{})
	rng := rand.New(rand.NewPCG(4, 4))
	mk := func(name string) vfs.Ino {
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		return a.Ino
	}
	copied := func(from vfs.Ino, off uint64, to vfs.Ino, toOff, n uint64) {
		t.Helper()
		if done, err := v.CopyRange(crashReq, from, off, to, toOff, n); err != nil || done != n {
			t.Fatal(done, err)
		}
	}
	const size = 8<<20 + 1000
	data := noise(rng, size)
	a := mk("a")
	for off := 0; off < size; off += 1 << 20 {
		_, err := v.Write(crashReq, a, uint64(off), data[off:min(size, off+1<<20)], false)
		ok(t, err)
	}
	b, c, comb := mk("b"), mk("c"), mk("comb")
	copied(a, 0, b, 0, size)
	copied(b, 0, c, 0, size)
	ok(t, v.Sync(vfs.RootIno))
	teeth := make([]byte, 0, 8<<20)
	for s := uint64(0); s < 2<<10; s += 2 {
		copied(c, s*pageBytes, comb, s*pageBytes, pageBytes)
		teeth = append(append(teeth, data[s*pageBytes:(s+1)*pageBytes]...), make([]byte, pageBytes)...)
	}
	fx.files["a"], fx.files["b"], fx.files["c"], fx.files["comb"] = data, data, data, teeth[:len(teeth)-pageBytes]
	ok(t, v.Close())
	checkClean(t, fx.dev)
	return fx
}

// Pages of the reference-count tree are not needed to read anything; fsck names them.
func TestDamageShares(t *testing.T) {
	fx := sharedFixture(t)
	s := operate(t, fx.dev)
	nodes := s.nodes(layout.TreeShares)
	if len(nodes) < 3 {
		t.Fatalf("%d pages", len(nodes))
	}
	for _, p := range nodes {
		dev := fx.dev.Clone()
		flip(dev, p.Addr)
		if found := findings(t, dev); !strings.Contains(found, "tree 4") {
			t.Errorf("fsck says\n%s", found)
		}
		if p.Addr2 != 0 {
			flip(dev, p.Addr2)
			if found := findings(t, dev); !strings.Contains(found, "reference counts of shared blocks are lost") {
				t.Errorf("fsck says\n%s", found)
			}
		}
		if v := fx.examine(t, dev); v.open != nil || len(v.bad) > 0 {
			t.Errorf("a page of the reference-count tree is missed: %+v", v)
		}
		use(t, dev)
		ok(t, checkOpen(t, dev, Options{ReadOnly: true}).Close())
	}
}

// A block that several files share is damaged: each of them is named.
func TestDamageSharedData(t *testing.T) {
	fx := sharedFixture(t)
	var addr uint64
	operate(t, fx.dev).items(layout.TreeFS, func(k layout.Key, v []byte) {
		if k.Type == layout.KeyExtent && k.Sub == 0 {
			e, err := layout.DecodeFileExtent(v)
			ok(t, err)
			addr = e.Addr
		}
	})
	flip(fx.dev, addr)
	found := findings(t, fx.dev)
	if n := strings.Count(found, "data cannot be read"); n != len(fx.files) {
		t.Errorf("%d lines for %d files:\n%s", n, len(fx.files), found)
	}
	v := fx.examine(t, fx.dev)
	for path := range fx.files {
		if bad := v.bad[path]; len(bad) != 1 || bad[0] != 0 {
			t.Errorf("%s: %v", path, bad)
		}
		if !strings.Contains(found, `"/`+path+`"`) {
			t.Errorf("%s is not named:\n%s", path, found)
		}
	}
}

func TestCheckFindsShares(t *testing.T) {
	fx := sharedFixture(t)
	edit := func(s *surgeon, nth int, change func(k *layout.Key, sh *layout.Share)) {
		s.item(layout.TreeShares, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if nth--; nth >= 0 {
				return k, nil, false
			}
			sh, err := layout.DecodeShare(k.Sub, v)
			ok(t, err)
			change(&k, &sh)
			return k, sh.Append(nil), true
		})
	}
	for _, c := range []struct {
		name, want string
		do         func(s *surgeon)
	}{
		{"one reference too many", "counts 1 references too many", func(s *surgeon) {
			edit(s, 9, func(_ *layout.Key, sh *layout.Share) { sh.Extra++ })
		}},
		{"very many", "counts 1000 references too many", func(s *surgeon) {
			edit(s, 9, func(_ *layout.Key, sh *layout.Share) { sh.Extra += 1000 })
		}},
		{"one too few", "more often than the reference-count tree counts", func(s *surgeon) {
			edit(s, 9, func(_ *layout.Key, sh *layout.Share) { sh.Extra-- })
		}},
		{"none", "more often than the reference-count tree counts", func(s *surgeon) {
			s.item(layout.TreeShares, func(k layout.Key, v []byte) (layout.Key, []byte, bool) { return k, nil, true })
		}},
		{"region count", "shared blocks, but the reference-count tree has", func(s *surgeon) {
			s.item(layout.TreeSpace, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
				v[12]++
				return k, v, k.Type == layout.KeyRegion
			})
		}},
		{"two for one", "both must be one item", func(s *surgeon) {
			edit(s, 6, func(_ *layout.Key, sh *layout.Share) { sh.Extra = 2 })
		}},
		{"overlap", "overlaps its predecessor", func(s *surgeon) {
			edit(s, 5, func(_ *layout.Key, sh *layout.Share) { sh.Count++ })
		}},
		{"outside", "outside the data area", func(s *surgeon) {
			s.insert(layout.TreeShares, layout.Key{Type: layout.KeyShare, Sub: 1 << 40}, layout.Share{Count: 1, Extra: 1}.Append(nil))
		}},
		{"malformed", "no extra references", func(s *surgeon) {
			edit(s, 5, func(_ *layout.Key, sh *layout.Share) { sh.Extra = 0 })
		}},
		{"of nothing", "counts 1 references too many", func(s *surgeon) {
			end := s.root.DeviceBlocks - 10
			s.insert(layout.TreeShares, layout.Key{Type: layout.KeyShare, Sub: end}, layout.Share{Count: 1, Extra: 1}.Append(nil))
		}},
		{"another key", "share item", func(s *surgeon) {
			s.insert(layout.TreeShares, layout.Key{Type: 9, Sub: 5}, layout.Share{Count: 1, Extra: 1}.Append(nil))
		}},
		{"a reference gone", "counts 2 references too many", func(s *surgeon) {
			for range 2 {
				s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
					return k, nil, k.Type == layout.KeyExtent && k.Sub == 0
				})
			}
		}},
		{"feature", "lacks the feature bit", func(s *surgeon) {
			s.incompat(t, 0)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := fx.dev.Clone()
			c.do(operate(t, dev))
			if found := findings(t, dev); !strings.Contains(found, c.want) {
				t.Errorf("fsck says\n%s", found)
			}
			use(t, dev)
		})
	}
}

// incompat changes the word of features of both headers.
func (s *surgeon) incompat(t testing.TB, word uint64) {
	t.Helper()
	u, keys, err := header.Unlock(s.dev, checkKey(t), nil)
	ok(t, err)
	defer keys.Erase()
	u.Incompat = word
	b, err := layout.EncodeHeader(u.Header, keys.Newest())
	ok(t, err)
	buf := device.AlignedBytes(len(b))
	copy(buf, b)
	ok(t, s.store.Write(buf, layout.HeaderOffsetA))
	ok(t, s.store.Write(buf, layout.HeaderOffsetB))
	ok(t, s.dev.Sync())
}

// Pages of the reference-count tree, changed at random and sealed under the right keys.
func TestShareMutationsUnderValidKeys(t *testing.T) {
	fx := sharedFixture(t)
	all := operate(t, fx.dev).nodes(layout.TreeShares)
	for seed := range uint64(fewer(60)) {
		rng := rand.New(rand.NewPCG(seed, 10))
		dev := fx.dev.Clone()
		at := all[rng.IntN(len(all))]
		s := operate(t, dev)
		nth := 0
		for _, p := range all {
			if p.Level == at.Level && p.Addr < at.Addr {
				nth++
			}
		}
		s.edit(layout.TreeShares, at.Level, func(n *layout.Node) bool {
			if nth--; nth >= 0 {
				return false
			}
			for range 1 + rng.IntN(8) {
				switch i := rng.IntN(n.Count()); rng.IntN(2) {
				case 0:
					k := n.Key(i)
					k.Sub += rng.Uint64N(5) - 2
					n.SetKey(i, k)
				case 1:
					if n.Level() == 0 {
						binary.LittleEndian.PutUint32(n.Value(i)[4*rng.IntN(2):], rng.Uint32()>>rng.IntN(32))
					}
				}
			}
			for range rng.IntN(4) {
				n.Page[rng.IntN(len(n.Page))] ^= 1 << rng.IntN(8)
			}
			return true
		})
		_ = findings(t, dev)
		use(t, dev)
		if v, err := Open(dev, Options{Credential: checkKey(t), CommitInterval: -1}); err == nil {
			for path := range fx.files {
				a, err := walkTo(v, path)
				if err != nil {
					continue
				}
				_, _ = v.CopyRange(crashReq, a.Ino, 0, a.Ino, 16<<20, 4<<20)
				_ = v.Fallocate(crashReq, a.Ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 1<<20, 2<<20)
				if v.Unlink(crashReq, vfs.RootIno, path) == nil {
					v.Forget(a.Ino)
				}
			}
			_ = v.Close()
		}
	}
}
