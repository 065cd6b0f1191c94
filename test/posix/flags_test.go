package posix

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// ioctl calls ioctl(2) on a file or directory, given its path.
func ioctl(path string, request uint, arg unsafe.Pointer) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if e != 0 {
		return e
	}
	return nil
}

// run runs a program of e2fsprogs or util-linux on the mount, and returns its output.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	if cmd.Err != nil { // sbin may not be in PATH
		cmd.Path, cmd.Err = "/usr/sbin/"+name, nil
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// asUser runs fn on a thread of the user nobody.
func asUser(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		for _, trap := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, e := unix.RawSyscall(trap, 65534, 65534, 65534); e != 0 {
				t.Error(e)
				return
			}
		}
		fn()
	}()
	<-done
}

// wantFlags compares the flags that lsattr shows.
func wantFlags(t *testing.T, path, want string) {
	t.Helper()
	out, err := run(t, "lsattr", "-d", path)
	if got, _, _ := strings.Cut(out, " "); err != nil || strings.ReplaceAll(got, "-", "") != want {
		t.Errorf("lsattr: %q, %v, want %q", out, err, want)
	}
}

func chattr(t *testing.T, path, how string) {
	t.Helper()
	if out, err := run(t, "chattr", how, path); err != nil {
		t.Errorf("chattr %s: %v: %s", how, err, out)
	}
}

// TestChattr: lsattr and chattr show and set flags, and what is immutable stays as it is.
func TestChattr(t *testing.T) {
	m := fusefstest.Mount(t, newVolume(t), fusefstest.Options{})
	f, d := m.Dir+"/f", m.Dir+"/d"
	if err := errors.Join(os.WriteFile(f, []byte("data"), 0o666), os.Chmod(f, 0o666), os.Mkdir(d, 0o755)); err != nil {
		t.Fatal(err)
	}
	wantFlags(t, f, "")
	chattr(t, f, "+dAi")
	wantFlags(t, f, "idA")
	immutable(t, f, d)
	asUser(t, func() { // not the owner; and not even root without CAP_LINUX_IMMUTABLE
		for _, want := range []int32{0, 0x20} {
			if err := ioctl(f, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&want)); !errors.Is(err, unix.EPERM) {
				t.Errorf("flags %#x set by a stranger: %v", want, err)
			}
		}
	})
	if out, err := run(t, "chattr", "+S", f); err == nil || !strings.Contains(out, "not supported") {
		t.Errorf("chattr +S: %q, %v", out, err)
	}
	chattr(t, f, "-i")
	chattr(t, f, "+a")
	wantFlags(t, f, "adA")
	fd, err := unix.Open(f, unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(" and more")); err != nil {
		t.Errorf("append: %v", err)
	}
	if got, err := os.ReadFile(f); err != nil || string(got) != "data and more" {
		t.Errorf("%q, %v", got, err)
	}
	chattr(t, f, "-a")
	chattr(t, d, "+i")
	if err := os.Mkdir(d+"/x", 0o700); !errors.Is(err, unix.EPERM) {
		t.Errorf("mkdir in an immutable directory: %v", err)
	}
	chattr(t, d, "-i")
	project := make([]byte, 28)
	if err := ioctl(f, 0x801c581f, unsafe.Pointer(&project[0])); err != nil || project[0] != 0xc0 { // FS_IOC_FSGETXATTR: nodump and noatime
		t.Errorf("struct fsxattr %x: %v", project, err)
	}
	project[12] = 7 // a project
	if err := ioctl(f, 0x401c5820, unsafe.Pointer(&project[0])); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("set a project: %v", err)
	}
}

// immutable tries all that changes a file which is immutable; d is a directory.
func immutable(t *testing.T, f, d string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(f, &st); err != nil {
		t.Fatal(err)
	}
	if fd, err := unix.Open(f, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		if _, err := unix.Write(fd, []byte("x")); !errors.Is(err, unix.EPERM) {
			t.Errorf("write to an immutable file: %v", err)
		}
		unix.Close(fd)
	} else if !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	for what, err := range map[string]error{"truncate": unix.Truncate(f, 1), "unlink": unix.Unlink(f), "chmod": unix.Chmod(f, 0o600), "rename": unix.Rename(f, d+"/f"),
		"link": unix.Link(f, d+"/f"), "utimes": unix.Utimes(f, []unix.Timeval{{}, {}}), "setxattr": unix.Setxattr(f, "user.a", nil, 0)} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s of an immutable file: %v", what, err)
		}
	}
}

