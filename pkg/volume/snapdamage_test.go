package volume

import (
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

// withSnapshots is a volume with four snapshots, dead lists in logs and in
// pieces, a deletion that is in progress and one that is over.
func withSnapshots(t *testing.T) *device.Mem {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(4, 4))
	r := &crashRun{v: v, rng: rng, single: true, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	for i := range 8 {
		for range 40 {
			ok(t, r.step())
		}
		_, err := v.CreateSnapshot(fmt.Sprint("s", i))
		ok(t, err)
	}
	for range 40 {
		ok(t, r.step())
	}
	for _, n := range []string{"s2", "s5", "s4"} {
		ok(t, v.DeleteSnapshot(n))
	}
	ok(t, v.WaitFreed())
	// As after a crash right after a deletion.
	v.snap.endReaper()
	v.snap.stop = false
	ok(t, v.DeleteSnapshot("s1"))
	v.snap.stop = true
	ok(t, v.Sync(vfs.RootIno))
	img := dev.Clone()
	v.snap.stop, v.snap.done = false, nil
	v.snap.startReaper()
	ok(t, v.Close())
	checkClean(t, img)
	return img
}

// firstItem replaces the first item of tree 3 of a type.
func firstItem(typ uint8, change func(k layout.Key, v []byte) (layout.Key, []byte)) func(s *surgeon) {
	return func(s *surgeon) {
		s.item(layout.TreeSnapshots, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if k.Type != typ {
				return k, v, false
			}
			k, v = change(k, v)
			return k, v, true
		})
	}
}

// firstSnapshot changes the first snapshot.
func firstSnapshot(change func(x *layout.Snapshot)) func(s *surgeon) {
	return func(s *surgeon) {
		firstItem(layout.KeySnapshot, func(k layout.Key, v []byte) (layout.Key, []byte) {
			x, err := layout.DecodeSnapshot(v)
			ok(s.t, err)
			change(&x)
			return k, x.Append(nil)
		})(s)
	}
}

// firstDeadItem changes the runs of the first item of a dead list.
func firstDeadItem(change func(r []layout.DeadRun) []layout.DeadRun) func(s *surgeon) {
	return func(s *surgeon) {
		firstItem(layout.KeyDeadItem, func(k layout.Key, v []byte) (layout.Key, []byte) {
			r, err := layout.DecodeDeadItem(v)
			ok(s.t, err)
			return k, layout.AppendDeadItem(nil, change(r))
		})(s)
	}
}

