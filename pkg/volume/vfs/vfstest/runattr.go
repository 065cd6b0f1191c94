package vfstest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

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
	// A change of several attributes is atomic.
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

// timesRules checks which operations change which times. All times are in the past at the
// beginning.
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
	// They are deleted with their inode.
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
	// A default ACL that contains only mode entries masks the mode, and is not inherited.
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
