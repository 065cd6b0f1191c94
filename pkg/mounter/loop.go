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

// Loop devices are handled by a short-lived process of their own (RunLoop), because only it opens a file on a mount: a mounter that
// had one open would close it in each child that it forks, and wait for the server of that mount with it. The helper can be killed.

// rawFile is the one file of a raw block volume, in its root directory.
const rawFile = "block"

// loopDev is a loop device and the file that it was bound to, by which it is recognised.
type loopDev struct {
	Minor    uint32 `json:"minor"`
	Dev      uint64 `json:"dev"`
	Ino      uint64 `json:"ino,omitempty"` // 0: not known; no other file of that file system is ever bound
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// rdev is its device number.
func (l loopDev) rdev() uint64 { return unix.Mkdev(loopMajor, l.Minor) }

// loopCall is what the helper reads from its standard input: either Attach or Detach.
type loopCall struct {
	Attach *attachCall `json:"attach,omitempty"`
	Detach *detachCall `json:"detach,omitempty"`
}

type attachCall struct {
	Dir       string   `json:"dir"`       // where the volume is mounted
	SizeBytes int64    `json:"sizeBytes"` // the file is grown to it, never cut
	ReadOnly  bool     `json:"readOnly"`  // the volume is mounted so: the file must exist
	Want      []bool   `json:"want"`      // for each device whether it is read-only
	Bound     []uint32 `json:"bound"`     // minors that may be such devices already
}

type detachCall struct {
	Devs []loopDev `json:"devs"`
	// Dead: the server has ended, so that nothing can be flushed, and who still has a device open gets errors until it closes it.
	Dead bool `json:"dead"`
}

// loopReply is what it writes to its standard output.
type loopReply struct {
	Devs      []loopDev  `json:"devs,omitempty"`
	SizeBytes int64      `json:"sizeBytes,omitempty"`
	Error     *wireError `json:"error,omitempty"`
}

const maxLoopMessage = 64 << 10

// RunLoop is the whole of the helper's process: it reads one call from in and writes one reply to out.
func RunLoop(in io.Reader, out io.Writer) error {
	var c loopCall
	d := json.NewDecoder(io.LimitReader(in, maxLoopMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return fmt.Errorf("loop: malformed call (it is started by the mounter, not by hand): %w", err)
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
		// Killed by CommandContext. One that the kernel does not let go ends with the server that it waits for.
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

// run makes the file and its devices, or finds them.
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
		if err := f.Sync(); err != nil { // what is announced must not shrink again
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

// open opens the file, made if need be.
func (c *attachCall) open() (*os.File, error) {
	dir, err := unix.Openat2(unix.AT_FDCWD, c.Dir, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, fmt.Errorf("raw block file: %w", err)
	}
	defer unix.Close(dir)
	// By its path alone first: in place of the file the image may have a device, whose driver would
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
		return nil, fmt.Errorf("%w: the volume's root has something that is no file in place of the raw block device's", ErrDamaged)
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

// device finds or makes one device; l says which file it must have.
func (c *attachCall) device(f *os.File, l *loopDev, size int64) error {
	for _, minor := range c.Bound {
		l.Minor = minor
		d, err := openLoop(minor, unix.O_RDONLY)
		if err != nil {
			continue // gone, and not ours then
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

// run unbinds devices; those that are not what they were are left alone.
func (c *detachCall) run() error {
	var errs error
	for _, l := range c.Devs {
		errs = errors.Join(errs, c.detach(l))
	}
	return errs
}

// How long to wait for those who look at each new device, as udev, to close it.
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
			return fmt.Errorf("%w: somebody has its block device open", ErrBusy)
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
	// The kernel does it when the last user closes the device, and says so by a flag. That is right for one that is dead. One that
	// works stays as it was: whether it goes must not depend on who closes it when.
	i, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	if err != nil || c.Dead {
		return false, nil // ENXIO: it goes with our own descriptor
	}
	i.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopSetStatus64(int(d.Fd()), i); err != nil && !errors.Is(err, unix.ENXIO) {
		return false, fmt.Errorf("keep a loop device: %w", err)
	}
	return true, nil
}
