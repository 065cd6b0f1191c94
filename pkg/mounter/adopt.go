package mounter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"golang.org/x/sys/unix"
)

func (m *Mounter) adoptAll() error {
	root := filepath.Join(m.opt.StateDir, "volumes")
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		r, err := loadRecord(dir)
		if errors.Is(err, fs.ErrNotExist) {
			m.killOrphan(dir)
			m.sweep(dir) // a crash before the first record or after the last one: no server runs
			continue
		}
		if err != nil {
			return err
		}
		if r.Boot != bootID() { // processes and mounts do not survive a reboot
			m.sweep(dir)
			continue
		}
		v := m.newVolume(r.Volume)
		if v.dir != dir {
			return fmt.Errorf("%s: state.json belongs to another volume", dir)
		}
		r.places = v.places
		v.rec = &r
		if v.proc, err = adopt(r); err != nil {
			return err
		}
		m.volumes[r.Volume] = v
		if err := m.adoptWorker(v); err != nil {
			return err
		}
		if v.proc == nil {
			m.opt.Log.Warn("mount server has died", "volume", r.Volume, "pid", r.PID)
			continue
		}
		m.opt.Log.Info("mount server adopted", "volume", r.Volume, "pid", r.PID, "holdsFuse", v.proc.holdsFuse())
		m.watch(r.Volume, v.proc)
	}
	return nil
}

// sweep removes a directory that is no longer needed. If that fails, nothing breaks, and the next
// start tries again.
func (m *Mounter) sweep(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		m.opt.Log.Warn("stale state directory not removed", "error", err)
	}
}

// adopt finds the server of a record, if it still runs.
func adopt(r record) (*process, error) {
	if r.Boot != bootID() {
		return nil, nil
	}
	pidfd, err := findProcess(r.PID, r.Start)
	if err != nil { // it may still run, and a second server beside it would damage the volume
		return nil, fmt.Errorf("mount server %d: %w", r.PID, err)
	}
	if pidfd < 0 {
		return nil, nil
	}
	p := &process{pid: r.PID, start: r.Start, adopted: true, dead: make(chan struct{}), ask: control.Client{Path: r.control}}
	p.kill = func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if pidfd < 0 {
			return nil
		}
		return unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	p.fuse = takeFD(pidfd, r.PID, fdFuse, "/dev/fuse")
	p.device = takeFD(pidfd, r.PID, fdDevice, r.Device.Path)
	go func(fd int) {
		waitExit(fd)
		p.mu.Lock()
		unix.Close(pidfd)
		pidfd = -1
		p.mu.Unlock()
		p.ended(nil)
	}(pidfd)
	return p, nil
}

// findProcess returns a pidfd of the process with a pid and a start time, or -1 if it has ended.
func findProcess(pid int, start uint64) (int, error) {
	if pid <= 0 {
		return -1, nil
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	// The pidfd pins the process. Only now does its start time prove that it is the right one.
	found, err := startTime(pid)
	gone := exited(pidfd) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	if gone || err == nil && found != start {
		unix.Close(pidfd)
		return -1, nil
	}
	if err != nil {
		unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

// takeFD duplicates a descriptor of the server, if it still refers to what the server was started
// with.
func takeFD(pidfd, pid, fd int, want string) *os.File {
	if name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err != nil || name != want {
		return nil
	}
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil
	}
	unix.CloseOnExec(got)
	return os.NewFile(uintptr(got), want)
}

func exited(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

func waitExit(pidfd int) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); err == nil && n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
