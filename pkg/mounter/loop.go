package mounter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A short-lived process (RunLoop) handles loop devices, because it must open a file on a mount. If
// the mounter had such a file open, every child that it forks would have to close it and wait for
// the server of that mount. The helper can be killed instead.

// rawFile is the only file of a raw block volume, in its root directory.
const rawFile = "block"

// loopDev is a loop device and the file that it is bound to, by which it is recognised.
type loopDev struct {
	Minor    uint32 `json:"minor"`
	Dev      uint64 `json:"dev"`
	Ino      uint64 `json:"ino,omitempty"` // 0: not known; no other file of that file system is ever bound
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// rdev returns its device number.
func (l loopDev) rdev() uint64 { return unix.Mkdev(loopMajor, l.Minor) }

// loopCall is what the helper reads from its standard input: either Attach or Detach.
type loopCall struct {
	Attach *attachCall `json:"attach,omitempty"`
	Detach *detachCall `json:"detach,omitempty"`
}

type attachCall struct {
	Dir       string   `json:"dir"`       // where the volume is mounted
	SizeBytes int64    `json:"sizeBytes"` // the file is grown to it, never shrunk
	ReadOnly  bool     `json:"readOnly"`  // the volume is mounted read-only: the file must exist
	Want      []bool   `json:"want"`      // for each device, whether it is read-only
	Bound     []uint32 `json:"bound"`     // minors that may already be such devices
}

type detachCall struct {
	Devs []loopDev `json:"devs"`
	// Dead: the server has ended. Nothing can be flushed, and programs that still have a device
	// open get errors until they close it.
	Dead bool `json:"dead"`
}

// loopReply is what the helper writes to its standard output.
type loopReply struct {
	Devs      []loopDev  `json:"devs,omitempty"`
	SizeBytes int64      `json:"sizeBytes,omitempty"`
	Error     *wireError `json:"error,omitempty"`
}

const maxLoopMessage = 64 << 10

// RunLoop is the helper's process: it reads one call from in and writes one reply to out.
func RunLoop(in io.Reader, out io.Writer) error {
	var c loopCall
	d := json.NewDecoder(io.LimitReader(in, maxLoopMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return fmt.Errorf("loop: malformed call: %w (the mounter starts this command; do not run it by hand)", err)
	}
	var r loopReply
	var err error
	switch {
	case c.Attach != nil:
		r, err = c.Attach.run()
	case c.Detach != nil:
		err = c.Detach.run()
	default:
		err = fmt.Errorf("%w: neither attach nor detach", ErrInvalid)
	}
	r.Error = toWire(err)
	return json.NewEncoder(out).Encode(r)
}

// loop runs the helper, at most until ctx ends.
func (m *Mounter) loop(ctx context.Context, c loopCall) (loopReply, error) {
	in, err := json.Marshal(c)
	if err != nil {
		return loopReply{}, err
	}
	var out strings.Builder
	cmd := exec.CommandContext(ctx, m.opt.LoopCommand[0], m.opt.LoopCommand[1:]...)
	cmd.Env = append(os.Environ(), m.opt.Env...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(string(in)), &out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return loopReply{}, fmt.Errorf("start the loop helper: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// CommandContext has killed it. If the kernel does not let it exit, it ends together with
		// the server that it waits for.
		t := time.NewTimer(askTimeout)
		defer t.Stop()
		select {
		case err = <-done:
		case <-t.C:
		}
		return loopReply{}, fmt.Errorf("%w: the loop device does not answer: %w", ErrBusy, errors.Join(ctx.Err(), err))
	}
	var r loopReply
	if err == nil {
		err = json.Unmarshal([]byte(out.String()), &r)
	}
	if err != nil {
		return loopReply{}, fmt.Errorf("loop helper: %w", err)
	}
	return r, r.Error.err()
}

// run finds or creates the file and its devices.
func (c *attachCall) run() (loopReply, error) {
	f, err := c.open()
	if err != nil {
		return loopReply{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return loopReply{}, fmt.Errorf("raw block file: %w", err)
	}
	r := loopReply{SizeBytes: st.Size}
	if st.Size < c.SizeBytes && !c.ReadOnly {
		if err := f.Truncate(c.SizeBytes); err != nil {
			return loopReply{}, fmt.Errorf("raw block file: %w", err)
		}
		if err := f.Sync(); err != nil { // an announced size must not shrink again
			return loopReply{}, fmt.Errorf("raw block file: %w", err)
		}
		r.SizeBytes = c.SizeBytes
	}
	if r.SizeBytes < RawAlign {
		return loopReply{}, fmt.Errorf("%w: the raw block device has %d bytes", ErrDamaged, r.SizeBytes)
	}
	for _, readOnly := range c.Want {
		l := loopDev{Dev: st.Dev, Ino: st.Ino, ReadOnly: readOnly}
		if err := c.device(f, &l, r.SizeBytes); err != nil {
			return loopReply{}, err
		}
		r.Devs = append(r.Devs, l)
	}
	return r, nil
}

// open opens the file, and creates it if necessary.
func (c *attachCall) open() (*os.File, error) {
	dir, err := unix.Openat2(unix.AT_FDCWD, c.Dir, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, fmt.Errorf("raw block file: %w", err)
	}
	defer unix.Close(dir)
	// First open it with O_PATH: a damaged image may have a device in its place, whose driver would
	// notice an open.
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	path, err := unix.Openat(dir, rawFile, flags, 0)
	if errors.Is(err, unix.ENOENT) && !c.ReadOnly {
		if err := unix.Mknodat(dir, rawFile, unix.S_IFREG|0o600, 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("raw block file: %w", err)
		}
		path, err = unix.Openat(dir, rawFile, flags, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoBlockFile
	}
	if err != nil {
		return nil, fmt.Errorf("raw block file: %w", err)
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return nil, fmt.Errorf("raw block file: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: the file of the raw block device has an unexpected file type", ErrDamaged)
	}
	how := unix.O_RDWR
	if c.ReadOnly {
		how = unix.O_RDONLY
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", path), how|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("raw block file: %w", err)
	}
	return os.NewFile(uintptr(fd), rawFile), nil
}

// device finds or creates one device; l says which file it must be bound to.
func (c *attachCall) device(f *os.File, l *loopDev, size int64) error {
	for _, minor := range c.Bound {
		l.Minor = minor
		d, err := openLoop(minor, unix.O_RDONLY)
		if err != nil {
			continue // it is gone, or is not ours
		}
		ours, _, err := d.is(*l)
		if err == nil && ours {
			err = d.fit(size)
			d.Close()
			return err
		}
		d.Close()
	}
	d, err := newLoop(f, l)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.fit(size)
}

// run unbinds devices. It does not touch devices that are now bound to something else.
func (c *detachCall) run() error {
	var errs error
	for _, l := range c.Devs {
		errs = errors.Join(errs, c.detach(l))
	}
	return errs
}

// How long to wait until programs that inspect every new device, such as udev, close it.
const (
	closeWait  = 2 * time.Second
	closeEvery = 20 * time.Millisecond
)

func (c *detachCall) detach(l loopDev) error {
	end := time.Now().Add(closeWait)
	for {
		busy, err := c.detachOnce(l)
		if !busy || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: a program has the raw block device open", ErrBusy)
		}
		wait := time.NewTimer(closeEvery)
		<-wait.C
	}
}

func (c *detachCall) detachOnce(l loopDev) (busy bool, err error) {
	d, err := openLoop(l.Minor, unix.O_RDONLY)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	ours, _, err := d.is(l)
	if err != nil || !ours {
		return false, err
	}
	if !c.Dead && !l.ReadOnly {
		if err := unix.Fsync(int(d.Fd())); err != nil {
			return false, fmt.Errorf("%w: flush the block device: %w", ErrServer, err)
		}
	}
	if err := unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return false, fmt.Errorf("detach a loop device: %w", err)
	}
	// The kernel does this when the last user closes the device, and sets a flag until then. That
	// is right for a device whose server died. A device that works must stay: whether it goes must
	// not depend on when a program closes it.
	i, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	if err != nil || c.Dead {
		return false, nil // ENXIO: it goes when our own descriptor is closed
	}
	i.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopSetStatus64(int(d.Fd()), i); err != nil && !errors.Is(err, unix.ENXIO) {
		return false, fmt.Errorf("keep a loop device: %w", err)
	}
	return true, nil
}
