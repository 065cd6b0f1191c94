package mounter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// process is a mount server that was started or adopted.
type process struct {
	pid     int
	start   uint64
	adopted bool
	dead    chan struct{}  // closed when it has ended
	ask     control.Client // of its control socket

	kill func() error

	mu           sync.Mutex
	fuse, device *os.File // duplicates; nil when there are none. Guarded by mu.
	exit         error    // valid after dead. Guarded by mu.
}

// alive asks the kernel about a child. dead is closed a moment after the child has ended, and in
// that moment a dead server must not count as running.
func (p *process) alive() bool {
	select {
	case <-p.dead:
		return false
	default:
	}
	if p.adopted {
		return true
	}
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0 // ECHILD: another goroutine has waited for it already
}

// ended closes what the mounter held. With the last descriptor of /dev/fuse the kernel aborts the
// connection. A takeover would start a successor here instead.
func (p *process) ended(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = err
	close(p.dead) // first, because whoever sees the connection break must not hear that the server is alive
	p.dropLocked()
}

func (p *process) dropLocked() {
	if p.fuse != nil {
		p.fuse.Close()
	}
	if p.device != nil {
		p.device.Close()
	}
	p.fuse, p.device = nil, nil
}

// drop closes the duplicates while the server runs.
func (p *process) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked()
}

// withFuse runs f with the duplicate of /dev/fuse, which stays open until f returns. f must not
// wait for the server.
func (p *process) withFuse(f func(*os.File) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fuse == nil {
		return fmt.Errorf("%w: the process has ended", ErrServer)
	}
	return f(p.fuse)
}

func (p *process) holdsFuse() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fuse != nil
}

func (p *process) exitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// handshake is the mounter's end of descriptor 3.
type handshake struct {
	conn net.Conn
	in   *bufio.Reader
}

// expect reads the next step.
func (h *handshake) expect(want string) error {
	var m step
	if err := receiveLine(h.in, &m); err != nil {
		return fmt.Errorf("%w: it did not send step %q: %w", ErrServer, want, err)
	}
	if m.Error != nil {
		err := m.Error.err()
		for _, e := range []error{ErrNoKey, ErrWrongKey, ErrForeign, ErrDamaged, ErrBlank, ErrRolledBack, ErrCopy, ErrRestoring, ErrBusy} {
			if errors.Is(err, e) {
				return err
			}
		}
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	if m.Step != want {
		return fmt.Errorf("%w: it sent step %q, want %q", ErrServer, m.Step, want)
	}
	return nil
}

// start starts a server for r, with its socket at the volume's place. Nothing is mounted yet.
func (o Options) start(ctx context.Context, r MountRequest, at places) (p *process, h *handshake, err error) {
	var closeAll []*os.File // this side's copies of descriptors that only the child needs
	defer func() {
		for _, f := range closeAll {
			f.Close()
		}
	}()
	p = &process{dead: make(chan struct{}), ask: control.Client{Path: at.control}}
	started := p // the results are nil when an error is returned
	defer func() {
		if err != nil {
			started.drop()
		}
	}()
	if p.device, err = openDevice(r.Device, r.ReadOnly); err != nil {
		return nil, nil, err
	}
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) // not os.Open, which would make it non-blocking
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	p.fuse = os.NewFile(uintptr(fuse), "/dev/fuse")
	l, err := control.Listen(at.control)
	if err != nil {
		return nil, nil, err
	}
	lf, err := l.File()
	l.Close()
	if err != nil {
		return nil, nil, err
	}
	closeAll = append(closeAll, lf)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "handshake"), os.NewFile(uintptr(pair[1]), "handshake")
	closeAll = append(closeAll, mine, theirs)
	conn, err := net.FileConn(mine)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	keysR, keysW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	closeAll = append(closeAll, keysR, keysW)
	if err := o.spawn(p, r.Volume, at.group, []*os.File{theirs, keysR, p.device, p.fuse, lf}); err != nil {
		return nil, nil, err
	}
	if err := o.tell(ctx, conn, keysW, r); err != nil {
		conn.Close() // without the connection, the server ends even if killing it failed
		return nil, nil, fmt.Errorf("%w: %w", ErrServer, errors.Join(err, p.end()))
	}
	return p, &handshake{conn: conn, in: bufio.NewReaderSize(conn, maxHandshake)}, nil
}

// tell sends a server its keys and its configuration.
func (o Options) tell(ctx context.Context, conn net.Conn, keys *os.File, r MountRequest) error {
	// A pipe holds far more than this without a reader.
	raw := r.Keys.raw()
	_, err := keys.Write(raw)
	clear(raw)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(o.MountTimeout))
	}
	if err != nil {
		return err
	}
	return sendLine(conn, serverConfig{Volume: r.Volume, ReadOnly: r.ReadOnly, Format: r.Format, Block: r.Block != nil,
		Instance: r.Instance, Own: r.RejectCopy, Anchor: r.Anchor, MemoryBytes: o.MemoryBytes, RequestID: requestid.From(ctx)})
}

// spawn starts the process, in a cgroup if one is configured.
func (o Options) spawn(p *process, volume, group string, files []*os.File) error {
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Args[0] = "sealvol-mount:" + volume // what ps shows
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.UID, Gid: o.GID}
	}
	if group != "" {
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("create cgroup: %w", err)
		}
		f, err := os.Open(group)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer f.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	if err := startAsIOFlusher(cmd); err != nil {
		return fmt.Errorf("start mount server: %w", err)
	}
	p.pid = cmd.Process.Pid
	p.kill = cmd.Process.Kill
	start, err := startTime(p.pid) // a child that was not waited for has its entry even when dead
	p.start = start
	go func() { p.ended(cmd.Wait()) }()
	if err != nil {
		return errors.Join(err, p.end())
	}
	return nil
}

// end kills the server and waits until it has ended.
func (p *process) end() error {
	err := p.kill()
	<-p.dead
	return notGone(err)
}

// notGone drops the error of a signal to a process that has already ended.
func notGone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// startAsIOFlusher starts a command with PR_SET_IO_FLUSHER, which prctl(2) recommends for FUSE
// daemons so that memory reclaim does not wait for the file system itself. Children inherit it over
// exec. It needs CAP_SYS_RESOURCE; without it, the server starts all the same. The thread with the
// changed flag is discarded.
func startAsIOFlusher(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
		done <- cmd.Start()
	}()
	return <-done
}

// stopHard kills a server that must not continue, and waits until it has ended.
func (p *process) stopHard(ctx context.Context, wait time.Duration) error {
	var killed error
	if p.alive() {
		killed = notGone(p.kill())
	}
	p.drop() // otherwise it may wait in the kernel for its own connection, for ever
	if !await(ctx, p.dead, wait) {
		return errors.Join(fmt.Errorf("%w: the mount server (pid %d) does not exit", ErrBusy, p.pid), killed)
	}
	return nil
}
