package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Run checks everything that vfs.FS promises. newFS makes an empty file system
// and a function that closes it and opens what it stored; each case gets its own.
// What a case did must be there, down to times and inode numbers, after Sync and reopening.
func Run(t *testing.T, newFS func(t *testing.T) (fs vfs.FS, reopen func() vfs.FS)) {
	var all []string
	for _, c := range cases {
		all = append(all, c.name)
	}
	RunOnly(t, newFS, all...)
}

// RunOnly runs some of Run's cases: for a format that cannot hold everything.
func RunOnly(t *testing.T, newFS func(t *testing.T) (fs vfs.FS, reopen func() vfs.FS), names ...string) {
	known := 0
	for _, c := range cases {
		if !slices.Contains(names, c.name) {
			continue
		}
		known++
		t.Run(c.name, func(t *testing.T) {
			fs, reopen := newFS(t)
			f := &fixture{T: t, fs: fs}
			c.run(f)
			f.noErr(f.fs.Sync(vfs.RootIno))
			before := f.snapshot()
			f.fs = reopen()
			if d := diff(f.snapshot(), before); d != "" {
				t.Errorf("after reopening: %s", d)
			}
			if c.then != nil {
				c.then(f)
			}
		})
	}
	if known != len(names) {
		t.Errorf("%d of the cases %v are unknown", len(names)-known, names)
	}
}

var cases = []struct {
	name string
	run  func(*fixture)
	then func(*fixture) // after reopening
}{
	{"empty", emptyFS, emptyFS},
	{"create", create, nil},
	{"names", names, nil},
	{"inoNeverReused", inoNeverReused, nil},
	{"umaskAndOwner", umaskAndOwner, nil},
	{"setgidDirectory", setgidDirectory, nil},
	{"unlink", unlink, nil},
	{"orphan", orphan, orphanThen},
	{"rmdir", rmdir, nil},
	{"link", link, nil},
	{"tmpfile", tmpfile, nil},
	{"symlink", symlink, nil},
	{"specialFiles", specialFiles, nil},
	{"rename", rename, nil},
	{"renameReplace", renameReplace, nil},
	{"renameDirectory", renameDirectory, nil},
	{"renameFlags", renameFlags, nil},
	{"readDir", readDir, nil},
	{"readDirPlus", readDirPlus, nil},
	{"readDirWhileChanging", readDirWhileChanging, nil},
	{"readWrite", readWrite, nil},
	{"writeRandom", writeRandom, nil},
	{"sizes", sizes, nil},
	{"truncate", truncate, nil},
	{"sparse", sparse, nil},
	{"fallocate", fallocate, nil},
	{"copyRange", copyRange, nil},
	{"wrongType", wrongType, nil},
	{"stale", stale, nil},
	{"setAttr", setAttr, nil},
	{"kill", kill, nil},
	{"times", timesRules, nil},
	{"xattr", xattr, nil},
	{"acl", acl, nil},
	{"aclInherit", aclInherit, nil},
	{"statfs", statfs, nil},
	{"concurrent", concurrent, nil},
}

// fixture is a file system under test with helpers that fail the test.
type fixture struct {
	*testing.T
	fs vfs.FS
}

var root = &vfs.Req{}

func (f *fixture) noErr(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func (f *fixture) snapshot() []string {
	f.Helper()
	lines, err := Snapshot(f.fs, SnapshotOptions{Times: true, Inos: true})
	f.noErr(err)
	return lines
}

// got returns attributes that came with no error.
func (f *fixture) got(a vfs.Attr, err error) vfs.Attr {
	f.Helper()
	f.noErr(err)
	return a
}

func (f *fixture) stat(ino vfs.Ino) vfs.Attr {
	f.Helper()
	return f.got(f.fs.GetAttr(ino))
}

func (f *fixture) file(parent vfs.Ino, name, content string) vfs.Ino {
	f.Helper()
	a := f.got(f.fs.Mknod(root, parent, name, syscall.S_IFREG|0o644, 0))
	if content != "" {
		f.write(a.Ino, 0, []byte(content))
	}
	return a.Ino
}

func (f *fixture) dir(parent vfs.Ino, name string) vfs.Ino {
	f.Helper()
	return f.got(f.fs.Mkdir(root, parent, name, 0o755)).Ino
}

func (f *fixture) write(ino vfs.Ino, off uint64, data []byte) {
	f.Helper()
	for done := 0; done < len(data); {
		n, err := f.fs.Write(root, ino, off+uint64(done), data[done:], false)
		f.noErr(err)
		if n == 0 {
			f.Fatal("wrote nothing")
		}
		done += n
	}
}

func (f *fixture) read(ino vfs.Ino, off uint64, n int) []byte {
	f.Helper()
	b := bytes.Repeat([]byte{0xaa}, n)
	n, err := f.fs.Read(ino, off, b)
	f.noErr(err)
	return b[:n]
}

func (f *fixture) content(ino vfs.Ino, want []byte) {
	f.Helper()
	if size := f.stat(ino).Size; size != uint64(len(want)) {
		f.Errorf("size %d, want %d", size, len(want))
	}
	if got := f.read(ino, 0, len(want)+10); !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		f.Errorf("content of %d bytes (want %d) differs at %d", len(got), len(want), at)
	}
}

