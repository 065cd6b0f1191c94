package versitygw

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// TestExample runs examples/snapshots-s3: snapshots in S3, and a volume restored from them.
func TestExample(t *testing.T) {
	if out, err := exec.Command("go", "build", "-o", "../../../bin/sealvol", "../../../cmd/sealvol").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "../../../examples/snapshots-s3/run.sh")
	mountertest.Guard(t, buildDirectory(t), 5*time.Minute)
	c.Env = append(c.Environ(), fmt.Sprint("PORT=", port))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	for _, want := range []string{"incremental since", "files are as they were on Tuesday."} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(stderr.String(), "checksum") {
		t.Errorf("a message that means nothing to users:\n%s", &stderr)
	}
}

// buildDirectory returns the directory below which the example mounts its volume.
func buildDirectory(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../build")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
