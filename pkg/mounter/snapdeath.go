package mounter

import (
	"bytes"
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

// lineBytes is how much of a line a tail keeps.
const lineBytes = 512

// tail copies a log and keeps what says why the process died, if it dies.
type tail struct {
	to io.Writer

	mu    sync.Mutex
	line  []byte // the beginning of the present line; guarded by mu
	last  string // the last whole line; guarded by mu
	crash string // the first line of a panic or of a fatal error of the Go runtime; guarded by mu
}

// Write implements io.Writer. A log that cannot be written must not end the process.
func (t *tail) Write(b []byte) (int, error) {
	_, _ = t.to.Write(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(b) {
		t.line = append(t.line, line[:min(len(line), lineBytes-len(t.line))]...)
		if line[len(line)-1] == '\n' {
			t.endLine()
		}
	}
	return len(b), nil
}

// endLine is called at the end of a line. The caller holds mu.
func (t *tail) endLine() {
	line := clean(string(t.line))
	t.line = t.line[:0]
	if line == "" {
		return
	}
	t.last = line
	if t.crash == "" && (strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")) {
		t.crash = line
	}
}

// text returns the line that says best why the process died.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLine()
	if t.crash != "" {
		return t.crash
	}
	return t.last
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
