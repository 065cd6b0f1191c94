package posix

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// TestHandlesAcrossMounts checks that file handles are valid in the next mount, and stale if the
// file was deleted.
func TestHandlesAcrossMounts(t *testing.T) {
	v := newVolume(t)
	m := fusefstest.Mount(t, v, fusefstest.Options{})
	handles := map[string]unix.FileHandle{}
	for _, name := range []string{"stays", "moves", "goes"} {
		if err := os.WriteFile(m.Dir+"/"+name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, m.Dir+"/"+name, 0)
		if err != nil {
			t.Fatal(err)
		}
		handles[name] = h
	}
	if err := os.Mkdir(m.Dir+"/d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.Dir+"/moves", m.Dir+"/d/moved"); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	m = fusefstest.Mount(t, v, fusefstest.Options{})
	if err := os.Remove(m.Dir + "/goes"); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(m.Dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for name, want := range map[string]error{"stays": nil, "moves": nil, "goes": unix.ESTALE} {
		fd, err := unix.OpenByHandleAt(root, handles[name], unix.O_RDONLY|unix.O_CLOEXEC)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err != nil {
			continue
		}
		b := make([]byte, 10)
		if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != name {
			t.Errorf("%s: reads %q, %v", name, b[:n], err)
		}
		unix.Close(fd)
	}
}
