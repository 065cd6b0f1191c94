package vfstest

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func (w *walker) mknod() {
	d, name, req := w.dir(), w.name(), w.req()
	mode := []uint32{syscall.S_IFREG, syscall.S_IFREG, syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFCHR}[w.rng.IntN(5)] | uint32(w.rng.IntN(0o1000))
	rdev := uint32(0)
	if mode&syscall.S_IFMT == syscall.S_IFCHR {
		rdev = w.rng.Uint32()
	}
	g, gerr := w.got.Mknod(req, d.got, name, mode, rdev)
	m, merr := w.want.Mknod(req, d.want, name, mode, rdev)
	w.made(g, m, gerr, merr)
}

func (w *walker) mkdir() {
	d, name, req, mode := w.dir(), w.name(), w.req(), uint32(w.rng.IntN(0o1000))
	g, gerr := w.got.Mkdir(req, d.got, name, mode)
	m, merr := w.want.Mkdir(req, d.want, name, mode)
	w.made(g, m, gerr, merr)
}

func (w *walker) symlink() {
	d, name, req := w.dir(), w.name(), w.req()
	target := string(bytes.Repeat([]byte("t"), 1+w.rng.IntN(300)))
	g, gerr := w.got.Symlink(req, d.got, name, target)
	m, merr := w.want.Symlink(req, d.want, name, target)
	w.made(g, m, gerr, merr)
}

func (w *walker) tmpfile() {
	d, req, mode := w.dir(), w.req(), uint32(w.rng.IntN(0o1000))
	g, gerr := w.got.Tmpfile(req, d.got, mode)
	m, merr := w.want.Tmpfile(req, d.want, mode)
	w.made(g, m, gerr, merr)
	if merr == nil {
		w.gone(pair{g.Ino, m.Ino})
	}
}

func (w *walker) link() {
	p, d, name, req := w.any(), w.dir(), w.name(), w.req()
	if a, err := w.want.GetAttr(p.want); err == nil && a.Nlink == 0 && !slices.Contains(w.orphans, p) {
		return
	}
	g, gerr := w.got.Link(req, p.got, d.got, name)
	m, merr := w.want.Link(req, p.want, d.want, name)
	if w.same(gerr, merr) {
		w.sameAttr(g, m)
		w.orphans = slices.DeleteFunc(w.orphans, func(q pair) bool { return q == p })
	}
}

func (w *walker) unlink() {
	d, name, req := w.dir(), w.name(), w.req()
	p, found := w.named(d, name)
	if w.same(w.got.Unlink(req, d.got, name), w.want.Unlink(req, d.want, name)) && found {
		w.gone(p)
	}
}

func (w *walker) rmdir() {
	d, name, req := w.dir(), w.name(), w.req()
	p, found := w.named(d, name)
	if w.same(w.got.Rmdir(req, d.got, name), w.want.Rmdir(req, d.want, name)) && found {
		w.gone(p)
	}
}

func (w *walker) rename() {
	a, b, from, to, req := w.dir(), w.dir(), w.name(), w.name(), w.req()
	flags := []uint32{0, 0, 0, 0, vfs.RenameNoreplace, vfs.RenameExchange, vfs.RenameExchange, vfs.RenameWhiteout,
		vfs.RenameWhiteout | vfs.RenameNoreplace, vfs.RenameExchange | vfs.RenameWhiteout, 8}[w.rng.IntN(11)]
	p, found := w.named(b, to)
	if !w.same(w.got.Rename(req, a.got, from, b.got, to, flags), w.want.Rename(req, a.want, from, b.want, to, flags)) {
		return
	}
	if flags&vfs.RenameWhiteout != 0 {
		if q, ok := w.named(a, from); ok && !slices.Contains(w.inodes, q) {
			w.inodes = append(w.inodes, q)
		}
	}
	if found {
		w.gone(p)
	}
}

func (w *walker) write() {
	p, off, req, kill := w.file(), w.off(), w.req(), w.rng.IntN(4) == 0
	data := make([]byte, w.length())
	x := w.rng.Uint32()
	for i := range data {
		data[i] = byte(x + uint32(i)*0x9e37>>3)
	}
	g, gerr := w.got.Write(req, p.got, off, data, kill)
	m, merr := w.want.Write(req, p.want, off, data, kill)
	if w.same(gerr, merr) && g != m {
		w.t.Errorf("wrote %d, want %d", g, m)
	}
	w.attr(p)
}

