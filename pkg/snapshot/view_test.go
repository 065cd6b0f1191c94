package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// sameView compares the view of a stored snapshot with the local one that it was made of.
func (r *historyRig) sameView(name string, rep *create.Report) {
	r.t.Helper()
	local, end, err := r.h.V.OpenSnapshot(name)
	r.ok(err)
	defer end()
	sn := r.read(rep.S)
	defer sn.Close()
	c := &comparison{historyRig: r, a: local, b: sn.View(r.t.Context()), seen: map[vfs.Ino]bool{}}
	c.inode(vfs.RootIno)
	if uint64(len(c.seen)) != rep.Files+rep.Dirs {
		r.t.Fatalf("%d inodes are seen, %d were counted", len(c.seen), rep.Files+rep.Dirs)
	}
}

// comparison compares two file systems, a the local one.
type comparison struct {
	*historyRig
	a, b vfs.Reader
	seen map[vfs.Ino]bool
}

func (c *comparison) fatal(ino vfs.Ino, what string, a, b any) {
	c.t.Helper()
	c.t.Fatalf("inode %d: %s: %.600s, %.600s", ino, what, fmt.Sprint(a), fmt.Sprint(b))
}

func (c *comparison) inode(ino vfs.Ino) {
	c.t.Helper()
	if c.seen[ino] {
		return
	}
	c.seen[ino] = true
	a, err := c.a.GetAttr(ino)
	c.ok(err)
	b, err := c.b.GetAttr(ino)
	c.ok(err)
	if b.Blocks == 0 && a.Blocks > 0 && a.Size > 0 {
		c.fatal(ino, "blocks", a.Blocks, b.Blocks)
	}
	if b.Blocks = a.Blocks; a != b {
		c.fatal(ino, "attributes", a, b)
	}
	c.xattrs(ino)
	switch a.Mode & 0o170000 {
	case 0o040000:
		c.directory(ino)
	case 0o100000:
		c.content(ino, a.Size)
	case 0o120000:
		x, err := c.a.Readlink(ino)
		c.ok(err)
		y, err := c.b.Readlink(ino)
		if c.ok(err); x != y {
			c.fatal(ino, "target", x, y)
		}
	}
}

func (c *comparison) xattrs(ino vfs.Ino) {
	x, err := c.a.ListXattr(ino)
	c.ok(err)
	y, err := c.b.ListXattr(ino)
	if c.ok(err); !slices.Equal(x, y) {
		c.fatal(ino, "attributes", x, y)
	}
	for _, name := range x {
		x, err := c.a.GetXattr(ino, name)
		c.ok(err)
		y, err := c.b.GetXattr(ino, name)
		if c.ok(err); !bytes.Equal(x, y) {
			c.fatal(ino, name, x, y)
		}
	}
	if _, err := c.b.GetXattr(ino, "user.none"); !errors.Is(err, vfs.ErrNoXattr) {
		c.t.Fatal(err)
	}
}

// entries are the names behind a cookie, at most n.
func (c *comparison) entries(fs vfs.Reader, dir vfs.Ino, cookie uint64, n int) (list []vfs.Dirent) {
	c.ok(fs.ReadDir(dir, cookie, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
		list = append(list, d)
		return len(list) < n
	}))
	return list
}

func (c *comparison) directory(dir vfs.Ino) {
	c.t.Helper()
	const all = 1 << 30
	x, y := c.entries(c.a, dir, 0, all), c.entries(c.b, dir, 0, all)
	if !slices.Equal(x, y) {
		c.fatal(dir, "names", x, y)
	}
	if len(x) > 0 {
		at := c.h.Rng.IntN(len(x))
		if y := c.entries(c.b, dir, x[at].Cookie, 5); !slices.Equal(x[at+1:min(len(x), at+6)], y) {
			c.fatal(dir, "names behind a cookie", x[at+1:], y)
		}
	}
	p, err := c.a.Parent(dir)
	c.ok(err)
	if q, err := c.b.Parent(dir); err != nil || p != q {
		c.fatal(dir, "parent", p, q)
	}
	for _, d := range x {
		if a, err := c.b.Lookup(dir, d.Name); err != nil || a.Ino != d.Ino {
			c.fatal(dir, d.Name, a, err)
		}
		c.inode(d.Ino)
	}
	if _, err := c.b.Lookup(dir, "no such name"); !errors.Is(err, vfs.ErrNotExist) {
		c.t.Fatal(err)
	}
}

// content compares data, and where it is: holes of the volume are zeros, and the view has data
// wherever there is a byte.
func (c *comparison) content(ino vfs.Ino, size uint64) {
	c.t.Helper()
	for off := uint64(0); off < size; {
		from, end, ok := c.extent(c.a, ino, off, size)
		c.extent(c.b, ino, off, size)
		if !ok {
			c.zeros(ino, off, size)
			return
		}
		c.zeros(ino, off, from)
		end = min(end, from+1<<20)
		x, y := make([]byte, end-from), make([]byte, end-from)
		n, err := c.a.Read(ino, from, x)
		c.ok(err)
		m, err := c.b.Read(ino, from, y)
		c.ok(err)
		if n != len(x) || m != len(y) || !bytes.Equal(x, y) {
			c.t.Fatalf("inode %d of %d bytes at %d: %d and %d of %d bytes are not equal", ino, size, from, n, m, len(x))
		}
		c.isData(ino, from, x)
		off = end
	}
	var b [3]byte
	if n, err := c.b.Read(ino, size, b[:]); n != 0 || err != nil {
		c.t.Fatalf("inode %d: %d bytes behind the end, %v", ino, n, err)
	}
	if _, err := c.b.SeekData(ino, size); !errors.Is(err, vfs.ErrNoData) {
		c.t.Fatal(err)
	}
}

// extent finds data at or behind off.
func (c *comparison) extent(fs vfs.Reader, ino vfs.Ino, off, size uint64) (from, end uint64, ok bool) {
	c.t.Helper()
	from, err := fs.SeekData(ino, off)
	if errors.Is(err, vfs.ErrNoData) {
		return size, size, false
	}
	c.ok(err)
	end, err = fs.SeekHole(ino, from)
	if c.ok(err); end <= from || end > size || from < off {
		c.t.Fatalf("inode %d of %d bytes: data at %d: from %d to %d", ino, size, off, from, end)
	}
	return from, end, true
}

// isData checks that the view has no hole where the volume has bytes.
func (c *comparison) isData(ino vfs.Ino, off uint64, b []byte) {
	c.t.Helper()
	at := bytes.IndexFunc(b, func(r rune) bool { return r != 0 })
	if at < 0 {
		return
	}
	if got, err := c.b.SeekData(ino, off+uint64(at)); err != nil || got != off+uint64(at) {
		c.t.Fatalf("inode %d: the byte at %d is in a hole of the view: %d, %v", ino, off+uint64(at), got, err)
	}
}

// zeros checks the ends of a hole.
func (c *comparison) zeros(ino vfs.Ino, from, to uint64) {
	c.t.Helper()
	for _, at := range []uint64{from, max(from, to-min(to, 70000))} {
		b := make([]byte, min(to-at, 70000))
		n, err := c.b.Read(ino, at, b)
		if c.ok(err); n != len(b) || len(bytes.TrimLeft(b, "\x00")) > 0 {
			c.t.Fatalf("inode %d: a hole from %d to %d is none in the view", ino, from, to)
		}
	}
}
