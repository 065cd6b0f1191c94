package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/local"
)

// TestCopiesShareBlocks: if the file system supports it, snapshots and clones use no space until
// something is overwritten.
func TestCopiesShareBlocks(t *testing.T) {
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "xfs.img"), filepath.Join(dir, "xfs")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	command("mkfs.xfs", "-q", "-m", "reflink=1", img)
	command("mount", "-o", "loop", img, mnt) // the loop device is removed with the mount
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err, unix.Unmount(mnt, unix.MNT_DETACH))
		}
	})
	b, err := local.Open(t.Context(), local.Options{Dir: filepath.Join(mnt, "v"), Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	if b.CopiesAll() {
		t.Error("XFS is said not to share blocks")
	}
	const bytesOfData = 64 << 20
	v, err := b.Create(t.Context(), backend.Spec{Name: "v", RequiredBytes: bytesOfData})
	if err != nil {
		t.Fatal(err)
	}
	image := func(id string) string { return filepath.Join(mnt, "v/images", id+".img") }
	data := bytes.Repeat([]byte("shared  "), bytesOfData/8)
	writeImage(t, image(v.ID), data)
	before := freeBytes(t, mnt)
	s, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Create(t.Context(), backend.Spec{Name: "c", Source: &backend.Source{Snapshot: s.ID}})
	if err != nil {
		t.Fatal(err)
	}
	if used := before - freeBytes(t, mnt); used > bytesOfData/8 {
		t.Fatalf("two copies of %d bytes cost %d", bytesOfData, used)
	}
	writeImage(t, image(v.ID), bytes.Repeat([]byte("changed "), bytesOfData/8))
	for _, id := range []string{s.ID, c.ID} {
		if got, err := os.ReadFile(image(id)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s changed with its source, %v", id, err)
		}
	}
}

func writeImage(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// TestCopiesAll distinguishes a file system that refuses to share blocks from one where the attempt
// fails for another reason.
func TestCopiesAll(t *testing.T) {
	dir := fmt.Sprint("/dev/shm/sealvol-copies-", os.Getpid()) // tmpfs cannot share blocks
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := local.Open(t.Context(), local.Options{Dir: filepath.Join(dir, "v"), Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if !b.CopiesAll() {
		t.Error("tmpfs is said to share blocks")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}
