package fusefstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmapChildEnv contains the name of the file that a child process maps and changes.
const mmapChildEnv = "SEALVOL_FUSEFSTEST_MMAP"

// A page fault must not wait for a server in the same process, because the Go runtime does not know
// that the thread waits. Therefore a child process, which runs this program, maps the file.
func init() {
	path := os.Getenv(mmapChildEnv)
	if path == "" {
		return
	}
	if err := mmapChild(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const mmapBytes = 1<<20 + 123

func mmapChild(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, mmapBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, pattern(mmapBytes, 1))
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		return err
	}
	if _, err = unix.Pwrite(fd, []byte("changed"), 5000); err != nil {
		return err
	}
	if string(m[5000:5007]) != "changed" {
		return errors.New("the mapping does not see a write")
	}
	// This reaches the server at munmap or close, without msync.
	copy(m[9000:], "unsynced")
	if err := unix.Munmap(m); err != nil {
		return err
	}
	return unix.Close(fd)
}

func mmapWrite(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/f", nil, 0o644))
	must(t, os.Truncate(dir+"/f", mmapBytes))
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), mmapChildEnv+"="+dir+"/f")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := pattern(mmapBytes, 1)
	copy(want[5000:], "changed")
	copy(want[9000:], "unsynced")
	content(t, dir+"/f", want)
	// O_DIRECT reads from the server, not from the page cache.
	got := aligned(1 << 20)
	n, err := unix.Pread(open(t, dir+"/f", unix.O_RDONLY|unix.O_DIRECT), got, 0)
	must(t, err)
	if n != len(got) || !bytes.Equal(got, want[:n]) {
		t.Errorf("the server has other data than was mapped (%d bytes)", n)
	}
}

// aligned returns a page-aligned buffer.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	return b[int(-uintptr(unsafe.Pointer(&b[0]))%4096):][:n]
}

func direct(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT)
	const size = 3 << 20
	buf := aligned(size)
	copy(buf, pattern(size, 2))
	for off := 0; off < size; off += 1 << 20 {
		n, err := unix.Pwrite(fd, buf[off:off+1<<20], int64(off))
		must(t, err)
		if n != 1<<20 {
			t.Fatalf("short write: %d", n)
		}
	}
	got := aligned(size)
	n, err := unix.Pread(fd, got, 0)
	must(t, err)
	if n != size || !bytes.Equal(got, buf) {
		t.Errorf("read %d bytes, other than written", n)
	}
	content(t, dir+"/f", buf)
}