// attr compares the attributes of one inode.
func (w *walker) attr(p pair) {
	w.t.Helper()
	g, gerr := w.got.GetAttr(p.got)
	m, merr := w.want.GetAttr(p.want)
	if w.same(gerr, merr) {
		w.sameAttr(g, m)
	}
}

func (w *walker) read() {
	p, off := w.file(), w.off()
	a := make([]byte, w.length())
	b := make([]byte, len(a))
	for i := range a {
		a[i], b[i] = 0xaa, 0xaa // bytes that are not overwritten must not look like a hole
	}
	g, gerr := w.got.Read(p.got, off, a)
	m, merr := w.want.Read(p.want, off, b)
	if w.same(gerr, merr) && (g != m || !bytes.Equal(a[:g], b[:m])) {
		w.t.Errorf("read of inode %d at %d: %d bytes, want %d, or the content differs", p.want, off, g, m)
	}
}

func (w *walker) setAttr() {
	p, req := w.any(), w.req()
	if w.rng.IntN(2) == 0 {
		p = w.file()
	}
	set := &vfs.SetAttr{KillSuidgid: w.rng.IntN(4) == 0}
	if w.rng.IntN(2) == 0 {
		mode := uint32(w.rng.IntN(0o10000))
		set.Mode = &mode
	}
	if w.rng.IntN(4) == 0 {
		uid, gid := uint32(w.rng.IntN(5)), uint32(w.rng.IntN(5))
		set.UID, set.GID = &uid, &gid
	}
	if w.rng.IntN(2) == 0 {
		size := w.off()
		set.Size = &size
	}
	if w.rng.IntN(4) == 0 {
		set.Mtime = &vfs.Timespec{Sec: int64(w.rng.IntN(1 << 40)), Nsec: uint32(w.rng.IntN(1e9))}
	}
	g, gerr := w.got.SetAttr(req, p.got, set)
	m, merr := w.want.SetAttr(req, p.want, set)
	if w.same(gerr, merr) {
		w.sameAttr(g, m)
		if set.Mtime != nil && g.Mtime != m.Mtime {
			w.t.Errorf("mtime %v, want %v", g.Mtime, m.Mtime)
		}
	}
}

func (w *walker) fallocate() {
	p, off, length, req := w.file(), w.off(), w.length(), w.req()
	mode := []uint32{0, vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize,
		vfs.FallocZeroRange, vfs.FallocZeroRange | vfs.FallocKeepSize, vfs.FallocPunchHole, 8}[w.rng.IntN(8)]
	w.same(w.got.Fallocate(req, p.got, mode, off, length), w.want.Fallocate(req, p.want, mode, off, length))
	w.attr(p)
}

func (w *walker) copy() {
	a, b, req := w.file(), w.file(), w.req()
	from, to, length := w.off(), w.off(), w.length()
	g, gerr := w.got.CopyRange(req, a.got, from, b.got, to, length)
	m, merr := w.want.CopyRange(req, a.want, from, b.want, to, length)
	if w.same(gerr, merr) && g != m {
		w.t.Errorf("copied %d, want %d", g, m)
	}
	w.attr(b)
}

// seek allows any granularity of holes. It checks that ranges that SeekData skips, and holes, are
// zeros in the model.
func (w *walker) seek() {
	p, off := w.file(), w.off()
	a, err := w.want.GetAttr(p.want)
	if err != nil || a.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	data, err := w.got.SeekData(p.got, off)
	switch {
	case isErr(err, vfs.ErrNoData):
		data = a.Size
	case err != nil:
		w.t.Errorf("seek data: %v", err)
		return
	case data < off || data >= a.Size:
		w.t.Errorf("seek data from %d: %d of %d", off, data, a.Size)
	}
	if off < data {
		w.zero(p, off, min(data-off, 1<<20))
	}
	hole, err := w.got.SeekHole(p.got, off)
	if off >= a.Size {
		if !isErr(err, vfs.ErrNoData) {
			w.t.Errorf("seek hole at the end: %v", err)
		}
		return
	}
	if err != nil || hole < off || hole > a.Size {
		w.t.Errorf("seek hole from %d: %d of %d, %v", off, hole, a.Size, err)
	} else if hole < a.Size {
		w.zero(p, hole, 1)
	}
}

