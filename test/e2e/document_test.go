//go:build e2e || e2e_install

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a bash that runs one command after the other. It ends with the test, together with its
// background processes.
type shell struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// mark is what the shell prints after a command.
const mark = '\x1e'

func newShell(ctx context.Context, t *testing.T, dir string, env []string) *shell {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	// A reader gets EOF only when the last writer is gone, and a killed command may leave
	// background processes.
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	t.Cleanup(func() {
		stop()
		_ = in.Close()                                      // ends the shell
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with all its remaining processes
		_ = cmd.Wait()                                      // the result says nothing
		_ = r.Close()
	})
	// If this process is killed, the shell reaches the end of its input, and ends its background
	// processes.
	if _, err := io.WriteString(in, "trap 'kill -- -$$' EXIT\n"); err != nil {
		t.Fatal(err)
	}
	return &shell{in, bufio.NewReader(r)}
}

// run runs a command and returns its output, including errors.
func (s *shell) run(command string) (string, error) {
	if _, err := fmt.Fprintf(s.in, "%s\nprintf '\\036'\n", command); err != nil {
		return "", err
	}
	printed, err := s.out.ReadString(mark)
	if err != nil {
		return printed, fmt.Errorf("the shell has ended, or the time is over: %w", err)
	}
	return strings.TrimSuffix(printed, string(mark)), nil
}
