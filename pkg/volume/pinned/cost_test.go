package pinned_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// counter counts what Diff tells, and reads as little as it can.
type counter struct {
	inodes, gone, inline, names, data int
	ranges                            []logical.Range
	onData                            func(d *pinned.DataChange) error // instead of using up Dirty
}

func (c *counter) Inode(_ uint64, n *logical.Inode) error {
	if n == nil {
		c.gone++
	}
	c.inodes++
	return nil
}

func (c *counter) Inline(uint64, []byte) error                { c.inline++; return nil }
func (c *counter) Xattr(uint64, uint64, *logical.Xattr) error { return nil }
func (c *counter) Name(uint64, uint64, *logical.Name) error   { c.names++; return nil }
func (c *counter) Data(d *pinned.DataChange) error {
	c.data++
	if c.onData != nil {
		return c.onData(d)
	}
	for r, err := range d.Dirty {
		if err != nil {
			return err
		}
		c.ranges = append(c.ranges, r)
	}
	return nil
}

// many is a volume with many small files, and a file of many extents.
type many struct {
	t     *testing.T
	v     *volume.Volume
	dev   *watched
	files []vfs.Ino
	big   vfs.Ino
}

const (
	manyFiles   = 4000
	manyExtents = 12000
)

func newMany(t *testing.T) *many {
	dev := format(t, 256<<20)
	m := &many{t: t, v: mount(t, dev), dev: &watched{Device: dev}}
	req := &vfs.Req{}
	small, one := make([]byte, 500), make([]byte, block)
	small[0], one[0] = 1, 1
	for i := range manyFiles {
		a, err := m.v.Mknod(req, vfs.RootIno, fmt.Sprint("f", i), 0o100644, 0)
		ok(t, err)
		_, err = m.v.Write(req, a.Ino, 0, small, false)
		ok(t, err)
		m.files = append(m.files, a.Ino)
		if i == manyFiles/2 {
			a, err := m.v.Mknod(req, vfs.RootIno, "big", 0o100644, 0)
			ok(t, err)
			m.big = a.Ino
		}
	}
	for i := range uint64(manyExtents) {
		_, err := m.v.Write(req, m.big, 2*i*block, one, false)
		ok(t, err)
	}
	return m
}

func (m *many) snapshot(name string) {
	m.t.Helper()
	_, err := m.v.CreateSnapshot(name)
	ok(m.t, err)
}

// diff compares two snapshots with nothing in memory, and returns how many pages that reads.
func (m *many) diff(from, to string, c *counter) int {
	m.t.Helper()
	p, err := pinned.Open(m.dev, pinned.Options{Credential: newKey(m.t)})
	ok(m.t, err)
	defer p.Close()
	var a *pinned.State
	if from != "" {
		a, err = p.Snapshot(from)
		ok(m.t, err)
	}
	b, err := p.Snapshot(to)
	ok(m.t, err)
	m.dev.take()
	ok(m.t, pinned.Diff(m.t.Context(), a, b, c))
	return m.dev.pages()
}

// TestCost: what Diff reads depends on what differs.
func TestCost(t *testing.T) {
	m := newMany(t)
	m.snapshot("a")
	for i := range 10 { // apart from each other
		_, err := m.v.Write(&vfs.Req{}, m.files[i*manyFiles/10], 0, []byte{2}, false)
		ok(t, err)
	}
	m.snapshot("b")
	_, err := m.v.Write(&vfs.Req{}, m.big, 1000*block, []byte{2}, false)
	ok(t, err)
	m.snapshot("c")
	size := uint64(100*block + 10)
	_, err = m.v.SetAttr(&vfs.Req{}, m.big, &vfs.SetAttr{Size: &size})
	ok(t, err)
	m.snapshot("short")
	ok(t, m.v.Unlink(&vfs.Req{}, vfs.RootIno, "big"))
	m.v.Forget(m.big)
	m.snapshot("d")

	var whole, files, one, gone counter
	all := m.diff("", "a", &whole)
	if whole.inodes != manyFiles+2 || whole.inline != manyFiles || whole.names != manyFiles+1 || len(whole.ranges) != manyExtents {
		t.Errorf("everything: %d inodes, %d small files, %d names, %d ranges", whole.inodes, whole.inline, whole.names, len(whole.ranges))
	}
	// A change dirties a leaf and an inner page, or two.
	if n := m.diff("a", "b", &files); n > 2*3*10 || n > all/4 || files.inodes != 10 || files.inline != 10 {
		t.Errorf("10 of %d files changed: %d pages read, %d for everything; told %+v", manyFiles, n, all, files)
	}
	if n := m.diff("b", "c", &one); n > 10 || len(one.ranges) != 1 || one.ranges[0] != (logical.Range{Off: 1000 * block, Len: block}) || one.inodes != 1 {
		t.Errorf("a block of %d changed: %d pages read; told %+v", manyExtents, n, one)
	}
	var short counter
	m.diff("c", "short", &short)
	if want := (logical.Range{Off: 100 * block, Len: (2*manyExtents - 101) * block}); len(short.ranges) != 1 || short.ranges[0] != want {
		t.Errorf("truncated: %v, not %v", short.ranges, want)
	}
	// Its extents are not read. A few pages may be read ahead.
	if n := m.diff("c", "d", &gone); n > 60 || gone.gone != 1 || gone.data != 0 {
		t.Errorf("a file of %d extents is gone: %d pages read; told %+v", manyExtents, n, gone)
	}
	if n := m.diff("d", "c", &counter{}); n < manyExtents/130 {
		t.Errorf("a file of %d extents is new: %d pages read", manyExtents, n)
	}
	ok(t, m.v.Close())
}

// TestDirtyIsLazy: ranges are found while they are asked for, and need not be used up.
func TestDirtyIsLazy(t *testing.T) {
	m := newMany(t)
	m.snapshot("a")
	var kept *pinned.DataChange
	pages := 0
	var all counter
	whole := m.diff("", "a", &all)
	stop := counter{onData: func(d *pinned.DataChange) error {
		kept = d
		for _, err := range d.Dirty {
			pages = m.dev.pages()
			return err
		}
		return nil
	}}
	n := m.diff("", "a", &stop)
	extents := manyExtents * 130 / nodeBytes // pages of extents, and more
	if pages > whole-extents/2 || n > whole-extents/2 || stop.inodes != all.inodes {
		t.Errorf("%d pages read until the first range, %d without the others, %d with them", pages, n, whole)
	}
	for _, err := range kept.Dirty {
		if err == nil {
			t.Error("ranges after the call")
		}
	}
	ok(t, m.v.Close())
}

// TestDiffEnds: an error of the visitor ends Diff as it is, and so does the context.
func TestDiffEnds(t *testing.T) {
	h := newHistory(t, 7, 96<<20)
	h.Steps(100)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	s, err := p.Snapshot("s")
	ok(t, err)
	mine := errors.New("mine")
	c := &counter{onData: func(*pinned.DataChange) error { return mine }}
	if err := pinned.Diff(t.Context(), nil, s, c); err != mine { //nolint:errorlint // the same, not wrapped
		t.Error(err)
	}
	p.Close()
	for _, err := range []error{pinned.Diff(t.Context(), nil, s, c), func() error { _, err := s.ReadAt(2, make([]byte, 5), 0); return err }()} {
		if err != mine && !errors.Is(err, vfs.ErrClosed) && !errors.Is(err, vfs.ErrStale) { //nolint:errorlint // see above
			t.Error(err)
		}
	}
	h.Close()
}
