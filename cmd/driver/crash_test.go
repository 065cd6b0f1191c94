package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// TestDriverKilledAtAnyStep kills the driver with SIGKILL before each step of each call, in the
// services and in the backend. A new driver gets the same call again, as from the CO, and finishes
// it.
func TestDriverKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 5
	}
	killedAtAnyStep(t, stride, false, func(w *workflow) []func() error {
		return slices.Concat(w.up(), w.expand(), w.down())
	})
}

// TestRawDriverKilledAtAnyStep does the same with a raw block volume and copies of it.
func TestRawDriverKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 5
	}
	killedAtAnyStep(t, stride, false, func(w *workflow) []func() error {
		w.capability = blockDevice()
		up := w.up()
		return slices.Concat(up[:1], w.copies(), up[1:], w.expand(), w.down())
	})
}

// TestSelfAttachKilledAtAnyStep does the same with a driver whose node service attaches and grows
// volumes, beside a mounter that keeps running.
func TestSelfAttachKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 5
	}
	killedAtAnyStep(t, stride, true, func(w *workflow) []func() error {
		up, down := w.up(), w.down()
		return slices.Concat(up[:1], up[2:], w.expand()[1:], down[:2], down[3:])
	})
}

func killedAtAnyStep(t *testing.T, stride int, self bool, calls func(*workflow) []func() error) {
	t.Helper()
	for n := 1; ; n += stride {
		killed := false
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			r := newRig(t)
			if r.self = self; self {
				r.start("mounter", 0)
			}
			r.start("all", n)
			r.connect("all", "all")
			w := &workflow{r: r}
			for _, call := range calls(w) {
				err := call()
				if status.Code(err) == codes.Unavailable && !killed {
					killed = true
					r.kill("all")
					r.start("all", 0)
					r.connect("all", "all")
					err = call()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			r.wantClean()
		})
		if t.Failed() || !killed {
			t.Logf("%d steps", n-1)
			return
		}
	}
}

// TestPluginReplaced: killing, stopping and replacing the node plugin does not affect any mount. A
// program keeps writing all the time, and the new plugin unmounts the volume.
func TestPluginReplaced(t *testing.T) {
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	f, err := os.OpenFile(filepath.Join(w.target(), "file"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop, done, lines := make(chan struct{}), make(chan error, 1), 0
	go func() { done <- writeLines(f, stop, &lines) }()
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	before, err := m.Health(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	r.kill("all")
	r.start("all", 0)
	r.connect("all", "all")
	w.run(w.up()) // the kubelet republishes
	r.terminate("all")
	r.start("all", 0)
	r.connect("all", "all")
	after, err := m.Health(r.ctx(), w.id)
	if err != nil || after.PID != before.PID || !after.Alive {
		t.Fatalf("server %d became %d: %v", before.PID, after.PID, err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(lines)*int64(len(aLine)) {
		t.Fatal(fi.Size(), lines, err)
	}
	f.Close()
	w.run(w.down())
	r.wantClean()
	// An idle mounter ends with the driver.
	r.terminate("all")
	if err := m.Ping(r.ctx()); err == nil {
		t.Error("the mounter is still there")
	}
}

// aLine is what writeLines writes repeatedly.
const aLine = "a line of text\n"

// writeLines appends to a file and syncs it from time to time, until it is stopped.
func writeLines(f *os.File, stop <-chan struct{}, lines *int) error {
	for ; ; *lines++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err := f.WriteString(aLine); err != nil {
			return err
		}
		if *lines%16 == 0 {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
}

// terminate ends a role like Kubernetes, and waits for its end.
func (r *rig) terminate(role string) {
	r.t.Helper()
	cmd := r.cmds[role]
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		r.t.Fatal(err)
	}
	delete(r.cmds, role)
}

// TestEmbeddedMounterKilled: the driver starts another mounter, which adopts the server.
func TestEmbeddedMounterKilled(t *testing.T) {
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	if err := os.WriteFile(filepath.Join(w.target(), "file"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	before, err := m.Health(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	// The mounter is the parent of its servers.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", before.PID))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var parent int
	if _, err := fmt.Sscan(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), &state, &parent); err != nil || parent < 2 {
		t.Fatal(parent, err)
	}
	kill(t, parent)
	w.run(w.up())
	if after, err := m.Health(r.ctx(), w.id); err != nil || after.PID != before.PID || !after.Adopted {
		t.Fatal(after, err)
	}
	if b, err := os.ReadFile(filepath.Join(w.target(), "file")); err != nil || string(b) != "kept" {
		t.Fatal(string(b), err)
	}
	w.run(w.down())
	r.wantClean()
}

// TestSplitRoles: controller, node and mounter run in separate processes, and each is replaced in
// between.
func TestSplitRoles(t *testing.T) {
	r := newRig(t)
	for _, role := range []string{"controller", "mounter", "node"} {
		r.start(role, 0)
	}
	r.connect("controller", "node")
	w := &workflow{r: r}
	w.run(w.up())
	if err := os.WriteFile(filepath.Join(w.target(), "file"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"controller", "mounter", "node"} {
		r.kill(role)
		r.start(role, 0)
		r.connect("controller", "node")
		w.run(w.up())
		if b, err := os.ReadFile(filepath.Join(w.target(), "file")); err != nil || string(b) != "kept" {
			t.Fatalf("after %s: %q %v", role, b, err)
		}
	}
	w.run(w.expand())
	w.run(w.down())
	r.wantClean()
}
