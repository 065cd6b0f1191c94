package volume

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// flagTree is a file f and a directory d with a file in it, each with flags, and a directory e.
type flagTree struct {
	v           *Volume
	f, d, in, e vfs.Ino
}

func newFlagTree(t *testing.T, flags uint32) *flagTree {
	t.Helper()
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	x := &flagTree{v: mustOpen(t, dev, Options{})}
	t.Cleanup(func() {
		ok(t, x.v.Close())
		checkClean(t, dev)
	})
	req := &vfs.Req{}
	inode := func(a vfs.Attr, err error) vfs.Ino { t.Helper(); ok(t, err); return a.Ino }
	x.f = inode(x.v.Mknod(req, vfs.RootIno, "f", 0o644, 0))
	x.d = inode(x.v.Mkdir(req, vfs.RootIno, "d", 0o755))
	x.e = inode(x.v.Mkdir(req, vfs.RootIno, "e", 0o755))
	x.in = inode(x.v.Mknod(req, x.d, "in", 0o644, 0))
	_, err := x.v.Write(req, x.f, 0, []byte("0123456789"), false)
	ok(t, err)
	ok(t, x.v.SetXattr(req, x.f, "user.a", []byte("b"), 0))
	ok(t, x.v.SetFlags(req, x.f, flags))
	ok(t, x.v.SetFlags(req, x.d, flags))
	return x
}

