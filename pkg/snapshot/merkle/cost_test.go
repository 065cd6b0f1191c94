package merkle

import (
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// typical returns facts as those of a volume of small files: of 101 inodes, one is a directory of
// 100 names, and the others have inline content or data.
func typical(files int) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		r := rand.New(rand.NewPCG(1, 2))
		emit := func(k logical.Key, n int) bool {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return yield(Change{Key: k, Value: value(0, nil, b)}, nil)
		}
		for i := range uint64(files) {
			if !emit(logical.Key{Ino: i + 1, Type: 1}, 45) {
				return
			}
			switch {
			case i%101 == 0:
				subs := make([]uint64, 100)
				for j := range subs {
					subs[j] = r.Uint64() >> 1
				}
				slices.Sort(subs)
				for _, s := range subs {
					if !emit(logical.Key{Ino: i + 1, Type: 4, Sub: s}, 20) {
						return
					}
				}
			case i%3 == 0:
				if !emit(logical.Key{Ino: i + 1, Type: 2}, r.IntN(2048)) {
					return
				}
			default:
				if !emit(logical.Key{Ino: i + 1, Type: 5}, 45) {
					return
				}
			}
		}
	}
}

// weigh returns the weights of the nodes of a map, by level, without the last one of each level.
func weigh(t *testing.T, c Config, r Root) [][]int {
	t.Helper()
	out := make([][]int, r.Height+1)
	err := Open(c, r).Walk(t.Context(), nil, func(n *Node) error {
		w := 0
		for i := range n.Count() {
			w += innerWeight
			if n.Level == 0 {
				w += leafOverhead + len(n.n.payload(i)) - 1 - innerWeight
			}
		}
		out[n.Level] = append(out[n.Level], w)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for l := range out {
		out[l] = out[l][:len(out[l])-1]
	}
	return out
}

func TestSizes(t *testing.T) {
	c := testConfig(&fakeNodes{})
	r, s := update(t, c, Root{}, typical(100_000))
	weights := weigh(t, c, r)
	sum := 0
	for l, list := range weights {
		for _, w := range list {
			if w < cutMin || w > 256<<10 {
				t.Errorf("a node of level %d weighs %d", l, w)
			}
			if l == 0 {
				sum += w
			}
		}
	}
	average := sum / len(weights[0])
	t.Logf("height %d, %d leaves weigh %d on average, %d nodes of %d bytes", r.Height, len(weights[0])+1, average, s.Written, s.Bytes/int64(s.Written))
	if average < 52<<10 || average > 76<<10 || r.Height != 2 {
		t.Errorf("leaves weigh %d on average, the height is %d", average, r.Height)
	}
}

// TestCost: a change reads and writes the path to it, and sometimes a neighbor.
func TestCost(t *testing.T) {
	nodes := &fakeNodes{}
	c := testConfig(nodes)
	root, _ := update(t, c, Root{}, typical(100_000))
	path := int(root.Height) + 1
	r := rand.New(rand.NewPCG(3, 4))
	reads, writes, changes := 0, 0, 300
	for i := range changes {
		ch := Change{Key: logical.Key{Ino: 1 + r.Uint64N(100_000), Type: 1}, Value: value(0, nil, binary.LittleEndian.AppendUint64(make([]byte, 37), r.Uint64()))}
		switch i % 3 {
		case 1:
			ch.Key.Type, ch.Key.Sub = 3, r.Uint64() // new
		case 2:
			ch.Value = nil
		}
		_, s := update(t, c, root, seq([]Change{ch}))
		reads, writes = reads+s.Read, writes+s.Written
		if i%3 == 0 && (s.Read > path || s.Written > path) { // as long as before: no node ends elsewhere
			t.Fatalf("a change of a value read %d nodes, wrote %d", s.Read, s.Written)
		}
		if s.Read > path+6 || s.Written > path+6 {
			t.Fatalf("change %d read %d nodes, wrote %d", i, s.Read, s.Written)
		}
	}
	t.Logf("%d changes, each alone: %d nodes read, %d written; the path has %d", changes, reads, writes, path)
	if reads > changes*(path+1) || writes > changes*(path+1) {
		t.Errorf("%d changes read %d nodes and wrote %d", changes, reads, writes)
	}
}

// TestDeletionCost: what is deleted is not read.
func TestDeletionCost(t *testing.T) {
	c := testConfig(&fakeNodes{})
	root, _ := update(t, c, Root{}, typical(100_000))
	path := int(root.Height) + 1
	// All items of one leaf, deleted: the next one goes on as it was.
	var leaf []Change
	err := Open(c, root).Walk(t.Context(), nil, func(n *Node) error {
		for it := range n.Items() {
			if n.First.Ino > 30_000 && (len(leaf) == 0 || leaf[0].Key == n.First) {
				leaf = append(leaf, Change{Key: it.Key})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, s := update(t, c, root, seq(leaf)); s.Read > path || s.Written > path-1 {
		t.Errorf("deleting all items of a leaf: %+v", s)
	}
	// A whole large directory, deleted: its leaves are not read.
	big, _ := update(t, c, root, func(yield func(Change, error) bool) {
		for i := range uint64(200_000) {
			if !yield(Change{Key: logical.Key{Ino: 50_000, Type: 4, Sub: i << 30}, Value: value(0, nil, []byte("name"))}, nil) {
				return
			}
		}
	})
	again, s := update(t, c, big, func(yield func(Change, error) bool) {
		k := logical.Key{Ino: 50_000, Type: 1}
		v, _, err := Open(c, root).Get(t.Context(), k)
		if err == nil && yield(Change{Key: k, Inode: true, Value: v}, nil) {
			yield(Change{Key: logical.Key{Ino: 50_000, Type: 5}, Value: nil}, nil)
		}
	})
	t.Logf("a directory of 200,000 names, deleted: %+v", s)
	if s.Read > 3*path || s.Written > 3*path {
		t.Errorf("deleting a large directory: %+v", s)
	}
	n := 0
	for _, err := range Diff(t.Context(), Open(c, again), Open(c, root)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n > 2 {
		t.Errorf("%d differences", n)
	}
}

// TestUntouched: changes that are none write nothing, and an update without changes reads nothing.
func TestUntouched(t *testing.T) {
	nodes := &fakeNodes{}
	c := testConfig(nodes)
	root, _ := update(t, c, Root{}, typical(20_000))
	for name, changes := range map[string]iter.Seq2[Change, error]{
		"none": seq(nil), "all": typical(20_000),
		"absent": seq([]Change{{Key: logical.Key{}}, {Key: logical.Key{Ino: 9, Type: 3}}, {Key: LastKey}}),
		"inodes": seq([]Change{{Key: logical.Key{}, Inode: true}, {Key: logical.Key{Ino: 1 << 40}, Inode: true}, {Key: LastKey, Inode: true}}),
	} {
		puts := nodes.puts
		again, s := update(t, c, root, changes)
		if again != root || s.Written != 0 || nodes.puts != puts {
			t.Errorf("%s: %+v", name, s)
		}
		if name == "none" && s.Read != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	// The same by deletion of every inode first.
	var all []Change
	last := uint64(0)
	for ch, err := range typical(20_000) {
		if err != nil {
			t.Fatal(err)
		}
		ch.Inode = ch.Key.Ino != last
		last = ch.Key.Ino
		all = append(all, ch)
	}
	if again, s := update(t, c, root, seq(all)); again != root || s.Written != 0 {
		t.Errorf("all inodes anew: %+v", s)
	}
	if again, s := update(t, c, Root{}, seq(all)); again != root {
		t.Errorf("from nothing: %+v", s)
	}
}

// TestDiffCost: Diff reads what differs, also where nodes begin and end at other keys.
func TestDiffCost(t *testing.T) {
	c := testConfig(&fakeNodes{})
	root, _ := update(t, c, Root{}, typical(100_000))
	var many []Change
	for i := range uint64(400) {
		many = append(many, Change{Key: logical.Key{Ino: 60_000, Type: 4, Sub: i + 1}, Value: value(0, nil, make([]byte, 300))})
	}
	changed, s := update(t, c, root, seq(many))
	a, b, n := Open(c, root), Open(c, changed), 0
	for d, err := range Diff(t.Context(), a, b) {
		if err != nil || d.Key != many[n].Key || d.Old != nil {
			t.Fatal(d, err)
		}
		n++
	}
	t.Logf("update %+v, diff read %d and %d nodes", s, a.Reads(), b.Reads())
	if n != len(many) || int(a.Reads()) > s.Read+2 || int(b.Reads()) > s.Written+s.Kept+2 {
		t.Errorf("%d differences", n)
	}
}
