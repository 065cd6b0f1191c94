package pinned_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// facts is all that a state holds.
type facts struct {
	inodes map[uint64]logical.Inode
	inline map[uint64]string
	xattrs map[[2]uint64]logical.Xattr
	names  map[[2]uint64]logical.Name
	data   map[uint64]sparse
}

// sparse is content without holes.
type sparse struct {
	size   uint64
	blocks map[uint64]string // number → block, not all zeros
}

func newFacts() *facts {
	return &facts{map[uint64]logical.Inode{}, map[uint64]string{}, map[[2]uint64]logical.Xattr{}, map[[2]uint64]logical.Name{}, map[uint64]sparse{}}
}

func (f *facts) clone() *facts {
	c := &facts{maps.Clone(f.inodes), maps.Clone(f.inline), maps.Clone(f.xattrs), maps.Clone(f.names), map[uint64]sparse{}}
	for ino, s := range f.data {
		c.data[ino] = sparse{s.size, maps.Clone(s.blocks)}
	}
	return c
}

// drop removes the facts of an inode.
func (f *facts) drop(ino uint64) {
	delete(f.inodes, ino)
	delete(f.inline, ino)
	delete(f.data, ino)
	maps.DeleteFunc(f.xattrs, func(k [2]uint64, _ logical.Xattr) bool { return k[0] == ino })
	maps.DeleteFunc(f.names, func(k [2]uint64, _ logical.Name) bool { return k[0] == ino })
}

// same compares all facts.
func (f *facts) same(o *facts) error {
	if err := sameMap("inodes", f.inodes, o.inodes, func(a, b logical.Inode) bool { return a == b }); err != nil {
		return err
	}
	if err := sameMap("inline", f.inline, o.inline, func(a, b string) bool { return a == b }); err != nil {
		return err
	}
	if err := sameMap("xattrs", f.xattrs, o.xattrs, func(a, b logical.Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }); err != nil {
		return err
	}
	if err := sameMap("names", f.names, o.names, func(a, b logical.Name) bool { return a == b }); err != nil {
		return err
	}
	for ino, a := range f.data {
		if b, have := o.data[ino]; have && a.size == b.size {
			if err := sameMap(fmt.Sprintf("data of inode %d (%d bytes)", ino, a.size), a.blocks, b.blocks, func(a, b string) bool { return a == b }); err != nil {
				return err
			}
		}
	}
	return sameMap("data", f.data, o.data, func(a, b sparse) bool { return a.size == b.size })
}

func sameMap[K comparable, V any](what string, a, b map[K]V, eq func(a, b V) bool) error {
	for k, x := range a {
		if y, have := b[k]; !have || !eq(x, y) {
			return fmt.Errorf("%s: %v differs, or is missing: %.200q, %.200q", what, k, fmt.Sprint(x), fmt.Sprint(y))
		}
	}
	for k := range b {
		if _, have := a[k]; !have {
			return fmt.Errorf("%s: %v is too many", what, k)
		}
	}
	return nil
}

// applier applies what Diff tells to facts, and checks its order.
type applier struct {
	*facts
	to    *pinned.State // where Data reads
	last  logical.Key
	calls int
}

func (a *applier) at(ino uint64, typ logical.Type, sub uint64) error {
	k := logical.Key{Ino: ino, Type: typ, Sub: sub}
	if a.calls > 0 && k.Compare(a.last) <= 0 {
		return fmt.Errorf("%v after %v", k, a.last)
	}
	a.calls++
	a.last = k
	return nil
}

func (a *applier) Inode(ino uint64, n *logical.Inode) error {
	if n == nil {
		if _, have := a.inodes[ino]; !have {
			return fmt.Errorf("inode %d is gone, but there was none", ino)
		}
		a.drop(ino)
		err := a.at(ino, logical.InodeType, 0)
		a.last.Type = 0xff // nothing follows
		return err
	}
	a.inodes[ino] = *n
	return errors.Join(n.Validate(), a.at(ino, logical.InodeType, 0))
}

func (a *applier) Inline(ino uint64, b []byte) error {
	if b == nil {
		if _, have := a.inline[ino]; !have {
			return fmt.Errorf("inline content of inode %d is gone, but there was none", ino)
		}
		delete(a.inline, ino)
	} else {
		a.inline[ino] = string(b)
	}
	return a.at(ino, logical.InlineType, 0)
}

func (a *applier) Xattr(ino, sub uint64, x *logical.Xattr) error {
	if x == nil {
		if _, have := a.xattrs[[2]uint64{ino, sub}]; !have {
			return fmt.Errorf("attribute %#x of inode %d is gone, but there was none", sub, ino)
		}
		delete(a.xattrs, [2]uint64{ino, sub})
	} else {
		a.xattrs[[2]uint64{ino, sub}] = *x
	}
	return a.at(ino, logical.XattrType, sub)
}

