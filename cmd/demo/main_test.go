package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// programs is the directory with the driver.
var programs string

func TestMain(m *testing.M) {
	mountertest.Main(map[string]func(context.Context) error{
		"demo": func(context.Context) error {
			os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
			return nil
		},
	})
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "sealvol-demo-test-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(programs) //nolint:errcheck // a directory below the system's temporary one
	if err := os.Chmod(programs, 0o755); err != nil {
		panic(err)
	}
	if out, err := exec.Command("go", "build", "-o", programs, "../driver", "../sealvol").CombinedOutput(); err != nil {
		panic(string(out))
	}
	if err := adoptOrphans(); err != nil { // so that processes that a demo leaves behind become children of this process
		panic(err)
	}
	return m.Run()
}

// process is a running demo.
type process struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	out    *bufio.Scanner
	seen   bytes.Buffer // its output so far
	stderr bytes.Buffer
	conns  map[string]uint64 // the observed connections of its FUSE mounts, with their inode numbers, because names are reused
}

func startDemo(t *testing.T, args ...string) *process {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mountertest.Guard(t, dir, 3*time.Minute)
	base := mountertest.Command("demo")
	args = append(base[1:], append([]string{"-quick", "-dir", dir, "-driver", filepath.Join(programs, "driver")}, args...)...)
	p := &process{t: t, dir: dir, conns: map[string]uint64{}, cmd: exec.Command(base[0], args...)}
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.out = bufio.NewScanner(io.TeeReader(stdout, &p.seen))
}

// await reads up to the line that begins a step.
func (p *process) await(step string) {
	p.t.Helper()
	for p.out.Scan() {
		f := strings.Fields(p.out.Text())
		if len(f) > 2 && f[1] == step && f[len(f)-1] == "..." {
			for _, i := range mountertest.Below(p.dir) {
				if conn := fmt.Sprintf("%s/%d", fusectl, i.Minor); inode(conn) != 0 {
					p.conns[conn] = inode(conn)
				}
			}
			return
		}
	}
	p.wantExit(0)
	p.t.Fatalf("no step %s", step)
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wantExit waits for the end of the demo, and checks that it left nothing behind.
func (p *process) wantExit(code int) {
	p.t.Helper()
	for p.out.Scan() {
	}
	p.cmd.Wait() //nolint:errcheck // ProcessState tells
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit status %d instead of %d\n%s%s", got, code, p.seen.Bytes(), p.stderr.Bytes())
	}
	if left := mountertest.Below(p.dir); len(left) > 0 {
		p.t.Errorf("left mounted: %s", left[0].Mountpoint)
	}
	if entries, err := os.ReadDir(p.dir); err != nil || len(entries) > 0 {
		p.t.Errorf("left behind: %v %v", entries, err)
	}
	for _, pid := range children() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		p.t.Errorf("left running: %d %q", pid, cmdline)
		unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it may be gone
		unix.Wait4(pid, nil, 0, nil) //nolint:errcheck // as above
	}
	for conn, before := range p.conns {
		if inode(conn) == before {
			p.t.Errorf("left: %s", conn)
		}
	}
}

// inode returns the inode number of a file, or 0 if it does not exist.
func inode(path string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0
	}
	return st.Ino
}

// TestDemo runs the complete demo, on a small tree.
func TestDemo(t *testing.T) {
	p := startDemo(t)
	p.wantExit(0)
	var began, summed []string
	summary := false
	for line := range strings.Lines(p.seen.String()) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[len(f)-1] == "...":
			began = append(began, f[1])
		case len(f) > 0 && f[0] == "step":
			summary = true
		case summary && len(f) == 5:
			summed = append(summed, f[0])
		}
	}
	want := "driver create copy verify sqlite compile verify control search kill verify expand verify down search up verify snapshot again search destroy restore verify stop"
	if strings.Join(began, " ") != want {
		t.Errorf("the timeline is %v", began)
	}
	// A size consists of two words. These steps have none.
	if want := "driver create kill expand down up again destroy stop"; strings.Join(summed, " ") != want {
		t.Errorf("the summary's steps without a size are %v", summed)
	}
	t.Logf("\n%s", &p.seen)
}

