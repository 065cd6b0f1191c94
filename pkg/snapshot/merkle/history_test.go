package merkle

import (
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

var (
	histories   = flag.Int("merkle.histories", 2000, "random histories that TestHistories checks")
	historySeed = flag.Uint64("merkle.seed", 0, "the seed of the first one; 0: a random one")
)

// drawChanges returns a random sorted batch.
func drawChanges(r *rand.Rand, m model, inodes int) []Change {
	subs := uint64(max(4, 100/inodes))
	var list []Change
	existing := m.sorted()
	value := func() []byte {
		n := r.IntN(120)
		if r.IntN(40) == 0 {
			n = r.IntN(2500)
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return value(r.IntN(8), r, b)
	}
	used := map[logical.Key]bool{}
	add := func(c Change) {
		if !used[c.Key] {
			used[c.Key] = true
			list = append(list, c)
		}
	}
	key := func() logical.Key {
		return logical.Key{Ino: 1 + r.Uint64N(uint64(inodes)), Type: logical.Type(1 + r.IntN(5)), Sub: r.Uint64N(subs)}
	}
	for range r.IntN([]int{2, 12, 80, 400}[r.IntN(4)]) {
		switch x := r.IntN(10); {
		case x < 5:
			add(Change{Key: key(), Value: value()})
		case x < 7 && len(existing) > 0:
			add(Change{Key: existing[r.IntN(len(existing))]})
		case x < 8 && len(existing) > 0: // what is there, at another place
			k := existing[r.IntN(len(existing))]
			add(Change{Key: k, Value: append(append([]byte{3}, "abc"...), m[k]...)})
		case x < 9: // an inode is removed, with new facts or not
			k := logical.Key{Ino: 1 + r.Uint64N(uint64(inodes))}
			if !used[k] {
				list = slices.DeleteFunc(list, func(c Change) bool { return c.Key.Ino == k.Ino })
				maps.DeleteFunc(used, func(u logical.Key, _ bool) bool { return u.Ino == k.Ino })
				list = append(list, Change{Key: k, Inode: true})
				used[k] = true
				// Facts of it stay as they were: none, some, a range, all; others are new.
				keep := r.IntN(4)
				at := logical.Key{Ino: k.Ino, Type: logical.Type(r.IntN(6)), Sub: r.Uint64N(subs)}
				for _, e := range existing {
					if e.Ino == k.Ino && (keep == 3 || keep == 2 && at.Compare(e) <= 0 || keep == 1 && r.IntN(4) > 0) {
						add(Change{Key: e, Value: append([]byte{0}, m[e]...)})
					}
				}
				for range r.IntN(4) * r.IntN(4) {
					add(Change{Key: logical.Key{Ino: k.Ino, Type: at.Type, Sub: r.Uint64N(subs)}, Value: value()})
				}
			}
		default:
			add(Change{Key: key()})
		}
	}
	if len(existing) > 0 && r.IntN(6) == 0 { // a range of many
		i := r.IntN(len(existing))
		j := i + r.IntN(len(existing)-i)
		for _, k := range existing[i:j] {
			add(Change{Key: k})
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return a.Key.Compare(b.Key) })
	return list
}

func TestHistories(t *testing.T) {
	seed, n := *historySeed, *histories
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	if testing.Short() {
		n /= 8
	}
	for i := range n {
		history(t, seed+uint64(i))
		if t.Failed() {
			t.Fatalf("history of seed %d", seed+uint64(i))
		}
	}
}

// history applies random changes, and compares with a map that was built from nothing.
func history(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	nodes := &fakeNodes{}
	if r.IntN(2) == 0 {
		nodes.places = r
	}
	c, m, root := smallConfig(nodes), model{}, Root{}
	c.Parallel = r.IntN(3)
	inodes := []int{3, 20, 100}[r.IntN(3)]
	for range 1 + r.IntN(6) {
		before, old := maps.Clone(m), root
		changes := drawChanges(r, m, inodes)
		m.apply(changes)
		root, _ = update(t, c, old, seq(changes))
		want, _ := build(t, smallConfig(&fakeNodes{}), m)
		if root.Content != want.Content || root.Height != want.Height {
			t.Fatalf("the update made %sinstead of height %d, %x", describe(c, root), want.Height, want.Content[:4])
		}
		checkMap(t, c, root, m)
		checkDiff(t, Open(c, old), Open(c, root), before, m)
		checkGet(t, r, Open(c, root), m)
	}
	// The same, as one difference, must be no change at all.
	again, s := update(t, c, root, m.changes())
	if again != root || s.Written != 0 {
		t.Fatalf("an update by what is there wrote %d nodes", s.Written)
	}
}

// checkDiff compares Diff with that of the models.
func checkDiff(t *testing.T, a, b *Map, ma, mb model) {
	t.Helper()
	want := map[logical.Key]bool{}
	for k, v := range ma {
		if w, ok := mb[k]; !ok || v != w {
			want[k] = true
		}
	}
	for k := range mb {
		if _, ok := ma[k]; !ok {
			want[k] = true
		}
	}
	sorted := slices.SortedFunc(maps.Keys(want), logical.Key.Compare)
	for d, err := range Diff(t.Context(), a, b) {
		if err != nil {
			t.Fatal(err)
		}
		if len(sorted) == 0 || d.Key != sorted[0] {
			t.Fatalf("difference at %v", d.Key)
		}
		sorted = sorted[1:]
		for _, x := range []struct {
			m model
			v []byte
		}{{ma, d.Old}, {mb, d.New}} {
			if v, ok := x.m[d.Key]; ok != (x.v != nil) || ok && v != string(x.v[1+int(x.v[0]):]) {
				t.Fatalf("another value of %v", d.Key)
			}
		}
	}
	if len(sorted) != 0 {
		t.Fatalf("no difference at %v", sorted[0])
	}
	// Reading ahead reads the same nodes.
	reads := func(parallel int) int64 {
		a, b := Open(a.config, a.root), Open(b.config, b.root)
		a.config.Parallel = parallel
		for _, err := range Diff(t.Context(), a, b) {
			if err != nil {
				t.Fatal(err)
			}
		}
		return a.Reads() + b.Reads()
	}
	if n, ahead := reads(0), reads(2); n != ahead {
		t.Fatalf("a difference reads %d nodes, and %d if it reads ahead", n, ahead)
	}
}

// checkGet compares Get, Floor and Scan of ranges with the model.
func checkGet(t *testing.T, r *rand.Rand, m *Map, want model) {
	t.Helper()
	keys := want.sorted()
	for range 10 {
		k := logical.Key{Ino: r.Uint64N(102), Type: logical.Type(r.IntN(7)), Sub: r.Uint64N(5)}
		if len(keys) > 0 && r.IntN(2) == 0 {
			k = keys[r.IntN(len(keys))]
		}
		v, ok, err := m.Get(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		if w, there := want[k]; there != ok || ok && w != string(v[1+int(v[0]):]) {
			t.Fatalf("get %v: %x, %v", k, v, ok)
		}
		i, exact := slices.BinarySearchFunc(keys, k, logical.Key.Compare)
		if exact {
			i++
		}
		it, ok, err := m.Floor(t.Context(), k)
		if err != nil || ok != (i > 0) || ok && it.Key != keys[i-1] {
			t.Fatalf("floor of %v: %v, %v, %v", k, it.Key, ok, err)
		}
		from, _ := slices.BinarySearchFunc(keys, k, logical.Key.Compare)
		to := from + r.IntN(len(keys)-from+1)
		last := LastKey
		if to < len(keys) {
			last = keys[to]
			to++
		}
		i = from
		for it, err := range m.Scan(t.Context(), k, last) {
			if err != nil || i == to || it.Key != keys[i] {
				t.Fatalf("scan from %v: %v, %v", k, it.Key, err)
			}
			if i++; r.IntN(50) == 0 {
				i = to // stop early
				break
			}
		}
		if i != to {
			t.Fatalf("scan from %v to %v: %d items too few", k, last, to-i)
		}
	}
}
