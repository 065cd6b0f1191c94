package fusefstest

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// DefaultDeadline is the maximum lifetime of a mount.
const DefaultDeadline = 2 * time.Minute

// Options are options of Mount. The zero value works.
type Options struct {
	Server   fusefs.Options      // FS and Device are set by Mount
	Mount    fusefs.MountOptions // the default is suid and dev
	Deadline time.Duration       // after it, the connection is aborted and the test fails

	// WantServeError is the expected error of Serve.
	WantServeError error
}

// M is a mount of a test.
type M struct {
	Dir        string
	Server     *fusefs.Server
	Connection uint32 // for fusefs.AbortConnection

	t      testing.TB
	want   error
	timer  *time.Timer
	served chan error
	ended  bool
}

// Mount mounts fs on a temporary directory until the test ends. It requires root.
func Mount(t testing.TB, fs vfs.FS, o Options) *M {
	t.Helper()
	mountControl(t)
	temp := t.TempDir()
	for _, dir := range []string{temp, filepath.Dir(temp)} { // for cases that run as another user
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &M{Dir: filepath.Join(temp, "mnt"), t: t, want: o.WantServeError, served: make(chan error, 1)}
	if err := os.Mkdir(m.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if o.Server.Logger == nil {
		o.Server.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if o.Mount.Options == nil {
		o.Mount.Options = []string{"suid", "dev"}
	}
	dev, err := fusefs.Mount(m.Dir, o.Mount)
	if err != nil {
		t.Fatal(err)
	}
	if m.Connection, err = fusefs.ConnectionID(m.Dir); err != nil {
		t.Fatal(err)
	}
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	m.timer = time.AfterFunc(o.Deadline, func() {
		t.Errorf("the mount still exists after %v: aborting it", o.Deadline)
		m.Abort()
	})
	t.Cleanup(m.Unmount)
	o.Server.FS, o.Server.Device = fs, dev
	if m.Server, err = fusefs.NewServer(o.Server); err != nil {
		t.Fatal(err)
	}
	go func() { m.served <- m.Server.Serve() }()
	select {
	case <-m.Server.Ready():
	case err := <-m.served:
		m.served <- err
		t.Fatalf("serve: %v", err)
	}
	if !o.Server.ReadOnly {
		EndPolling(t, m.Dir)
	}
	if err := fusefs.Tune(m.Dir); err != nil {
		t.Errorf("tune: %v", err)
	}
	return m
}

// EndPolling makes the kernel learn that the file system mounted at dir does not support POLL.
// Otherwise, the first os.Open of a Go program there sends POLL in epoll_ctl. During this call, the
// Go runtime keeps a processor occupied and blocks its network poller. If the server is in the same
// program, it may need that processor to answer. If the server hangs, the whole program hangs.
func EndPolling(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("temporary file: %v", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil && err != unix.EINTR {
		t.Fatalf("poll: %v", err)
	}
}

// Abort breaks the connection.
func (m *M) Abort() {
	if err := fusefs.AbortConnection(m.Connection); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Errorf("abort: %v", err)
	}
}

// Unmount unmounts the file system and waits for its server. It is called automatically at the end
// of the test. A second call does nothing.
func (m *M) Unmount() {
	if m.ended {
		return
	}
	if err := fusefs.Unmount(m.Dir, false); err != nil {
		m.t.Errorf("unmount: %v", err)
		m.Abort()
		if err := fusefs.Unmount(m.Dir, true); err != nil {
			m.t.Errorf("lazy unmount: %v", err)
		}
	}
	m.Unmounted()
}

// Unmounted waits for the server of a mount that the test has unmounted itself.
func (m *M) Unmounted() {
	m.ended = true
	if m.Server != nil {
		if err := <-m.served; !errors.Is(err, m.want) {
			m.t.Errorf("serve ended with %v, want %v", err, m.want)
		}
	}
	m.timer.Stop()
}

// mountControl mounts fusectl, which is needed to abort connections.
func mountControl(t testing.TB) {
	t.Helper()
	const dir = "/sys/fs/fuse/connections"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatalf("FUSE is not available: %v", err)
	}
	if st.Type == fusectlMagic {
		return
	}
	if err := unix.Mount("fusectl", dir, "fusectl", 0, ""); err != nil && err != unix.EBUSY {
		t.Fatalf("mount fusectl: %v", err)
	}
}

const fusectlMagic = 0x65735543 // FUSE_CTL_SUPER_MAGIC, fs/fuse/control.c
