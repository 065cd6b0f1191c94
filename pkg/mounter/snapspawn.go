package mounter

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

const (
	workerNice = 10
	workerOOM  = "500" // proc_pid_oom_score_adj(5)
	// ioprioBE is IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7) of linux/ioprio.h: the lowest priority that
	// still gets its turn.
	ioprioBE = 2<<13 | 7
	// workerTasks is how many threads a worker may have.
	workerTasks = 64
)

// workerSockets are the descriptors that the mounter makes for a worker.
type workerSockets struct {
	hand   net.Conn
	theirs []*os.File // in the order of the worker's descriptors
	keys   *os.File   // the mount server's end of the socket pair
}

// close closes everything but the handshake.
func (s *workerSockets) close() {
	for _, f := range append(s.theirs, s.keys) {
		if f != nil {
			f.Close()
		}
	}
}

// pairOf returns both ends of a socket pair.
func pairOf(name string) (a, b *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name), nil
}

// workerSockets opens what a worker gets. The device is opened anew, for reading only, and without a
// lock: the mount server has it locked.
func (m *Mounter) workerSockets(v *volume, secrets, store *os.File) (s *workerSockets, err error) {
	s = &workerSockets{}
	defer func() {
		if err != nil {
			s.close()
			if s.hand != nil {
				s.hand.Close()
			}
		}
	}()
	mine, hand, err := pairOf("handshake")
	if err != nil {
		return s, err
	}
	s.hand, err = net.FileConn(mine)
	mine.Close()
	s.theirs = append(s.theirs, hand)
	if err != nil {
		return s, err
	}
	var keys *os.File
	if s.keys, keys, err = pairOf("keys"); err != nil {
		return s, err
	}
	s.theirs = append(s.theirs, keys)
	dev, err := reopenDevice(v.rec.Device)
	if err != nil {
		return s, err
	}
	s.theirs = append(s.theirs, dev)
	l, err := control.Listen(v.workerControl())
	if err != nil {
		return s, err
	}
	lf, err := l.File()
	l.Close()
	if err != nil {
		return s, err
	}
	s.theirs = append(s.theirs, lf)
	for _, f := range []*os.File{secrets, store} {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return s, err
		}
		s.theirs = append(s.theirs, os.NewFile(uintptr(fd), f.Name()))
	}
	return s, nil
}

// reopenDevice opens the device of a mounted volume for reading.
func reopenDevice(d Device) (*os.File, error) {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	f := os.NewFile(uintptr(fd), d.Path)
	if err := checkDevice(fd, d); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// spawnWorker starts the process of w, confined: see package worker.
func (o Options) spawnWorker(w *snapWorker, group string, files []*os.File) error {
	cmd := exec.Command(o.WorkerCommand[0], o.WorkerCommand[1:]...)
	if len(o.WorkerCommand) > 0 && o.WorkerCommand[0] == "/proc/self/exe" {
		cmd.Args[0] = "sealvol-snapshot:" + w.start.Volume // what ps shows
	}
	cmd.Env = []string{}
	cmd.Dir = "/"
	log := &tail{to: os.Stderr}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
		Credential: &syscall.Credential{Uid: o.WorkerUID, Gid: o.WorkerGID, NoSetGroups: o.WorkerUID == uint32(os.Geteuid())}}
	if g, err := w.makeGroup(group); err != nil {
		return err
	} else if g != nil {
		defer g.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.Fd())
	}
	if err := startConfined(cmd); err != nil {
		return fmt.Errorf("start the snapshot worker: %w", err)
	}
	w.pid = cmd.Process.Pid
	w.stop = func(kill bool) error {
		if kill {
			return cmd.Process.Kill()
		}
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	// If memory gets scarce, it goes before mount servers and applications do.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", w.pid), []byte(workerOOM), 0)
	begun, err := startTime(w.pid)
	w.rec.PID, w.rec.Begun = w.pid, begun
	go func() {
		err := cmd.Wait()
		w.mu.Lock()
		w.why = deathText(err, group, log.text())
		w.mu.Unlock()
		close(w.dead)
	}()
	if err != nil {
		_ = w.stop(true)
		<-w.dead
	}
	return err
}

// startConfined starts a command from a thread whose privileges are given up as far as the child
// must not have them. The child inherits them; the thread is discarded.
func startConfined(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := confineThread()
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	return <-done
}

// confineThread changes the calling thread, for its children: no_new_privs, an empty bounding set,
// no inheritable and no ambient capability, no file that can be written, and a low priority. What the thread itself may do does
// not change, as it still has to make namespaces and to change its user.
func confineThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break // past the last capability
		}
		if err != nil {
			return fmt.Errorf("empty the capability bounding set: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&head, &data[0])
	if err == nil {
		data[0].Inheritable, data[1].Inheritable = 0, 0
		err = unix.Capset(&head, &data[0])
	}
	if err != nil {
		return fmt.Errorf("clear the inheritable capabilities: %w", err)
	}
	if err := forbidWrites(); err != nil {
		return err
	}
	// Below here: not needed for safety. 0 is the calling thread.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, workerNice)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, 1 /* IOPRIO_WHO_PROCESS */, 0, ioprioBE)
	return nil
}

// makeGroup makes the cgroup of a worker, as far as that is possible here, and notes in the record
// what is missing. It returns nil without one.
func (w *snapWorker) makeGroup(group string) (*os.File, error) {
	l := &w.rec.Limits
	if group == "" {
		l.Missing = "the mounter was given no cgroup"
		return nil, nil
	}
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		l.Missing = "create a cgroup: " + err.Error()
		return nil, nil
	}
	f, err := os.Open(group)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	var missing []string
	for _, set := range [][2]string{{"memory.max", strconv.FormatInt(l.MemoryBytes, 10)}, {"memory.swap.max", "0"},
		{"cpu.weight", "10"}, {"io.weight", "10"}, {"pids.max", strconv.Itoa(workerTasks)}} {
		if err := os.WriteFile(filepath.Join(group, set[0]), []byte(set[1]), 0); err != nil {
			missing = append(missing, set[0])
		}
	}
	l.Cgroup, l.Missing = len(missing) == 0, ""
	if len(missing) > 0 {
		l.Missing = "the cgroup has no " + strings.Join(missing, ", ")
	}
	return f, nil
}

// limitsData tells whether the process must limit its memory itself.
func limitsData(l workerctl.Limits) bool {
	return !l.Cgroup && (!strings.HasPrefix(l.Missing, "the cgroup has no ") || strings.Contains(l.Missing, "memory.max"))
}