func (f *fixture) names(dir vfs.Ino) string {
	f.Helper()
	entries, err := readAll(f.fs, dir)
	f.noErr(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (f *fixture) nlink(ino vfs.Ino, want uint32) {
	f.Helper()
	if got := f.stat(ino).Nlink; got != want {
		f.Errorf("nlink %d, want %d", got, want)
	}
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8+seed) | 1 // never zero
	}
	return b
}

func after(a, b vfs.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

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
	f.fs.Forget(kept) // has a name: nothing happens
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
	f.noErr(f.fs.Rename(root, d, "h", vfs.RootIno, "l", 0)) // one inode: both stay
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
	f.noErr(f.fs.Rename(root, vfs.RootIno, "a", c, "a", 0)) // now it may
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

func readDir(f *fixture) {
	want := make(map[string]vfs.Ino)
	for i := range 1000 {
		name := fmt.Sprintf("name-%d-%s", i, strings.Repeat("x", i%200))
		want[name] = f.file(vfs.RootIno, name, "")
	}
	want["d"] = f.dir(vfs.RootIno, "d")
	for _, step := range []int{1, 7, 5000} {
		seen := make(map[string]bool)
		for cookie := uint64(0); ; {
			n := 0
			f.noErr(f.fs.ReadDir(vfs.RootIno, cookie, false, func(d vfs.Dirent, a *vfs.Attr) bool {
				if n == step {
					return false
				}
				n++
				if a != nil {
					f.Error("attributes that were not asked for")
				}
				if d.Cookie == 0 || d.Cookie > vfs.MaxCookie {
					f.Fatalf("cookie %d", d.Cookie)
				}
				if seen[d.Name] || want[d.Name] != d.Ino {
					f.Fatalf("entry %q, inode %d", d.Name, d.Ino)
				}
				if typ := uint32(syscall.S_IFREG); d.Name != "d" && d.Type != typ {
					f.Fatalf("type %o", d.Type)
				}
				seen[d.Name] = true
				cookie = d.Cookie
				return true
			}))
			if n == 0 {
				break
			}
		}
		if len(seen) != len(want) {
			f.Errorf("step %d: %d of %d entries", step, len(seen), len(want))
		}
	}
	err := f.fs.ReadDir(want["name-0-"], 0, false, func(vfs.Dirent, *vfs.Attr) bool { return true })
	f.wantErr("a file", err, vfs.ErrNotDir)
}

func readDirPlus(f *fixture) {
	f.file(vfs.RootIno, "f", "content")
	f.dir(vfs.RootIno, "d")
	n := 0
	var got []vfs.Attr
	var names []string
	f.noErr(f.fs.ReadDir(vfs.RootIno, 0, true, func(d vfs.Dirent, a *vfs.Attr) bool {
		n++
		if a == nil || a.Ino != d.Ino {
			f.Errorf("%q: %+v", d.Name, a)
			return true
		}
		got, names = append(got, *a), append(names, d.Name)
		return true
	}))
	for i, name := range names {
		if a := f.got(f.fs.Lookup(vfs.RootIno, name)); a != got[i] {
			f.Errorf("%q: %+v, lookup %+v", name, got[i], a)
		}
	}
	if n != 2 {
		f.Errorf("%d entries", n)
	}
}

func readDirWhileChanging(f *fixture) {
	const stays = 500
	for i := range stays {
		f.file(vfs.RootIno, fmt.Sprint("stays", i), "")
		f.file(vfs.RootIno, fmt.Sprint("goes", i), "")
	}
	seen := make(map[string]int)
	cookie, round := uint64(0), 0
	for {
		n := 0
		f.noErr(f.fs.ReadDir(vfs.RootIno, cookie, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			if n == 10 {
				return false
			}
			n++
			seen[d.Name]++
			cookie = d.Cookie
			return true
		}))
		if n == 0 {
			break
		}
		if round < stays {
			f.noErr(f.fs.Unlink(root, vfs.RootIno, fmt.Sprint("goes", round)))
			f.file(vfs.RootIno, fmt.Sprint("comes", round), "")
			f.noErr(f.fs.Rename(root, vfs.RootIno, fmt.Sprint("goes", stays-1-round), vfs.RootIno, fmt.Sprint("renamed", round), 0))
			// Replacing a name that stays does not make it vanish or come twice.
			f.file(vfs.RootIno, "tmp", "")
			f.noErr(f.fs.Rename(root, vfs.RootIno, "tmp", vfs.RootIno, fmt.Sprint("stays", round), 0))
			round++
		}
		if round >= stays/2 {
			round = stays
		}
	}
	for i := range stays {
		if n := seen[fmt.Sprint("stays", i)]; n != 1 {
			f.Errorf("entry %d seen %d times", i, n)
		}
	}
	for name, n := range seen {
		if n > 1 {
			f.Errorf("%s seen %d times", name, n)
		}
	}
}

