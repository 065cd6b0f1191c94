package merkle

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// FuzzNode: what decodes as a node encodes to the same bytes.
func FuzzNode(f *testing.F) {
	nodes := &fakeNodes{}
	c, _, _ := smallMap(f, nodes)
	for _, b := range nodes.m {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := c.decodeNode(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		b := newBuilder(&c, n.level)
		for i := range n.count() {
			ended, err := b.add(n.key(i), n.payload(i))
			if err != nil || ended && i+1 < n.count() {
				t.Fatal(i, ended, err)
			}
		}
		if again, content := b.finish(); !bytes.Equal(again, raw) || content != n.content {
			t.Fatalf("%x is %x again", raw, again)
		}
	})
}

// FuzzMap: a map whose nodes were changed, and that has correct hashes again, gives an error or is
// the map that its items make.
func FuzzMap(f *testing.F) {
	for i := range uint64(200) {
		f.Add(i, uint8(i%5))
	}
	f.Fuzz(func(t *testing.T, seed uint64, edits uint8) { mutated(t, seed, int(edits%8)) })
}

func TestMutatedMaps(t *testing.T) {
	seed, accepted := rand.Uint64(), 0
	t.Logf("seed %d", seed)
	for i := range uint64(400) {
		if mutated(t, seed+i, int(i%4)) {
			accepted++
		}
	}
	t.Logf("%d accepted", accepted)
}

// mutated makes a map with that many random edits, and checks it. It returns whether it is valid.
func mutated(t *testing.T, seed uint64, edits int) bool {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 9))
	nodes := &fakeNodes{}
	c, root, _ := smallMap(t, nodes)
	f := take(t, c, root)
	for range edits {
		mutate(r, f)
	}
	forgedRoot := f.root(t, nodes)
	errs, most := useAll(t, c, nodes, forgedRoot, root)
	if most > 500 {
		t.Fatalf("seed %d: %d nodes read", seed, most)
	}
	if errs[0] != nil {
		return false
	}
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Fatalf("seed %d: use %d: %v", seed, i, errs[i])
	}
	// What all readers accept is what an honest writer makes of it.
	m := model{}
	for it, err := range Open(c, forgedRoot).Scan(t.Context(), logical.Key{}, LastKey) {
		if err != nil {
			t.Fatal(err)
		}
		m[it.Key] = string(it.Value[1+int(it.Value[0]):])
	}
	if want, _ := build(t, c, m); want.Content != forgedRoot.Content || want.Height != forgedRoot.Height {
		t.Fatalf("seed %d: accepted, but not what its items make: %s", seed, describe(c, forgedRoot))
	}
	return true
}

// mutate makes a random edit.
func mutate(r *rand.Rand, root *forged) {
	level := r.IntN(root.level + 1)
	list := root.nodes(level)
	if len(list) == 0 {
		return
	}
	f, other := list[r.IntN(len(list))], list[r.IntN(len(list))]
	if len(f.items) == 0 || len(other.items) == 0 {
		return
	}
	i, j := r.IntN(len(f.items)), r.IntN(len(other.items))
	switch r.IntN(12) {
	case 0:
		f.items = slices.Delete(f.items, i, i+1)
	case 1:
		f.items = slices.Insert(f.items, i, other.items[j])
	case 2:
		f.items[i], other.items[j] = other.items[j], f.items[i]
	case 3:
		f.items[i].key.Ino += r.Uint64N(3) - 1
	case 4:
		f.items[i].key.Sub = r.Uint64N(8)
	case 5, 6:
		if level == 0 {
			f.items[i].value = value(r.IntN(4), r, make([]byte, r.IntN(300)))
		} else {
			f.items[i].child = other.items[j].child
		}
	case 7: // the rest of a node goes to another one
		other.items = append(other.items, f.items[i:]...)
		f.items = f.items[:i]
	case 8:
		level := byte(r.IntN(5))
		f.raw = func(b []byte) []byte { b[2] = level; return b }
	case 9:
		flip := r.Uint64()
		f.raw = func(b []byte) []byte { b[flip%uint64(len(b))] ^= 1 << (flip >> 40 & 7); return b }
	case 10:
		f.lie = func(c *child) { c.content[r.IntN(32)] ^= 1 }
	case 11: // all of an item, the whole way down, as a key of the parent says
		if level > 0 && len(f.items[i].child.items) > 0 {
			f.items[i].key = f.items[i].child.items[0].key
		}
	}
}
