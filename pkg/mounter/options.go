package mounter

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/requestid"
)

// Options configure Run.
type Options struct {
	// StateDir holds records, sockets and the lock; it is created with mode 0700. It must not be on
	// a Sealvol volume.
	StateDir string
	// Command starts a mount server, which is a program that calls RunServer. Default: this program
	// with the argument "mount".
	Command []string
	// LoopCommand starts the helper for loop devices, which is a program that calls RunLoop.
	// Default: this program with the argument "loop".
	LoopCommand []string
	// Env is added to a server's environment.
	Env []string
	// UID and GID are the user and group of the servers; 0 means those of this process. The user
	// must be able to execute Command.
	UID, GID uint32
	// WorkerCommand starts a snapshot worker, which is a program that calls worker.Run. Default: this
	// program with the argument "snapshot-worker".
	WorkerCommand []string
	// WorkerUID and WorkerGID are the user and group of snapshot workers. They should own nothing,
	// and not be those of the servers. 0 means nobody (65534), or the user of this process if that
	// user does not exist in its user namespace.
	WorkerUID, WorkerGID uint32
	// WorkerMemoryBytes limits the memory of a snapshot worker. Default: 192 MiB.
	WorkerMemoryBytes int64
	// MaxWorkers is how many snapshot workers may run at once. Default: 2.
	MaxWorkers int
	// Cgroup is a cgroup v2 directory in which each server and each snapshot worker gets a cgroup of
	// its own, or "" for none.
	Cgroup string
	// MemoryBytes limits the memory of each volume; 0 means the engine's default.
	MemoryBytes int64
	// RuntimeDir gets a link to each mount's control socket, so that control.Find finds it; "" for
	// none.
	RuntimeDir string
	// MountTimeout bounds one mount (log replay included), StopTimeout the final commit of an
	// unmount. Defaults: 90 s and 60 s.
	MountTimeout, StopTimeout time.Duration
	// TakesServers says that servers are killed when this process ends, as in a container whose
	// first process it is. At shutdown, the mounter then first makes all servers write all their
	// data. Without it, servers keep running.
	TakesServers bool
	// Log gets one line for each start, end and error. Default: slog.Default.
	Log *slog.Logger

	// Hook, if not nil, is called before every step that changes something. For tests.
	Hook func(step string)
}

func (o *Options) defaults() error {
	if o.StateDir == "" {
		return fmt.Errorf("%w: no state directory", ErrInvalid)
	}
	abs, err := filepath.Abs(o.StateDir)
	if err != nil {
		return err
	}
	o.StateDir = abs
	if len(o.Command) == 0 {
		o.Command = []string{"/proc/self/exe", "mount"}
	}
	if len(o.LoopCommand) == 0 {
		o.LoopCommand = []string{"/proc/self/exe", "loop"}
	}
	if len(o.WorkerCommand) == 0 {
		o.WorkerCommand = []string{"/proc/self/exe", "snapshot-worker"}
	}
	if os.Geteuid() == 0 && hasNobody() {
		if o.WorkerUID == 0 {
			o.WorkerUID = nobody
		}
		if o.WorkerGID == 0 {
			o.WorkerGID = nobody
		}
	}
	if o.WorkerMemoryBytes == 0 {
		o.WorkerMemoryBytes = 192 << 20
	}
	if o.MaxWorkers == 0 {
		o.MaxWorkers = 2
	}
	if o.MountTimeout == 0 {
		o.MountTimeout = 90 * time.Second
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 60 * time.Second
	}
	o.Log = requestid.Logger(o.Log)
	if o.Hook == nil {
		o.Hook = func(string) {}
	}
	return nil
}

// nobody is the user and group that own nothing.
const nobody = 65534

// hasNobody tells whether the user namespace of this process knows that user and group.
func hasNobody() bool {
	for _, kind := range []string{"uid", "gid"} {
		b, err := os.ReadFile("/proc/self/" + kind + "_map")
		if err != nil {
			return false
		}
		found := false
		for line := range strings.Lines(string(b)) {
			var inside, outside, n uint64
			_, err := fmt.Sscan(line, &inside, &outside, &n)
			found = found || err == nil && inside <= nobody && nobody < inside+n
		}
		if !found {
			return false
		}
	}
	return true
}

// SocketPath returns the socket on which a mounter with this state directory listens.
func SocketPath(stateDir string) string { return filepath.Join(stateDir, "mounter.sock") }

// ControlPath returns the control socket (package control) of a volume's mount server.
func ControlPath(stateDir, volume string) string {
	return (&Options{StateDir: stateDir}).places(volume).control
}
