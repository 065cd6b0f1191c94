package layout

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func sampleRecord(segments, first, count int) Record {
	r := Record{Extent: crypto.Extent{Birth: 3, Epoch: 1, Kind: KindFileData, Shift: 12, PLen: uint32(segments) * BlockBytes,
		LLen: uint32(segments) * BlockBytes, Object: 77, Index: 12}, Addr: 1 << 30, First: first, Tags: make([]crypto.Tag, count)}
	for i := range r.Nonce {
		r.Nonce[i] = byte(i + 1)
	}
	for i := range r.Tags {
		r.Tags[i][0] = byte(i)
	}
	return r
}

func samplePointer(tree uint64, level uint8) Pointer {
	r := Record{Extent: crypto.Extent{Birth: 9, Epoch: 1, Kind: KindNode, Level: level, PLen: NodeBytes, LLen: NodeBytes, Object: tree},
		Addr: 5 << 20, Tags: make([]crypto.Tag, 1)}
	return Pointer{Record: r, Addr2: 6 << 20}
}

func sampleList() Pointer2 {
	r := Record{Extent: crypto.Extent{Birth: 9, Epoch: 1, Kind: KindFreeList, PLen: 500, LLen: 500}, Addr: 7 << 20, Tags: make([]crypto.Tag, 1)}
	return Pointer2{Record: r, Blocks: 12}
}

func sampleRoot() *Root {
	r := &Root{Generation: 11, Instance: crypto.UUID{1}, MountEpoch: 2, MountID: [16]byte{3}, LogSeq: 4, OpSeq: 5, HeaderSeq: 6, PrevR: [32]byte{7}, Clean: true,
		DeviceBlocks: 1 << 20, LogBlocks: 4096, NextIno: 8, HashSeed: [16]byte{9}, FreeBlocks: 10, Inodes: 11, AllocHint: 12, NewestSnapshot: 13,
		Rotation: Rotation{Target: 14, Again: true, Tree: 5, Next: Key{Obj: 15, Type: 16, Sub: 17}, Done: 18},
		Offered:  []OfferedAnchor{{1, [32]byte{2}}, {3, [32]byte{4}}},
		Reserved: Reservations{Promised: 20, Owed: 19, Ranges: 3, Mark: 21}}
	r.Trees[TreeFS], r.Trees[TreeSpace] = samplePointer(TreeFS, 2), samplePointer(TreeSpace, 0)
	r.FreeLists[0] = sampleList()
	return r
}

func sampleOps() []*Op {
	ts := vfs.Timespec{Sec: -5, Nsec: 999_999_999}
	r := sampleRecord(16, 0, 16)
	ops := []*Op{
		{Type: OpCreate, Ino: 1, Parent: 2, Mode: 0o100644, UID: 3, GID: 4, Rdev: 5, Name: "n", Data: []byte{1}, Data2: []byte{2}},
		{Type: OpCreate, Ino: 1, Parent: 2, Mode: 0o120777, Name: "n", Name2: "target", Data: []byte{}, Data2: []byte{}},
		{Type: OpLink, Ino: 1, Parent: 2, Name: "n"}, {Type: OpUnlink, Ino: 1, Parent: 2, Name: "n"},
		{Type: OpRename, Ino: 1, Ino2: 2, Parent: 3, Parent2: 4, Flags: 5, UID: 6, GID: 7, Name: "a", Name2: "b"},
		{Type: OpSetAttr, Ino: 1, Flags: 2, Mode: 3, UID: 4, GID: 5, Len: 6, Atime: ts, Mtime: ts},
		{Type: OpWrite, Ino: 1, Off: 2, Flags: OpKill, Data: []byte("data"), Len: 4},
		{Type: OpWriteRef, Ino: 1, Off: 65536, Len: 65536, Extents: []FileExtent{{Record: r, RefBirth: 3}}},
		{Type: OpFallocate, Ino: 1, Flags: 2, Off: 3, Len: 4},
		{Type: OpFallocate, Ino: 1, Flags: FallocReserve | 1, Off: 3, Len: 4},
		{Type: OpSetXattr, Ino: 1, Flags: 2, Mode: 3, Name: "user.x", Data: []byte("v")},
		{Type: OpRemoveXattr, Ino: 1, Name: "user.x", Data: []byte{}},
		{Type: OpGrow, Len: 1 << 20},
		{Type: OpSetFlags, Ino: 1, Flags: InodeImmutable | InodeNoatime},
		{Type: OpCopyRange, Ino: 1, Off: 2, Parent2: 3, Off2: 4, Len: 5},
	}
	for i, o := range ops {
		o.Seq, o.Unique, o.Time = uint64(i+1), 100, ts
	}
	return ops
}

