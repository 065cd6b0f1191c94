package vfstest

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func emptyFS(f *fixture) {
	a := f.stat(vfs.RootIno)
	if a.Ino != vfs.RootIno || a.Mode&syscall.S_IFMT != syscall.S_IFDIR || a.Nlink != 2 {
		f.Errorf("root: %+v", a)
	}
	if got := f.names(vfs.RootIno); got != "" {
		f.Errorf("names: %s", got)
	}
	p, err := f.fs.Parent(vfs.RootIno)
	if err != nil || p != vfs.RootIno {
		f.Errorf("parent of the root: %d, %v", p, err)
	}
}

func create(f *fixture) {
	a := f.got(f.fs.Mknod(root, vfs.RootIno, "f", syscall.S_IFREG|0o640, 7))
	if a.Mode != syscall.S_IFREG|0o640 || a.Nlink != 1 || a.Size != 0 || a.Rdev != 0 || a.Ino == 0 {
		f.Errorf("file: %+v", a)
	}
	if b := f.got(f.fs.Lookup(vfs.RootIno, "f")); b != a {
		f.Errorf("lookup %+v, create %+v", b, a)
	}
	if b := f.stat(a.Ino); b != a {
		f.Errorf("getattr %+v, create %+v", b, a)
	}
	d := f.got(f.fs.Mkdir(root, vfs.RootIno, "d", 0o750))
	if d.Mode != syscall.S_IFDIR|0o750 || d.Nlink != 2 {
		f.Errorf("directory: %+v", d)
	}
	f.nlink(vfs.RootIno, 3)
	_, err := f.fs.Mknod(root, vfs.RootIno, "f", syscall.S_IFREG|0o640, 0)
	f.wantErr("create again", err, vfs.ErrExist)
	_, err = f.fs.Mkdir(root, vfs.RootIno, "f", 0o640)
	f.wantErr("mkdir over a file", err, vfs.ErrExist)
	_, err = f.fs.Symlink(root, vfs.RootIno, "d", "x")
	f.wantErr("symlink over a directory", err, vfs.ErrExist)
	_, err = f.fs.Lookup(vfs.RootIno, "none")
	f.wantErr("lookup", err, vfs.ErrNotExist)
	for _, mode := range []uint32{syscall.S_IFDIR | 0o755, syscall.S_IFLNK | 0o777} {
		_, err = f.fs.Mknod(root, vfs.RootIno, "x", mode, 0)
		f.wantErr(fmt.Sprintf("mknod of type %o", mode), err, vfs.ErrInvalid)
	}
}

func names(f *fixture) {
	longest := strings.Repeat("n", vfs.MaxNameBytes)
	odd := "\x01\xff \n*\\" // any bytes
	f.file(vfs.RootIno, longest, "")
	f.file(vfs.RootIno, odd, "")
	f.got(f.fs.Lookup(vfs.RootIno, longest))
	f.got(f.fs.Lookup(vfs.RootIno, odd))
	for _, c := range []struct {
		name string
		want error
	}{
		{longest + "n", vfs.ErrNameTooLong}, {"", vfs.ErrInvalid}, {".", vfs.ErrInvalid},
		{"..", vfs.ErrInvalid}, {"a/b", vfs.ErrInvalid}, {"a\x00b", vfs.ErrInvalid},
	} {
		_, err := f.fs.Mknod(root, vfs.RootIno, c.name, syscall.S_IFREG, 0)
		f.wantErr("mknod", err, c.want)
		_, err = f.fs.Mkdir(root, vfs.RootIno, c.name, 0)
		f.wantErr("mkdir", err, c.want)
		_, err = f.fs.Symlink(root, vfs.RootIno, c.name, "t")
		f.wantErr("symlink", err, c.want)
		f.wantErr("rename", f.fs.Rename(root, vfs.RootIno, odd, vfs.RootIno, c.name, 0), c.want)
		a := f.got(f.fs.Lookup(vfs.RootIno, odd))
		_, err = f.fs.Link(root, a.Ino, vfs.RootIno, c.name)
		f.wantErr("link", err, c.want)
	}
	_, err := f.fs.Lookup(vfs.RootIno, longest+"n")
	f.wantErr("lookup", err, vfs.ErrNameTooLong)
}

func inoNeverReused(f *fixture) {
	seen := make(map[vfs.Ino]bool)
	for range 50 {
		ino := f.file(vfs.RootIno, "f", "x")
		if seen[ino] {
			f.Fatalf("inode %d again", ino)
		}
		seen[ino] = true
		f.noErr(f.fs.Unlink(root, vfs.RootIno, "f"))
		f.fs.Forget(ino)
	}
}

