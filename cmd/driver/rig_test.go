package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// rig is a driver in separate processes.
type rig struct {
	t       testing.TB
	dir     string
	ctrl    csi.ControllerClient
	node    csi.NodeClient
	cmds    map[string]*exec.Cmd
	backend []string // flags of a backend other than the local one
	self    bool     // self-attach, with a separate mounter
	mounter []string // more flags of the mounter

	patience time.Duration // of each call; 0: 30 s
	apart    bool          // role all runs in a mount namespace of its own, as on another machine
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigFor(t, 60*time.Second)
}

// newRigFor aborts all mounts after a given time.
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

// start starts a role. kill is the number of the step at which it kills itself, or 0 for never.
func (r *rig) start(role string, kill int) {
	r.t.Helper()
	args := []string{role}
	switch role {
	case "mounter":
		args = append(args, "--mounter-dir", r.path("mounter"))
		if raceEnabled { // the race detector needs several times the memory
			args = append(args, "--worker-memory", fmt.Sprint(1<<30))
		}
		args = append(args, r.mounter...)
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
	if role == "mounter" { // a node plugin does not wait for it: the kubelet retries
		m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
		if err := m.WaitUp(r.ctx(), nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// kill kills a process with SIGKILL; it may already have ended.
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
		_ = cmd.Wait() // returns an error because it was killed
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

// wantClean checks that nothing is left of any volume.
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
