package mounter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const tailBytes = 2 << 10

// tail copies a log and keeps its end, for the case that the process dies.
type tail struct {
	to io.Writer

	mu   sync.Mutex
	last []byte // guarded by mu
}

// Write implements io.Writer. A log that cannot be written must not end the process.
func (t *tail) Write(b []byte) (int, error) {
	_, _ = t.to.Write(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if n := len(t.last) - tailBytes; n > 0 {
		t.last = append(t.last[:0], t.last[n:]...)
	}
	return len(b), nil
}

// text returns the last line that may say why the process died: the first line of a panic or of a
// fatal error of the Go runtime, or the last line.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.last)), "\n")
	line := lines[len(lines)-1]
	for _, l := range lines {
		for _, begin := range []string{"panic:", "fatal error:", "runtime:", "driver:"} {
			if strings.HasPrefix(l, begin) {
				line = l
			}
		}
	}
	return clean(line)
}

// clean makes a text of another process printable.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return -1
		}
		return r
	}, s)
	if len(s) > maxMessage/2 {
		s = s[:maxMessage/2]
	}
	return s
}

// deathText says why a process has ended that should not have. err is that of waiting for it.
func deathText(err error, group, said string) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "it exited"
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		if s.Signal() == syscall.SIGKILL && oomKilled(group) {
			return "the kernel killed it, because it needed more memory than its cgroup has"
		}
		return fmt.Sprintf("it was ended by signal %d (%v)", int(s.Signal()), s.Signal())
	}
	text := fmt.Sprintf("it exited with status %d", exit.ExitCode())
	if said != "" {
		text += " and said: " + said
	}
	return text
}

// oomKilled tells whether the kernel killed a process of a cgroup because of its memory.max.
func oomKilled(group string) bool {
	if group == "" {
		return false
	}
	b, err := os.ReadFile(filepath.Join(group, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(n) != "0" {
			return true
		}
	}
	return false
}