// TestInterrupted checks that a signal during any step leaves nothing behind.
func TestInterrupted(t *testing.T) {
	signals := []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP}
	for i, step := range []string{"driver", "create", "copy", "verify", "sqlite", "compile", "control", "search", "kill", "expand", "down", "up", "snapshot", "destroy", "restore", "stop"} {
		t.Run(step, func(t *testing.T) {
			var args []string
			if step != "compile" {
				args = []string{"-skip", "compile"} // it takes longer than all others
			}
			p := startDemo(t, args...)
			p.await(step)
			p.signal(signals[i%len(signals)])
			p.wantExit(exitInterrupted)
		})
	}
}

// TestInterruptedTwice checks that the second signal ends the demo immediately.
func TestInterruptedTwice(t *testing.T) {
	p := startDemo(t)
	p.await("compile")
	p.signal(unix.SIGINT)
	p.signal(unix.SIGTERM)
	p.wantExit(exitInterrupted)
}

// TestHangingServer checks that the demo can clean up even if a mount server no longer answers.
func TestHangingServer(t *testing.T) {
	for _, timeout := range []bool{false, true} {
		t.Run(fmt.Sprint("timeout ", timeout), func(t *testing.T) {
			args := []string{}
			if timeout {
				args = append(args, "-timeout", "5s")
			}
			p := startDemo(t, args...)
			p.await("copy")
			dirs, err := filepath.Glob(filepath.Join(p.dir, "sealvol-demo-*", "mounter"))
			if err != nil || len(dirs) != 1 {
				t.Fatal(dirs, err)
			}
			list, err := mounter.Client{Socket: mounter.SocketPath(dirs[0])}.List(t.Context())
			if err != nil || len(list) != 1 || list[0].PID < 2 {
				t.Fatal(list, err)
			}
			fusefstest.EndPolling(t, filepath.Join(filepath.Dir(dirs[0]), "kubelet/pods/pod"))
			mountertest.Halt(t, list[0].PID)
			if timeout {
				p.wantExit(exitFailed)
				if !strings.Contains(p.stderr.String(), "not finished within 5s") {
					t.Error(&p.stderr)
				}
				return
			}
			p.signal(unix.SIGINT)
			p.wantExit(exitInterrupted)
		})
	}
}

// TestServerLost checks that a failure ends the demo with an error, and that it prints the end of
// the logs.
func TestServerLost(t *testing.T) {
	p := startDemo(t)
	p.await("compile")
	dirs, _ := filepath.Glob(filepath.Join(p.dir, "sealvol-demo-*", "mounter"))
	if len(dirs) != 1 {
		t.Fatal(dirs)
	}
	list, err := mounter.Client{Socket: mounter.SocketPath(dirs[0])}.List(t.Context())
	if err != nil || len(list) != 1 || list[0].PID < 2 {
		t.Fatal(list, err)
	}
	if err := unix.Kill(list[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.wantExit(exitFailed)
	// The mounter may log the end of its server only after the demo has printed the end of the log.
	if s := p.stderr.String(); !strings.Contains(s, "demo: compile: ") || !strings.Contains(s, "the end of mounter/mounter.log") {
		t.Error(s)
	}
}

// TestNoReader checks that a demo whose output is not read ends and cleans up.
func TestNoReader(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mountertest.Guard(t, dir, 3*time.Minute)
	base := mountertest.Command("demo")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir, conns: map[string]uint64{}, cmd: exec.Command(base[0], append(base[1:], "-quick", "-dir", dir, "-driver", filepath.Join(programs, "driver"))...)}
	p.cmd.Stdout, p.cmd.Stderr = w, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	p.out = bufio.NewScanner(strings.NewReader(""))
	p.wantExit(exitFailed)
	if !strings.Contains(p.stderr.String(), "broken pipe") {
		t.Error(&p.stderr)
	}
}

// TestMissingTools checks that the demo reports all missing tools at once.
func TestMissingTools(t *testing.T) {
	base := mountertest.Command("demo")
	cmd := exec.Command(base[0], base[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || ee.ExitCode() != exitFailed {
		t.Fatal(err, string(out))
	}
	for _, want := range []string{"go is not installed", "sqlite3 is not installed", "make setup"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}
