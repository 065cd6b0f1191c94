package fusefs_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// TestAbort aborts the connection of a server that does not answer, and checks that waiting calls
// return.
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

// victim is a server in a separate process, which the test kills. It serves the descriptor that it
// inherits. Its fsync never returns. It prints the INIT request, and "stuck" for each fsync.
func victim() error {
	// A server needs no privileges.
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

// startVictim mounts dir and starts a victim that serves it. It returns the victim, its output and
// this process's descriptor.
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
		if err := fusefs.Unmount(dir, true); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the test has unmounted it
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

// stuckSync starts an fsync on a new file, and returns when the victim has read the request.
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

// TestServerKilled kills the only server, and checks that waiting calls get an error.
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

// TestTakeover starts a second server after the first one was killed, and checks that it answers
// the fsync in flight.
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
	// Package os cannot be used, because its poller would wait for this process.
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
