package vfstest

import (
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func rename(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	ino := f.file(vfs.RootIno, "f", "moved")
	f.noErr(f.fs.Rename(root, vfs.RootIno, "f", vfs.RootIno, "g", 0))
	f.noErr(f.fs.Rename(root, vfs.RootIno, "g", d, "h", 0))
	if got := f.names(vfs.RootIno) + "/" + f.names(d); got != "d/h" {
		f.Errorf("names: %s", got)
	}
	if a := f.got(f.fs.Lookup(d, "h")); a.Ino != ino || a.Nlink != 1 {
		f.Errorf("%+v", a)
	}
	f.wantErr("nothing", f.fs.Rename(root, vfs.RootIno, "none", d, "x", 0), vfs.ErrNotExist)
	f.noErr(f.fs.Rename(root, d, "h", d, "h", 0))
	f.got(f.fs.Link(root, ino, vfs.RootIno, "l"))
	f.noErr(f.fs.Rename(root, d, "h", vfs.RootIno, "l", 0)) // one inode: both names remain
	f.nlink(ino, 2)
	f.got(f.fs.Lookup(d, "h"))
}

func renameReplace(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	old, ino := f.file(d, "old", "old"), f.file(vfs.RootIno, "new", "new")
	f.noErr(f.fs.Rename(root, vfs.RootIno, "new", d, "old", 0))
	if a := f.got(f.fs.Lookup(d, "old")); a.Ino != ino {
		f.Errorf("%+v", a)
	}
	f.nlink(old, 0)
	f.content(old, []byte("old")) // still open
	f.fs.Forget(old)
	_, err := f.fs.GetAttr(old)
	f.wantErr("replaced", err, vfs.ErrStale)
	f.wantErr("file over directory", f.fs.Rename(root, d, "old", vfs.RootIno, "d", 0), vfs.ErrNotEmpty)
	e := f.dir(vfs.RootIno, "e")
	f.file(vfs.RootIno, "f", "")
	f.wantErr("file over directory", f.fs.Rename(root, vfs.RootIno, "f", vfs.RootIno, "e", 0), vfs.ErrIsDir)
	f.wantErr("directory over file", f.fs.Rename(root, vfs.RootIno, "e", vfs.RootIno, "f", 0), vfs.ErrNotDir)
	f.wantErr("over a full directory", f.fs.Rename(root, vfs.RootIno, "e", vfs.RootIno, "d", 0), vfs.ErrNotEmpty)
	sub := f.dir(d, "sub")
	f.noErr(f.fs.Rename(root, vfs.RootIno, "e", d, "sub", 0))
	f.nlink(sub, 0)
	f.nlink(e, 2)
	f.nlink(d, 3)
	f.nlink(vfs.RootIno, 3)
	if p, err := f.fs.Parent(e); err != nil || p != d {
		f.Errorf("parent %d, %v", p, err)
	}
}

func renameDirectory(f *fixture) {
	a := f.dir(vfs.RootIno, "a")
	b := f.dir(a, "b")
	c := f.dir(b, "c")
	f.wantErr("into itself", f.fs.Rename(root, vfs.RootIno, "a", a, "x", 0), vfs.ErrInvalid)
	f.wantErr("deep into itself", f.fs.Rename(root, vfs.RootIno, "a", c, "x", 0), vfs.ErrInvalid)
	f.wantErr("over above", f.fs.Rename(root, b, "c", vfs.RootIno, "a", 0), vfs.ErrNotEmpty)
	f.wantErr("exchange with above", f.fs.Rename(root, b, "c", vfs.RootIno, "a", vfs.RenameExchange), vfs.ErrInvalid)
	f.noErr(f.fs.Rename(root, a, "b", vfs.RootIno, "b", 0))
	f.nlink(a, 2)
	f.nlink(b, 3)
	f.nlink(vfs.RootIno, 4)
	if p, err := f.fs.Parent(b); err != nil || p != vfs.RootIno {
		f.Errorf("parent %d, %v", p, err)
	}
	f.noErr(f.fs.Rename(root, vfs.RootIno, "a", c, "a", 0)) // now it is allowed
}

func renameFlags(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	a, b := f.file(vfs.RootIno, "a", "a"), f.file(d, "b", "b")
	sub := f.dir(vfs.RootIno, "sub")
	f.wantErr("noreplace", f.fs.Rename(root, vfs.RootIno, "a", d, "b", vfs.RenameNoreplace), vfs.ErrExist)
	f.noErr(f.fs.Rename(root, vfs.RootIno, "a", d, "b", vfs.RenameExchange))
	if x, y := f.got(f.fs.Lookup(vfs.RootIno, "a")), f.got(f.fs.Lookup(d, "b")); x.Ino != b || y.Ino != a {
		f.Errorf("exchange: %d %d", x.Ino, y.Ino)
	}
	f.noErr(f.fs.Rename(root, vfs.RootIno, "sub", d, "b", vfs.RenameExchange))
	f.nlink(vfs.RootIno, 3)
	f.nlink(d, 3)
	if p, err := f.fs.Parent(sub); err != nil || p != d {
		f.Errorf("parent %d, %v", p, err)
	}
	f.wantErr("exchange with nothing", f.fs.Rename(root, vfs.RootIno, "a", d, "none", vfs.RenameExchange), vfs.ErrNotExist)
	f.noErr(f.fs.Rename(&vfs.Req{UID: 5, GID: 6}, vfs.RootIno, "a", d, "c", vfs.RenameWhiteout))
	if w := f.got(f.fs.Lookup(vfs.RootIno, "a")); w.Mode&syscall.S_IFMT != syscall.S_IFCHR || w.Rdev != 0 || w.UID != 5 || w.GID != 6 || w.Nlink != 1 {
		f.Errorf("whiteout: %+v", w)
	}
	for _, flags := range []uint32{8, vfs.RenameExchange | vfs.RenameNoreplace, vfs.RenameExchange | vfs.RenameWhiteout} {
		f.wantErr("flags", f.fs.Rename(root, vfs.RootIno, "sub", d, "x", flags), vfs.ErrInvalid)
	}
}
