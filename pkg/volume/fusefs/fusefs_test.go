package fusefs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	// The mount is writable, so that the server refuses writes, and not the kernel.
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

// TestManyWaiting needs more handlers than are started at first: each fsync waits for all others.
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

// TestForget checks that orphans are freed when they are closed, and at the latest when the mount
// ends.
func TestForget(t *testing.T) {
	fs := vfstest.NewMemFS()
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	for i := range 200 {
		name := fmt.Sprintf("%s/f%d", m.Dir, i)
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadDir(m.Dir); err != nil { // READDIRPLUS also counts as a lookup
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

// TestInvalidate changes the FS without the knowledge of the kernel.
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
	read("before") // the kernel uses its cache, as expected
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
	begun := fusefs.Begin(r) // here, somebody has found a
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
	// After many concurrent holds and drops, an inode with a name exists, and one without is freed.
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

// TestWriteBack checks that the FS has the data that was stored through mappings of any file.
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
