package selfenc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// testRef returns a valid reference, which names no chunk.
func testRef(k crypto.ChunkKind, length int64, n byte) PackedRef {
	r := PackedRef{Stored: uint32(length) + packedTagBytes, Pack: uint32(n), Offset: PackHeaderBytes, Slot: uint16(n)}
	r.Suite, r.Kind, r.Length, r.D = 1, k, uint32(length), [32]byte{n}
	r.P = r.D
	if n%2 == 1 && length > 1 {
		r.Comp, r.Stored, r.P = compZstd, packedTagBytes+1, [32]byte{n, n}
	}
	return r
}

// testNode returns a node of a shape. Every third child is a hole.
func testNode(s packedShape) []packedChild {
	children := make([]packedChild, s.count())
	for i := range children {
		below := s.at(s.level-1, int64(i))
		switch {
		case i%3 == 2:
		case below.level == 0:
			children[i].ref = testRef(crypto.ChunkData, below.span, byte(i))
		default:
			each := int64(PackedRefBytes)
			if below.level > 1 {
				each += contentBytes
			}
			children[i] = packedChild{[contentBytes]byte{1, byte(i)}, testRef(crypto.ChunkMap, nodeHeaderBytes+int64(below.count())*each, byte(i))}
		}
	}
	return children
}

func testShapes() []packedShape {
	return []packedShape{
		{1, 14, PackedMinChunk + 1}, {1, 16, 256 * PackedChunkBytes}, {1, 22, 3*V2MaxChunk - 5},
		{2, 14, 257 * PackedMinChunk}, {3, 14, 65537 * PackedMinChunk}, {2, 16, 1 << 32}, {2, 16, 1<<32 - 1}, {3, 16, 1<<32 + 1}, {6, 16, math.MaxInt64}, {7, 14, math.MaxInt64}, {6, 22, math.MaxInt64},
	}
}

func TestPackedShape(t *testing.T) {
	for _, s := range testShapes() {
		o := PackedObject{Bytes: s.span, ChunkBytes: 1 << s.shift}
		if o.shape() != s || o.Levels() != s.level {
			t.Errorf("%+v instead of %+v", o.shape(), s)
		}
		total := int64(0)
		for k := range s.count() {
			below := s.at(s.level-1, int64(k))
			if below.span <= 0 || k < s.count()-1 && below.span != 1<<(int(s.shift)+(s.level-1)*nodeFanoutShift) {
				t.Errorf("%+v: child %d has %d bytes", s, k, below.span)
			}
			total += below.span
		}
		if total != s.span || s.count() < 2 || s.count() > nodeFanout {
			t.Errorf("%+v: %d children have %d bytes", s, s.count(), total)
		}
	}
}

func TestPackedNode(t *testing.T) {
	for _, s := range testShapes() {
		children := testNode(s)
		b := appendPackedNode(nil, s, children)
		got, err := decodePackedNode(b, s)
		if err != nil || !bytes.Equal(appendPackedNode(nil, s, got), b) || len(b) > maxPackedNodeBytes {
			t.Fatalf("%+v: %v", s, err)
		}
		c := packedContent(nil, s, children)
		if packedContent(make([]byte, 3), s, got) != c {
			t.Errorf("%+v: the content hash differs", s)
		}
		for i := range children { // places do not count, everything else does
			e := &got[i]
			if e.ref.Kind == 0 {
				continue
			}
			was := *e
			e.ref.Pack, e.ref.Offset, e.ref.Slot = 9, 999, 9
			e.ref.Comp, e.ref.Stored, e.ref.P, e.ref.Suite = 0, 7, [32]byte{7}, 2
			if packedContent(nil, s, got) != c {
				t.Errorf("%+v: the place of child %d changes the content hash", s, i)
			}
			*e = was
			if s.level == 1 {
				e.ref.D[31]++
			} else {
				e.c[31]++
			}
			if packedContent(nil, s, got) == c {
				t.Errorf("%+v: child %d is not in the content hash", s, i)
			}
			*e = was
		}
		for n := range len(b) {
			if len(b) > 5000 && n%97 != 0 {
				continue
			}
			if _, err := decodePackedNode(b[:n], s); !errors.Is(err, ErrMap) {
				t.Fatalf("%+v: cut to %d bytes: %v", s, n, err)
			}
		}
		other := s
		other.span--
		for name, bad := range map[string][]byte{
			"longer": append(bytes.Clone(b), 0), "holes": appendPackedNode(nil, s, make([]packedChild, len(children))),
			"one more": appendPackedNode(nil, s, append(append([]packedChild(nil), children...), packedChild{})), "one less": appendPackedNode(nil, s, children[:len(children)-1]),
			"version": edited(b, 1, 1), "level": edited(b, 2, byte(s.level+1)), "chunk size": edited(b, 3, s.shift+1), "count": edited(b, 7, 1), "record": edited(b, 0, mapRecord),
		} {
			if _, err := decodePackedNode(bad, s); !errors.Is(err, ErrMap) {
				t.Errorf("%+v: %s: %v", s, name, err)
			}
		}
	}
}