// TestMappedThenImmutable checks that data stored through a mapping before chattr +i is kept, and
// that data stored afterwards does not become content.
func TestMappedThenImmutable(t *testing.T) {
	m := fusefstest.Mount(t, newVolume(t), fusefstest.Options{})
	f := m.Dir + "/f"
	if err := os.WriteFile(f, bytes.Repeat([]byte{'a'}, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `
import fcntl, mmap, struct, sys
f = open(sys.argv[1], "r+b")
m = mmap.mmap(f.fileno(), 0)
m[0:4] = b"kept"
fcntl.ioctl(f.fileno(), 0x40086602, struct.pack("i", 0x10))  # FS_IOC_SETFLAGS; chattr would close a file, which writes back
try:
    m[4096:4100] = b"late"
    m.flush()
except OSError:
    pass
`
	if out, err := run(t, "python3", "-c", script, f); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Bypass the kernel's cache.
	fd, err := unix.Open(f, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	if n, err := unix.Pread(fd, b, 0); n != 8192 || err != nil || string(b[:4]) != "kept" || string(b[4096:4100]) != "aaaa" {
		t.Errorf("%d, %v: %q … %q", n, err, b[:4], b[4096:4100])
	}
	if out, err := run(t, "chattr", "-i", f); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestLabelAndTrim checks that FS_IOC_SETFSLABEL and FITRIM require root, that FS_IOC_GETFSLABEL
// does not, and that fstrim reports the trimmed bytes.
func TestLabelAndTrim(t *testing.T) {
	m := fusefstest.Mount(t, newVolume(t), fusefstest.Options{})
	const get, set, trim = 0x81009431, 0x41009432, 0xc0185879
	label := func(want string) {
		t.Helper()
		got := bytes.Repeat([]byte{'x'}, 256)
		if err := ioctl(m.Dir, get, unsafe.Pointer(&got[0])); err != nil || string(bytes.TrimRight(got, "\x00")) != want {
			t.Errorf("label %q, %v, want %q", got, err, want)
		}
	}
	label("")
	name := make([]byte, 256)
	copy(name, "backup of everything")
	if err := ioctl(m.Dir, set, unsafe.Pointer(&name[0])); err != nil {
		t.Error(err)
	}
	label("backup of everything")
	asUser(t, func() {
		label("backup of everything")
		if err := ioctl(m.Dir, set, unsafe.Pointer(&name[0])); !errors.Is(err, unix.EPERM) {
			t.Errorf("a user sets a label: %v", err)
		}
		r := [3]uint64{0, ^uint64(0), 0}
		if err := ioctl(m.Dir, trim, unsafe.Pointer(&r[0])); !errors.Is(err, unix.EPERM) {
			t.Errorf("a user trims: %v", err)
		}
	})
	long := bytes.Repeat([]byte{'l'}, 256)
	if err := ioctl(m.Dir, set, unsafe.Pointer(&long[0])); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a label without end: %v", err)
	}
	for _, r := range [][3]uint64{{1 << 60, 1 << 20, 0}, {0, 100, 0}} {
		if err := ioctl(m.Dir, trim, unsafe.Pointer(&r[0])); !errors.Is(err, unix.EINVAL) {
			t.Errorf("trim %v: %v", r, err)
		}
	}
	r := [3]uint64{0, ^uint64(0), 1 << 20}
	if err := ioctl(m.Dir, trim, unsafe.Pointer(&r[0])); err != nil || r[1] < 1<<30 || r[1] > 2<<30 {
		t.Errorf("trimmed %d bytes of 2 GiB, %v", r[1], err)
	}
	if out, err := run(t, "fstrim", "-v", m.Dir); err != nil || !strings.Contains(out, "trimmed") {
		t.Errorf("fstrim: %q, %v", out, err)
	}
	for _, unknown := range []uint{0x5401, unix.FS_IOC_GETFLAGS + 0x100} {
		var x int
		if err := ioctl(m.Dir, unknown, unsafe.Pointer(&x)); !errors.Is(err, unix.ENOTTY) {
			t.Errorf("ioctl %#x: %v", unknown, err)
		}
	}
}