func umaskAndOwner(f *fixture) {
	req := &vfs.Req{UID: 1000, GID: 2000, Umask: 0o027}
	a := f.got(f.fs.Mknod(req, vfs.RootIno, "f", syscall.S_IFREG|0o6777, 0))
	if a.Mode != syscall.S_IFREG|0o6750 || a.UID != 1000 || a.GID != 2000 {
		f.Errorf("file: %+v", a)
	}
	if a = f.got(f.fs.Mkdir(req, vfs.RootIno, "d", 0o1777)); a.Mode != syscall.S_IFDIR|0o1750 || a.UID != 1000 || a.GID != 2000 {
		f.Errorf("directory: %+v", a)
	}
	if a = f.got(f.fs.Symlink(req, vfs.RootIno, "s", "t")); a.Mode != syscall.S_IFLNK|0o777 || a.UID != 1000 {
		f.Errorf("symlink: %+v", a)
	}
	if a = f.got(f.fs.Tmpfile(req, vfs.RootIno, 0o666)); a.Mode != syscall.S_IFREG|0o640 || a.UID != 1000 {
		f.Errorf("tmpfile: %+v", a)
	}
	f.fs.Forget(a.Ino)
}

func setgidDirectory(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	mode, gid := uint32(0o2775), uint32(77)
	f.got(f.fs.SetAttr(root, d, &vfs.SetAttr{Mode: &mode, GID: &gid}))
	req := &vfs.Req{UID: 1, GID: 1}
	if a := f.got(f.fs.Mknod(req, d, "f", syscall.S_IFREG|0o644, 0)); a.GID != 77 || a.Mode&syscall.S_ISGID != 0 {
		f.Errorf("file: %+v", a)
	}
	if a := f.got(f.fs.Mkdir(req, d, "d", 0o755)); a.GID != 77 || a.Mode&syscall.S_ISGID == 0 {
		f.Errorf("directory: %+v", a)
	}
	if a := f.got(f.fs.Symlink(req, d, "s", "t")); a.GID != 77 {
		f.Errorf("symlink: %+v", a)
	}
}

func unlink(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "content")
	f.dir(vfs.RootIno, "d")
	f.wantErr("unlink nothing", f.fs.Unlink(root, vfs.RootIno, "none"), vfs.ErrNotExist)
	f.wantErr("unlink a directory", f.fs.Unlink(root, vfs.RootIno, "d"), vfs.ErrIsDir)
	f.noErr(f.fs.Unlink(root, vfs.RootIno, "f"))
	f.wantErr("unlink again", f.fs.Unlink(root, vfs.RootIno, "f"), vfs.ErrNotExist)
	_, err := f.fs.Lookup(vfs.RootIno, "f")
	f.wantErr("lookup", err, vfs.ErrNotExist)
	f.nlink(ino, 0)
	f.fs.Forget(ino)
	_, err = f.fs.GetAttr(ino)
	f.wantErr("forgotten", err, vfs.ErrStale)
}

func orphan(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "content")
	f.noErr(f.fs.Unlink(root, vfs.RootIno, "f"))
	f.write(ino, 7, pattern(200000, 1))
	f.content(ino, append([]byte("content"), pattern(200000, 1)...))
	f.noErr(f.fs.SetXattr(root, ino, "user.x", []byte("y"), 0))
	f.noErr(f.fs.Sync(ino))
	kept := f.file(vfs.RootIno, "kept", "k")
	f.fs.Forget(kept) // it has a name, so nothing happens
	f.content(kept, []byte("k"))
	d := f.dir(vfs.RootIno, "d")
	f.noErr(f.fs.Rmdir(root, vfs.RootIno, "d"))
	f.stat(d)
	_, err := f.fs.Mknod(root, d, "x", syscall.S_IFREG, 0)
	f.wantErr("create in a removed directory", err, vfs.ErrNotExist)
	if got := f.names(d); got != "" {
		f.Errorf("a removed directory has %s", got)
	}
}

func orphanThen(f *fixture) {
	if got := f.names(vfs.RootIno); got != "kept" {
		f.Errorf("names: %s", got)
	}
}