// TestCheckFindsInSnapshots damages snapshots and dead lists under valid keys:
// fsck must find each.
func TestCheckFindsInSnapshots(t *testing.T) {
	dev := withSnapshots(t)
	for _, c := range []struct {
		name, want string
		damage     func(s *surgeon)
	}{
		{"newest snapshot", "newest snapshot has generation 1", func(s *surgeon) { s.root.NewestSnapshot = 1; s.writeRoot() }},
		{"dead blocks", "in dead lists, but they hold", firstItem(layout.KeySnapState, func(k layout.Key, v []byte) (layout.Key, []byte) {
			x, err := layout.DecodeSnapState(v)
			ok(t, err)
			x.DeadBlocks++
			return k, x.Append(nil)
		})},
		{"two of one name", "duplicate snapshot name", firstSnapshot(func(x *layout.Snapshot) { x.Name = "s6" })},
		{"generation", ", the root", firstSnapshot(func(x *layout.Snapshot) { x.Generation = 1 << 40 })},
		{"deletion forgotten", "being deleted held them", func(s *surgeon) {
			s.item(layout.TreeSnapshots, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
				if k.Type != layout.KeySnapshot {
					return k, v, false
				}
				x, err := layout.DecodeSnapshot(v)
				ok(t, err)
				return k, nil, x.Deleting
			})
		}},
		{"a run left out", "are missing", firstDeadItem(func(r []layout.DeadRun) []layout.DeadRun { return r[1:] })},
		{"a run moved", "in no dead list", firstDeadItem(func(r []layout.DeadRun) []layout.DeadRun { r[0].Start += 2000; return r })},
		{"a run twice", "twice", firstDeadItem(func(r []layout.DeadRun) []layout.DeadRun {
			for i := range r {
				for j := range r {
					if i != j && r[i].Count == r[j].Count && r[i].Bound == r[j].Bound {
						r[i].Start = r[j].Start
						return r
					}
				}
			}
			t.Fatal("no two runs are alike")
			return r
		})},
		{"a run outside", "outside", firstDeadItem(func(r []layout.DeadRun) []layout.DeadRun { r[0].Start = 1; return r })},
		{"an item left out", "are missing", firstItem(layout.KeyDeadItem, func(k layout.Key, _ []byte) (layout.Key, []byte) { return k, nil })},
		{"a piece left out", "are missing", firstItem(layout.KeyDeadPiece, func(k layout.Key, _ []byte) (layout.Key, []byte) { return k, nil })},
		{"a piece under another bound", "does not count this piece", func(s *surgeon) {
			// The last of a list, so that the page's keys stay in order.
			var all []layout.Key
			s.items(layout.TreeSnapshots, func(k layout.Key, _ []byte) { all = append(all, k) })
			s.item(layout.TreeSnapshots, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
				i := slices.Index(all, k)
				if k.Type != layout.KeyDeadPiece || i+1 < len(all) && all[i+1].Obj == k.Obj {
					return k, v, false
				}
				k.Sub |= 1 << 62
				return k, v, true
			})
		}},
		{"a point never assigned", "never assigned", func(s *surgeon) {
			s.insert(layout.TreeSnapshots, layout.Key{Obj: 1 << 50, Type: layout.KeyDeadSum}, (&layout.DeadSum{Blocks: 1}).Append(nil))
		}},
		{"unexpected item type", "unexpected item type", func(s *surgeon) { s.insert(layout.TreeSnapshots, layout.Key{Obj: 8, Type: 0x77}, []byte{1}) }},
		{"labels", "differ from the lists|belong to something else as well", relabelOne},
	} {
		img := dev.Clone()
		c.damage(operate(t, img))
		got := findings(t, img)
		if !slices.ContainsFunc(strings.Split(c.want, "|"), func(w string) bool { return strings.Contains(got, w) }) {
			t.Errorf("%s: want %q, got\n%s", c.name, c.want, got)
		}
		use(t, img)
	}
	pageOfASnapshot(t, dev)
}

// pageOfASnapshot damages a page that only a snapshot holds.
func pageOfASnapshot(t *testing.T, dev *device.Mem) {
	t.Helper()
	s := operate(t, dev)
	head := map[uint64]bool{}
	for _, p := range s.nodes(layout.TreeFS) {
		head[p.Addr] = true
	}
	found := false
	s.items(layout.TreeSnapshots, func(k layout.Key, v []byte) {
		if k.Type != layout.KeySnapshot || found {
			return
		}
		x, err := layout.DecodeSnapshot(v)
		ok(t, err)
		if x.Deleting || head[x.Tree.Addr] {
			return
		}
		found = true
		img := dev.Clone()
		flip(img, x.Tree.Addr)
		if x.Tree.Addr2 != 0 {
			flip(img, x.Tree.Addr2)
		}
		if got := findings(t, img); !strings.Contains(got, fmt.Sprintf("snapshot %q, tree 1", x.Name)) || strings.Contains(got, "nothing refers") {
			t.Errorf("page of a snapshot: %s", got)
		}
	})
	if !found {
		t.Error("no snapshot has a page of its own")
	}
}