func (a *applier) Name(dir, sub uint64, n *logical.Name) error {
	if n == nil {
		if _, have := a.names[[2]uint64{dir, sub}]; !have {
			return fmt.Errorf("name %#x of directory %d is gone, but there was none", sub, dir)
		}
		delete(a.names, [2]uint64{dir, sub})
	} else {
		a.names[[2]uint64{dir, sub}] = *n
	}
	return a.at(dir, logical.NameType, sub)
}

const block = 4096

// Data reads what is dirty, and nothing else.
func (a *applier) Data(d *pinned.DataChange) error {
	s, have := a.data[d.Ino]
	if !have && d.OldSize > 0 || have && d.OldSize != s.size {
		return fmt.Errorf("inode %d: the old size is said to be %d, it was %d (%t)", d.Ino, d.OldSize, s.size, have)
	}
	if d.Gone {
		if !have {
			return fmt.Errorf("content of inode %d is gone, but there was none", d.Ino)
		}
		delete(a.data, d.Ino)
		return a.at(d.Ino, logical.DataType, 0)
	}
	if !have {
		s = sparse{blocks: map[uint64]string{}}
	}
	s.cut(d.Size)
	end, first := uint64(0), true
	for r, err := range d.Dirty {
		switch {
		case err != nil:
			return err
		case r.Len == 0 || !first && r.Off <= end || r.Off+r.Len > max(d.Size, d.OldSize):
			return fmt.Errorf("inode %d: range %v after %d; sizes are %d, %d", d.Ino, r, end, d.OldSize, d.Size)
		}
		first, end = false, r.Off+r.Len
		if r.Off >= d.Size {
			continue
		}
		b := make([]byte, min(end, d.Size)-r.Off)
		if _, err := a.to.ReadAt(d.Ino, b, r.Off); err != nil {
			return err
		}
		s.write(r.Off, b)
	}
	if first && have && d.Size == d.OldSize {
		return fmt.Errorf("inode %d: nothing is different", d.Ino)
	}
	a.data[d.Ino] = s
	return a.at(d.Ino, logical.DataType, 0)
}

// cut sets the size. What is behind it counts as zeros from then on.
func (s *sparse) cut(size uint64) {
	if size < s.size {
		maps.DeleteFunc(s.blocks, func(n uint64, _ string) bool { return n*block >= size })
		if b, have := s.blocks[size/block]; have {
			s.put(size/block, append([]byte(b[:size%block]), make([]byte, block-size%block)...))
		}
	}
	s.size = size
}

func (s *sparse) put(n uint64, b []byte) {
	if len(bytes.TrimLeft(b, "\x00")) == 0 {
		delete(s.blocks, n)
		return
	}
	s.blocks[n] = string(b)
}

func (s *sparse) write(off uint64, p []byte) {
	for len(p) > 0 {
		b := make([]byte, block)
		copy(b, s.blocks[off/block])
		n := copy(b[off%block:], p)
		s.put(off/block, b)
		off, p = off+uint64(n), p[n:]
	}
}

// all reads the facts of a whole state.
func all(t testing.TB, s *pinned.State) *facts {
	t.Helper()
	a := &applier{facts: newFacts(), to: s}
	ok(t, pinned.Diff(t.Context(), nil, s, a))
	return a.facts
}

// checkFacts compares facts with what the engine reads in the snapshot.
func checkFacts(t testing.TB, v *volume.Volume, seed [16]byte, s *pinned.State, f *facts) {
	t.Helper()
	fs, end, err := v.OpenSnapshot(s.Info().Name)
	ok(t, err)
	defer end()
	hash := namehash.New(seed)
	for k, x := range f.xattrs {
		if first, last := hash.XattrSubs(x.Name); k[1] < first || k[1] > last {
			t.Fatalf("attribute %q has sub %#x, which is not from %#x to %#x", x.Name, k[1], first, last)
		}
	}
	seen, names := map[uint64]bool{}, 0
	var visit func(dir vfs.Ino)
	visit = func(dir vfs.Ino) {
		var entries []vfs.Dirent
		ok(t, fs.ReadDir(dir, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			entries = append(entries, d)
			return true
		}))
		for _, d := range entries {
			names++
			if first, last := hash.NameSubs(d.Name); d.Cookie < first || d.Cookie > last {
				t.Fatalf("name %q has sub %#x, which is not from %#x to %#x", d.Name, d.Cookie, first, last)
			}
			if n := f.names[[2]uint64{uint64(dir), d.Cookie}]; n != (logical.Name{Ino: uint64(d.Ino), Type: d.Type, Name: d.Name}) {
				t.Fatalf("directory %d has %v, the facts have %v", dir, d, n)
			}
			if !seen[uint64(d.Ino)] {
				seen[uint64(d.Ino)] = true
				checkInode(t, fs, s, f, d.Ino)
				if d.Type == logical.TypeDir {
					visit(d.Ino)
				}
			}
		}
	}
	seen[uint64(vfs.RootIno)] = true
	checkInode(t, fs, s, f, vfs.RootIno)
	visit(vfs.RootIno)
	if len(seen) != len(f.inodes) || names != len(f.names) {
		t.Fatalf("the engine sees %d inodes and %d names, the facts have %d and %d", len(seen), names, len(f.inodes), len(f.names))
	}
}