func readWrite(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	f.content(ino, nil)
	data := pattern(1<<20+12345, 1)
	f.write(ino, 0, data)
	f.content(ino, data)
	f.write(ino, 5000, []byte("overwritten"))
	copy(data[5000:], "overwritten")
	f.content(ino, data)
	f.write(ino, uint64(len(data)), []byte("appended"))
	data = append(data, "appended"...)
	f.content(ino, data)
	if got := f.read(ino, uint64(len(data)), 10); len(got) != 0 {
		f.Errorf("%d bytes beyond the end", len(got))
	}
	if got := f.read(ino, 1<<60, 10); len(got) != 0 {
		f.Errorf("%d bytes far beyond the end", len(got))
	}
	if got := f.read(ino, uint64(len(data))-3, 10); string(got) != "ded" {
		f.Errorf("at the end: %q", got)
	}
	before := f.stat(ino)
	if n, err := f.fs.Write(root, ino, 1<<30, nil, false); n != 0 || err != nil {
		f.Errorf("write of nothing: %d, %v", n, err)
	}
	if f.stat(ino) != before {
		f.Error("a write of nothing changes attributes")
	}
	buf := []byte("reused")
	f.write(ino, 0, buf)
	copy(buf, "XXXXXX") // data is not kept
	if got := f.read(ino, 0, 6); string(got) != "reused" {
		f.Errorf("got %q", got)
	}
}

func writeRandom(f *fixture) {
	rng := rand.New(rand.NewPCG(1, 2))
	ino := f.file(vfs.RootIno, "f", "")
	var want []byte
	for i := range 300 {
		off, data := rng.IntN(600_000), pattern(rng.IntN(40_000)+1, i)
		if end := off + len(data); end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[off:], data)
		f.write(ino, uint64(off), data)
		if i%50 == 0 {
			f.noErr(f.fs.Sync(ino))
		}
		off = rng.IntN(len(want))
		n := rng.IntN(50_000)
		if got := f.read(ino, uint64(off), n); !bytes.Equal(got, want[off:min(off+n, len(want))]) {
			f.Fatalf("write %d: read at %d differs", i, off)
		}
	}
	f.content(ino, want)
}

func sizes(f *fixture) {
	for _, n := range []int{1, 100, 511, 512, 1000, 2047, 2048, 3000, 4095, 4096, 4097, 8191, 65535, 65536, 65537, 131072, 200000} {
		f.content(f.file(vfs.RootIno, fmt.Sprint("f", n), string(pattern(n, n))), pattern(n, n))
		// Grown byte by byte over the boundary.
		ino := f.file(vfs.RootIno, fmt.Sprint("g", n), string(pattern(n, n))[:n-1])
		f.write(ino, uint64(n-1), pattern(n, n)[n-1:])
		f.write(ino, uint64(n), []byte("z"))
		f.content(ino, append(pattern(n, n), 'z'))
	}
	ino := f.file(vfs.RootIno, "huge", "")
	for _, off := range []uint64{vfs.MaxFileBytes, 1 << 63, ^uint64(0)} {
		_, err := f.fs.Write(root, ino, off, []byte("xx"), false)
		f.wantErr(fmt.Sprintf("write at %d", off), err, vfs.ErrFileTooBig)
	}
	f.content(ino, nil)
}

func (f *fixture) truncate(ino vfs.Ino, size uint64) vfs.Attr {
	f.Helper()
	a := f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size}))
	if a.Size != size {
		f.Errorf("size %d, want %d", a.Size, size)
	}
	return a
}

func truncate(f *fixture) {
	for _, n := range []uint64{0, 1, 100, 4095, 4096, 4097, 65536, 70000, 199_999} {
		data := pattern(200_000, 1)
		ino := f.file(vfs.RootIno, fmt.Sprint("f", n), string(data))
		f.truncate(ino, n)
		f.content(ino, data[:n])
		f.truncate(ino, 250_000) // what was cut off must not come back
		want := append(slices.Clone(data[:n]), make([]byte, 250_000-n)...)
		f.content(ino, want)
		f.write(ino, 249_000, []byte("x"))
		want[249_000] = 'x'
		f.content(ino, want)
	}
	ino := f.file(vfs.RootIno, "big", "start")
	f.truncate(ino, 1<<40)
	if got := f.read(ino, 1<<39, 100); !bytes.Equal(got, make([]byte, 100)) {
		f.Error("no zeros")
	}
	size := uint64(1 << 63)
	_, err := f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size})
	f.wantErr("too big", err, vfs.ErrFileTooBig)
	size = 0
	_, err = f.fs.SetAttr(root, f.dir(vfs.RootIno, "d"), &vfs.SetAttr{Size: &size})
	f.wantErr("a directory", err, vfs.ErrIsDir)
}

// seek checks SeekData and SeekHole against the ranges that hold data; holes may
// be found up to 64 KiB later and data as much earlier.
func (f *fixture) seek(ino vfs.Ino, off, wantData, wantHole uint64) {
	f.Helper()
	const slack = 64 << 10
	if got, err := f.fs.SeekData(ino, off); err != nil || got > wantData || got < max(off, wantData-min(wantData, slack)) {
		f.Errorf("data from %d: %d, %v; want %d", off, got, err, wantData)
	}
	if got, err := f.fs.SeekHole(ino, wantData); err != nil || got < wantHole || got > wantHole+slack {
		f.Errorf("hole from %d: %d, %v; want %d", wantData, got, err, wantHole)
	}
}