// TestFlagsForbid: what each flag forbids, and no more. Of ext4 it differs in that the kernel opens files
// for writing, and the writes fail.
func TestFlagsForbid(t *testing.T) {
	req, size, mode, now := &vfs.Req{}, uint64(3), uint32(0o600), vfs.Now()
	only := func(_ any, err error) error { return err }
	set := func(s vfs.SetAttr) func(x *flagTree) error {
		return func(x *flagTree) error { _, err := x.v.SetAttr(req, x.f, &s); return err }
	}
	uid := uint32(7)
	for _, c := range []struct {
		name              string
		immutable, append bool // forbidden by
		do                func(x *flagTree) error
	}{
		{"write", true, true, func(x *flagTree) error { return only(x.v.Write(req, x.f, 0, []byte("x"), false)) }},
		{"write at the end", true, true, func(x *flagTree) error { return only(x.v.Write(req, x.f, 10, []byte("x"), false)) }},
		{"append", true, false, func(x *flagTree) error { return only(x.v.Write(&vfs.Req{Append: true}, x.f, 10, []byte("x"), false)) }},
		{"append inside", true, true, func(x *flagTree) error { return only(x.v.Write(&vfs.Req{Append: true}, x.f, 9, []byte("x"), false)) }},
		{"truncate", true, true, set(vfs.SetAttr{Size: &size})},
		{"chmod", true, true, set(vfs.SetAttr{Mode: &mode})},
		{"chown", true, true, set(vfs.SetAttr{UID: &uid})},
		{"set times", true, true, set(vfs.SetAttr{Mtime: &now, Atime: &now})},
		{"touch", true, false, set(vfs.SetAttr{Mtime: &now, Atime: &now, Touch: true})},
		{"kill suid", true, false, set(vfs.SetAttr{KillSuidgid: true})},
		{"allocate", true, false, func(x *flagTree) error { return x.v.Fallocate(req, x.f, 0, 0, 20000) }},
		{"punch", true, true, func(x *flagTree) error {
			return x.v.Fallocate(req, x.f, vfs.FallocPunchHole|vfs.FallocKeepSize, 0, 4096)
		}},
		{"zero", true, true, func(x *flagTree) error { return x.v.Fallocate(req, x.f, vfs.FallocZeroRange, 0, 4096) }},
		{"copy to", true, true, func(x *flagTree) error {
			big := make([]byte, 100_000)
			if err := only(x.v.Write(req, x.in, 0, big, false)); err != nil {
				return err
			}
			return only(x.v.CopyRange(req, x.in, 0, x.f, 0, 65536))
		}},
		{"set xattr", true, true, func(x *flagTree) error { return x.v.SetXattr(req, x.f, "user.n", nil, 0) }},
		{"remove xattr", true, true, func(x *flagTree) error { return x.v.RemoveXattr(req, x.f, "user.a") }},
		{"link", true, true, func(x *flagTree) error { return only(x.v.Link(req, x.f, x.e, "l")) }},
		{"unlink", true, true, func(x *flagTree) error { return x.v.Unlink(req, vfs.RootIno, "f") }},
		{"rename", true, true, func(x *flagTree) error { return x.v.Rename(req, vfs.RootIno, "f", x.e, "f", 0) }},
		{"replace", true, true, func(x *flagTree) error { return x.v.Rename(req, x.e, "o", vfs.RootIno, "f", 0) }},
		{"exchange", true, true, func(x *flagTree) error { return x.v.Rename(req, x.e, "o", vfs.RootIno, "f", vfs.RenameExchange) }},
		{"rmdir", true, true, func(x *flagTree) error { return x.v.Rmdir(req, vfs.RootIno, "d") }},
		{"create in it", true, false, func(x *flagTree) error { return only(x.v.Mknod(req, x.d, "n", 0o644, 0)) }},
		{"mkdir in it", true, false, func(x *flagTree) error { return only(x.v.Mkdir(req, x.d, "n", 0o755)) }},
		{"symlink in it", true, false, func(x *flagTree) error { return only(x.v.Symlink(req, x.d, "n", "t")) }},
		{"link into it", true, false, func(x *flagTree) error { return only(x.v.Link(req, x.in, x.d, "n")) }},
		{"tmpfile in it", true, false, func(x *flagTree) error {
			a, err := x.v.Tmpfile(req, x.d, 0o600)
			x.v.Forget(a.Ino)
			return err
		}},
		{"rename into it", true, false, func(x *flagTree) error { return x.v.Rename(req, x.e, "o", x.d, "n", 0) }},
		{"replace in it", true, true, func(x *flagTree) error { return x.v.Rename(req, x.e, "o", x.d, "in", 0) }},
		{"unlink in it", true, true, func(x *flagTree) error { return x.v.Unlink(req, x.d, "in") }},
		{"rename out of it", true, true, func(x *flagTree) error { return x.v.Rename(req, x.d, "in", x.e, "in", 0) }},
		{"write in it", false, false, func(x *flagTree) error { return only(x.v.Write(req, x.in, 0, []byte("x"), false)) }},
		{"read", false, false, func(x *flagTree) error { return only(x.v.Read(x.f, 0, make([]byte, 5))) }},
	} {
		for flag, forbidden := range map[uint32]bool{0: false, vfs.FlagNodump | vfs.FlagNoatime: false, vfs.FlagImmutable: c.immutable, vfs.FlagAppend: c.append} {
			if flag&vfs.FlagNodump != 0 && c.name != "write" {
				continue // these two forbid nothing anywhere
			}
			x := newFlagTree(t, flag)
			if _, err := x.v.Mknod(req, x.e, "o", 0o644, 0); err != nil {
				t.Fatal(err)
			}
			if c.name == "rmdir" && !forbidden {
				ok(t, x.v.Unlink(req, x.d, "in"))
			}
			err := c.do(x)
			if errors.Is(err, vfs.ErrNotPermitted) != forbidden || err != nil && !forbidden {
				t.Errorf("%s with flags %#x: %v", c.name, flag, err)
			}
		}
	}
}