func sampleNodes() []Node {
	leaf := NewNode(TreeFS, 0)
	for i := range 20 {
		leaf.Insert(leaf.Count(), Key{Obj: uint64(i), Type: 1, Sub: 5}, make([]byte, i*30))
	}
	leaf.Delete(3)
	inner := NewNode(TreeFS, 1)
	p := samplePointer(TreeFS, 0)
	b := make([]byte, PointerBytes)
	p.Put(b)
	for i := range 30 {
		inner.Insert(inner.Count(), Key{Obj: uint64(i)}, b)
	}
	return []Node{leaf, inner}
}

func TestRoundTrip(t *testing.T) {
	r := sampleRoot()
	if got, err := DecodeRoot(r.Encode()); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("root: %+v %v", got, err)
	}
	rec := sampleRecord(200, 100, 99)
	if got, rest, err := DecodeRecord(append(rec.Append(nil), 1, 2)); err != nil || !reflect.DeepEqual(got, rec) || len(rest) != 2 {
		t.Errorf("record: %+v %v", got, err)
	}
	e := FileExtent{Record: rec, RefBirth: 4}
	if got, err := DecodeFileExtent(e.Append(nil)); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("extent: %+v %v", got, err)
	}
	for _, o := range sampleOps() {
		got, rest, err := DecodeOp(AppendOp(nil, o))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, o) {
			t.Errorf("operation %d: %+v %v", o.Type, got, err)
		}
	}
	n := Inode{Mode: 0o100644, Nlink: 2, UID: 3, GID: 4, Rdev: 5, Flags: InodeInline, Size: 6, Blocks: 7, Parent: 8, NameSub: 9,
		Atime: vfs.Timespec{Sec: 1, Nsec: 2}, Mtime: vfs.Timespec{Sec: -3, Nsec: 4}, Ctime: vfs.Timespec{Sec: 5, Nsec: 6}, Btime: vfs.Timespec{Sec: 7, Nsec: 8}}
	if got, err := DecodeInode(n.Append(nil)); err != nil || got != n {
		t.Errorf("inode: %+v %v", got, err)
	}
	name := Name{Ino: 5, Type: 0o040000, Name: "dir"}
	if got, err := DecodeName(name.Append(nil)); err != nil || got != name {
		t.Errorf("name: %+v %v", got, err)
	}
	x := XattrPiece{Name: "user.a", Total: 5000, Data: []byte("abc")}
	if got, err := DecodeXattr(x.Append(nil, 0), 0); err != nil || !reflect.DeepEqual(got, x) {
		t.Errorf("attribute: %+v %v", got, err)
	}
	list := sampleList()
	runs := []Run{{1, 2}, {1 << 40, 7}}
	if got, next, err := DecodeFreeList(EncodeFreeList(runs, &list)); err != nil || !reflect.DeepEqual(got, runs) || !reflect.DeepEqual(next, list) {
		t.Errorf("free list: %+v %v", got, err)
	}
	sh := Share{Count: 5, Extra: 6}
	if got, err := DecodeShare(7, sh.Append(nil)); err != nil || got != sh {
		t.Errorf("share: %+v %v", got, err)
	}
	var bits [RegionBlocks / 64]uint64
	bits[7] = 99
	s := Summary{Free: 1, Largest: 2, NodeSlots: 3}
	if gs, shared, gb, err := GetRegion(PutRegion(s, 4, &bits)); err != nil || gs != s || shared != 4 || *gb != bits {
		t.Errorf("region: %+v %v", gs, err)
	}
	empty := NewNode(TreeFS, 0)
	if _, err := DecodeNode(empty.Canonical(), TreeFS, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty leaf: %v", err)
	}
	for i, n := range sampleNodes() {
		page := n.Canonical()
		got, err := DecodeNode(page, TreeFS, n.Level())
		if err != nil || got.Count() != n.Count() {
			t.Fatalf("node %d: %v", i, err)
		}
		for j := range n.Count() {
			if got.Key(j) != n.Key(j) || n.Level() == 0 && !bytes.Equal(got.Value(j), n.Value(j)) {
				t.Errorf("node %d: item %d differs", i, j)
			}
		}
		for _, bad := range [][2]uint64{{TreeSpace, uint64(n.Level())}, {TreeFS, uint64(n.Level()) + 1}} {
			if _, err := DecodeNode(page, bad[0], uint8(bad[1])); !errors.Is(err, ErrCorrupt) {
				t.Errorf("node %d is taken for one of tree %d, level %d", i, bad[0], bad[1])
			}
		}
	}
}

// A slice of a record covers the same blocks, tags and bytes.
func TestRecordSlice(t *testing.T) {
	r := sampleRecord(16, 3, 10)
	s := r.Slice(2, 5)
	if s.Addr != r.Addr+2*BlockBytes || s.First != 5 || s.Count() != 5 || s.Tags[0] != r.Tags[2] || s.RunBytes() != 5*BlockBytes || r.Count() != 10 {
		t.Fatalf("%+v", s)
	}
}

