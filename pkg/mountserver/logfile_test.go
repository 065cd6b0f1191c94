package mountserver_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver"
)

// detachLog is a server whose log file cannot be created.
func detachLog() error {
	dir := filepath.Join(control.RuntimeDir(), fmt.Sprintf("mount-%d.log", os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	l := mountserver.NewLogFile()
	l.Detach()
	_, err := fmt.Fprintln(l, "after")
	_, rerr := io.Copy(io.Discard, os.Stdin) // until the test has read everything
	return errors.Join(err, rerr, os.Remove(dir))
}

// A server in the background closes a standard error that is a pipe even if it has no place for a log:
// otherwise, whoever reads the pipe to its end waits for the unmount.
func TestDetachWithoutLog(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "detach")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(out)
		text <- string(b)
	}()
	select {
	case s := <-text:
		if !strings.Contains(s, "no log from now on") || strings.Contains(s, "after") {
			t.Errorf("log: %q", s)
		}
	case <-time.After(deadline / 2):
		t.Error("the pipe stays open")
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}