func sparse(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	data := pattern(128<<10, 1)
	f.write(ino, 10<<20, data)
	f.write(ino, 1<<40, data)
	f.seek(ino, 0, 10<<20, 10<<20+128<<10)
	f.seek(ino, 20<<20, 1<<40, 1<<40+128<<10)
	if a := f.stat(ino); a.Size != 1<<40+128<<10 || a.Blocks > 4096 {
		f.Errorf("size %d, blocks %d", a.Size, a.Blocks)
	}
	if got := f.read(ino, 10<<20-100, 200); !bytes.Equal(got[:100], make([]byte, 100)) || !bytes.Equal(got[100:], data[:100]) {
		f.Error("around the start of data")
	}
	if got, err := f.fs.SeekHole(ino, 0); err != nil || got != 0 {
		f.Errorf("hole from 0: %d, %v", got, err)
	}
	size := uint64(1<<40 + 128<<10)
	if got, err := f.fs.SeekHole(ino, size-1); err != nil || got != size {
		f.Errorf("the end is a hole: %d, %v", got, err)
	}
	for _, off := range []uint64{size, size + 1, 1 << 62} {
		_, err := f.fs.SeekData(ino, off)
		f.wantErr("data at the end", err, vfs.ErrNoData)
		_, err = f.fs.SeekHole(ino, off)
		f.wantErr("hole at the end", err, vfs.ErrNoData)
	}
	f.truncate(ino, 2<<40)
	_, err := f.fs.SeekData(ino, 1<<40+1<<20)
	f.wantErr("data in the last hole", err, vfs.ErrNoData)
}

func fallocate(f *fixture) {
	const n = 300_000
	want := pattern(n, 1)
	ino := f.file(vfs.RootIno, "f", string(want))
	do := func(mode uint32, off, length uint64) {
		f.Helper()
		f.noErr(f.fs.Fallocate(root, ino, mode, off, length))
		f.content(ino, want)
	}
	for _, r := range [][2]uint64{{100, 50}, {4096, 4096}, {5000, 100_000}, {131072, 65536}, {299_000, 1 << 30}} {
		clear(want[r[0]:min(r[0]+r[1], n)])
		do(vfs.FallocPunchHole|vfs.FallocKeepSize, r[0], r[1])
	}
	want = pattern(n, 2)
	f.write(ino, 0, want)
	for _, r := range [][2]uint64{{100, 50}, {4096, 4096}, {70_000, 100_000}, {299_000, 500_000}} {
		clear(want[r[0]:min(r[0]+r[1], n)])
		do(vfs.FallocZeroRange|vfs.FallocKeepSize, r[0], r[1])
	}
	clear(want[290_000:])
	want = append(want, make([]byte, 10_000)...)
	do(vfs.FallocZeroRange, 290_000, 20_000)
	do(vfs.FallocKeepSize, 300_000, 100_000)
	want = append(want, make([]byte, 90_000)...)
	do(0, 350_000, 50_000)
	f.wantErr("nothing", f.fs.Fallocate(root, ino, 0, 0, 0), vfs.ErrInvalid)
	f.wantErr("too far", f.fs.Fallocate(root, ino, 0, vfs.MaxFileBytes, 1), vfs.ErrFileTooBig)
	f.wantErr("punch without keep size", f.fs.Fallocate(root, ino, vfs.FallocPunchHole, 0, 4096), vfs.ErrNotSupported)
	f.wantErr("collapse", f.fs.Fallocate(root, ino, 8, 0, 4096), vfs.ErrNotSupported)
	f.wantErr("a directory", f.fs.Fallocate(root, vfs.RootIno, 0, 0, 1), vfs.ErrIsDir)
	// What is reserved counts, here and in the whole, and is a hole.
	p := f.file(vfs.RootIno, "p", "")
	before := f.fs.StatFS()
	f.noErr(f.fs.Fallocate(root, p, 0, 0, 1<<20))
	if a, s := f.stat(p), f.fs.StatFS(); a.Blocks != 1<<20/512 || before.BlocksAvail-s.BlocksAvail < 1<<20/uint64(s.BlockSize) || before.BlocksFree-s.BlocksFree < 1<<20/uint64(s.BlockSize) {
		f.Errorf("%d blocks; %d of %d blocks free, before %d of %d", a.Blocks, s.BlocksAvail, s.BlocksFree, before.BlocksAvail, before.BlocksFree)
	}
	_, err := f.fs.SeekData(p, 0)
	f.wantErr("data in what is reserved", err, vfs.ErrNoData)
	f.reservedBeyond()
	f.wantErr("more than there is", f.fs.Fallocate(root, p, 0, 0, (before.BlocksAvail+1)*uint64(before.BlockSize)), vfs.ErrNoSpace)
	// Writes use it.
	f.write(p, 1000, pattern(500_000, 3))
	f.content(p, slices.Concat(make([]byte, 1000), pattern(500_000, 3), make([]byte, 1<<20-501_000)))
}

// reservedBeyond reserves beyond the end of a file, which a hole and a truncation to the
// same size give back.
func (f *fixture) reservedBeyond() {
	f.Helper()
	const size = 10_000
	b := f.file(vfs.RootIno, "beyond", string(pattern(size, 9)))
	blocks := func(what string, want uint64) {
		f.Helper()
		f.noErr(f.fs.Sync(vfs.RootIno))
		if a := f.stat(b); a.Blocks != want/512 || a.Size != size {
			f.Errorf("%s: %d blocks, want %d; %d bytes", what, a.Blocks, want/512, a.Size)
		}
		f.content(b, pattern(size, 9))
	}
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocKeepSize, 8192, 1<<20))
	blocks("beyond the end", 8192+1<<20)
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocPunchHole|vfs.FallocKeepSize, 524288, 65536))
	blocks("a hole", 8192+1<<20-65536)
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocZeroRange|vfs.FallocKeepSize, 524288, 65536))
	blocks("zeros", 8192+1<<20)
	f.truncate(b, size)
	blocks("cut", 12288)
}

