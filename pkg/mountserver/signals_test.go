package mountserver_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// mountedAgain serves a new volume, and makes a mount with the given source on another directory.
func mountedAgain(t *testing.T, source func(d *door) (fstype, source string, flags uintptr), on func(d *door) string) (d *door, path, dir string) {
	t.Helper()
	path = newImage(t, nil)
	d = newDoor(t, guardedDir(t))
	startAlone(d, path)
	dir = on(d)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	fstype, from, flags := source(d)
	if err := unix.Mount(from, dir, fstype, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fusefs.Unmount(dir, true); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return d, path, dir
}

// term sends a signal, and waits until the log of the server says that it was handled.
func (d *door) term(logged string) {
	d.t.Helper()
	if err := d.process.Signal(unix.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	d.wait("the line "+logged, func() bool {
		b, err := os.ReadFile(d.log)
		if err != nil {
			d.t.Fatal(err)
		}
		return bytes.Contains(b, []byte(logged))
	})
}

// wait waits until something has happened.
func (d *door) wait(what string, happened func() bool) {
	d.t.Helper()
	for ctx := d.context(); !happened(); {
		select {
		case <-ctx.Done():
			d.t.Fatalf("%s does not come", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// waitEnded waits until the server has ended without an error.
func (d *door) waitEnded() {
	d.t.Helper()
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Error("the server:", err)
		}
	case <-d.context().Done():
		d.t.Fatal("the server does not end")
	}
}

// A volume that is mounted in a second place is served on after the first signal. The second signal
// ends that.
func TestSecondSignalEndsBindMount(t *testing.T) {
	d, path, other := mountedAgain(t, func(d *door) (string, string, uintptr) { return "", d.mnt, unix.MS_BIND },
		func(d *door) string { return filepath.Join(d.dir, "other") })
	d.term("unmounting")
	d.wait("the unmount", func() bool { // it follows the log line
		m, err := mounts.On(d.mnt)
		if err != nil {
			t.Fatal(err)
		}
		return m == nil
	})
	if err := os.WriteFile(filepath.Join(other, "file"), []byte("late"), 0o600); err != nil {
		t.Error("the second mount has ended with the first:", err)
	}
	d.term("aborting the FUSE connection")
	d.waitEnded()
	_ = d.unmount() // it is unmounted already
	fill(t, path, func(v *volume.Volume) {
		got := make([]byte, 4)
		a, err := v.Lookup(1, "file")
		if err == nil {
			_, err = v.Read(a.Ino, 0, got)
		}
		if err != nil || string(got) != "late" {
			t.Errorf("acknowledged data is lost: %q, %v", got, err)
		}
	})
}

// A caller who unmounts a volume that is mounted in a second place learns where, and does not wait
// for ever.
func TestUnmountNamesBindMount(t *testing.T) {
	d, path, other := mountedAgain(t, func(d *door) (string, string, uintptr) { return "", d.mnt, unix.MS_BIND },
		func(d *door) string { return filepath.Join(d.dir, "other") })
	ctx, cancel := context.WithTimeout(d.context(), deadline/2)
	defer cancel()
	if err := mounts.Unmount(ctx, d.mnt); !errors.Is(err, mounts.ErrElsewhere) || !strings.Contains(err.Error(), other) {
		t.Errorf("unmount: %v", err)
	}
	if err := fusefs.Unmount(other, false); err != nil {
		t.Fatal(err)
	}
	d.waitEnded()
	_ = d.unmount()                        // it is unmounted already
	fill(t, path, func(*volume.Volume) {}) // the device is free
}

// A signal does not unmount what somebody mounted over the volume.
func TestSignalLeavesWhatIsMountedAbove(t *testing.T) {
	d, path, _ := mountedAgain(t, func(*door) (string, string, uintptr) { return "tmpfs", "above", 0 },
		func(d *door) string { return d.mnt })
	d.term("cannot unmount")
	m, err := mounts.On(d.mnt)
	if err != nil {
		t.Fatal(err)
	}
	if m == nil || m.FSType != "tmpfs" {
		t.Errorf("the file system above is gone: %+v", m)
	}
	d.term("aborting the FUSE connection")
	d.waitEnded()
	if err := errors.Join(fusefs.Unmount(d.mnt, false), d.unmount()); err != nil {
		t.Error(err)
	}
	fill(t, path, func(*volume.Volume) {}) // the device is free
}
