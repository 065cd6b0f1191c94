package mounter

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRawFileOpensNoDevice: if the file of a raw block volume was replaced by another type of file,
// it is not opened.
func TestRawFileOpensNoDevice(t *testing.T) {
	for name, mode := range map[string]uint32{"device": unix.S_IFCHR, "block device": unix.S_IFBLK, "pipe": unix.S_IFIFO, "socket": unix.S_IFSOCK} {
		dir := t.TempDir()
		path := filepath.Join(dir, rawFile)
		if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
		watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(watch)
		if _, err := unix.InotifyAddWatch(watch, path, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
		for _, readOnly := range []bool{false, true} {
			if _, err := (&attachCall{Dir: dir, SizeBytes: RawAlign, ReadOnly: readOnly}).open(); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n, err := unix.Read(watch, make([]byte, 256)); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s was opened (%d, %v)", name, n, err)
		}
	}
}