func copyRange(f *fixture) {
	src := pattern(300_000, 1)
	a, b := f.file(vfs.RootIno, "a", string(src)), f.file(vfs.RootIno, "b", "")
	copyIt := func(from vfs.Ino, off uint64, to vfs.Ino, toOff, length, want uint64) {
		f.Helper()
		if n, err := f.fs.CopyRange(root, from, off, to, toOff, length); err != nil || n != want {
			f.Errorf("copied %d, %v; want %d", n, err, want)
		}
	}
	copyIt(a, 1000, b, 50, 200_000, 200_000)
	f.content(b, append(make([]byte, 50), src[1000:201_000]...))
	copyIt(a, 299_000, b, 0, 5000, 1000)
	copyIt(a, 300_000, b, 0, 5000, 0)
	copyIt(a, 1<<40, b, 0, 5000, 0)
	copyIt(a, 0, a, 200_000, 100_000, 100_000)
	copy(src[200_000:], src[:100_000])
	f.content(a, src)
	copyIt(a, 0, a, 300_000, 1000, 1000)
	f.content(a, append(src, src[:1000]...))
	for _, c := range [][3]uint64{{0, 100, 1000}, {100, 0, 1000}, {0, 0, 10}} {
		_, err := f.fs.CopyRange(root, a, c[0], a, c[1], c[2])
		f.wantErr("overlap", err, vfs.ErrInvalid)
	}
	// The copy is independent.
	c := f.file(vfs.RootIno, "c", "")
	copyIt(a, 0, c, 0, 100_000, 100_000)
	f.write(a, 0, []byte("changed"))
	if got := f.read(c, 0, 7); !bytes.Equal(got, src[:7]) {
		f.Error("a write changes the copy")
	}
	// Holes are copied as zeros.
	h := f.file(vfs.RootIno, "h", "")
	f.truncate(h, 200_000)
	copyIt(h, 0, c, 10, 50_000, 50_000)
	if got := f.read(c, 10, 50_000); !bytes.Equal(got, make([]byte, 50_000)) {
		f.Error("a hole is copied as data")
	}
	_, err := f.fs.CopyRange(root, a, 0, c, vfs.MaxFileBytes-5, 100)
	f.wantErr("too far", err, vfs.ErrFileTooBig)
	_, err = f.fs.CopyRange(root, vfs.RootIno, 0, c, 0, 100)
	f.wantErr("from a directory", err, vfs.ErrIsDir)
}

func wrongType(f *fixture) {
	file := f.file(vfs.RootIno, "f", "x")
	_, err := f.fs.Lookup(file, "x")
	f.wantErr("lookup in a file", err, vfs.ErrNotDir)
	_, err = f.fs.Mknod(root, file, "x", syscall.S_IFREG, 0)
	f.wantErr("mknod in a file", err, vfs.ErrNotDir)
	_, err = f.fs.Mkdir(root, file, "x", 0)
	f.wantErr("mkdir in a file", err, vfs.ErrNotDir)
	f.wantErr("unlink in a file", f.fs.Unlink(root, file, "x"), vfs.ErrNotDir)
	f.wantErr("rename into a file", f.fs.Rename(root, vfs.RootIno, "f", file, "x", 0), vfs.ErrNotDir)
	_, err = f.fs.Parent(file)
	f.wantErr("parent of a file", err, vfs.ErrNotDir)
	_, err = f.fs.Read(vfs.RootIno, 0, make([]byte, 1))
	f.wantErr("read a directory", err, vfs.ErrIsDir)
	_, err = f.fs.Write(root, vfs.RootIno, 0, []byte("x"), false)
	f.wantErr("write a directory", err, vfs.ErrIsDir)
}

func stale(f *fixture) {
	const none = vfs.Ino(1 << 40)
	_, err := f.fs.GetAttr(none)
	f.wantErr("getattr", err, vfs.ErrStale)
	_, err = f.fs.Lookup(none, "x")
	f.wantErr("lookup", err, vfs.ErrStale)
	_, err = f.fs.Read(none, 0, make([]byte, 1))
	f.wantErr("read", err, vfs.ErrStale)
	_, err = f.fs.Write(root, none, 0, []byte("x"), false)
	f.wantErr("write", err, vfs.ErrStale)
	_, err = f.fs.SetAttr(root, none, &vfs.SetAttr{KillSuidgid: true})
	f.wantErr("setattr", err, vfs.ErrStale)
	_, err = f.fs.Link(root, none, vfs.RootIno, "x")
	f.wantErr("link", err, vfs.ErrStale)
	_, err = f.fs.GetXattr(none, "user.x")
	f.wantErr("getxattr", err, vfs.ErrStale)
	f.fs.Forget(none)
}

