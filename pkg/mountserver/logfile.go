package mountserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// LogFile is standard error, until a server in the background detaches from it.
type LogFile struct {
	mu   sync.Mutex
	f    *os.File
	path string // of a separate log file
}

// NewLogFile returns standard error.
func NewLogFile() *LogFile { return &LogFile{f: os.Stderr} }

// Write implements io.Writer.
func (l *LogFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(b)
}

// Detach releases a standard error that is a pipe, because the program that started this one may be
// reading the pipe to its end. From then on the log is a file mount-PID.log in control.RuntimeDir.
// Terminals, files and the sockets of service managers stay.
func (l *LogFile) Detach() {
	fi, err := os.Stderr.Stat()
	if err != nil || fi.Mode().Type() != os.ModeNamedPipe {
		return
	}
	path := os.DevNull
	if dir := control.RuntimeDir(); dir != "" {
		removeOldLogs(dir)
		path = filepath.Join(dir, fmt.Sprintf("mount-%d.log", os.Getpid()))
	}
	f, err := openLog(path)
	if err != nil {
		// The pipe must end in any case.
		_, _ = fmt.Fprintf(l, "the mount server has no log from now on: %v\n", err) // nobody may be reading
		path = os.DevNull
		if f, err = openLog(path); err != nil {
			return
		}
	}
	defer f.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	// Replace standard error itself, so that a crash of the Go runtime is logged there, too.
	if unix.Dup2(int(f.Fd()), int(os.Stderr.Fd())) == nil && path != os.DevNull {
		l.path = path
	}
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
}

// removeOldLogs removes the empty logs of servers that were killed.
func removeOldLogs(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "mount-*.log")) // cannot fail: the pattern is well-formed
	for _, n := range names {
		var pid int
		fi, err := os.Lstat(n)
		if _, serr := fmt.Sscanf(filepath.Base(n), "mount-%d.log", &pid); serr != nil || err != nil || fi.Size() > 0 {
			continue
		}
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.Remove(n) // the next server tries again
		}
	}
}

// End removes the log file of a server that ended without an error.
func (l *LogFile) End(err error) {
	if l.path != "" && err == nil {
		_ = os.Remove(l.path) // it may stay
	}
}
