package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// rig is a driver in processes of its own.
type rig struct {
	t       testing.TB
	dir     string
	ctrl    csi.ControllerClient
	node    csi.NodeClient
	cmds    map[string]*exec.Cmd
	backend []string // flags of another backend than the local one
	self    bool     // attaches by itself, with a mounter as a role of its own

	patience time.Duration // of each call; 0: 30 s
	apart    bool          // role all is in a mount namespace of its own, as on another machine
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigFor(t, 60*time.Second)
}

// newRigFor aborts what is mounted after a time.
func newRigFor(t testing.TB, deadline time.Duration) *rig {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, cmds: map[string]*exec.Cmd{}}
	mountertest.Guard(t, dir, deadline)
	if err := os.MkdirAll(r.path("kubelet/pods"), 0o750); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for role := range r.cmds {
			r.kill(role)
		}
		m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
		if list, err := m.List(r.ctx()); err == nil {
			for _, i := range list {
				if i.Alive && i.PID > 1 {
					kill(t, i.PID)
				}
			}
			if idle, _ := m.Quit(r.ctx()); !idle && !t.Failed() {
				t.Errorf("the mounter still has %+v", list)
			}
		}
		if t.Failed() {
			for _, f := range []string{"log", "mounter/mounter.log"} {
				b, _ := os.ReadFile(r.path(f))
				t.Logf("%s:\n%s", f, b)
			}
		}
	})
	return r
}

func (r *rig) path(p string) string { return filepath.Join(r.dir, p) }

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(r.patience, 30*time.Second))
	r.t.Cleanup(cancel)
	return ctx
}

// start starts a role; kill is the number of the step at which it kills itself, 0 for never.
func (r *rig) start(role string, kill int) {
	r.t.Helper()
	args := []string{role}
	switch role {
	case "mounter":
		args = append(args, "--mounter-dir", r.path("mounter"))
	case "controller", "all", "node":
		args = append(args, "--endpoint", "unix://"+r.path(role+".sock"), "--log-format", "text", "--log-level", "debug")
		if r.backend == nil {
			args = append(args, "--node-id", "node-1", "--local-dir", r.path("local"))
		}
		args = append(args, r.backend...)
	}
	if role == "node" || role == "all" {
		args = append(args, "--mounter-dir", r.path("mounter"), "--kubelet-dir", r.path("kubelet"))
	}
	if role == "node" || r.self && role == "all" {
		args = append(args, "--external-mounter")
	}
	if r.self && role == "all" {
		args = append(args, "--self-attach")
	}
	base := mountertest.Command("driver")
	cmd := exec.Command(base[0], append(base[1:], args...)...)
	cmd.Env = append(os.Environ(), mountertest.EnvData+"="+r.path("data"))
	if kill > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", mountertest.EnvKill, kill))
	}
	f, err := os.OpenFile(r.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.apart {
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.cmds[role] = cmd
	if role == "mounter" { // a node plugin does not wait for it: the kubelet asks again
		m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
		if err := m.WaitUp(r.ctx(), nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// kill ends a process, which may have ended by itself, with SIGKILL.
func kill(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Errorf("kill %d: %v", pid, err)
	}
}

// kill ends a role with SIGKILL.
func (r *rig) kill(role string) {
	if cmd := r.cmds[role]; cmd != nil {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			r.t.Error(err)
		}
		_ = cmd.Wait() // tells that it was killed
		delete(r.cmds, role)
	}
}

// connect waits until controller and node service answer.
func (r *rig) connect(controller, node string) {
	r.t.Helper()
	dial := func(role string) *grpc.ClientConn {
		conn, err := grpc.NewClient("unix://"+r.path(role+".sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}}))
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() {
			if err := conn.Close(); err != nil {
				r.t.Error(err)
			}
		})
		if _, err := csi.NewIdentityClient(conn).Probe(r.ctx(), &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
			b, _ := os.ReadFile(r.path("log"))
			r.t.Fatalf("%s: %v\n%s", role, err, b)
		}
		return conn
	}
	r.ctrl, r.node = csi.NewControllerClient(dial(controller)), csi.NewNodeClient(dial(node))
}

func multiWriter() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
}

const size = 128 << 20

// workflow is a volume's life as a list of calls, each to be repeated until it succeeds.
type workflow struct {
	r       *rig
	id      string
	context map[string]string

	capability *csi.VolumeCapability // nil: multiWriter
	name       string                // "": pvc
	source     *csi.VolumeContentSource
	required   int64 // 0: size, exactly
}

func (w *workflow) staging() string { return w.r.path("kubelet/staging" + w.name) }
func (w *workflow) target() string  { return w.r.path("kubelet/pods/target" + w.name) }

func (w *workflow) secrets() map[string]string {
	return map[string]string{"kek": strings.Repeat("0123456789abcdef", 4)}
}

func (w *workflow) up() []func() error {
	c := w.capability
	if c == nil {
		c = multiWriter()
	}
	return []func() error{
		func() error {
			sizes := &csi.CapacityRange{RequiredBytes: size, LimitBytes: size}
			if w.required > 0 {
				sizes = &csi.CapacityRange{RequiredBytes: w.required}
			}
			v, err := w.r.ctrl.CreateVolume(w.r.ctx(), &csi.CreateVolumeRequest{Name: "pvc" + w.name, VolumeCapabilities: []*csi.VolumeCapability{c},
				CapacityRange: sizes, VolumeContentSource: w.source, Parameters: map[string]string{"recordSize": "64KiB"}})
			w.id, w.context = v.GetVolume().GetVolumeId(), v.GetVolume().GetVolumeContext()
			return err
		},
		func() error {
			_, err := w.r.ctrl.ControllerPublishVolume(w.r.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: w.id, NodeId: "node-1", VolumeCapability: c, VolumeContext: w.context})
			return err
		},
		func() error {
			if err := os.Mkdir(w.staging(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			_, err := w.r.node.NodeStageVolume(w.r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), VolumeCapability: c, VolumeContext: w.context, Secrets: w.secrets()})
			return err
		},
		func() error {
			_, err := w.r.node.NodePublishVolume(w.r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), TargetPath: w.target(), VolumeCapability: c, VolumeContext: w.context, Secrets: w.secrets()})
			return err
		},
	}
}