func setAttr(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "content")
	mode, uid, gid := uint32(0o4751), uint32(7), uint32(0xfffffffe)
	at, mt := vfs.Timespec{Sec: -5, Nsec: 999_999_999}, vfs.Timespec{Sec: 1 << 40, Nsec: 1}
	a := f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: &mode, UID: &uid, GID: &gid, Atime: &at, Mtime: &mt}))
	if a.Mode != syscall.S_IFREG|0o4751 || a.UID != uid || a.GID != gid || a.Atime != at || a.Mtime != mt || a.Size != 7 {
		f.Errorf("%+v", a)
	}
	if b := f.stat(ino); a != b {
		f.Errorf("%+v, later %+v", a, b)
	}
	ct := vfs.Timespec{Sec: 12345, Nsec: 6789}
	if a = f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Ctime: &ct})); a.Ctime != ct || a.Mtime != mt {
		f.Errorf("%+v", a)
	}
	// Several at once, or none of them.
	size := uint64(1 << 63)
	_, err := f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: new(uint32), Size: &size})
	f.wantErr("too big", err, vfs.ErrFileTooBig)
	if b := f.stat(ino); b.Mode != a.Mode {
		f.Errorf("half a change: %+v", b)
	}
}

func kill(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "program")
	const capability = "security.capability"
	reset := func(mode uint32) {
		f.Helper()
		f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: &mode}))
		f.noErr(f.fs.SetXattr(root, ino, capability, []byte("cap"), 0))
	}
	check := func(what string, want uint32, kept bool) {
		f.Helper()
		if a := f.stat(ino); a.Mode&0o7777 != want {
			f.Errorf("%s: mode %o, want %o", what, a.Mode, want)
		}
		_, err := f.fs.GetXattr(ino, capability)
		if kept {
			f.noErr(err)
		} else {
			f.wantErr(what, err, vfs.ErrNoXattr)
		}
	}
	reset(0o6755)
	f.write(ino, 0, []byte("x"))
	check("privileged write", 0o6755, true)
	_, err := f.fs.Write(root, ino, 0, []byte("x"), true)
	f.noErr(err)
	check("write", 0o755, false)
	reset(0o6745) // without group execution, sgid means mandatory locking
	_, err = f.fs.Write(root, ino, 0, []byte("x"), true)
	f.noErr(err)
	check("sgid without x", 0o2745, false)
	reset(0o6755)
	size, uid := uint64(3), uint32(9)
	f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size, KillSuidgid: true}))
	check("truncate", 0o755, false)
	reset(0o6755)
	f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{UID: &uid, KillSuidgid: true}))
	check("chown", 0o755, false)
	reset(0o6755)
	f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{UID: &uid}))
	check("privileged chown", 0o6755, true)
}

// timesRules checks who changes which times, beginning with all in the past.
func timesRules(f *fixture) {
	past := vfs.Timespec{Sec: 1000}
	d, e := f.dir(vfs.RootIno, "d"), f.dir(vfs.RootIno, "e")
	ino := f.file(d, "f", "content")
	a := f.stat(ino)
	if !after(a.Btime, past) || a.Atime.Sec == 0 {
		f.Errorf("times at creation: %+v", a)
	}
	for _, c := range []struct {
		what     string
		do       func() error
		changed  []vfs.Ino // ctime
		modified []vfs.Ino // mtime as well
	}{
		{"read", func() error { _, err := f.fs.Read(ino, 0, make([]byte, 3)); return err }, nil, nil},
		{"write", func() error { _, err := f.fs.Write(root, ino, 0, []byte("x"), false); return err }, nil, []vfs.Ino{ino}},
		{"truncate", func() error {
			size := uint64(3)
			_, err := f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size})
			return err
		}, nil, []vfs.Ino{ino}},
		{"chmod", func() error {
			mode := uint32(0o600)
			_, err := f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: &mode})
			return err
		}, []vfs.Ino{ino}, nil},
		{"setxattr", func() error { return f.fs.SetXattr(root, ino, "user.x", nil, 0) }, []vfs.Ino{ino}, nil},
		{"removexattr", func() error { return f.fs.RemoveXattr(root, ino, "user.x") }, []vfs.Ino{ino}, nil},
		{"link", func() error { _, err := f.fs.Link(root, ino, e, "l"); return err }, []vfs.Ino{ino}, []vfs.Ino{e}},
		{"unlink", func() error { return f.fs.Unlink(root, e, "l") }, []vfs.Ino{ino}, []vfs.Ino{e}},
		{"rename", func() error { return f.fs.Rename(root, d, "f", e, "f", 0) }, []vfs.Ino{ino}, []vfs.Ino{d, e}},
		{"mknod", func() error { _, err := f.fs.Mknod(root, d, "n", syscall.S_IFREG, 0); return err }, nil, []vfs.Ino{d}},
		{"mkdir", func() error { _, err := f.fs.Mkdir(root, d, "m", 0); return err }, nil, []vfs.Ino{d}},
		{"rmdir", func() error { return f.fs.Rmdir(root, d, "m") }, nil, []vfs.Ino{d}},
		{"symlink", func() error { _, err := f.fs.Symlink(root, d, "s", "t"); return err }, nil, []vfs.Ino{d}},
		{"fallocate", func() error { return f.fs.Fallocate(root, ino, 0, 0, 10000) }, nil, []vfs.Ino{ino}},
		{"sync", func() error { return f.fs.Sync(ino) }, nil, nil},
	} {
		all := []vfs.Ino{d, e, ino}
		for _, i := range all {
			f.got(f.fs.SetAttr(root, i, &vfs.SetAttr{Atime: &past, Mtime: &past, Ctime: &past}))
		}
		f.noErr(c.do())
		for _, i := range all {
			a := f.stat(i)
			modified := slices.Contains(c.modified, i)
			changed := modified || slices.Contains(c.changed, i)
			if after(a.Ctime, past) != changed || after(a.Mtime, past) != modified || a.Atime != past {
				f.Errorf("%s: inode %d (of %v): atime %v mtime %v ctime %v", c.what, i, all, a.Atime, a.Mtime, a.Ctime)
			}
		}
	}
}