func rmdir(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	f.file(d, "f", "")
	f.file(vfs.RootIno, "f", "")
	f.wantErr("not empty", f.fs.Rmdir(root, vfs.RootIno, "d"), vfs.ErrNotEmpty)
	f.wantErr("a file", f.fs.Rmdir(root, vfs.RootIno, "f"), vfs.ErrNotDir)
	f.wantErr("nothing", f.fs.Rmdir(root, vfs.RootIno, "none"), vfs.ErrNotExist)
	f.noErr(f.fs.Unlink(root, d, "f"))
	f.noErr(f.fs.Rmdir(root, vfs.RootIno, "d"))
	f.nlink(d, 0)
	f.nlink(vfs.RootIno, 2)
	f.fs.Forget(d)
	_, err := f.fs.GetAttr(d)
	f.wantErr("forgotten", err, vfs.ErrStale)
}

func link(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	ino := f.file(vfs.RootIno, "f", "shared")
	if a := f.got(f.fs.Link(root, ino, d, "g")); a.Ino != ino || a.Nlink != 2 {
		f.Errorf("%+v", a)
	}
	_, err := f.fs.Link(root, ino, d, "g")
	f.wantErr("over a name", err, vfs.ErrExist)
	_, err = f.fs.Link(root, d, vfs.RootIno, "x")
	f.wantErr("a directory", err, vfs.ErrNotPermitted)
	f.noErr(f.fs.Unlink(root, vfs.RootIno, "f"))
	f.nlink(ino, 1)
	f.fs.Forget(ino)
	f.content(f.got(f.fs.Lookup(d, "g")).Ino, []byte("shared"))
	for i := range 300 {
		f.got(f.fs.Link(root, ino, d, fmt.Sprint("l", i)))
	}
	f.nlink(ino, 301)
}

func tmpfile(f *fixture) {
	a := f.got(f.fs.Tmpfile(root, vfs.RootIno, 0o600))
	if a.Nlink != 0 || a.Mode != syscall.S_IFREG|0o600 {
		f.Errorf("%+v", a)
	}
	f.write(a.Ino, 0, []byte("anonymous"))
	if b := f.got(f.fs.Link(root, a.Ino, vfs.RootIno, "named")); b.Nlink != 1 || b.Ino != a.Ino {
		f.Errorf("%+v", b)
	}
	f.fs.Forget(a.Ino)
	f.content(f.got(f.fs.Lookup(vfs.RootIno, "named")).Ino, []byte("anonymous"))
	b := f.got(f.fs.Tmpfile(root, vfs.RootIno, 0o600))
	f.fs.Forget(b.Ino)
	_, err := f.fs.GetAttr(b.Ino)
	f.wantErr("forgotten", err, vfs.ErrStale)
	_, err = f.fs.Tmpfile(root, a.Ino, 0o600)
	f.wantErr("in a file", err, vfs.ErrNotDir)
}

func symlink(f *fixture) {
	for _, n := range []int{1, 59, 60, 200, 1024, vfs.MaxSymlinkBytes} {
		target := strings.Repeat("t", n)
		a := f.got(f.fs.Symlink(root, vfs.RootIno, fmt.Sprint("s", n), target))
		if a.Size != uint64(n) || a.Mode != syscall.S_IFLNK|0o777 {
			f.Errorf("%+v", a)
		}
		if got, err := f.fs.Readlink(a.Ino); err != nil || got != target {
			f.Errorf("%d bytes: %v", n, err)
		}
	}
	_, err := f.fs.Symlink(root, vfs.RootIno, "x", strings.Repeat("t", vfs.MaxSymlinkBytes+1))
	f.wantErr("too long", err, vfs.ErrNameTooLong)
	_, err = f.fs.Readlink(f.file(vfs.RootIno, "f", ""))
	f.wantErr("readlink of a file", err, vfs.ErrInvalid)
}

func specialFiles(f *fixture) {
	for name, mode := range map[string]uint32{"fifo": syscall.S_IFIFO, "socket": syscall.S_IFSOCK, "char": syscall.S_IFCHR, "block": syscall.S_IFBLK} {
		a := f.got(f.fs.Mknod(root, vfs.RootIno, name, mode|0o600, 0x12345678))
		want := uint32(0)
		if mode == syscall.S_IFCHR || mode == syscall.S_IFBLK {
			want = 0x12345678
		}
		if a.Mode != mode|0o600 || a.Rdev != want || a.Nlink != 1 {
			f.Errorf("%s: %+v", name, a)
		}
		_, err := f.fs.Write(root, a.Ino, 0, []byte("x"), false)
		f.wantErr("write to a "+name, err, vfs.ErrInvalid)
	}
}
