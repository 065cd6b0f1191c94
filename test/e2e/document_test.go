//go:build e2e || e2e_install

package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update-docs", false, "write what the commands of documents print into them")

// step is a command and its expected output.
type step struct{ command, prints string }

// stepsOf finds the commands in a document's code blocks of type console. A line that ends with a
// backslash continues on the next one.
func stepsOf(text string) []step {
	var steps []step
	inside := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && len(steps) > 0 && strings.HasSuffix(steps[len(steps)-1].command, "\\"):
			steps[len(steps)-1].command += "\n" + strings.TrimRight(line, "\n")
		case inside && isCommand:
			steps = append(steps, step{command: strings.TrimSpace(command)})
		case inside && len(steps) > 0:
			steps[len(steps)-1].prints += line
		}
	}
	return steps
}

// runDocument runs every command of a document in one shell, and compares its output with the
// document, except for names, numbers and times. It ends at the first difference, and calls failed,
// which may run more commands in the shell.
func runDocument(t *testing.T, doc string, sh *shell, failed func()) {
	t.Helper()
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	steps := stepsOf(string(text))
	if len(steps) < 20 {
		t.Fatalf("%s has %d commands", doc, len(steps))
	}
	out, rest := strings.Builder{}, string(text)
	for _, s := range steps {
		got, err := sh.run(s.command)
		if err != nil {
			t.Fatalf("%s: $ %s\n%s%v", doc, s.command, got, err)
		}
		if !*update && !slices.Equal(masked(s.prints), masked(got)) {
			t.Errorf("$ %s\nprints\n%s\n%s says\n%s", s.command, got, doc, s.prints)
			failed()
			return
		}
		before, after, _ := strings.Cut(rest, "$ "+s.command+"\n"+s.prints)
		fmt.Fprintf(&out, "%s$ %s\n%s", before, s.command, got)
		rest = after
	}
	if *update {
		if err := os.WriteFile(doc, []byte(out.String()+rest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

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

var (
	uuids    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	numbered = regexp.MustCompile(`\S*[0-9]\S*`)
)

// masked replaces in an output what differs each time, and keeps the order of lines.
func masked(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "go: downloading ") { // only the first time
			continue
		}
		line = uuids.ReplaceAllString(line, "0")
		if strings.Trim(line, "0123456789\n") != "" { // a count is compared
			line = numbered.ReplaceAllString(line, "#")
		}
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(all)
	return all
}
