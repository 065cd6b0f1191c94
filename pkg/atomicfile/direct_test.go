package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriteDirect: content of any length and at any address arrives as it is, with and without a
// file system below that supports direct I/O.
func TestWriteDirect(t *testing.T) {
	tmpfs := t.TempDir()
	if err := unix.Mount("tmpfs", tmpfs, "tmpfs", 0, "size=16m"); err != nil {
		if !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		tmpfs = "/dev/shm" // without root
	} else {
		t.Cleanup(func() {
			if err := unix.Unmount(tmpfs, 0); err != nil {
				t.Error(err)
			}
		})
	}
	all := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(all) //nolint:errcheck // never fails
	for _, dir := range []string{t.TempDir(), tmpfs} {
		for _, n := range []int{0, 1, 511, 4095, 4096, 4097, 8192, 1<<20 - 1, 1 << 20, 2<<20 + 777} {
			for _, at := range []int{0, 1, 512, 4096} {
				name := filepath.Join(dir, fmt.Sprintf("sealvol-test-%d-%d-%d", os.Getpid(), n, at))
				want := all[at : at+n]
				f, err := Create(name, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if w, err := f.WriteDirect(want); w != n || err != nil {
					t.Errorf("%s: %d bytes, %v", name, w, err)
				}
				if err := f.Commit(); err != nil {
					t.Error(err)
				}
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes differ, %v", name, len(got), err)
				}
				if err := os.Remove(name); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestWriteDirectFull: a full disk is an error.
func TestWriteDirectFull(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &File{f: f}
	defer f.Close()
	if n, err := x.WriteDirect(make([]byte, 1<<20)); n != 0 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d bytes, %v", n, err)
	}
}