func (w *walker) zero(p pair, off, n uint64) {
	buf := make([]byte, n)
	n2, err := w.want.Read(p.want, off, buf)
	if err != nil || slices.ContainsFunc(buf[:n2], func(b byte) bool { return b != 0 }) {
		w.t.Errorf("a hole at %d has data, %v", off, err)
	}
}

func (w *walker) xattr() {
	p, req := w.any(), w.req()
	name := []string{"user.a", "user.b", "trusted.c", "security.capability"}[w.rng.IntN(4)]
	switch w.rng.IntN(4) {
	case 0:
		w.same(w.got.RemoveXattr(req, p.got, name), w.want.RemoveXattr(req, p.want, name))
	case 1:
		g, gerr := w.got.GetXattr(p.got, name)
		m, merr := w.want.GetXattr(p.want, name)
		if w.same(gerr, merr) && !bytes.Equal(g, m) {
			w.t.Errorf("xattr %x, want %x", g, m)
		}
	default:
		value := bytes.Repeat([]byte{byte(w.rng.Uint32())}, w.rng.IntN(300))
		if w.rng.IntN(10) == 0 {
			value = make([]byte, w.rng.IntN(vfs.MaxXattrBytes+10))
		}
		flags := []uint32{0, 0, vfs.XattrCreate, vfs.XattrReplace}[w.rng.IntN(4)]
		w.same(w.got.SetXattr(req, p.got, name, value, flags), w.want.SetXattr(req, p.want, name, value, flags))
	}
}

func (w *walker) acl() {
	p, req := w.any(), w.req()
	name := []string{posixacl.AccessName, posixacl.DefaultName}[w.rng.IntN(2)]
	if name == posixacl.DefaultName {
		p = w.dir()
	}
	if w.rng.IntN(4) == 0 {
		w.same(w.got.RemoveXattr(req, p.got, name), w.want.RemoveXattr(req, p.want, name))
		return
	}
	perm := func() uint16 { return uint16(w.rng.IntN(8)) }
	acl := posixacl.ACL{{Tag: posixacl.UserObj, Perm: perm()}, {Tag: posixacl.GroupObj, Perm: perm()}, {Tag: posixacl.Other, Perm: perm()}}
	if w.rng.IntN(2) == 0 {
		acl = slices.Insert(acl, 1, posixacl.Entry{Tag: posixacl.User, Perm: perm(), ID: 1000})
		acl = slices.Insert(acl, 3, posixacl.Entry{Tag: posixacl.Mask, Perm: perm()})
	}
	value := acl.Encode()
	w.same(w.got.SetXattr(req, p.got, name, value, 0), w.want.SetXattr(req, p.want, name, value, 0))
	w.attr(p)
}

func (w *walker) readDir() {
	d := w.dir()
	g, gerr := readAll(w.got, d.got)
	m, merr := readAll(w.want, d.want)
	if !w.same(gerr, merr) {
		return
	}
	list := func(ds []vfs.Dirent) []string {
		var names []string
		for _, d := range ds {
			names = append(names, fmt.Sprintf("%s %o", d.Name, d.Type))
		}
		slices.Sort(names)
		return names
	}
	if !slices.Equal(list(g), list(m)) {
		w.t.Errorf("directory has %q, want %q", list(g), list(m))
	}
	gp, gerr := w.got.Parent(d.got)
	mp, merr := w.want.Parent(d.want)
	if w.same(gerr, merr) && !slices.Contains(w.inodes, pair{gp, mp}) {
		w.t.Errorf("parent %d is not %d", gp, mp)
	}
}

func (w *walker) sync() {
	p := w.any()
	w.same(w.got.Sync(p.got), w.want.Sync(p.want))
}

// forgetOne forgets an orphan, or an inode that still has names, which must do nothing.
func (w *walker) forgetOne() {
	p := w.any()
	if a, err := w.want.GetAttr(p.want); err == nil && a.Nlink > 0 {
		w.got.Forget(p.got)
		w.want.Forget(p.want)
		w.attr(p)
	}
}
