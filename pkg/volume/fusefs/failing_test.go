package fusefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// failing is an FS with faulty answers.
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
		func() (int, error) { return 1 << 30, nil }, // no FS may do this, but the server must survive
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

// TestLogBounded reads a damaged file again and again.
func TestLogBounded(t *testing.T) {
	var log syncBuffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	fusefs.StatusMany(l, fmt.Errorf("block 7: %w", vfs.ErrCorrupt), 10_000)
	if n := strings.Count(log.String(), "\n"); n < 10 || n > 200 {
		t.Errorf("%d lines", n)
	}
}

// TestDamagedIsTold checks that only damage is reported, with the inode.
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
		syscall.ENOSYS: syscall.EIO, // ENOSYS would disable the operation permanently
	} {
		if got := syscall.Errno(fusefs.Status(log, err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
