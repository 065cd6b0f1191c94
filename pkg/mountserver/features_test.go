package mountserver_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// TestDamagedData: reading damaged data returns an I/O error, and the server reports it.
func TestDamagedData(t *testing.T) {
	doors(t, func(t *testing.T, start func(string) *door) {
		var before, after []byte
		path := newImage(t, nil)
		before = readAll(t, path)
		data := noise(4 << 20)
		fill(t, path, func(v *volume.Volume) { put(t, v, "file", data) })
		after = readAll(t, path)
		flip(t, path, longestChange(t, before, after))
		d := start(path)
		if got := d.reasons(); len(got) != 0 {
			t.Error("before anybody has read:", got)
		}
		if b, err := os.ReadFile(filepath.Join(d.mnt, "file")); !errors.Is(err, unix.EIO) || !bytes.HasPrefix(data, b) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if got := d.reasons(); !slices.Equal(got, []string{"DamagedData"}) {
			t.Error(got)
		}
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
	})
}

// TestDeviceGone: a removed block device is reported, even while no program reads or writes.
func TestDeviceGone(t *testing.T) {
	doors(t, func(t *testing.T, start func(string) *door) {
		path := newImage(t, nil)
		out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		loop := strings.TrimSpace(string(out))
		t.Cleanup(func() {
			if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		d := start(loop)
		if got := d.reasons(); len(got) != 0 {
			t.Error("while it is there:", got)
		}
		// Like blk_mark_disk_dead: the device has no bytes any more.
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("losetup", "--set-capacity", loop).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := d.reasons(); !slices.Contains(got, "DeviceGone") {
			t.Error(got)
		}
		_ = d.unmount() // fails: nothing can be written any more
	})
}

// TestSnapshotBeside: the server of a volume also serves its snapshots, until they are unmounted.
func TestSnapshotBeside(t *testing.T) {
	doors(t, func(t *testing.T, start func(string) *door) {
		d := start(withSnapshot(t))
		snap := d.mountSnapshot("one")
		if b, err := os.ReadFile(filepath.Join(snap, "file")); err != nil || string(b) != "old" {
			t.Errorf("the snapshot: %q, %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(d.mnt, "file")); err != nil || string(b) != "new" {
			t.Errorf("the volume: %q, %v", b, err)
		}
		if err := os.WriteFile(filepath.Join(snap, unused()), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Error("write to a snapshot:", err)
		}
		remove := func() error {
			return d.client.Do(d.context(), control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: "one"}}, nil)
		}
		if err := remove(); !control.HasCode(err, volumectl.CodeInUse) {
			t.Error("delete a mounted snapshot:", err)
		}
		f, err := os.Open(filepath.Join(snap, "file"))
		if err != nil {
			t.Fatal(err)
		}
		if err := mounts.Unmount(d.context(), snap); !errors.Is(err, mounts.ErrInUse) {
			t.Error("unmount a snapshot in use:", err)
		}
		f.Close()
		if err := mounts.Unmount(d.context(), snap); err != nil {
			t.Error(err)
		}
		if err := remove(); err != nil {
			t.Error("delete a snapshot that is free again:", err)
		}
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
	})
}

// TestSnapshotEndsWithVolume: a snapshot that is in use does not prevent unmounting the volume. Its
// mount returns errors from then on.
func TestSnapshotEndsWithVolume(t *testing.T) {
	doors(t, func(t *testing.T, start func(string) *door) {
		path := withSnapshot(t)
		d := start(path)
		snap := d.mountSnapshot("one")
		f, err := os.Open(filepath.Join(snap, "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		begun := time.Now()
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > deadline/2 {
			t.Error("unmounted after", took)
		}
		if dev, err := device.Open(path, device.OpenOptions{}); err != nil {
			t.Error("the device is not free:", err)
		} else {
			closeDevice(t, dev)
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err == nil {
			t.Error("the snapshot is still served")
		}
		f.Close()
		if m, err := mounts.On(snap); err != nil || m != nil {
			if err := mounts.Unmount(d.context(), snap); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSnapshotOfAnotherNamespace: a path that a caller of another mount namespace names may be the
// mount of something else to the server, which must leave that alone.
func TestSnapshotOfAnotherNamespace(t *testing.T) {
	for name, older := range map[string]bool{"": false, "older caller": true} {
		t.Run(name, func(t *testing.T) {
			doors(t, func(t *testing.T, start func(string) *door) {
				d := start(withSnapshot(t))
				other := fusefstest.Mount(t, vfstest.NewMemFS(), fusefstest.Options{Deadline: deadline})
				// Its path would be other.Dir in the caller's mount namespace.
				theirs := filepath.Join(d.dir, "theirs")
				if err := os.Mkdir(theirs, 0o755); err != nil {
					t.Fatal(err)
				}
				f, err := fusefs.Mount(theirs, fusefs.MountOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := errors.Join(f.Close(), fusefs.Unmount(theirs, true)); err != nil {
						t.Error(err)
					}
				}()
				args := map[string]any{"name": "one", "dir": other.Dir}
				if id, err := fusefs.ConnectionID(theirs); err != nil {
					t.Fatal(err)
				} else if !older {
					args["connection"] = id
				}
				if err := d.client.Do(d.context(), control.Request{Op: "snapshot-mount", Args: args, File: f}, nil); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(filepath.Join(theirs, "file")); err != nil || string(b) != "old" {
					t.Errorf("the snapshot: %q, %v", b, err)
				}
				if err := d.unmount(); err != nil {
					t.Error(err)
				}
				if id, err := fusefs.ConnectionID(other.Dir); err != nil || id != other.Connection {
					t.Errorf("another file system was unmounted: connection %d, not %d: %v", id, other.Connection, err)
				}
				if err := os.WriteFile(filepath.Join(other.Dir, "file"), nil, 0o600); err != nil {
					t.Error("another file system has ended:", err)
				}
			})
		})
	}
}

// TestEndIsDurable: when a caller learns that the mount has ended, everything is on the device and
// the device is released.
func TestEndIsDurable(t *testing.T) {
	doors(t, func(t *testing.T, start func(string) *door) {
		path := newImage(t, nil)
		d := start(path)
		data := noise(1 << 20)
		if err := os.WriteFile(filepath.Join(d.mnt, "file"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.client.Unmount(d.context()); err != nil {
			t.Error(err)
		}
		dev, err := device.Open(path, device.OpenOptions{})
		if err != nil && !errors.Is(err, device.ErrInUse) {
			t.Fatal(err)
		}
		// A mounter keeps a duplicate of the descriptor, and so the lock, until it has noticed the
		// end.
		if err == nil {
			closeDevice(t, dev)
		}
		_ = d.unmount() // with a mounter; otherwise it is already unmounted
		fill(t, path, func(v *volume.Volume) {
			a, err := v.Lookup(1, "file")
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			if n, err := v.Read(a.Ino, 0, got); err != nil || !bytes.Equal(got[:n], data) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	})
}

// withSnapshot creates a volume whose file has changed since its snapshot "one".
func withSnapshot(t *testing.T) string {
	t.Helper()
	return newImage(t, func(v *volume.Volume) {
		put(t, v, "file", []byte("old"))
		if _, err := v.CreateSnapshot("one"); err != nil {
			t.Fatal(err)
		}
		put(t, v, "file", []byte("new"))
	})
}

// mountSnapshot mounts a snapshot beside the volume.
func (d *door) mountSnapshot(name string) (dir string) {
	d.t.Helper()
	dir = filepath.Join(d.dir, "snapshot")
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	if _, err := mounts.MountSnapshot(d.context(), &d.client, d.mnt, name, dir, fusefs.MountOptions{}); err != nil {
		d.t.Fatal(err)
	}
	return dir
}

// fill opens the volume of an image and runs work on it.
func fill(t *testing.T, path string, work func(v *volume.Volume)) {
	t.Helper()
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDevice(t, dev)
	cred := newCredential()
	defer cred.Erase()
	v, err := volume.Open(dev, volume.Options{Credential: cred})
	if err != nil {
		t.Fatal(err)
	}
	work(v)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// longestChange returns the middle of the longest run of sectors that differ: a file's data.
func longestChange(t *testing.T, before, after []byte) (at int) {
	t.Helper()
	const sector = 4096
	longest, run := 0, 0
	for off := 0; off < len(before); off += sector {
		if run++; bytes.Equal(before[off:off+sector], after[off:off+sector]) {
			run = 0
		}
		if run > longest {
			longest, at = run, off
		}
	}
	if longest < 64 {
		t.Fatalf("only %d sectors in a row have changed", longest)
	}
	return at - longest/2*sector
}

// flip changes a byte.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(at)+100); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], int64(at)+100); err != nil {
		t.Fatal(err)
	}
}