// relabelOne gives a run another bound: sums and blocks are right, who holds it is not. Between
// bounds without a snapshot in between there is no difference.
func relabelOne(s *surgeon) {
	var sums []layout.Key
	var live []uint64
	s.items(layout.TreeSnapshots, func(k layout.Key, v []byte) {
		switch k.Type {
		case layout.KeyDeadSum:
			sums = append(sums, k)
		case layout.KeySnapshot:
			if x, err := layout.DecodeSnapshot(v); err == nil && !x.Deleting {
				live = append(live, k.Sub)
			}
		}
	})
	for i, b := range sums {
		for _, a := range sums[:i] {
			parted := slices.ContainsFunc(live, func(id uint64) bool { return a.Sub < id && id <= b.Sub })
			if a.Obj == b.Obj && parted && relabel(s, a, b) {
				return
			}
		}
	}
	s.t.Fatal("no run that can have another bound")
}

// relabel gives the first run of a list's item, of bound a, the bound b, and
// the sums what is then right. It returns false where that cannot be done.
func relabel(s *surgeon, a, b layout.Key) (done bool) {
	sums := map[layout.Key]*layout.DeadSum{}
	s.items(layout.TreeSnapshots, func(k layout.Key, v []byte) {
		if k == a || k == b {
			x, err := layout.DecodeDeadSum(v)
			ok(s.t, err)
			sums[k] = &x
		}
	})
	var item layout.Key
	var runs []layout.DeadRun
	s.items(layout.TreeSnapshots, func(k layout.Key, v []byte) {
		if k.Type != layout.KeyDeadItem || k.Obj != a.Obj || done {
			return
		}
		r, err := layout.DecodeDeadItem(v)
		ok(s.t, err)
		i := slices.IndexFunc(r, func(r layout.DeadRun) bool {
			return uint64(r.Bound) == a.Sub
		})
		if i < 0 {
			return
		}
		done, item, runs = true, k, r
		sums[a].Blocks -= uint64(r[i].Count)
		sums[b].Blocks += uint64(r[i].Count)
		r[i].Bound = uint32(b.Sub)
	})
	if !done {
		return false
	}
	of := sums[a].Append(nil)
	if sums[a].Blocks == 0 && sums[a].First == sums[a].Next {
		of = nil // no such sum
	}
	for k, v := range map[layout.Key][]byte{item: layout.AppendDeadItem(nil, runs), a: of, b: sums[b].Append(nil)} {
		s.item(layout.TreeSnapshots, func(at layout.Key, _ []byte) (layout.Key, []byte, bool) { return at, v, at == k })
	}
	return true
}

// TestSnapshotMutations changes random bytes of tree 3 under valid keys: all
// that is done with it then ends, with an error or without, and nothing panics.
func TestSnapshotMutations(t *testing.T) {
	dev := withSnapshots(t)
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	rng := rand.New(rand.NewPCG(6, 6))
	for range rounds {
		img := dev.Clone()
		s := operate(t, img)
		n := 0
		s.items(layout.TreeSnapshots, func(layout.Key, []byte) { n++ })
		target := rng.IntN(n)
		s.item(layout.TreeSnapshots, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
			if target--; target >= 0 {
				return k, v, false
			}
			v[rng.IntN(len(v))] ^= 1 << rng.IntN(8)
			return k, v, true
		})
		if _, err := check.Run(img, check.Options{Credential: checkKey(t)}); err != nil {
			t.Fatal(err)
		}
		v, err := Open(img, Options{Credential: checkKey(t), CommitInterval: -1, Memory: minMemory})
		if err != nil {
			continue
		}
		_ = v.Diff("s0", "s7", DiffOptions{Ranges: true}, func(Change) error { return nil })
		_ = v.Diff("s3", "", DiffOptions{}, func(Change) error { return nil })
		for _, name := range []string{"s0", "s3", "s7"} {
			_, _ = readSnap(v, name)
			_ = v.DeleteSnapshot(name)
		}
		_ = v.WaitFreed()
		_, _ = v.Snapshots()
		if v.Rollback("s6", true) != nil {
			_ = v.Close()
		}
	}
}