// TestFlagsKept: flags survive commits, replay and crashes; names made in a directory get the
// two that forbid nothing; the header says that earlier versions must not write.
func TestFlagsKept(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, committed := range []bool{true, false} {
		dev := device.NewMem(64 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		req := &vfs.Req{}
		a, err := v.Mknod(req, vfs.RootIno, "f", 0o644, 0)
		ok(t, err)
		ok(t, v.SetFlags(req, a.Ino, 0))
		if v.keys.features.Load()&layout.FeatureFlags != 0 {
			t.Error("no flag calls for the feature")
		}
		for _, bad := range []uint32{1, 0x4000, vfs.FlagImmutable | 2} {
			if err := v.SetFlags(req, a.Ino, bad); !errors.Is(err, vfs.ErrNotSupported) {
				t.Errorf("flags %#x: %v", bad, err)
			}
		}
		if err := v.SetFlags(req, 99, vfs.FlagAppend); !errors.Is(err, vfs.ErrStale) {
			t.Errorf("flags of nothing: %v", err)
		}
		l, err := v.Symlink(req, vfs.RootIno, "l", "f")
		ok(t, err)
		if err := v.SetFlags(req, l.Ino, vfs.FlagAppend); !errors.Is(err, vfs.ErrNotSupported) {
			t.Errorf("flags of a symlink: %v", err)
		}
		before := a.Ctime
		ok(t, v.SetFlags(req, a.Ino, vfs.FlagImmutable|vfs.FlagNodump))
		if a, err = v.GetAttr(a.Ino); err != nil || a.Ctime == before {
			t.Errorf("time of change: %v, %v", a.Ctime, err)
		}
		d, err := v.Mkdir(req, vfs.RootIno, "d", 0o755)
		ok(t, err)
		ok(t, v.SetFlags(req, d.Ino, vfs.FlagAppend|vfs.FlagNodump|vfs.FlagNoatime))
		child, err := v.Mknod(req, d.Ino, "child", 0o644, 0)
		ok(t, err)
		if committed {
			ok(t, v.Sync(vfs.RootIno))
		} else {
			ok(t, v.Sync(a.Ino))
		}
		img := dev.Crash(device.CrashLoseAll, rng)
		v.fail(device.ErrCrashed)
		_ = v.Close()
		v = mustOpen(t, img, Options{CommitInterval: -1})
		for ino, want := range map[vfs.Ino]uint32{a.Ino: vfs.FlagImmutable | vfs.FlagNodump,
			d.Ino: vfs.FlagAppend | vfs.FlagNodump | vfs.FlagNoatime, child.Ino: vfs.FlagNodump | vfs.FlagNoatime, vfs.RootIno: 0} {
			if got, err := v.Flags(ino); err != nil || got != want {
				t.Errorf("committed %v: flags of %d: %#x, %v, want %#x", committed, ino, got, err, want)
			}
		}
		if _, err := v.Write(req, a.Ino, 0, []byte("x"), false); !errors.Is(err, vfs.ErrNotPermitted) {
			t.Errorf("write: %v", err)
		}
		ok(t, v.Close())
		checkClean(t, img)
		if h, err := ReadHeader(img); err != nil || h.Incompat&layout.FeatureFlags == 0 {
			t.Errorf("header %+v, %v", h, err)
		}
	}
}

// TestLabel: a label is sealed, outlives a mount, and is told by Inspect.
func TestLabel(t *testing.T) {
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{})
	req := &vfs.Req{}
	for _, label := range []string{"", "backup", "ünïcode with blanks", ""} {
		ok(t, vfs.SetLabel(v, req, label))
		if got, err := vfs.Label(v); err != nil || got != label {
			t.Errorf("%q, %v, want %q", got, err, label)
		}
	}
	for _, bad := range []string{"a\x00b", "two\nlines", string(make([]byte, 256))} {
		if err := vfs.SetLabel(v, req, bad); !errors.Is(err, vfs.ErrInvalid) {
			t.Errorf("label %q: %v", bad, err)
		}
	}
	ok(t, vfs.SetLabel(v, req, "kept"))
	ok(t, v.Close())
	cred := testCred(t)
	i, err := Inspect(dev, cred, false)
	if err != nil || i.Label != "kept" {
		t.Errorf("label %q, %v", i.Label, err)
	}
	checkClean(t, dev)
}

// TestCheckFlags: fsck finds flags that no header announces, and flags where there can be none.
func TestCheckFlags(t *testing.T) {
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	ok(t, v.SetFlags(&vfs.Req{}, a.Ino, vfs.FlagImmutable))
	ok(t, v.Close())
	for want, damage := range map[string]func(s *surgeon){
		"lacks their feature bit": func(s *surgeon) { s.incompat(t, 0) },
		"only allowed on files and directories": func(s *surgeon) {
			s.item(layout.TreeFS, func(k layout.Key, val []byte) (layout.Key, []byte, bool) {
				if k.Type != layout.KeyInode || k.Obj != uint64(a.Ino) {
					return k, val, false
				}
				n, err := layout.DecodeInode(val)
				ok(t, err)
				n.Mode = n.Mode&^uint32(items.ModeType) | 0o010000
				return k, n.Append(nil), true
			})
		},
	} {
		d := dev.Clone()
		damage(operate(t, d))
		if found := findings(t, d); !strings.Contains(found, want) {
			t.Errorf("fsck says\n%s\nwant %s", found, want)
		}
	}
}