func edited(b []byte, at int, v byte) []byte {
	b = bytes.Clone(b)
	b[at] = v
	return b
}

// TestPackedNodeChildren checks what a node must not have.
func TestPackedNodeChildren(t *testing.T) {
	leaf, inner := packedShape{1, 16, 3*PackedChunkBytes - 5}, packedShape{2, 16, 300 * PackedChunkBytes}
	for name, c := range map[string]struct {
		s    packedShape
		edit func(c []packedChild)
	}{
		"length":           {leaf, func(c []packedChild) { c[0].ref = testRef(crypto.ChunkData, PackedChunkBytes-1, 0) }},
		"last length":      {leaf, func(c []packedChild) { c[2].ref = testRef(crypto.ChunkData, PackedChunkBytes, 0) }},
		"tree":             {leaf, func(c []packedChild) { c[0].ref.Kind = crypto.ChunkTree }},
		"map below a leaf": {leaf, func(c []packedChild) { c[0].ref.Kind = crypto.ChunkMap }},
		"compression":      {leaf, func(c []packedChild) { c[0].ref.Comp, c[0].ref.Stored = 2, 20 }},
		"data":             {inner, func(c []packedChild) { c[0].ref.Kind = crypto.ChunkData }},
		"no content hash":  {inner, func(c []packedChild) { c[0].c = [contentBytes]byte{} }},
		"hash of a hole":   {inner, func(c []packedChild) { c[0].ref = PackedRef{} }},
		"short node":       {inner, func(c []packedChild) { c[0].ref = testRef(crypto.ChunkMap, nodeHeaderBytes+256*PackedRefBytes-1, 0) }},
		"long node":        {inner, func(c []packedChild) { c[1].ref = testRef(crypto.ChunkMap, nodeHeaderBytes+44*MaxPackedRefBytes+1, 0) }},
	} {
		children := testNode(c.s)
		if len(children) == 2 && children[1].ref.Kind == 0 {
			t.Fatal("no child")
		}
		c.edit(children)
		if _, err := decodePackedNode(appendPackedNode(nil, c.s, children), c.s); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPackedNode(f *testing.F) {
	for _, s := range testShapes() {
		if s.count() < 8 { // the fuzzer is slow with large inputs
			f.Add(appendPackedNode(nil, s, testNode(s)), s.shift, s.span)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, shift byte, span int64) {
		shift = 14 + shift%9
		o := PackedObject{Bytes: span, ChunkBytes: 1 << shift}
		if span <= 0 || o.Levels() == 0 {
			return
		}
		s := o.shape()
		children, err := decodePackedNode(b, s)
		if err != nil {
			return
		}
		if !bytes.Equal(appendPackedNode(nil, s, children), b) {
			t.Errorf("%+v: %x does not encode to itself", s, b)
		}
		_ = packedContent(nil, s, children)
	})
}

func testObjects() []PackedObject {
	empty := PackedObject{ChunkBytes: PackedChunkBytes}
	one := PackedObject{Bytes: 13, ChunkBytes: PackedChunkBytes, Root: testRef(crypto.ChunkData, 13, 2)}
	hole := PackedObject{Bytes: 13, ChunkBytes: V2MaxChunk}
	tree := PackedObject{Bytes: PackedMinChunk + 1, ChunkBytes: PackedMinChunk, Content: [32]byte{5}, Root: testRef(crypto.ChunkMap, nodeHeaderBytes+2*PackedRefBytes, 3)}
	sparse := PackedObject{Bytes: math.MaxInt64, ChunkBytes: PackedMinChunk}
	return []PackedObject{empty, one, hole, tree, sparse}
}

func TestPackedObject(t *testing.T) {
	seen := map[string]bool{}
	for i, o := range testObjects() {
		b := AppendPackedObject(nil, &o)
		got, n, err := DecodePackedObject(append(bytes.Clone(b), "behind"...))
		if err != nil || got != o || n != len(b) {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
		for n := range b {
			if _, _, err := DecodePackedObject(b[:n]); !errors.Is(err, ErrMap) {
				t.Errorf("%d: cut to %d bytes: %v", i, n, err)
			}
		}
		content := AppendPackedContent(nil, &o)
		if len(content) != 41 || seen[string(content)] {
			t.Errorf("%d: placeless form %x", i, content)
		}
		seen[string(content)] = true
		for k, other := range testObjects() {
			if SamePackedContent(&o, &other) != (i == k) {
				t.Errorf("%d and %d", i, k)
			}
		}
	}
	for name, edit := range map[string]func(o *PackedObject){
		"small chunks": func(o *PackedObject) { o.ChunkBytes = 8 << 10 }, "large chunks": func(o *PackedObject) { o.ChunkBytes = 8 << 20 },
		"size": func(o *PackedObject) { o.Bytes = -1 }, "empty": func(o *PackedObject) { o.Bytes = 0 }, "one chunk": func(o *PackedObject) { o.Bytes = 5 },
		"no hash": func(o *PackedObject) { o.Content = [32]byte{} }, "no node": func(o *PackedObject) { o.Root = PackedRef{} },
		"data": func(o *PackedObject) { o.Root.Kind = crypto.ChunkData }, "longer": func(o *PackedObject) { o.Bytes *= 200 },
		"slot": func(o *PackedObject) { o.Root.Slot = MaxPackSlots },
	} {
		o := testObjects()[3]
		edit(&o)
		if err := o.Validate(); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := DecodePackedObject(AppendPackedObject(nil, &o)); !errors.Is(err, ErrMap) && name != "one chunk" && name != "empty" {
			t.Errorf("%s decodes: %v", name, err)
		}
	}
}

func FuzzPackedObject(f *testing.F) {
	for _, o := range testObjects() {
		f.Add(AppendPackedObject(nil, &o))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, n, err := DecodePackedObject(b)
		if err == nil && !bytes.Equal(AppendPackedObject(nil, &o), b[:n]) {
			t.Errorf("%x decodes to %+v", b, o)
		}
	})
}

// hostile seals a node of bytes that a writer with the keys has made up.
func hostile(t *testing.T, packs *fakePacks, plain []byte) PackedRef {
	t.Helper()
	r, object, err := packs.keys.SealPacked(1, crypto.ChunkMap, compNone, plain, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := packs.Add(t.Context(), &r, object)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// walkAndOpen walks an object and opens its chunks.
func walkAndOpen(t *testing.T, s *PackedSealer, o *PackedObject) error {
	return s.Walk(t.Context(), o, func(_ int, _ int64, r *PackedRef) error {
		if r.Kind == crypto.ChunkData {
			_, err := s.Open(t.Context(), r, nil)
			return err
		}
		return nil
	})
}

// TestPackedHostile reads objects whose map lies, although its keys are right.
func TestPackedHostile(t *testing.T) {
	packs := newFakePacks(t)
	f := newSparseFile(0)
	f.write(randomBytes(seeded(t), 300*PackedMinChunk), 0)
	good, _ := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), nil, f, AllDirty(f.size))
	tree := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}).tree(&good)
	root, err := tree.node(t.Context(), 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	shape := good.shape()
	leaf, err := tree.node(t.Context(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	lower := shape.at(1, 1)
	with := func(edit func(c []packedChild)) PackedObject {
		c := append([]packedChild(nil), root.children...)
		edit(c)
		o := good
		o.Content, o.Root = packedContent(nil, shape, c), hostile(t, packs, appendPackedNode(nil, shape, c))
		return o
	}
	node := func(plain []byte, content [32]byte) PackedObject {
		return with(func(c []packedChild) { c[1] = packedChild{content, hostile(t, packs, plain)} })
	}
	edit := func(c []packedChild, edit func(c []packedChild)) []packedChild {
		c = append([]packedChild(nil), c...)
		edit(c)
		return c
	}
	plain := appendPackedNode(nil, lower, leaf.children)
	swapped := edit(leaf.children, func(c []packedChild) {
		c[0].ref.D = [32]byte{1}
		c[0].ref.P = [32]byte{1}
		c[0].ref.Comp = 0
		c[0].ref.Stored = c[0].ref.Length + 16
	})
	for name, o := range map[string]PackedObject{
		"content hash of the root": func() PackedObject { o := good; o.Content[0]++; return o }(),
		"content hash of a node":   node(plain, [32]byte{1}),
		"the first node twice":     with(func(c []packedChild) { c[1] = c[0] }),
		"no node":                  with(func(c []packedChild) { c[1].ref = testRef(crypto.ChunkMap, int64(len(plain)), 2) }),
		"another chunk":            node(appendPackedNode(nil, lower, swapped), packedContent(nil, lower, swapped)),
		"random bytes":             node(randomBytes(seeded(t), len(plain)), [32]byte{1}),
		"a cut node":               node(plain[:len(plain)-1], leaf.c),
		"a longer node":            node(append(bytes.Clone(plain), 0), leaf.c),
		"its own root":             with(func(c []packedChild) { c[1] = packedChild{good.Content, good.Root} }),
	} {
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
		if err := o.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r, err := s.Reader(&o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Copy(t.Context(), io.Discard, 0, math.MaxInt64); err == nil {
			t.Errorf("%s: read", name)
		}
		walk := walkAndOpen(t, s, &o)
		if walk == nil {
			t.Errorf("%s: walked", name)
		}
		// Comparing believes equal content hashes without a look below.
		err = s.DiffObjects(t.Context(), &good, &o, func(Range) error { return nil })
		if same := o.Content == good.Content; same != (err == nil) && name != "another chunk" {
			t.Errorf("%s: compared: %v", name, err)
		}
		last := uint64(299 * PackedMinChunk)
		if _, _, err := s.Update(t.Context(), &o, f.size, ranges(Range{last, 1}), f); err == nil && name != "another chunk" {
			t.Errorf("%s: updated", name)
		}
	}
	if n := binary.LittleEndian.Uint32(plain[4:]); n != 44 {
		t.Errorf("%d children", n)
	}
}
