package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// forged is a node as a hostile holder of the key makes it: with correct hashes, but otherwise
// whatever it likes.
type forged struct {
	level int
	items []forgedItem
	raw   func([]byte) []byte // changes the encoding at last; nil: as it is
	lie   func(*child)        // changes what the parent says of it
}

type forgedItem struct {
	key   logical.Key
	value []byte  // of a leaf
	child *forged // of an inner node
}

// take reads a valid map to forge another one from.
func take(t testing.TB, c Config, r Root) *forged {
	t.Helper()
	m := Open(c, r)
	var read func(x expected) *forged
	read = func(x expected) *forged {
		n, err := m.load(t.Context(), &x)
		if err != nil {
			t.Fatal(err)
		}
		f := &forged{level: n.level}
		for i := range n.count() {
			it := forgedItem{key: n.key(i), value: n.payload(i)}
			if n.level > 0 {
				below, err := x.below(n, i)
				if err != nil {
					t.Fatal(err)
				}
				it.value, it.child = nil, read(below)
			}
			f.items = append(f.items, it)
		}
		return f
	}
	return read(m.expectRoot())
}

// put stores a forged node and all below it.
func (f *forged) put(t testing.TB, nodes *fakeNodes) child {
	t.Helper()
	raw := []byte{nodeKind, nodeVersion, byte(f.level), 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(raw[4:], uint32(len(f.items)))
	form, before := appendContentHeader(nil, f.level, len(f.items)), logical.Key{}
	for _, it := range f.items {
		raw = appendNodeKey(raw, before, it.key)
		form = appendKey(form, it.key)
		before = it.key
		if it.child != nil {
			c := it.child.put(t, nodes)
			raw = appendChild(raw, &c)
			form = append(form, c.content[:]...)
			continue
		}
		raw = append(binary.AppendUvarint(raw, uint64(len(it.value))), it.value...)
		content := []byte("invalid")
		if b, err := testContent(nil, it.key, it.value); err == nil {
			content = b
		}
		form = append(binary.LittleEndian.AppendUint32(form, uint32(len(content))), content...)
	}
	if f.raw != nil {
		raw = f.raw(raw)
	}
	ref, err := nodes.Put(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	c := child{sha256.Sum256(form), ref}
	if f.lie != nil {
		f.lie(&c)
	}
	return c
}

// root stores a forged map.
func (f *forged) root(t testing.TB, nodes *fakeNodes) Root {
	c := f.put(t, nodes)
	return Root{Ref: c.ref, Height: uint8(f.level), Content: c.content}
}

// nodes returns all nodes of a level.
func (f *forged) nodes(level int) []*forged {
	if f.level == level {
		return []*forged{f}
	}
	var out []*forged
	for _, it := range f.items {
		if it.child != nil {
			out = append(out, it.child.nodes(level)...)
		}
	}
	return out
}

// smallMap returns a map of height 3.
func smallMap(t testing.TB, nodes *fakeNodes) (Config, Root, model) {
	t.Helper()
	c, m, r := smallConfig(nodes), model{}, rand.New(rand.NewPCG(7, 8))
	for i := range uint64(150) {
		m[logical.Key{Ino: i/4 + 1, Type: logical.Type(i%4 + 1), Sub: i % 4}] = fmt.Sprintf("%0*d", r.IntN(60), i)
	}
	root, _ := build(t, c, m)
	if root.Height != 3 {
		t.Fatal(root.Height)
	}
	return c, root, m
}

// useAll reads and updates a map in every way. It returns the errors, and how many nodes were read
// by each at most.
func useAll(t testing.TB, c Config, nodes *fakeNodes, root, other Root) (errs []error, most int) {
	t.Helper()
	note := func(what string, err error) {
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, errNoNode) {
			t.Fatalf("%s: another error: %v", what, err)
		}
		errs = append(errs, err)
		most, nodes.gets = max(most, nodes.gets), 0
	}
	nodes.gets = 0
	last := logical.Key{}
	scan := func() error {
		for it, err := range Open(c, root).Scan(t.Context(), logical.Key{}, LastKey) {
			if err != nil {
				return err
			}
			if it.Key.Compare(last) < 0 {
				t.Fatal("keys descend")
			}
			last = it.Key
		}
		return nil
	}
	note("scan", scan())
	note("walk", Open(c, root).Walk(t.Context(), nil, func(*Node) error { return nil }))
	for _, pair := range [][2]Root{{root, other}, {other, root}, {{}, root}, {root, {}}} {
		err := error(nil)
		for _, err = range Diff(t.Context(), Open(c, pair[0]), Open(c, pair[1])) {
			if err != nil {
				break
			}
		}
		note("diff", err)
	}
	for ino := range uint64(75) {
		_, _, err := Open(c, root).Get(t.Context(), logical.Key{Ino: ino, Type: 1})
		note("get", err)
	}
	for _, changes := range [][]Change{
		{{Key: logical.Key{Ino: 1}, Value: []byte{0}}}, {{Key: logical.Key{Ino: 50}, Inode: true}}, {{Key: LastKey, Value: []byte{0}}},
		{{Key: logical.Key{Ino: 2}, Inode: true}, {Key: logical.Key{Ino: 40, Type: 1}, Value: []byte{0}}, {Key: logical.Key{Ino: 70}, Inode: true}, {Key: logical.Key{Ino: 70}, Value: []byte{0}}},
	} {
		_, _, err := Update(t.Context(), c, root, seq(changes))
		note("update", err)
	}
	return errs, most
}

// TestHostile: maps with correct hashes that are no maps.
func TestHostile(t *testing.T) {
	first := func(level int) func(*forged) *forged {
		return func(f *forged) *forged { return f.nodes(level)[0] }
	}
	pick := func(level int) func(*forged) *forged {
		return func(f *forged) *forged { l := f.nodes(level); return l[len(l)/2] }
	}
	_, honest, _ := smallMap(t, &fakeNodes{})
	for name, c := range map[string]struct {
		where func(*forged) *forged
		edit  func(f, root *forged)
	}{
		"a content hash that is not the node's": {pick(0), func(f, _ *forged) { f.lie = func(c *child) { c.content[0]++ } }},
		"of the root":                           {pick(3), func(f, _ *forged) { f.lie = func(c *child) { c.content[0]++ } }},
		"a reference to no node":                {pick(1), func(f, _ *forged) { f.lie = func(c *child) { c.ref.Kind = crypto.ChunkData } }},
		"a hole":                                {pick(0), func(f, _ *forged) { f.lie = func(c *child) { c.ref = selfenc.PackedRef{} } }},
		"a chunk that is too long":              {pick(0), func(f, _ *forged) { f.lie = func(c *child) { c.ref.Length, c.ref.Stored = 4<<20, 4<<20+16 } }},
		"another version":                       {pick(0), func(f, _ *forged) { f.raw = func(b []byte) []byte { b[1]++; return b } }},
		"bytes at the end":                      {pick(1), func(f, _ *forged) { f.raw = func(b []byte) []byte { return append(b, 0) } }},
		"a count that is too large":             {pick(0), func(f, _ *forged) { f.raw = func(b []byte) []byte { b[7] = 0xff; return b } }},
		"no items":                              {pick(0), func(f, _ *forged) { f.items = nil }},
		"a key twice":                           {pick(0), func(f, _ *forged) { f.items = append(f.items, f.items[len(f.items)-1]) }},
		"keys that descend":                     {pick(0), func(f, _ *forged) { slices.Reverse(f.items) }},
		"children that descend":                 {pick(3), func(f, _ *forged) { slices.Reverse(f.items) }},
		"a key beyond the next node":            {pick(0), func(f, _ *forged) { f.items[len(f.items)-1].key.Ino = 1 << 50 }},
		"a key before the node":                 {pick(0), func(f, _ *forged) { f.items[0].key = logical.Key{} }},
		"an invalid value":                      {pick(0), func(f, _ *forged) { f.items[0].value = []byte{9} }},
		"a value that is too long": {pick(0), func(f, _ *forged) {
			f.items[0].value = append([]byte{0}, make([]byte, maxContent+1)...)
		}},
		"a node that ends too early": {pick(0), func(f, _ *forged) { f.items = f.items[:len(f.items)-1] }},
		"a node that should have ended": {pick(1), func(f, root *forged) {
			leaf := f.items[0].child
			last := leaf.items[len(leaf.items)-1].key
			leaf.items = append(leaf.items, forgedItem{key: logical.Key{Ino: last.Ino, Type: last.Type, Sub: last.Sub + 1}, value: []byte{0}})
		}},
		"a wrong level":                {pick(0), func(f, _ *forged) { f.raw = func(b []byte) []byte { b[2] = 1; return b } }},
		"a level that is none":         {pick(0), func(f, _ *forged) { f.raw = func(b []byte) []byte { b[2] = 200; return b } }},
		"a leaf as a child of level 2": {pick(2), func(f, _ *forged) { f.items[0].child = f.items[0].child.items[0].child }},
		"the same child twice":         {pick(3), func(f, _ *forged) { f.items[1].child = f.items[0].child }},
		"the root below itself": {first(0), func(f, _ *forged) {
			f.lie = func(c *child) { c.content, c.ref = honest.Content, honest.Ref }
		}},
		"a root with one child": {pick(3), func(f, _ *forged) { f.items = f.items[:1] }},
	} {
		nodes := &fakeNodes{}
		config, root, _ := smallMap(t, nodes)
		f := take(t, config, root)
		if again := f.root(t, nodes); again.Content != root.Content {
			t.Fatal("a map that is not forged has another content hash")
		}
		c.edit(c.where(f), f)
		errs, most := useAll(t, config, nodes, f.root(t, nodes), root)
		bad := 0
		for _, err := range errs {
			if err != nil {
				bad++
			}
		}
		// Scan, Walk, and all differences with nothing read everything.
		if errs[0] == nil || errs[1] == nil || errs[4] == nil || errs[5] == nil {
			t.Errorf("%s: accepted", name)
		}
		if most > 300 {
			t.Errorf("%s: %d nodes read", name, most)
		}
		t.Logf("%s: %d of %d uses failed: %v", name, bad, len(errs), errs[0])
	}
	// A root that is higher than it says, or lower.
	nodes := &fakeNodes{}
	config, root, _ := smallMap(t, nodes)
	for _, height := range []uint8{0, 2, 4, 8, 9, 255} {
		bad := root
		bad.Height = height
		if errs, _ := useAll(t, config, nodes, bad, root); errs[0] == nil {
			t.Errorf("height %d: accepted", height)
		}
	}
	// Maps that were cut by another key are no maps of this one.
	other := config
	other.Cut[0]++
	if errs, _ := useAll(t, other, nodes, root, Root{}); errs[0] == nil {
		t.Error("another key of the cutting hash: accepted")
	}
}
