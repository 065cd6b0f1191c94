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

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
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

// rig is a mounter in a process of its own, and one volume.
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

// start starts the mounter and waits until it answers. kill is a step's number, 0 for never.
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
		_ = r.cmd.Wait() // tells that it was killed
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

func (r *rig) servers() []mounter.Info {
	// Read without a mounter: one may have just been killed.
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
	return mounter.MountRequest{Volume: "vol-1", Source: "sealvol:" + filepath.Base(r.dir) + strings.ReplaceAll(r.t.Name(), "/", "."), Target: r.path("target"),
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

func TestMountUseUnmount(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.mount() // again: nothing happens
	r.write("hello")
	if s, err := r.client.Stats(r.ctx(), "vol-1"); err != nil || s.TotalBytes != 64<<20 {
		t.Fatalf("%+v %v", s, err)
	}
	if err := os.Truncate(r.path("image"), 128<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := r.client.Grow(r.ctx(), "vol-1"); err != nil || n != 128<<20 {
		t.Fatal(n, err)
	}
	if i := r.health(); !i.Alive || !i.HoldsFuse || len(i.Conditions) != 0 {
		t.Fatalf("%+v", i)
	}
	other := r.request()
	other.Target = r.path("other")
	if err := r.client.Mount(r.ctx(), other); !errors.Is(err, mounter.ErrConflict) {
		t.Fatalf("second place: %v", err)
	}
	if idle, err := r.client.Quit(r.ctx()); idle || err != nil {
		t.Fatalf("a mounter with a volume ended: %v", err)
	}
	r.unmount()
	r.unmount()
	r.wantClean()
	if _, err := r.client.Health(r.ctx(), "vol-1"); !errors.Is(err, mounter.ErrNotMounted) {
		t.Fatal(err)
	}
	r.mount()
	r.wantFile("hello")
	r.unmount()
	if idle, err := r.client.Quit(r.ctx()); !idle || err != nil {
		t.Fatal(idle, err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	r.cmd = nil
}

// TestRefusals: each leaves nothing behind, and a right request works afterwards.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.unmount()
	if err := os.Symlink(r.path("target"), r.path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.path("image"), r.path("image-link")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*mounter.MountRequest)
		want   error
	}{
		"wrong key":       {func(q *mounter.MountRequest) { q.Keys = key(2) }, mounter.ErrWrongKey},
		"no key":          {func(q *mounter.MountRequest) { q.Keys = mounter.Keys{} }, mounter.ErrNoKey},
		"no volume":       {func(q *mounter.MountRequest) { q.Volume = "" }, mounter.ErrInvalid},
		"long volume":     {func(q *mounter.MountRequest) { q.Volume = strings.Repeat("v", 129) }, mounter.ErrInvalid},
		"source":          {func(q *mounter.MountRequest) { q.Source = "a,b" }, mounter.ErrInvalid},
		"relative target": {func(q *mounter.MountRequest) { q.Target = "x" }, mounter.ErrInvalid},
		"dotted target":   {func(q *mounter.MountRequest) { q.Target = r.dir + "/x/../target" }, mounter.ErrInvalid},
		"linked target":   {func(q *mounter.MountRequest) { q.Target = r.path("link") }, nil},
		"missing target":  {func(q *mounter.MountRequest) { q.Target = r.path("none") }, nil},
		"file as target":  {func(q *mounter.MountRequest) { q.Target = r.path("image") }, nil},
		"other inode":     {func(q *mounter.MountRequest) { q.Device.Ino++ }, mounter.ErrForeign},
		"bigger device":   {func(q *mounter.MountRequest) { q.Device.SizeBytes++ }, mounter.ErrForeign},
		"not a block dev": {func(q *mounter.MountRequest) { q.Device.Ino, q.Device.Rdev = 0, 5 }, mounter.ErrForeign},
		"no identity":     {func(q *mounter.MountRequest) { q.Device.Ino = 0 }, mounter.ErrInvalid},
		"linked device":   {func(q *mounter.MountRequest) { q.Device.Path = r.path("image-link") }, nil},
		"missing device":  {func(q *mounter.MountRequest) { q.Device.Path = r.path("none") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			q := r.request()
			q.Source = strings.Split(q.Source, "/")[0]
			c.change(&q)
			err := r.client.Mount(r.ctx(), q)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if entries, err := os.ReadDir(r.path("state/volumes")); err != nil || len(entries) != 0 {
				t.Errorf("%d records left, %v", len(entries), err)
			}
		})
	}
	r.mount()
	r.unmount()
	// A device that holds something else is not formatted, ever.
	if err := os.WriteFile(r.path("image"), bytes.Repeat([]byte("precious"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.request()); !errors.Is(err, mounter.ErrForeign) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path("image")); err != nil || !bytes.HasPrefix(b, []byte("precious")) {
		t.Fatal("the device was written")
	}
	blank := r.request()
	if err := os.WriteFile(r.path("image"), make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	blank.Format = nil
	if err := r.client.Mount(r.ctx(), blank); !errors.Is(err, mounter.ErrBlank) {
		t.Fatal(err)
	}
	r.wantClean()
}

// TestKeysOfHungServer: a mount server that answers nothing keeps nobody waiting for ever who
// brings keys, and nobody at all who asks for something else.
func TestKeysOfHungServer(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_MOUNT=3s")
	r.start(0)
	r.mount()
	if err := r.client.CheckKeys(r.ctx(), "vol-1", key(1)); err != nil { // the server of this test takes all keys for its own
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-1", mounter.Keys{}); !errors.Is(err, mounter.ErrNoKey) {
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-2", key(1)); !errors.Is(err, mounter.ErrNotMounted) {
		t.Fatal(err)
	}
	pid := r.health().PID
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; { // all of its threads
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if stopped = err == nil && len(tasks) > 0; !stopped {
			t.Fatal(tasks, err)
		}
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			stopped = stopped && err == nil && bytes.Contains(b, []byte(") T "))
		}
	}
	q := r.request()
	q.ReplaceKey = true
	if err := r.client.Mount(r.ctx(), q); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-1", key(1)); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	q.ReplaceKey = false
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	q.ReplaceKey = true
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	r.unmount()
	r.wantClean()
}

func TestForeignMountAtTarget(t *testing.T) {
	r := newRig(t)
	r.start(0)
	if err := unix.Mount("tmpfs", r.path("target"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.request()); !errors.Is(err, mounter.ErrConflict) {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(r.path("target"), 0); err != nil {
		t.Fatalf("the foreign mount was touched: %v", err)
	}
}

// TestServerKilled: users get an error at once, health says so, the next mount clears up and works.
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
	// Blocks until the mounter has seen the death and dropped its descriptors.
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

// TestServerStopped: a server that hangs does not hang the mounter.
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

// wantCut waits until the connection of a dead server is cut. Requests that were under way get ECONNABORTED, later
// ones ENOTCONN; one that the server was just reading when it was killed gets EIO (fuse_dev_do_read in the kernel).
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

// TestMounterKilled: mounts go on without a mounter, the next one adopts them.
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
	r.write("amidst")
	f.Close()
	r.start(0)
	if i := r.health(); !i.Alive || !i.Adopted || !i.HoldsFuse || len(i.Conditions) != 0 {
		t.Fatalf("%+v", i)
	}
	r.mount()
	r.wantFile("amidst")
	r.unmount()
	r.wantClean()

	// Both die.
	r.mount()
	pid := r.health().PID
	r.stop()
	signal(t, pid, unix.SIGKILL)
	r.start(0)
	if i := r.health(); i.Alive || len(i.Conditions) != 1 {
		t.Fatalf("%+v", i)
	}
	r.mount()
	r.wantFile("amidst")

	// An adopted server dies: seen as well.
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

// TestTakesServers: a mounter with which its servers end has them write everything before.
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

// TestMounterKilledAtAnyStep ends the mounter before each step of mount and unmount; the next one,
// asked the same, converges.
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
			// A server that was not told to serve ends by itself, but until then has the device.
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

func TestPublishedElsewhereKeepsTheVolume(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	if err := unix.Mount(r.path("target"), r.path("other"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrBusy) {
		t.Fatal(err)
	}
	r.write("still there")
	if err := unix.Unmount(r.path("other"), 0); err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Open(r.path("target"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrBusy) {
		t.Fatal(err)
	}
	r.wantFile("still there")
	cwd.Close()
	r.unmount()
	r.wantClean()
}

// TestBadEnd: a server that fails at its end is reported, once, and cleared away.
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

// TestConcurrent: many callers, one server.
func TestConcurrent(t *testing.T) {
	r := newRig(t)
	r.start(0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			q := r.request()
			q.Keys = key(1)
			if err := r.client.Mount(r.ctx(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(mountertest.Below(r.path("target"))); n != 1 {
		t.Fatalf("%d mounts", n)
	}
	for range 8 {
		wg.Go(func() {
			if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.wantClean()
}

// TestKeysAreNowhere looks for the key where processes leak: arguments, environment, state and log.
func TestKeysAreNowhere(t *testing.T) {
	r := newRig(t)
	r.start(0)
	q := r.request()
	secret := "0123456789abcdefSECRETSECRETSECR"
	q.Keys, _ = mounter.NewKeys([]byte(secret), nil)
	if s := fmt.Sprintf("%v %+v %#v %s", q, q, q, q.Keys); strings.Contains(s, "SECRET") || strings.Contains(s, "83, 69, 67") || strings.Contains(s, "0x53, 0x45") {
		t.Fatalf("printed: %s", s)
	}
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	pid := r.health().PID
	for _, p := range []int{pid, r.cmd.Process.Pid} {
		for _, f := range []string{"cmdline", "environ"} {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, f)); err != nil || bytes.Contains(b, []byte("SECRET")) {
				t.Fatalf("%s of %d: %v", f, p, err)
			}
		}
	}
	err := filepath.Walk(r.dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if fi.Mode().IsRegular() && fi.Size() < 1<<20 {
			if b, _ := os.ReadFile(p); bytes.Contains(b, []byte("SECRET")) {
				t.Errorf("in %s", p)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	r.unmount()
}

// TestWedgedServer: unmounting gives up on a server that does not answer at all, and says so.
func TestWedgedServer(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_STOP=4s")
	r.start(0)
	r.mount()
	mountertest.Halt(t, r.health().PID)
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	r.unmount()
	r.wantClean()
	r.mount()
	r.unmount()
}

// TestCgroup: each server in a group of its own, which goes with it.
func TestCgroup(t *testing.T) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		t.Log("no cgroup v2 here: nothing to try")
		return
	}
	parent := filepath.Join(mounts[0].Mountpoint, fmt.Sprintf("sealvol-test-%d", os.Getpid()))
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Logf("cgroups are not to be made here: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, "SEALVOL_TEST_CGROUP="+parent)
	r.start(0)
	r.mount()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", r.health().PID))
	if err != nil || !strings.Contains(string(b), filepath.Base(parent)+"/sealvol-") {
		t.Fatalf("%s %v", b, err)
	}
	r.unmount()
	if entries, err := filepath.Glob(parent + "/sealvol-*"); err != nil || len(entries) != 0 {
		t.Fatal(entries, err)
	}
}

// TestUnprivileged: a server under another user, found by its mount.
func TestUnprivileged(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_UID=65534")
	r.env = append(r.env, "SEALVOL_TEST_EXE="+r.path("exe"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("exe"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	// That user must reach the program and its data.
	for d := r.dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(r.path("data"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.start(0)
	r.mount()
	r.write("hello")
	i := r.health()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.PID))
	if err != nil || !strings.Contains(string(b), "Uid:\t65534\t65534\t65534\t65534") || !strings.Contains(string(b), "CapEff:\t0000000000000000") {
		t.Fatalf("%s %v", b, err)
	}
	if _, err := control.Find(r.path("other")); err == nil {
		t.Fatal("found a server for a plain directory")
	}
	c, err := control.Find(r.path("target"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Status(r.ctx()); err != nil || s.PID != i.PID {
		t.Fatal(s, err)
	}
	r.unmount()
	r.wantClean()
}
