// Command agent is the first process of the machine of package nvme. It initialises the machine and
// then executes the requests of tests.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/test/nvme/vm"
)

func main() {
	err := run()
	fmt.Fprintln(os.Stderr, "agent:", err)
	// When the first process ends, the kernel panics and the machine ends.
}

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	list, err := os.ReadFile(vm.ModuleList)
	if err != nil {
		return err
	}
	for path := range strings.Lines(string(list)) {
		if err := load(strings.TrimSpace(path)); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	for path, kind := range map[string]string{"/sys/fs/fuse/connections": "fusectl", "/sys/kernel/config": "configfs"} {
		if err := unix.Mount(kind, path, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	if err := loopback(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.RegisterName(vm.AgentName, &Agent{writers: map[string]*writer{}}); err != nil {
		return err
	}
	s.ServeConn(line{port})
	return errors.New("the port was closed")
}

// line is the port to the tests. If the tests end without a message, so does the machine: the write
// of an answer waits until it is read.
type line struct{ *os.File }

func (l line) Read(b []byte) (int, error) {
	n, err := l.File.Read(b)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent: the port failed:", err)
		os.Exit(1)
	}
	return n, nil
}

// loopback enables the only network device.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// openPort finds the virtio port, which appears shortly after its driver was loaded.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err == nil && strings.TrimSpace(string(b)) == vm.PortName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
	}
	return nil, errors.New("no virtio port")
}

// Agent is the RPC service.
type Agent struct {
	mu      sync.Mutex
	writers map[string]*writer // by path; guarded by mu
}

// Ping returns at once.
func (*Agent) Ping(vm.None, *vm.None) error { return nil }

// Start starts a program.
func (*Agent) Start(s vm.Program, pid *int) error {
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = []string{"HOME=/tmp", "AWS_EC2_METADATA_DISABLED=true"}
	if err := cmd.Start(); err != nil {
		return err
	}
	*pid = cmd.Process.Pid
	go func() {
		err := cmd.Wait()
		fmt.Fprintf(os.Stderr, "agent: %s has ended: %v\n", strings.Join(s.Args, " "), err)
	}()
	return nil
}

// rawCodec passes messages unchanged.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("unexpected message type")
	}
	return *b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.New("unexpected message type")
	}
	*b = bytes.Clone(data)
	return nil
}

// Invoke makes a gRPC call, once a server listens at the socket.
func (*Agent) Invoke(c vm.Call, a *vm.Answer) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	st := status.Convert(conn.Invoke(ctx, c.Method, &c.Request, &a.Response, grpc.ForceCodec(rawCodec{}), grpc.WaitForReady(true)))
	a.Code, a.Message = st.Code(), st.Message()
	return conn.Close()
}

// Mkdir creates a directory and its parents.
func (*Agent) Mkdir(path string, _ *vm.None) error { return os.MkdirAll(path, 0o750) }

// Remove removes a file.
func (*Agent) Remove(path string, _ *vm.None) error { return os.Remove(path) }

// Symlink creates a link and the directories above it.
func (*Agent) Symlink(l vm.Link, _ *vm.None) error {
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
		return err
	}
	return os.Symlink(l.To, l.Path)
}

// Glob lists the paths that match a pattern.
func (*Agent) Glob(pattern string, list *[]string) (err error) {
	*list, err = filepath.Glob(pattern)
	return err
}

// ReadFile reads a small file.
func (*Agent) ReadFile(path string, data *[]byte) (err error) {
	*data, err = os.ReadFile(path)
	return err
}

// Write writes into a file, and creates it if necessary.
func (*Agent) Write(w vm.File, _ *vm.None) error {
	f, err := os.OpenFile(w.Path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if w.Offset == 0 { // also works for files that have no offsets
		_, err = f.Write(w.Data)
	} else {
		_, err = f.WriteAt(w.Data, w.Offset)
	}
	if err == nil && w.Sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Truncate changes the size of a file, and creates it if necessary.
func (*Agent) Truncate(r vm.Range, _ *vm.None) error {
	f, err := os.OpenFile(r.Path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(r.Length), f.Close())
}

// Hash returns the SHA-256 of a range.
func (*Agent) Hash(r vm.Range, sum *[]byte) error {
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	var from io.Reader = f
	if r.Length > 0 {
		from = io.NewSectionReader(f, r.Offset, r.Length)
	}
	h := sha256.New()
	if _, err := io.Copy(h, from); err != nil {
		return err
	}
	*sum = h.Sum(nil)
	return nil
}

// Statfs returns the size of a file system.
func (*Agent) Statfs(path string, s *vm.Size) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	*s = vm.Size{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bfree) * st.Bsize}
	return nil
}

// writer appends records to a file and syncs each, until it fails or is stopped.
type writer struct {
	mu   sync.Mutex
	done vm.Acknowledged // guarded by mu
	stop bool            // guarded by mu
}

// StartWriter starts a writer on a new file.
func (a *Agent) StartWriter(path string, _ *vm.None) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := &writer{}
	a.mu.Lock()
	a.writers[path] = w
	a.mu.Unlock()
	go w.run(f)
	return nil
}

func (w *writer) run(f *os.File) {
	defer f.Close()
	for n := int64(0); ; n++ {
		_, err := f.WriteAt(vm.Record(n), n*vm.RecordBytes)
		if err == nil {
			err = f.Sync()
		}
		w.mu.Lock()
		if err == nil {
			w.done.Records = n + 1
		} else {
			w.done.Err = err.Error()
		}
		end := err != nil || w.stop
		if end && err == nil {
			w.done.Err = "stopped"
		}
		w.mu.Unlock()
		if end {
			return
		}
	}
}

// StopWriter stops a writer after its next record.
func (a *Agent) StopWriter(path string, _ *vm.None) error {
	a.mu.Lock()
	w := a.writers[path]
	a.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = true
	return nil
}

// Writer returns how far a writer has come.
func (a *Agent) Writer(path string, done *vm.Acknowledged) error {
	a.mu.Lock()
	w := a.writers[path]
	a.mu.Unlock()
	if w == nil {
		return errors.New("there is no writer for this path")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	*done = w.done
	return nil
}

// Alive tells whether a process is running.
func (*Agent) Alive(pid int, alive *bool) error {
	*alive = unix.Kill(pid, 0) == nil
	return nil
}