func xattr(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	set := func(name string, value []byte, flags uint32) error {
		return f.fs.SetXattr(root, ino, name, value, flags)
	}
	_, err := f.fs.GetXattr(ino, "user.none")
	f.wantErr("get", err, vfs.ErrNoXattr)
	f.wantErr("remove", f.fs.RemoveXattr(root, ino, "user.none"), vfs.ErrNoXattr)
	f.wantErr("replace", set("user.none", nil, vfs.XattrReplace), vfs.ErrNoXattr)
	for i, n := range []int{0, 1, 100, 4000, 5000, vfs.MaxXattrBytes} {
		name, value := fmt.Sprint("user.", i), pattern(n, i)
		f.noErr(set(name, value, vfs.XattrCreate))
		f.wantErr("create again", set(name, value, vfs.XattrCreate), vfs.ErrExist)
		if got, err := f.fs.GetXattr(ino, name); err != nil || !bytes.Equal(got, value) {
			f.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
		value = pattern(max(n-1, 0), i+1)
		f.noErr(set(name, value, vfs.XattrReplace))
		if got, err := f.fs.GetXattr(ino, name); err != nil || !bytes.Equal(got, value) {
			f.Errorf("%d bytes replaced: %d, %v", n, len(got), err)
		}
	}
	f.wantErr("too big", set("user.0", make([]byte, vfs.MaxXattrBytes+1), 0), vfs.ErrXattrTooBig)
	longest := "user." + strings.Repeat("x", vfs.MaxXattrName-5)
	f.noErr(set(longest, []byte("v"), 0))
	f.wantErr("long name", set(longest+"x", nil, 0), vfs.ErrInvalid)
	f.wantErr("flags", set("user.0", nil, 4), vfs.ErrInvalid)
	f.noErr(f.fs.RemoveXattr(root, ino, "user.3"))
	list, err := f.fs.ListXattr(ino)
	f.noErr(err)
	slices.Sort(list)
	if want := []string{"user.0", "user.1", "user.2", "user.4", "user.5", longest}; !slices.Equal(list, want) {
		f.Errorf("list %q", list)
	}
	d := f.dir(vfs.RootIno, "d")
	f.noErr(f.fs.SetXattr(root, d, "trusted.x", []byte("d"), 0))
	// They go with their inode.
	f.noErr(f.fs.Unlink(root, vfs.RootIno, "f"))
	f.fs.Forget(ino)
}

func extended(user, named, group, mask, other uint16) posixacl.ACL {
	return posixacl.ACL{
		{Tag: posixacl.UserObj, Perm: user, ID: posixacl.NoID}, {Tag: posixacl.User, Perm: named, ID: 1000},
		{Tag: posixacl.GroupObj, Perm: group, ID: posixacl.NoID}, {Tag: posixacl.Mask, Perm: mask, ID: posixacl.NoID},
		{Tag: posixacl.Other, Perm: other, ID: posixacl.NoID},
	}
}

func plain(user, group, other uint16) posixacl.ACL {
	return posixacl.ACL{
		{Tag: posixacl.UserObj, Perm: user, ID: posixacl.NoID}, {Tag: posixacl.GroupObj, Perm: group, ID: posixacl.NoID},
		{Tag: posixacl.Other, Perm: other, ID: posixacl.NoID},
	}
}

// acl of an inode; nil where none is stored.
func (f *fixture) acl(ino vfs.Ino, name string) []byte {
	f.Helper()
	value, err := f.fs.GetXattr(ino, name)
	if errors.Is(err, vfs.ErrNoXattr) {
		return nil
	}
	f.noErr(err)
	return value
}

func acl(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	set := func(a posixacl.ACL) error { return f.fs.SetXattr(root, ino, posixacl.AccessName, a.Encode(), 0) }
	mode := uint32(0o6644)
	f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: &mode}))
	f.noErr(set(extended(7, 4, 5, 6, 0)))
	if a := f.stat(ino); a.Mode&0o7777 != 0o6760 {
		f.Errorf("mode %o", a.Mode)
	}
	mode = 0o640
	f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Mode: &mode}))
	if got := f.acl(ino, posixacl.AccessName); !bytes.Equal(got, extended(6, 4, 5, 4, 0).Encode()) {
		f.Errorf("after chmod: %x", got)
	}
	f.noErr(set(plain(7, 5, 1)))
	if got := f.acl(ino, posixacl.AccessName); got != nil {
		f.Errorf("kept: %x", got)
	}
	if a := f.stat(ino); a.Mode&0o7777 != 0o751 {
		f.Errorf("mode %o", a.Mode)
	}
	f.noErr(f.fs.RemoveXattr(root, ino, posixacl.AccessName)) // none: no error
	f.noErr(set(extended(7, 4, 5, 6, 0)))
	f.noErr(f.fs.RemoveXattr(root, ino, posixacl.AccessName))
	if a := f.stat(ino); a.Mode&0o7777 != 0o760 || f.acl(ino, posixacl.AccessName) != nil {
		f.Errorf("after removal: mode %o", a.Mode)
	}
	f.wantErr("no ACL", f.fs.SetXattr(root, ino, posixacl.AccessName, []byte("nonsense"), 0), vfs.ErrInvalid)
	f.wantErr("incomplete", set(plain(7, 5, 1)[:2]), vfs.ErrInvalid)
	f.wantErr("default ACL of a file", f.fs.SetXattr(root, ino, posixacl.DefaultName, plain(7, 5, 1).Encode(), 0), vfs.ErrInvalid)
	s := f.got(f.fs.Symlink(root, vfs.RootIno, "s", "t")).Ino
	f.wantErr("symlink", f.fs.SetXattr(root, s, posixacl.AccessName, plain(7, 5, 1).Encode(), 0), vfs.ErrNotSupported)
}

