package mounter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"golang.org/x/sys/unix"
)

// TestServerKilled: programs get an error at once, Health reports it, and the next mount cleans up
// and works.
func TestServerKilled(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.write("kept")
	open, err := os.Open(r.path("target/file"))
	if err != nil {
		t.Fatal(err)
	}
	pid := r.health().PID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Blocks until the mounter has noticed the death and closed its descriptors.
	wantCut(t, open.Name())
	open.Close()
	if i := r.health(); i.Alive || len(i.Conditions) != 1 || !i.Conditions[0].Inaccessible {
		t.Fatalf("%+v", i)
	}
	if _, err := r.client.Stats(r.ctx(), "vol-1"); !errors.Is(err, mounter.ErrDead) {
		t.Fatal(err)
	}
	q := r.request()
	q.Keys = mounter.Keys{}
	if err := r.client.Mount(r.ctx(), q); !errors.Is(err, mounter.ErrNoKey) {
		t.Fatal(err)
	}
	q.Keys = key(2)
	if err := r.client.Mount(r.ctx(), q); !errors.Is(err, mounter.ErrWrongKey) {
		t.Fatal(err)
	}
	if i := r.health(); i.Alive || len(i.Conditions) != 1 {
		t.Fatalf("after a failed attempt: %+v", i)
	}
	r.mount()
	r.wantFile("kept")
	if i := r.health(); !i.Alive || i.PID == pid {
		t.Fatalf("%+v", i)
	}
	signal(t, r.health().PID, unix.SIGKILL)
	wantCut(t, r.path("target/file"))
	r.unmount()
	r.wantClean()
}

// TestServerStopped: a hanging server does not make the mounter hang.
func TestServerStopped(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	pid := r.health().PID
	mountertest.Halt(t, pid)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	i, err := r.client.Health(ctx, "vol-1")
	if err != nil || len(i.Conditions) != 1 || i.Conditions[0].Reason != "MountServerUnresponsive" {
		t.Fatalf("%+v %v", i, err)
	}
	signal(t, pid, unix.SIGKILL)
	wantCut(t, r.path("target/file"))
	r.unmount()
	r.wantClean()
}

// wantCut waits until the connection of a dead server is aborted. Running requests get
// ECONNABORTED, later ones ENOTCONN. A request that the server was just reading when it was killed
// gets EIO (fuse_dev_do_read in the kernel).
func wantCut(t *testing.T, path string) {
	t.Helper()
	_, err := os.Stat(path)
	for errors.Is(err, unix.EIO) {
		_, err = os.Stat(path)
	}
	if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Fatalf("stat %s: %v", path, err)
	}
}

// TestMounterKilled: mounts keep working without a mounter, and the next one adopts them.
func TestMounterKilled(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.write("before")
	f, err := os.Open(r.path("target/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.stop()
	buf := make([]byte, 6)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "before" {
		t.Fatalf("%q %v", buf, err)
	}
	r.write("halfway")
	f.Close()
	r.start(0)
	if i := r.health(); !i.Alive || !i.Adopted || !i.HoldsFuse || len(i.Conditions) != 0 {
		t.Fatalf("%+v", i)
	}
	r.mount()
	r.wantFile("halfway")
	r.unmount()
	r.wantClean()

	// Mounter and server die.
	r.mount()
	pid := r.health().PID
	r.stop()
	killNow(t, pid) // one that is still dying would be adopted
	r.start(0)
	if i := r.health(); i.Alive || len(i.Conditions) != 1 {
		t.Fatalf("%+v", i)
	}
	r.mount()
	r.wantFile("halfway")

	// The death of an adopted server is noticed as well.
	r.stop()
	r.start(0)
	pid = r.health().PID
	signal(t, pid, unix.SIGKILL)
	wantCut(t, r.path("target/file"))
	if i := r.health(); i.Alive {
		t.Fatalf("%+v", i)
	}
	r.unmount()
	r.wantClean()
}

// TestTakesServers: a mounter whose servers end with it first makes them write everything.
func TestTakesServers(t *testing.T) {
	synced := filepath.Join(t.TempDir(), "synced")
	r := newRig(t, "SEALVOL_TEST_TAKES=1", mountertest.EnvSynced+"="+synced)
	r.start(0)
	r.mount()
	if err := r.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(synced); err != nil {
		t.Error(err)
	}
	r.cmd = nil
	r.start(0)
	r.unmount()
	r.wantClean()
}

// TestMounterKilledAtAnyStep kills the mounter before each step of mount and unmount. The next
// mounter gets the same request and finishes it.
func TestMounterKilledAtAnyStep(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			r := newRig(t)
			r.start(n)
			err := r.client.Mount(r.ctx(), r.request())
			if err == nil {
				err = r.client.Unmount(r.ctx(), r.unmountRequest())
			}
			if err == nil {
				done = true
				return
			}
			r.stop()
			r.start(0)
			// A server that was not told to serve ends on its own, but has the device until then.
			for err = unix.EBUSY; errors.Is(err, mounter.ErrBusy) || errors.Is(err, unix.EBUSY); {
				err = r.client.Mount(r.ctx(), r.request())
			}
			if err != nil {
				t.Fatal(err)
			}
			r.write("x")
			r.unmount()
			r.wantClean()
		})
		if t.Failed() || done {
			t.Logf("%d steps", n-1)
			return
		}
	}
}

// TestBadEnd: a server that fails at its end is reported once and cleaned up.
func TestBadEnd(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_BAD_END=1")
	r.start(0)
	r.mount()
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	r.unmount()
	r.wantClean()
}

// TestWedgedServer: unmounting kills a server that does not answer at all, and reports that. A device
// whose server hangs does not prevent it either.
func TestWedgedServer(t *testing.T) {
	for kind, mount := range map[string]func(*rig){"files": (*rig).mount, "device": func(r *rig) { r.mountRaw() }} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, "SEALVOL_TEST_STOP=4s")
			r.start(0)
			mount(r)
			mountertest.Halt(t, r.health().PID)
			if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrServer) {
				t.Fatal(err)
			}
			r.unmount()
			r.wantClean()
			if kind == "device" {
				r.wantNoLoops()
				return // under the race detector, a whole life of a device takes longer than the short limit
			}
			mount(r)
			r.unmount()
		})
	}
}
