package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter"
)

func blockDevice() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessMode: multiWriter().AccessMode, AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
}

// rawChunks is how many chunks of 64 KiB the raw block device of a workflow has.
const rawChunks = size >> 16

func rawChunk(i int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "plaintext %08d. ", i), 64<<10/20+1)[:64<<10]
}

// openRaw opens the block device.
func (w *workflow) openRaw(flags int) *os.File {
	w.r.t.Helper()
	f, err := os.OpenFile(w.target(), flags, 0)
	if err != nil {
		w.r.t.Fatal(err)
	}
	return f
}

// fillRaw writes the whole device, its first half twice, and syncs it.
func fillRaw(t *testing.T, f *os.File) {
	t.Helper()
	for i := range rawChunks {
		if _, err := f.WriteAt(rawChunk(i), int64(i)<<16); err != nil {
			t.Fatal(err)
		}
		if i < rawChunks/2 {
			if _, err := f.WriteAt(rawChunk(-i), int64(i)<<16); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// checkRaw compares everything except the first chunk, which may have been written since.
func checkRaw(t *testing.T, f *os.File) {
	t.Helper()
	got := make([]byte, 64<<10)
	for i := 1; i < rawChunks; i++ {
		want := rawChunk(i)
		if i < rawChunks/2 {
			want = rawChunk(-i)
		}
		if _, err := f.ReadAt(got, int64(i)<<16); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
}

// oneSector is memory for direct I/O.
func oneSector(t *testing.T) []byte {
	t.Helper()
	one, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(one); err != nil {
			t.Error(err)
		}
	})
	copy(one, "one durable sector")
	return one
}

// TestRawEngine: what was flushed to a published block device is there after the SIGKILL of its
// server, even if writes were running. A discarded range becomes a hole of zeros. The device grows
// while it is open, and can be overwritten completely.
func TestRawEngine(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r, capability: blockDevice()}
	w.run(w.up())
	f := w.openRaw(os.O_RDWR)
	if n, err := f.Seek(0, 2); err != nil || n != size {
		t.Fatal(n, err)
	}
	fillRaw(t, f)
	// One write with O_DSYNC, like that of a database.
	d := w.openRaw(os.O_WRONLY | unix.O_DIRECT | unix.O_DSYNC)
	one := oneSector(t)
	if _, err := d.WriteAt(one, 3*4096); err != nil {
		t.Fatal(err)
	}
	d.Close()
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	h, err := m.Health(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, h.PID)
	for err = nil; err == nil; { // not synced, or beyond the end
		if _, err = f.WriteAt(rawChunk(7), 0); err == nil {
			err = f.Sync()
		}
	}
	if !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	f.Close()
	w.run(w.up())
	f = w.openRaw(os.O_RDWR)
	defer f.Close()
	checkRaw(t, f)
	image, err := os.ReadFile(r.path("local/images/" + w.id + ".img"))
	if err != nil || bytes.Contains(image, []byte("plaintext")) {
		t.Fatal("plaintext on the device, ", err)
	}
	discard(t, m, r, w, f)
	w.run(w.expand())
	if n, err := f.Seek(0, 2); err != nil || n != 2*size {
		t.Fatal(n, err)
	}
	if _, err := f.WriteAt(one, 2*size-4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.run(w.down())
	r.wantClean()
	if hidden, err := filepath.Glob(r.path("mounter/hidden/*")); err != nil || len(hidden) != 0 {
		t.Fatal(hidden, err)
	}
}

// discard frees the space of half a device.
func discard(t *testing.T, m mounter.Client, r *rig, w *workflow, f *os.File) {
	t.Helper()
	before, err := m.Stats(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	rng := [2]uint64{size / 2, size / 4}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&rng))); e != 0 {
		t.Fatal(e)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := m.Stats(r.ctx(), w.id)
	if err != nil || before.UsedBytes-after.UsedBytes < size/4*9/10 {
		t.Fatalf("used %d, then %d: %v", before.UsedBytes, after.UsedBytes, err)
	}
	got := make([]byte, 1<<20)
	if _, err := f.ReadAt(got, size/2); err != nil || len(bytes.Trim(got, "\x00")) != 0 {
		t.Fatal("discarded data is still there, ", err)
	}
}