func aclInherit(f *fixture) {
	d := f.dir(vfs.RootIno, "d")
	def := extended(7, 6, 5, 7, 5)
	f.noErr(f.fs.SetXattr(root, d, posixacl.DefaultName, def.Encode(), 0))
	req := &vfs.Req{Umask: 0o077} // does not apply
	a := f.got(f.fs.Mknod(req, d, "f", syscall.S_IFREG|0o664, 0))
	if a.Mode != syscall.S_IFREG|0o664 || !bytes.Equal(f.acl(a.Ino, posixacl.AccessName), extended(6, 6, 5, 6, 4).Encode()) || f.acl(a.Ino, posixacl.DefaultName) != nil {
		f.Errorf("file: mode %o, %x", a.Mode, f.acl(a.Ino, posixacl.AccessName))
	}
	a = f.got(f.fs.Mkdir(req, d, "sub", 0o750))
	if a.Mode != syscall.S_IFDIR|0o750 || !bytes.Equal(f.acl(a.Ino, posixacl.AccessName), extended(7, 6, 5, 5, 0).Encode()) ||
		!bytes.Equal(f.acl(a.Ino, posixacl.DefaultName), def.Encode()) {
		f.Errorf("directory: mode %o", a.Mode)
	}
	a = f.got(f.fs.Tmpfile(req, d, 0o600))
	if a.Mode&0o777 != 0o600 || f.acl(a.Ino, posixacl.AccessName) == nil {
		f.Errorf("tmpfile: %+v", a)
	}
	f.fs.Forget(a.Ino)
	a = f.got(f.fs.Symlink(req, d, "s", "t"))
	if a.Mode != syscall.S_IFLNK|0o777 || f.acl(a.Ino, posixacl.AccessName) != nil {
		f.Errorf("symlink: %+v", a)
	}
	// A default ACL that is only a mode masks, and leaves nothing behind.
	f.noErr(f.fs.SetXattr(root, d, posixacl.DefaultName, plain(7, 4, 0).Encode(), 0))
	a = f.got(f.fs.Mknod(req, d, "g", syscall.S_IFREG|0o666, 0))
	if a.Mode != syscall.S_IFREG|0o640 || f.acl(a.Ino, posixacl.AccessName) != nil {
		f.Errorf("masked: mode %o", a.Mode)
	}
}

func statfs(f *fixture) {
	before := f.fs.StatFS()
	if before.BlockSize == 0 || before.Blocks == 0 || before.BlocksFree > before.Blocks || before.BlocksAvail > before.BlocksFree || before.NameMax != vfs.MaxNameBytes {
		f.Errorf("%+v", before)
	}
	ino := f.file(vfs.RootIno, "f", string(pattern(1<<20, 1)))
	f.noErr(f.fs.Sync(vfs.RootIno))
	if a := f.fs.StatFS(); before.BlocksAvail-a.BlocksAvail < 1<<20/uint64(a.BlockSize) {
		f.Errorf("1 MiB takes %d blocks of %d", before.BlocksAvail-a.BlocksAvail, a.BlockSize)
	}
	if a := f.stat(ino); a.Blocks < 1<<20/512 || a.Blocks > 2<<20/512 {
		f.Errorf("blocks %d", a.Blocks)
	}
}

// concurrent has many goroutines work in one tree, for the race detector, and
// checks the outcome.
func concurrent(f *fixture) {
	const workers, rounds = 8, 40
	shared := f.file(vfs.RootIno, "shared", "")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("w%d-%d", w, i)
				a, err := f.fs.Mknod(root, vfs.RootIno, name, syscall.S_IFREG|0o600, 0)
				if err != nil {
					f.Error(err)
					return
				}
				data := pattern(3000, w*rounds+i)
				_, err1 := f.fs.Write(root, a.Ino, 0, data, false)
				_, err2 := f.fs.Write(root, shared, uint64((w*rounds+i)*3000), data, false)
				err3 := f.fs.Rename(root, vfs.RootIno, name, vfs.RootIno, "r"+name, 0)
				err4 := f.fs.ReadDir(vfs.RootIno, 0, true, func(vfs.Dirent, *vfs.Attr) bool { return true })
				_, err5 := f.fs.Lookup(vfs.RootIno, "r"+name)
				var err6 error
				if i%2 == 0 {
					err6 = f.fs.Unlink(root, vfs.RootIno, "r"+name)
					f.fs.Forget(a.Ino)
				}
				if i%10 == 0 {
					err6 = errors.Join(err6, f.fs.Sync(shared))
				}
				if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var want []byte
	for i := range workers * rounds {
		want = append(want, pattern(3000, i)...)
	}
	f.content(shared, want)
	if n := len(strings.Fields(f.names(vfs.RootIno))); n != workers*rounds/2+1 {
		f.Errorf("%d names", n)
	}
}
