package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// errNotConfined refuses to ask for keys.
var errNotConfined = errors.New("the snapshot worker is not confined as it should be, so it gets no keys")

// maxFiles is how many descriptors a worker may have.
const maxFiles = 64

// harden does what the process itself must do before it holds a key.
func harden(c *workerctl.Config) error {
	if err := crypto.HardenProcess(); err != nil {
		return err
	}
	if c.Limits.MemoryBytes > 0 {
		// The garbage collector works harder before the kernel kills the process. The rest is for
		// stacks, the runtime and what the kernel counts, such as socket buffers.
		debug.SetMemoryLimit(c.Limits.MemoryBytes / 4 * 3)
	}
	files := unix.Rlimit{Cur: maxFiles, Max: maxFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit the descriptors of the process: %w", err)
	}
	if c.DataBytes > 0 {
		l := unix.Rlimit{Cur: uint64(c.DataBytes), Max: uint64(c.DataBytes)}
		if err := unix.Setrlimit(unix.RLIMIT_DATA, &l); err != nil {
			return fmt.Errorf("limit the memory of the process: %w", err)
		}
	}
	return nil
}

// checkConfined verifies what the mounter has done before the program started.
func checkConfined() error {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	if err := checkStatus(string(b)); err != nil {
		return err
	}
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("%w: list network interfaces: %w", errNotConfined, err)
	}
	for _, i := range all {
		if i.Flags&net.FlagUp != 0 {
			return fmt.Errorf("%w: it has the network interface %s", errNotConfined, i.Name)
		}
	}
	return nil
}

// confined are the lines of /proc/PID/status (proc(5)) that a confined process has.
var confined = map[string]string{
	"NoNewPrivs": "1",
	"CapInh":     noCapability,
	"CapPrm":     noCapability,
	"CapEff":     noCapability,
	"CapBnd":     noCapability,
	"CapAmb":     noCapability,
}

const noCapability = "0000000000000000"

func checkStatus(status string) error {
	found := 0
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		want, ok := confined[name]
		if !ok {
			continue
		}
		found++
		if value = strings.TrimSpace(value); value != want {
			return fmt.Errorf("%w: %s is %s", errNotConfined, name, value)
		}
	}
	if found != len(confined) {
		return fmt.Errorf("%w: /proc/self/status is not complete", errNotConfined)
	}
	return nil
}