// What a decoder refuses, beside what the fuzzers find.
func TestRefused(t *testing.T) {
	change := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	rec := sampleRecord(16, 0, 16)
	ext := (&FileExtent{Record: rec, RefBirth: 3}).Append(nil)
	ino := (&Inode{Mode: 0o100644}).Append(nil)
	name := (&Name{Ino: 5, Type: 0o100000, Name: "abc"}).Append(nil)
	root := sampleRoot().Encode()
	list := EncodeFreeList([]Run{{1, 2}}, &Pointer2{})
	region := PutRegion(Summary{}, 0, new([RegionBlocks / 64]uint64))
	share := Share{Count: 9, Extra: 1}.Append(nil)
	decode := map[string]func([]byte) error{
		"share":  func(b []byte) error { _, err := DecodeShare(3*RegionBlocks-9, b); return err },
		"extent": func(b []byte) error { _, err := DecodeFileExtent(b); return err },
		"inode":  func(b []byte) error { _, err := DecodeInode(b); return err },
		"name":   func(b []byte) error { _, err := DecodeName(b); return err },
		"root":   func(b []byte) error { _, err := DecodeRoot(b); return err },
		"list":   func(b []byte) error { _, _, err := DecodeFreeList(b); return err },
		"region": func(b []byte) error { _, _, _, err := GetRegion(b); return err },
	}
	for _, c := range []struct {
		kind, what string
		b          []byte
	}{
		{"extent", "cut", ext[:len(ext)-1]},
		{"extent", "longer", append(bytes.Clone(ext), 0)},
		{"extent", "misaligned address", change(ext, 0, 1)},
		{"extent", "another kind", change(ext, 52, KindNode)},
		{"extent", "compressed", change(ext, 54, 1)},
		{"extent", "run beyond its segments", change(ext, 72, 1)},
		{"extent", "reserved", change(ext, 75, 1)},
		{"extent", "reference older than the extent", change(ext, len(ext)-8, 2)},
		{"inode", "cut", ino[:len(ino)-1]},
		{"inode", "type", change(ino, 1, 0x30)},
		{"inode", "mode beyond 16 bits", change(ino, 2, 1)},
		{"inode", "reserved", change(ino, 104, 1)},
		{"inode", "flags", change(ino, 23, 1)},
		{"inode", "size", change(ino, 31, 0x80)},
		{"inode", "time", change(ino, 59, 0xff)},
		{"name", "empty", name[:9]},
		{"name", "slash", change(name, 10, '/')},
		{"name", "zero byte", change(name, 10, 0)},
		{"name", "inode 0", change(name, 0, 0)},
		{"name", "type", change(name, 8, 15)},
		{"share", "cut", share[:7]},
		{"share", "longer", append(bytes.Clone(share), 0)},
		{"share", "empty", change(share, 0, 0)},
		{"share", "into the next region", change(share, 0, 10)},
		{"share", "no further references", change(share, 4, 0)},
		{"region", "more shared than there are", change(region, 14, 1)},
		{"root", "version", change(root, 4, 9)},
		{"root", "magic", change(root, 0, 9)},
		{"root", "clean is no flag", change(root, 112, 2)},
		{"root", "reserved", change(root, 200, 1)},
		{"root", "behind the end", change(root, len(root)-1, 1)},
		{"root", "generation 0", change(root, 8, 0)},
		{"list", "empty run", change(list, len(list)-4, 0)},
		{"list", "count", change(list, freePointerBytes, 2)},
		{"list", "reserved", change(list, freePointerBytes+5, 2)},
		{"list", "pointer: address is missing", change(list, 20, 2)},
	} {
		if err := decode[c.kind](c.b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s, %s: %v", c.kind, c.what, err)
		}
	}
}

// same fails if what was decoded from b does not encode to b.
func same(t *testing.T, b, again []byte) {
	t.Helper()
	if !bytes.Equal(b, again) {
		t.Fatalf("decodes, but encodes to other bytes:\n%x\n%x", b, again)
	}
}

