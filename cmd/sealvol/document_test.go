package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/test/documenttest"
)

// TestSnapshotsDocument runs the commands of docs/snapshots.md, in one shell, and compares what they
// print, except for names, numbers and times.
func TestSnapshotsDocument(t *testing.T) {
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "backup"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	timer := time.AfterFunc(2*scriptDeadline, func() { abortAll(work) })
	t.Cleanup(func() {
		timer.Stop()
		abortAll(work)
		unmountAll(t, work)
	})
	d := documenttest.Document{Path: "../../docs/snapshots.md", Least: 25, Run: func(command string) (string, error) { return runStep(t, work, command) }}
	d.Check(t)
}

// runStep runs a command. Variables that it exports are kept for the next ones.
func runStep(t *testing.T, work, command string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scriptDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail; . ./.exported 2>/dev/null; "+command+"\ncode=$?; export -p >.exported; exit $code")
	cmd.Dir = work
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	b, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(b), work, "/srv"), err
}
