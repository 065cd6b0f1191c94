package mounter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"golang.org/x/sys/unix"
)

const envState = "SEALVOL_TEST_STATE"

func TestMain(m *testing.M) {
	mountertest.Main(map[string]func(context.Context) error{
		"mounter": func(ctx context.Context) error {
			uid, _ := strconv.Atoi(os.Getenv("SEALVOL_TEST_UID"))
			stop, _ := time.ParseDuration(os.Getenv("SEALVOL_TEST_STOP"))
			mount, _ := time.ParseDuration(os.Getenv("SEALVOL_TEST_MOUNT"))
			command := mountertest.Command("mount")
			if exe := os.Getenv("SEALVOL_TEST_EXE"); exe != "" {
				command[len(command)-1] = exe
			}
			return mounter.Run(ctx, mounter.Options{Cgroup: os.Getenv("SEALVOL_TEST_CGROUP"), UID: uint32(uid), GID: uint32(uid), RuntimeDir: control.RuntimeDir(), StateDir: os.Getenv(envState), Command: command, LoopCommand: mountertest.Command("loop"), Hook: mountertest.KillHook(), StopTimeout: stop, MountTimeout: mount, TakesServers: os.Getenv("SEALVOL_TEST_TAKES") != ""})
		},
	})
	os.Exit(m.Run())
}

// rig is a mounter in a process of its own, with one volume.
type rig struct {
	t      *testing.T
	dir    string
	client mounter.Client
	cmd    *exec.Cmd
	log    *lockedBuffer
	env    []string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T, env ...string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &lockedBuffer{}, env: env}
	for _, d := range []string{"data", "target", "other"} {
		if err := os.Mkdir(filepath.Join(r.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.path("image"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.path("image"), 64<<20); err != nil {
		t.Fatal(err)
	}
	r.client = mounter.Client{Socket: mounter.SocketPath(r.path("state"))}
	mountertest.Guard(t, r.dir, 60*time.Second)
	t.Cleanup(func() {
		r.stop()
		for _, i := range r.servers() {
			if i.Alive && i.PID > 1 {
				signal(t, i.PID, unix.SIGKILL)
			}
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

func (r *rig) path(p string) string { return filepath.Join(r.dir, p) }

// start starts the mounter and waits until it answers. kill is the number of a step, or 0 for
// never.
func (r *rig) start(kill int) {
	r.t.Helper()
	cmd := exec.Command(mountertest.Command("mounter")[0], mountertest.Command("mounter")[1:]...)
	cmd.Env = append(os.Environ(), envState+"="+r.path("state"), mountertest.EnvData+"="+r.path("data"))
	cmd.Env = append(cmd.Env, r.env...)
	if kill > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", mountertest.EnvKill, kill))
	}
	f, err := os.OpenFile(r.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	f.Close()
	r.cmd = cmd
	if err := r.client.WaitUp(r.ctx(), nil); err != nil {
		b, _ := os.ReadFile(r.path("log"))
		r.t.Fatalf("%v\n%s", err, b)
	}
}

func (r *rig) stop() {
	if r.cmd != nil {
		b, _ := os.ReadFile(r.path("log"))
		if _, err := r.log.Write(b); err != nil {
			r.t.Error(err)
		}
		if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			r.t.Error(err)
		}
		_ = r.cmd.Wait() // returns an error because it was killed
		r.cmd = nil
	}
}

// signal sends a signal to a process, which may have ended.
func signal(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Errorf("%v to %d: %v", s, pid, err)
	}
}

// killNow kills a process, and returns when it has ended.
func killNow(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	signal(t, pid, unix.SIGKILL)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 30_000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(fds, 30_000)
	}
	if n != 1 || err != nil {
		t.Fatalf("process %d does not end: %v", pid, err)
	}
}

func (r *rig) servers() []mounter.Info {
	// Read it without a mounter, because that may have just been killed.
	m, err := mounter.Open(r.ctx(), mounter.Options{StateDir: r.path("state"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil
	}
	list := m.List(r.ctx())
	if err := m.Close(); err != nil {
		r.t.Error(err)
	}
	return list
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func key(b byte) mounter.Keys {
	k, err := mounter.NewKeys(bytes.Repeat([]byte{b}, 32), nil)
	if err != nil {
		panic(err)
	}
	return k
}

func (r *rig) request() mounter.MountRequest {
	r.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(r.path("image"), &st); err != nil {
		r.t.Fatal(err)
	}
	// The source names the volume in the whole mount table, where another run of this test may be.
	source := fmt.Sprintf("sealvol:%d.%s", os.Getpid(), strings.ReplaceAll(r.t.Name(), "/", "."))
	return mounter.MountRequest{Volume: "vol-1", Source: source, Target: r.path("target"),
		Device: mounter.Device{Path: r.path("image"), SizeBytes: st.Size, Dev: st.Dev, Ino: st.Ino},
		Format: &mounter.Format{}, Keys: key(1)}
}

func (r *rig) unmountRequest() mounter.UnmountRequest {
	q := r.request()
	return mounter.UnmountRequest{Volume: q.Volume, Source: q.Source, Target: q.Target}
}

func (r *rig) mount() {
	r.t.Helper()
	if err := r.client.Mount(r.ctx(), r.request()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) unmount() {
	r.t.Helper()
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path("target/file"), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wantFile(text string) {
	r.t.Helper()
	if b, err := os.ReadFile(r.path("target/file")); err != nil || string(b) != text {
		r.t.Fatalf("%q, %v", b, err)
	}
}

func (r *rig) health() mounter.Info {
	r.t.Helper()
	i, err := r.client.Health(r.ctx(), "vol-1")
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// awaitDeath waits until the mounter knows that the server has ended.
func (r *rig) awaitDeath() {
	r.t.Helper()
	ctx := r.ctx()
	for r.health().Alive {
		select {
		case <-ctx.Done():
			r.t.Fatal("the server is still alive")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *rig) wantClean() {
	r.t.Helper()
	if left := mountertest.Below(r.path("target")); len(left) != 0 {
		r.t.Fatalf("still mounted: %+v", left[0])
	}
	entries, err := os.ReadDir(r.path("state/volumes"))
	if err != nil || len(entries) != 0 {
		r.t.Fatalf("%d records left, %v", len(entries), err)
	}
}
