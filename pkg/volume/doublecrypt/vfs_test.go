package doublecrypt

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func testVolume(t *testing.T) (*Volume, func() *Volume) {
	t.Helper()
	dev := device.NewMem(4096 * 4096)
	key := testKey(t)
	must(t, Format(dev, key, 4096, 0, Options{}))
	v := mustOpen(t, dev, key, Options{UID: 7, GID: 8})
	t.Cleanup(func() {
		must(t, v.Close())
		mustClean(t, dev, key)
	})
	return v, func() *Volume {
		must(t, v.Close())
		v = mustOpen(t, dev, key, Options{UID: 7, GID: 8})
		return v
	}
}

// TestNotSupported checks that unsupported operations are refused and change nothing.
func TestNotSupported(t *testing.T) {
	v, _ := testVolume(t)
	a, err := v.Mknod(nil, vfs.RootIno, "f", syscall.S_IFREG|0o600, 0)
	must(t, err)
	if a.Mode != fileMode || a.UID != 7 || a.GID != 8 || a.Nlink != 1 {
		t.Errorf("%+v", a)
	}
	mode, uid, past := uint32(0o600), uint32(1), vfs.Timespec{Sec: -5}
	set := func(s vfs.SetAttr) error { _, err := v.SetAttr(nil, a.Ino, &s); return err }
	made := func(_ vfs.Attr, err error) error { return err }
	size := uint64(100)
	for what, err := range map[string]error{
		"chmod":          set(vfs.SetAttr{Mode: &mode}),
		"chmod and size": set(vfs.SetAttr{Mode: &mode, Size: &size}),
		"chown":          set(vfs.SetAttr{UID: &uid}),
		"chgrp":          set(vfs.SetAttr{GID: &uid}),
		"before 1970":    set(vfs.SetAttr{Mtime: &past}),
		"symlink":        made(v.Symlink(nil, vfs.RootIno, "s", "t")),
		"link":           made(v.Link(nil, a.Ino, vfs.RootIno, "l")),
		"fifo":           made(v.Mknod(nil, vfs.RootIno, "p", syscall.S_IFIFO, 0)),
		"device":         made(v.Mknod(nil, vfs.RootIno, "p", syscall.S_IFBLK, 5)),
		"setxattr":       v.SetXattr(nil, a.Ino, "user.x", nil, 0),
		"removexattr":    v.RemoveXattr(nil, a.Ino, "user.x"),
		"whiteout":       v.Rename(nil, vfs.RootIno, "f", vfs.RootIno, "g", vfs.RenameWhiteout),
		"keep size":      v.Fallocate(nil, a.Ino, vfs.FallocKeepSize, 0, 1000),
	} {
		if !errors.Is(err, vfs.ErrNotSupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := v.GetAttr(a.Ino); err != nil || b != a {
		t.Errorf("%+v, %v", b, err)
	}
	mode, uid = 0o644, 7
	must(t, set(vfs.SetAttr{Mode: &mode, UID: &uid, Atime: &past})) // as it is
	if _, err := v.Mknod(nil, vfs.RootIno, "\xff", syscall.S_IFREG, 0); !errors.Is(err, vfs.ErrInvalid) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
	if err := v.Rename(nil, vfs.RootIno, "f", vfs.RootIno, "g", 8); !errors.Is(err, vfs.ErrInvalid) {
		t.Errorf("unknown flag: %v", err)
	}
}

// TestOrphans checks that files without names keep their data until they are forgotten and are then
// freed, and that a file that was created without a name can get one.
func TestOrphans(t *testing.T) {
	v, reopen := testVolume(t)
	free := v.StatFS().BlocksFree
	a, err := v.Mknod(nil, vfs.RootIno, "f", syscall.S_IFREG, 0)
	must(t, err)
	data := bytes.Repeat([]byte("data"), 5000)
	write := func(ino vfs.Ino) {
		t.Helper()
		if n, err := v.Write(nil, ino, 0, data, false); n != len(data) || err != nil {
			t.Fatal(n, err)
		}
	}
	read := func(ino vfs.Ino) {
		t.Helper()
		got := make([]byte, len(data)+1)
		if n, err := v.Read(ino, 0, got); err != nil || !bytes.Equal(got[:n], data) {
			t.Fatal(n, err)
		}
	}
	write(a.Ino)
	must(t, v.Sync(0))
	must(t, v.Unlink(nil, vfs.RootIno, "f"))
	must(t, v.Sync(0))
	read(a.Ino)
	write(a.Ino)
	must(t, v.Sync(0))
	must(t, v.Sync(0))
	read(a.Ino)
	v.Forget(a.Ino)
	if _, err := v.GetAttr(a.Ino); !errors.Is(err, vfs.ErrStale) {
		t.Errorf("forgotten: %v", err)
	}
	tmp, err := v.Tmpfile(nil, vfs.RootIno, 0)
	must(t, err)
	if tmp.Nlink != 0 {
		t.Errorf("%+v", tmp)
	}
	write(tmp.Ino)
	must(t, v.Sync(0))
	if got, err := v.Link(nil, tmp.Ino, vfs.RootIno, "named"); err != nil || got.Ino != tmp.Ino || got.Nlink != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	v = reopen()
	read(tmp.Ino)
	must(t, v.Unlink(nil, vfs.RootIno, "named"))
	v.Forget(tmp.Ino)
	must(t, v.Sync(0))
	if now := v.StatFS().BlocksFree; now != free {
		t.Errorf("%d blocks are free, %d were", now, free)
	}
	// A file without a name that is in use during a power loss is gone afterwards, and its blocks
	// are free.
	b, err := v.Mknod(nil, vfs.RootIno, "g", syscall.S_IFREG, 0)
	must(t, err)
	write(b.Ino)
	must(t, v.Unlink(nil, vfs.RootIno, "g"))
	v = reopen()
	if now := v.StatFS().BlocksFree; now != free {
		t.Errorf("%d blocks are free, %d were", now, free)
	}
}

// TestExchange swaps a file and a directory.
func TestExchange(t *testing.T) {
	v, reopen := testVolume(t)
	d, err := v.Mkdir(nil, vfs.RootIno, "d", 0)
	must(t, err)
	e, err := v.Mkdir(nil, d.Ino, "e", 0)
	must(t, err)
	f, err := v.Mknod(nil, vfs.RootIno, "f", syscall.S_IFREG, 0)
	must(t, err)
	must(t, v.Rename(nil, vfs.RootIno, "f", d.Ino, "e", vfs.RenameExchange))
	checkAccounts(t, v)
	v = reopen()
	checkAccounts(t, v)
	x, err := v.Lookup(vfs.RootIno, "f")
	must(t, err)
	y, err := v.Lookup(d.Ino, "e")
	must(t, err)
	if x.Ino != e.Ino || y.Ino != f.Ino {
		t.Errorf("%d %d", x.Ino, y.Ino)
	}
	if p, err := v.Parent(e.Ino); err != nil || p != vfs.RootIno {
		t.Errorf("parent %d, %v", p, err)
	}
	if err := v.Rename(nil, vfs.RootIno, "d", d.Ino, "e", vfs.RenameExchange); !errors.Is(err, vfs.ErrInvalid) {
		t.Errorf("with what is above: %v", err)
	}
}

// TestZeroRanges checks that zeros are stored for allocated and punched ranges.
func TestZeroRanges(t *testing.T) {
	v, reopen := testVolume(t)
	a, err := v.Mknod(nil, vfs.RootIno, "f", syscall.S_IFREG, 0)
	must(t, err)
	want := bytes.Repeat([]byte{9}, 30_000)
	if _, err := v.Write(nil, a.Ino, 0, want, false); err != nil {
		t.Fatal(err)
	}
	must(t, v.Sync(0))
	must(t, v.Fallocate(nil, a.Ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 1000, 12_000))
	clear(want[1000:13_000])
	must(t, v.Fallocate(nil, a.Ino, vfs.FallocZeroRange, 29_000, 5000))
	want = append(want, make([]byte, 4000)...)
	clear(want[29_000:])
	must(t, v.Fallocate(nil, a.Ino, 0, 0, 40_000))
	want = append(want, make([]byte, 6000)...)
	for range 2 {
		got := make([]byte, 50_000)
		if n, err := v.Read(a.Ino, 0, got); err != nil || !bytes.Equal(got[:n], want) {
			t.Fatal(n, err)
		}
		if hole, err := v.SeekHole(a.Ino, 0); err != nil || hole != 40_000 {
			t.Errorf("hole at %d, %v", hole, err)
		}
		v = reopen()
	}
}

// TestReadOnly checks that changes are refused, and that nothing is written.
func TestReadOnly(t *testing.T) {
	dev := device.NewMem(4096 * 64)
	key := testKey(t)
	must(t, Format(dev, key, 4096, 0, Options{}))
	writes := dev.Writes()
	v := mustOpen(t, dev, key, Options{ReadOnly: true})
	if _, err := v.Mknod(nil, vfs.RootIno, "f", syscall.S_IFREG, 0); !errors.Is(err, vfs.ErrReadOnly) {
		t.Error(err)
	}
	must(t, v.Sync(vfs.RootIno))
	must(t, v.Close())
	if dev.Writes() != writes {
		t.Error("something was written")
	}
	if _, err := v.GetAttr(vfs.RootIno); !errors.Is(err, vfs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
