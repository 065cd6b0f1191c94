package fusefs_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
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

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// victimEnv turns this program into a victim.
const victimEnv = "SEALVOL_FUSEFS_VICTIM"

// TestMain plays fusermount3 when it is called by that name, and a victim.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "fusermount3" {
		if err := fusermount(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(victimEnv) != "" {
		fmt.Fprintln(os.Stderr, victim())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fusermount does as libfuse's program: mount and send the descriptor.
func fusermount(args []string) error {
	dir := args[len(args)-1]
	if args[0] == "-u" {
		return unix.Unmount(dir, 0)
	}
	if args[0] != "-o" || !strings.Contains(args[1], "subtype=sealvol") || !strings.Contains(args[1], `fsname=a\,b`) {
		return fmt.Errorf("arguments %q", args)
	}
	f, err := fusefs.Mount(dir, fusefs.MountOptions{})
	if err != nil {
		return err
	}
	socket, err := strconv.Atoi(os.Getenv("_FUSE_COMMFD"))
	if err != nil {
		return err
	}
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
}

func TestPOSIX(t *testing.T) {
	fusefstest.RunPOSIX(t, func(*testing.T) vfs.FS { return vfstest.NewMemFS() })
}

func TestFusermount(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(exe, filepath.Join(bin, "fusermount3")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	dev, err := fusefs.MountHelper(dir, fusefs.MountOptions{Source: "a,b"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := fusefs.ConnectionID(dir)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { t.Errorf("too late; aborted: %v", fusefs.AbortConnection(id)) })
	defer timer.Stop()
	s, err := fusefs.NewServer(fusefs.Options{FS: vfstest.NewMemFS(), Device: dev})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	<-s.Ready()
	if len(s.InitRequest()) < 60 {
		t.Errorf("INIT of %d bytes", len(s.InitRequest()))
	}
	if err := fusefs.UnmountHelper(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if _, err := fusefs.MountHelper(dir, fusefs.MountOptions{}); err == nil || !strings.Contains(err.Error(), "arguments") {
		t.Errorf("what the helper says is lost: %v", err)
	}
}

func TestMountErrors(t *testing.T) {
	if _, err := fusefs.Mount(filepath.Join(t.TempDir(), "none"), fusefs.MountOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := fusefs.Mount(t.TempDir(), fusefs.MountOptions{Options: []string{"user_id=0"}}); err == nil {
		t.Error("an unknown option is accepted")
	}
	if err := fusefs.Unmount(t.TempDir(), false); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("unmount of nothing: %v", err)
	}
	if _, err := fusefs.ConnectionID("/"); err == nil {
		t.Error("the root is a FUSE mount")
	}
	if _, err := fusefs.NewServer(fusefs.Options{}); err == nil {
		t.Error("a server of nothing")
	}
}

func TestMountOptionsAndTune(t *testing.T) {
	m := fusefstest.Mount(t, vfstest.NewMemFS(), fusefstest.Options{
		Mount: fusefs.MountOptions{Source: "vol-1", Options: []string{"noexec", "suid", "nosuid"}}})
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, m.Dir) {
			continue
		}
		for _, want := range []string{"nosuid", "nodev", "noexec", "noatime", "fuse.sealvol vol-1", "allow_other", "default_permissions", "max_read=1048576"} {
			if !strings.Contains(line, want) {
				t.Errorf("no %s in %s", want, line)
			}
		}
	}
	for file, want := range map[string]string{"read_ahead_kb": "4096\n", "max_ratio": "40\n"} {
		got, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/0:%d/%s", m.Connection, file))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	fs := vfstest.NewMemFS()
	a, err := fs.Mknod(&vfs.Req{}, vfs.RootIno, "f", syscall.S_IFREG|0o666, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Write(&vfs.Req{}, a.Ino, 0, []byte("kept"), false); err != nil {
		t.Fatal(err)
	}
	// The mount is writable, so that the kernel does not refuse before we do.
	m := fusefstest.Mount(t, fs, fusefstest.Options{Server: fusefs.Options{ReadOnly: true}})
	f := m.Dir + "/f"
	fd, err := unix.Open(f, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, writeErr := unix.Pwrite(fd, []byte("x"), 0)
	_, tmpErr := unix.Open(m.Dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	off := int64(2)
	_, copyErr := unix.CopyFileRange(fd, new(int64), fd, &off, 1, 0)
	for what, err := range map[string]error{
		"write": writeErr, "tmpfile": tmpErr, "copy": copyErr,
		"truncate": unix.Ftruncate(fd, 0), "chmod": unix.Chmod(f, 0o600),
		"mknod": unix.Mknod(m.Dir+"/x", syscall.S_IFREG, 0), "mkdir": unix.Mkdir(m.Dir+"/x", 0), "symlink": unix.Symlink("x", m.Dir+"/x"),
		"link": unix.Link(f, m.Dir+"/x"), "unlink": unix.Unlink(f), "rmdir": unix.Rmdir(m.Dir + "/x"), "rename": unix.Rename(f, m.Dir+"/x"),
		"setxattr": unix.Setxattr(f, "user.x", nil, 0), "removexattr": unix.Removexattr(f, "user.x"), "fallocate": unix.Fallocate(fd, 0, 0, 10),
	} {
		if !errors.Is(err, unix.EROFS) && !(what == "rmdir" && errors.Is(err, unix.ENOENT)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	got := make([]byte, 10)
	if n, err := unix.Pread(fd, got, 0); err != nil || string(got[:n]) != "kept" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

// failing answers in its own ways.
type failing struct {
	*vfstest.MemFS
	mu   sync.Mutex
	read func() (int, error) // guarded by mu, like sync
	sync func() error
}

func (f *failing) set(read func() (int, error), sync func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read, f.sync = read, sync
}

func (f *failing) Read(ino vfs.Ino, off uint64, b []byte) (int, error) {
	f.mu.Lock()
	read := f.read
	f.mu.Unlock()
	if read != nil {
		return read()
	}
	return f.MemFS.Read(ino, off, b)
}

func (f *failing) Sync(ino vfs.Ino) error {
	f.mu.Lock()
	sync := f.sync
	f.mu.Unlock()
	if sync != nil {
		return sync()
	}
	return f.MemFS.Sync(ino)
}

// syncBuffer is a log.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestPanicIsEIO(t *testing.T) {
	var log syncBuffer
	fs := &failing{MemFS: vfstest.NewMemFS()}
	m := fusefstest.Mount(t, fs, fusefstest.Options{Server: fusefs.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}})
	if err := os.WriteFile(m.Dir+"/f", []byte("secret content"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(m.Dir+"/f", unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	var none *int
	for _, read := range []func() (int, error){
		func() (int, error) { panic("secret content") },
		func() (int, error) { return *none, nil },
		func() (int, error) { return 1 << 30, nil }, // no FS may, but the server survives
		func() (int, error) { return 0, errors.New("secret content") },
		func() (int, error) { return 0, fmt.Errorf("block 7: %w", vfs.ErrCorrupt) },
	} {
		fs.set(read, nil)
		if _, err := unix.Pread(fd, make([]byte, 4096), 0); err != unix.EIO {
			t.Errorf("read: %v", err)
		}
	}
	fs.set(nil, nil)
	if n, err := unix.Pread(fd, make([]byte, 4096), 0); n != 14 || err != nil {
		t.Errorf("afterwards: %d, %v", n, err)
	}
	unix.Close(fd)
	m.Unmount()
	got := log.String()
	if strings.Contains(got, "secret") {
		t.Errorf("the log shows data: %s", got)
	}
	for _, want := range []string{"BUG", "nil pointer", "block 7", "*errors.errorString"} {
		if !strings.Contains(got, want) {
			t.Errorf("nothing of %q in the log", want)
		}
	}
}

// TestLogBounded has a damaged file read over and over.
func TestLogBounded(t *testing.T) {
	var log syncBuffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	fusefs.StatusMany(l, fmt.Errorf("block 7: %w", vfs.ErrCorrupt), 10_000)
	if n := strings.Count(log.String(), "\n"); n < 10 || n > 200 {
		t.Errorf("%d lines", n)
	}
}

// TestDamagedIsTold: of damage alone, and of which inode.
func TestDamagedIsTold(t *testing.T) {
	l := slog.New(slog.DiscardHandler)
	var told []vfs.Ino
	for _, err := range []error{nil, vfs.ErrIO, vfs.ErrNotExist, fmt.Errorf("block 7: %w", vfs.ErrCorrupt)} {
		fusefs.StatusDamaged(l, err, func(ino vfs.Ino) { told = append(told, ino) })
	}
	if len(told) != 1 || told[0] != 7 {
		t.Errorf("told of %v", told)
	}
}

func TestErrno(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for err, want := range map[error]syscall.Errno{
		nil: 0, vfs.ErrNotExist: syscall.ENOENT, vfs.ErrNoSpace: syscall.ENOSPC, vfs.ErrNotSupported: syscall.EOPNOTSUPP,
		vfs.ErrClosed: syscall.EIO, errors.New("x"): syscall.EIO, vfs.ErrStale: syscall.ESTALE, vfs.ErrNoXattr: syscall.ENODATA,
		fmt.Errorf("deep: %w", fmt.Errorf("er: %w", vfs.ErrNotEmpty)): syscall.ENOTEMPTY,
		syscall.ENOSYS: syscall.EIO, // would switch the operation off for good
	} {
		if got := syscall.Errno(fusefs.Status(log, err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// TestAbort has a server that does not answer: aborting frees who waits.
func TestAbort(t *testing.T) {
	fs := &failing{MemFS: vfstest.NewMemFS()}
	release, stuck := make(chan struct{}), make(chan struct{}, 1)
	m := fusefstest.Mount(t, fs, fusefstest.Options{WantServeError: fusefs.ErrAborted})
	fd, err := unix.Open(m.Dir+"/f", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fs.set(nil, func() error {
		stuck <- struct{}{}
		<-release
		return nil
	})
	synced := make(chan error, 1)
	go func() { synced <- unix.Fsync(fd) }()
	<-stuck
	m.Abort()
	if err := <-synced; !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EIO) {
		t.Errorf("fsync: %v", err)
	}
	if _, err := unix.Pwrite(fd, make([]byte, 1), 0); err == nil {
		t.Error("a write succeeds after the abort")
	}
	unix.Close(fd)
	close(release) // Serve waits for it
	m.Unmount()
}

// victim is a server in a process of its own, to be killed; it serves the
// descriptor it inherits. Its fsync never returns. It prints the INIT request, and
// "stuck" for each fsync.
func victim() error {
	// A server needs no privilege.
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		return err
	}
	fs := &failing{MemFS: vfstest.NewMemFS()}
	fs.set(nil, func() error { fmt.Println("stuck"); select {} })
	s, err := fusefs.NewServer(fusefs.Options{FS: fs, Device: os.NewFile(3, "fuse")})
	if err != nil {
		return err
	}
	go func() { <-s.Ready(); fmt.Printf("%x\n", s.InitRequest()) }()
	return s.Serve()
}

// startVictim mounts dir and has a victim serve it; it returns the victim, its
// output and our descriptor.
func startVictim(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner, *os.File) {
	t.Helper()
	dev, err := fusefs.Mount(dir, fusefs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := fusefs.ConnectionID(dir)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { t.Errorf("too late; aborted: %v", fusefs.AbortConnection(id)) })
	t.Cleanup(func() {
		timer.Stop()
		if err := fusefs.Unmount(dir, true); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the test did
			t.Error(err)
		}
	})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), victimEnv+"=1")
	cmd.ExtraFiles = []*os.File{dev}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out), dev
}

// stuckSync starts an fsync on a new file, which the victim has taken when it returns.
func stuckSync(t *testing.T, dir string, out *bufio.Scanner) <-chan error {
	t.Helper()
	fd, err := unix.Open(dir+"/f", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	synced := make(chan error, 1)
	go func() {
		err := unix.Fsync(fd)
		unix.Close(fd)
		synced <- err
	}()
	if !out.Scan() || out.Text() != "stuck" {
		t.Fatalf("%q, %v", out.Text(), out.Err())
	}
	return synced
}

// TestServerKilled ends the only server with SIGKILL: who waits for it gets an error.
func TestServerKilled(t *testing.T) {
	dir := t.TempDir()
	cmd, out, dev := startVictim(t, dir)
	dev.Close()
	if !out.Scan() {
		t.Fatal(out.Err())
	}
	synced := stuckSync(t, dir, out)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-synced; err == nil {
		t.Error("fsync succeeded")
	}
	_ = cmd.Wait() // tells that it was killed
}

// TestTakeover has another server go on where the first was killed: the fsync in
// flight is answered by the second.
func TestTakeover(t *testing.T) {
	dir := t.TempDir()
	cmd, out, dev := startVictim(t, dir)
	if !out.Scan() {
		t.Fatal(out.Err())
	}
	init, err := hex.DecodeString(out.Text())
	if err != nil {
		t.Fatal(err)
	}
	synced := stuckSync(t, dir, out)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // tells that it was killed
	// The second server knows the same inodes: the root and one file.
	fs := vfstest.NewMemFS()
	if _, err := fs.Mknod(&vfs.Req{}, vfs.RootIno, "f", syscall.S_IFREG|0o600, 0); err != nil {
		t.Fatal(err)
	}
	s, err := fusefs.NewServer(fusefs.Options{FS: fs, Device: dev, InitRequest: init})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	<-s.Ready()
	if !bytes.Equal(s.InitRequest(), init) {
		t.Error("the INIT request is lost")
	}
	if err := s.Resend(); err != nil {
		t.Fatal(err)
	}
	if err := <-synced; err != nil {
		t.Errorf("fsync over the takeover: %v", err)
	}
	data := bytes.Repeat([]byte("after"), 100_000)
	// Not by package os, whose poller would wait for this process.
	fd, err := unix.Open(dir+"/g", unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Pwrite(fd, data, 0); n != len(data) || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	got := make([]byte, len(data))
	if n, err := unix.Pread(fd, got, 0); err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d, %v", n, err)
	}
	unix.Close(fd)
	if err := fusefs.Unmount(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestManyWaiting needs more handlers than there are at first: each fsync waits
// for all.
func TestManyWaiting(t *testing.T) {
	const callers = 24
	fs := &failing{MemFS: vfstest.NewMemFS()}
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	var all sync.WaitGroup
	all.Add(callers)
	fs.set(nil, func() error { all.Done(); all.Wait(); return nil })
	var wg sync.WaitGroup
	for i := range callers {
		fd, err := unix.Open(fmt.Sprintf("%s/f%d", m.Dir, i), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		wg.Go(func() {
			if err := unix.Fsync(fd); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestForget sees orphans freed when they are closed, and at the latest when the mount ends.
func TestForget(t *testing.T) {
	fs := vfstest.NewMemFS()
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	for i := range 200 {
		name := fmt.Sprintf("%s/f%d", m.Dir, i)
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadDir(m.Dir); err != nil { // READDIRPLUS counts as well
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.Unmount()
	if n := fs.Inodes(); n != 101 {
		t.Errorf("%d inodes, want 101", n)
	}
}

// TestInvalidate changes the FS behind the kernel's back.
func TestInvalidate(t *testing.T) {
	fs := vfstest.NewMemFS()
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	f := m.Dir + "/f"
	if err := os.WriteFile(f, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(f); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	read("before")
	a, err := fs.Lookup(vfs.RootIno, "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Write(&vfs.Req{}, a.Ino, 0, []byte("after!"), false); err != nil {
		t.Fatal(err)
	}
	read("before") // as promised, the kernel does not ask
	if err := m.Server.InvalInode(a.Ino, 0, 0); err != nil {
		t.Fatal(err)
	}
	read("after!")
	if err := m.Server.InvalInode(1<<50, 0, 0); err != nil {
		t.Errorf("an inode that the kernel does not know: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(m.Dir+"/g", &st); err != unix.ENOENT {
		t.Fatal(err)
	}
	if err := fs.Rename(&vfs.Req{}, vfs.RootIno, "f", vfs.RootIno, "g", 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(m.Dir+"/g", &st); err != unix.ENOENT {
		t.Errorf("the kernel asks again: %v", err)
	}
	if err := m.Server.InvalEntry(vfs.RootIno, "g"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(m.Dir+"/g", &st); err != nil {
		t.Error(err)
	}
}

func TestRefs(t *testing.T) {
	fs := vfstest.NewMemFS()
	r := fusefs.NewRefs(fs)
	a, err := fs.Mknod(&vfs.Req{}, vfs.RootIno, "f", syscall.S_IFREG|0o600, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if !fusefs.Hold(r, a.Ino, fusefs.Begin(r)) {
			t.Fatal("cannot hold")
		}
	}
	begun := fusefs.Begin(r) // here somebody has found a
	if err := fs.Unlink(&vfs.Req{}, vfs.RootIno, "f"); err != nil {
		t.Fatal(err)
	}
	if fusefs.Drop(r, a.Ino, 1) || !fusefs.Drop(r, a.Ino, 1) {
		t.Fatal("counted wrong")
	}
	if _, err := fs.GetAttr(a.Ino); !errors.Is(err, vfs.ErrStale) {
		t.Fatalf("not freed: %v", err)
	}
	if fusefs.Hold(r, a.Ino, begun) {
		t.Error("holds what is gone")
	}
	if fusefs.Drop(r, a.Ino, 1) {
		t.Error("the failed hold was counted")
	}
	// Held and dropped by many, an inode with a name stays, one without goes.
	b, err := fs.Mknod(&vfs.Req{}, vfs.RootIno, "g", syscall.S_IFREG|0o600, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if !fusefs.Hold(r, b.Ino, fusefs.Begin(r)) {
					t.Error("lost an inode that has a name")
				}
				fusefs.Drop(r, b.Ino, 1)
			}
		})
	}
	wg.Wait()
}

// TestWriteBack: the FS knows what was stored through mappings of any file, then.
func TestWriteBack(t *testing.T) {
	fs := vfstest.NewMemFS()
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	mapper := fusefstest.NewMapper(t)
	for i := range 20 {
		path := filepath.Join(m.Dir, fmt.Sprint("f", i))
		if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
		mapper.Map(path, 4096).Store(100, []byte("stored"))
	}
	files := m.Server.Files()
	if len(files) != 20 {
		t.Errorf("the kernel knows %d regular files", len(files))
	}
	if err := m.Server.WriteBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range files {
		b := make([]byte, 6)
		if _, err := fs.Read(id, 100, b); err != nil || string(b) != "stored" {
			t.Errorf("inode %d: %q, %v", id, b, err)
		}
	}
}