func (w *workflow) expand() []func() error {
	return []func() error{
		func() error {
			_, err := w.r.ctrl.ControllerExpandVolume(w.r.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: w.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * size}})
			return err
		},
		func() error {
			x, err := w.r.node.NodeExpandVolume(w.r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: w.id, VolumePath: w.target(), CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * size}})
			if err == nil && x.GetCapacityBytes() != 2*size {
				return fmt.Errorf("expanded to %d", x.GetCapacityBytes())
			}
			return err
		},
	}
}

func (w *workflow) down() []func() error {
	return []func() error{
		func() error {
			_, err := w.r.node.NodeUnpublishVolume(w.r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: w.target()})
			return err
		},
		func() error {
			_, err := w.r.node.NodeUnstageVolume(w.r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging()})
			return err
		},
		func() error {
			_, err := w.r.ctrl.ControllerUnpublishVolume(w.r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: w.id, NodeId: "node-1"})
			return err
		},
		func() error {
			_, err := w.r.ctrl.DeleteVolume(w.r.ctx(), &csi.DeleteVolumeRequest{VolumeId: w.id})
			return err
		},
	}
}

func (w *workflow) run(calls []func() error) {
	w.r.t.Helper()
	for _, call := range calls {
		if err := call(); err != nil {
			w.r.t.Fatal(err)
		}
	}
}

// wantClean verifies that nothing is left of any volume.
func (r *rig) wantClean() {
	r.t.Helper()
	if left := mountertest.Below(r.dir); len(left) != 0 {
		r.t.Fatalf("mounted: %s", left[0].Mountpoint)
	}
	for _, d := range []string{"local/volumes", "local/snapshots", "local/images", "local/formats", "mounter/volumes", "kubelet/pods"} {
		entries, err := os.ReadDir(r.path(d))
		if err != nil || len(entries) != 0 {
			r.t.Fatalf("%s: %d entries left, %v", d, len(entries), err)
		}
	}
}

// TestDriverKilledAtAnyStep ends the driver with SIGKILL before each step that any call makes, in the services and in the
// backend; a new driver gets the same call again, as the CO does, and all converges.
func TestDriverKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 5
	}
	killedAtAnyStep(t, stride, false, func(w *workflow) []func() error {
		return slices.Concat(w.up(), w.expand(), w.down())
	})
}

// TestRawDriverKilledAtAnyStep: the same of a raw block volume, and of copies of it.
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

// TestSelfAttachKilledAtAnyStep: the same of a driver whose node service attaches and grows, beside a mounter that goes on.
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

// copies makes a snapshot and a clone of a volume that is not in use, and takes them away.
func (w *workflow) copies() []func() error {
	var snap *csi.Snapshot
	clone := &workflow{r: w.r, name: "clone", capability: w.capability}
	return []func() error{
		func() (err error) {
			snap, err = w.snapshot("snap")
			return err
		},
		func() error {
			clone.source = fromSnapshot(snap.GetSnapshotId())
			return clone.up()[0]()
		},
		func() error { return clone.down()[3]() },
		func() error {
			_, err := w.r.ctrl.DeleteSnapshot(w.r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()})
			return err
		},
	}
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

// TestPluginReplaced: killing, stopping and replacing the node plugin touches no mount: a program goes on
// writing through it all, and the new plugin takes the volume down.
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
	go func() {
		for ; ; lines++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := f.WriteString("a line of text\n"); err != nil {
				done <- err
				return
			}
			if lines%16 == 0 {
				if err := f.Sync(); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	before, err := m.Health(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	r.kill("all")
	r.start("all", 0)
	r.connect("all", "all")
	w.run(w.up()) // the kubelet republishes
	cmd := r.cmds["all"]
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	delete(r.cmds, "all")
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
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(lines)*int64(len("a line of text\n")) {
		t.Fatal(fi.Size(), lines, err)
	}
	f.Close()
	w.run(w.down())
	r.wantClean()
	// An idle mounter goes with the driver.
	cmd = r.cmds["all"]
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	delete(r.cmds, "all")
	if err := m.Ping(r.ctx()); err == nil {
		t.Error("the mounter is still there")
	}
}

// TestEmbeddedMounterKilled: the driver starts another, which adopts the server.
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

// TestSplitRoles: controller, node and mounter as processes of their own, each replaced in between.
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