func FuzzDecodeNode(f *testing.F) {
	for _, n := range sampleNodes() {
		f.Add(n.Canonical())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != NodeBytes { // most of what the fuzzer tries; keep the start
			b = append(b, make([]byte, max(0, NodeBytes-len(b)))...)[:NodeBytes]
		}
		n, err := DecodeNode(bytes.Clone(b), TreeFS, b[0])
		if err != nil {
			return
		}
		same(t, b, n.Canonical())
		for i := range n.Count() {
			if at, eq := n.Search(n.Key(i)); at != i || !eq {
				t.Fatalf("item %d is not found", i)
			}
			if n.Level() > 0 {
				_, _ = GetPointer(n.PointerBytesAt(i), TreeFS)
			} else if len(n.Value(i)) > MaxValue {
				t.Fatal("value too large")
			}
		}
		for n.Count() > 0 {
			n.Delete(n.Count() / 2)
		}
		if n.Used() != 0 {
			t.Fatalf("empty, and %d bytes are in use", n.Used())
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	a, p := sampleRecord(16, 2, 5), samplePointer(1, 0)
	f.Add(a.Append(nil))
	f.Add(p.Record.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := DecodeRecord(b)
		if err != nil {
			return
		}
		same(t, b[:len(b)-len(rest)], r.Append(nil))
		if r.RunBytes() <= 0 || r.RunBytes() > crypto.MaxExtentBytes {
			t.Fatalf("a run of %d bytes", r.RunBytes())
		}
		s := r.Slice(0, r.Count())
		same(t, s.Append(nil), r.Append(nil))
	})
}

func FuzzDecodeFileExtent(f *testing.F) {
	f.Add((&FileExtent{Record: sampleRecord(16, 2, 5), RefBirth: 3}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := DecodeFileExtent(b); err == nil {
			same(t, b, e.Append(nil))
		}
	})
}

func FuzzDecodeOp(f *testing.F) {
	for _, o := range sampleOps() {
		f.Add(AppendOp(nil, o))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, rest, err := DecodeOp(b); err == nil {
			same(t, b[:len(b)-len(rest)], AppendOp(nil, o))
		}
	})
}

func FuzzDecodeInode(f *testing.F) {
	f.Add((&Inode{Mode: 0o040755, Nlink: 2, Size: 3}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeInode(b); err == nil {
			same(t, b, n.Append(nil))
		}
	})
}

func FuzzDecodeName(f *testing.F) {
	f.Add((&Name{Ino: 1, Type: 0o100000, Name: "a"}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeName(b); err == nil {
			same(t, b, n.Append(nil))
		}
	})
}

func FuzzDecodeXattr(f *testing.F) {
	f.Add((&XattrPiece{Name: "user.a", Total: 3, Data: []byte("abc")}).Append(nil, 0), 0)
	f.Add([]byte("more"), 1)
	f.Fuzz(func(t *testing.T, b []byte, i int) {
		if x, err := DecodeXattr(b, i); err == nil {
			same(t, b, x.Append(nil, i))
		}
	})
}

func FuzzDecodeRoot(f *testing.F) {
	f.Add(sampleRoot().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRoot(b); err == nil {
			same(t, b, r.Encode())
		}
	})
}

func FuzzDecodeFreeList(f *testing.F) {
	p := sampleList()
	f.Add(EncodeFreeList([]Run{{1, 2}, {5, 6}}, &p))
	f.Add(EncodeFreeList(nil, &Pointer2{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if runs, next, err := DecodeFreeList(b); err == nil {
			same(t, b, EncodeFreeList(runs, &next))
		}
	})
}

func FuzzDecodeShare(f *testing.F) {
	f.Add(uint64(0), Share{Count: RegionBlocks, Extra: 1}.Append(nil))
	f.Add(uint64(5*RegionBlocks-1), Share{Count: 1, Extra: 1<<32 - 1}.Append(nil))
	f.Fuzz(func(t *testing.T, sub uint64, b []byte) {
		if s, err := DecodeShare(sub, b); err == nil {
			same(t, b, s.Append(nil))
			if first, last := sub/RegionBlocks, (sub+uint64(s.Count)-1)/RegionBlocks; first != last {
				t.Fatalf("a run of regions %d to %d", first, last)
			}
		}
	})
}

func FuzzGetRegion(f *testing.F) {
	f.Add(PutRegion(Summary{1, 2, 3}, 4, new([RegionBlocks / 64]uint64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, shared, bits, err := GetRegion(b); err == nil {
			same(t, b, PutRegion(s, shared, bits))
		}
	})
}

func FuzzDecodeAnchored(f *testing.F) {
	f.Add((&Anchored{R: [32]byte{1}, Epoch: 2}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := DecodeAnchored(b); err == nil {
			same(t, b, a.Append(nil))
		}
	})
}

func FuzzDecodeNextSlot(f *testing.F) {
	sealed := make([]byte, crypto.MaxSlotSealed)
	f.Add((&NextSlot{Commit: [32]byte{1}, Slot: crypto.Slot{Type: crypto.SlotPassphrase, Params: []byte{1, 2}, Sealed: sealed}}).Append(nil))
	f.Add((&NextSlot{Slot: crypto.Slot{Type: crypto.SlotSecret, Sealed: sealed[:148]}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeNextSlot(b); err == nil {
			same(t, b, n.Append(nil))
			if len(b) > MaxValue {
				t.Fatalf("a value of %d bytes", len(b))
			}
		}
	})
}