func checkInode(t testing.TB, fs vfs.FS, s *pinned.State, f *facts, ino vfs.Ino) {
	t.Helper()
	a, err := fs.GetAttr(ino)
	ok(t, err)
	n := f.inodes[uint64(ino)]
	got := vfs.Attr{Ino: ino, Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size, Blocks: a.Blocks,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	if n.IsDir() {
		got.Size = a.Size // the engine's is another measure
	}
	if got != a {
		t.Fatalf("inode %d is %+v, the fact says %+v", ino, a, got)
	}
	if flags, err := fs.(vfs.Flagger).Flags(ino); err != nil || flags != n.Flags {
		t.Fatalf("inode %d has flags %#x (%v), the fact says %#x", ino, flags, err, n.Flags)
	}
	checkXattrs(t, fs, f, ino)
	switch {
	case n.IsSymlink():
		target, err := fs.Readlink(ino)
		if ok(t, err); target != f.inline[uint64(ino)] {
			t.Fatalf("symlink %d differs", ino)
		}
	case n.IsRegular():
		checkContent(t, fs, s, f, ino, n.Size)
	}
}

func checkXattrs(t testing.TB, fs vfs.FS, f *facts, ino vfs.Ino) {
	t.Helper()
	want := map[string]string{}
	names, err := fs.ListXattr(ino)
	ok(t, err)
	for _, name := range names {
		b, err := fs.GetXattr(ino, name)
		ok(t, err)
		want[name] = string(b)
	}
	got := map[string]string{}
	for k, x := range f.xattrs {
		if k[0] == uint64(ino) {
			got[x.Name] = string(x.Value)
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("inode %d has attributes %q, the facts have %q", ino, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
	}
}

// checkContent compares blocks of which one has data, and the end.
func checkContent(t testing.TB, fs vfs.FS, s *pinned.State, f *facts, ino vfs.Ino, size uint64) {
	t.Helper()
	inline, isInline := f.inline[uint64(ino)]
	data, isData := f.data[uint64(ino)]
	if isInline && (isData || size > logical.MaxInline || len(bytes.TrimLeft([]byte(inline), "\x00")) == 0 || uint64(len(inline)) != size) ||
		isData && size <= logical.MaxInline || !isData && size > logical.MaxInline {
		t.Fatalf("inode %d of %d bytes has inline content: %t (%d bytes), data: %t", ino, size, isInline, len(inline), isData)
	}
	want := sparse{size: size, blocks: map[uint64]string{}}
	for off := uint64(0); off < size; {
		from, err := fs.SeekData(ino, off)
		if errors.Is(err, vfs.ErrNoData) {
			break
		}
		ok(t, err)
		end, err := fs.SeekHole(ino, from)
		ok(t, err)
		off = from
		b, c := make([]byte, end-off), make([]byte, end-off)
		n, err := fs.Read(ino, off, b)
		if ok(t, err); n != len(b) {
			t.Fatalf("inode %d: read %d of %d bytes", ino, n, len(b))
		}
		if n, err := s.ReadAt(uint64(ino), c, off); err != nil || n != len(b) || !bytes.Equal(b, c) {
			t.Fatalf("inode %d at %d: read %d bytes (%v), they differ from the engine's", ino, off, n, err)
		}
		want.write(off, b)
		off = end
	}
	got := sparse{size: size, blocks: data.blocks}
	if isInline {
		got.blocks = map[uint64]string{}
		got.write(0, []byte(inline))
	}
	if !maps.Equal(got.blocks, want.blocks) {
		t.Fatalf("inode %d of %d bytes: the facts' content differs from the engine's: blocks %v, %v", ino, size, slices.Sorted(maps.Keys(got.blocks)), slices.Sorted(maps.Keys(want.blocks)))
	}
	var end [3]byte
	if n, err := s.ReadAt(uint64(ino), end[:], size); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("inode %d: read %d bytes behind its end: %v", ino, n, err)
	}
}
