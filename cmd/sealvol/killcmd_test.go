package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// killRig is a volume whose server is killed in the middle of commands.
type killRig struct {
	t             *testing.T
	dir, img, key string
	rng           *rand.Rand
	w             *killWriter
}

func (r *killRig) try(args ...string) error { return exec.Command("sealvol", args...).Run() }

func (r *killRig) sealvol(args ...string) {
	r.t.Helper()
	if out, err := exec.Command("sealvol", args...).CombinedOutput(); err != nil {
		r.t.Fatalf("sealvol %v: %v: %s", args, err, out)
	}
}

// server opens the process that serves the mount.
func (r *killRig) server() (pidfd int) {
	r.t.Helper()
	c, err := control.Find(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := shortTime()
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	pid, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return pid
}

// run runs a command, kills the server some synced writes later, and returns how the command ended.
func (r *killRig) run(args []string) error {
	r.t.Helper()
	pid := r.server()
	defer unix.Close(pid)
	acks, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		for r.w.step() == nil {
			select {
			case acks <- struct{}{}:
			default:
			}
		}
	}()
	cmd := exec.Command("sealvol", args...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	ended := false
	for n := r.rng.IntN(6); n >= 0 && !ended; n-- {
		select {
		case <-acks:
		case err = <-done:
			ended = true
		}
	}
	if err := unix.PidfdSendSignal(pid, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		r.t.Fatal(err)
	}
	if !ended {
		select {
		case err = <-done:
		case <-time.After(scriptDeadline / 2):
			r.t.Fatalf("sealvol %v waits for a server that is dead", args)
		}
	}
	<-written
	for {
		n, perr := unix.Poll([]unix.PollFd{{Fd: int32(pid), Events: unix.POLLIN}}, int(scriptDeadline.Milliseconds()))
		switch {
		case errors.Is(perr, unix.EINTR):
		case n == 0 || perr != nil:
			r.t.Fatal("the server does not die: ", perr)
		default:
			return err
		}
	}
}

// TestKillCommands kills the server of a mount in the middle of each command that it
// can be asked for: the command ends, what it has acknowledged has happened, and
// the volume is whole.
func TestKillCommands(t *testing.T) {
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &killRig{t: t, dir: filepath.Join(work, "m"), img: filepath.Join(work, "v.img"), key: filepath.Join(work, "k"), rng: rand.New(rand.NewPCG(seed, 2))}
	second := filepath.Join(work, "k2")
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(scriptDeadline, func() { abortAll(work) })
	t.Cleanup(func() {
		timer.Stop()
		abortAll(work)
		unmountAll(t, work)
	})
	r.w = &killWriter{kind: "append", dir: r.dir, rng: rand.New(rand.NewPCG(seed, 3))}
	r.sealvol("key", "generate", r.key)
	r.sealvol("key", "generate", second)
	r.sealvol("mkfs", "--key-file", r.key, "--size", "128MiB", r.img)
	for _, c := range []struct {
		args  []string
		holds func() bool // what is true if the command succeeded
	}{
		{args: []string{"snapshot", "create", r.dir, "a"}, holds: func() bool { return r.try("snapshot", "show", r.dir, "a") == nil }},
		{args: []string{"snapshot", "create", r.dir, "b", "c"}, holds: func() bool { return r.try("snapshot", "show", r.dir, "b", "c") == nil }},
		{args: []string{"snapshot", "diff", r.dir, "a"}},
		{args: []string{"snapshot", "delete", r.dir, "a"}, holds: func() bool { return r.try("snapshot", "show", r.dir, "a") != nil }},
		{args: []string{"key", "add", "--new-key-file", second, r.dir}, holds: func() bool { return r.try("info", "--key-file", second, r.img) == nil }},
		{args: []string{"key", "remove", r.dir, "1"}, holds: func() bool { return r.try("info", "--key-file", second, r.img) != nil }},
		{args: []string{"key", "rotate-data", "--drop-slots", "--key-file", r.key, r.dir}},
		{args: []string{"scrub", r.dir}},
		{args: []string{"defrag", r.dir}},
		{args: []string{"trim", r.dir}},
		{args: []string{"freeze", r.dir, "--", "true"}},
		{args: []string{"grow", r.dir}, holds: func() bool { return r.try("grow", "--json", r.dir) == nil }},
		{args: []string{"info", r.dir}},
	} {
		if c.args[0] == "grow" {
			if err := os.Truncate(r.img, 192<<20); err != nil {
				t.Fatal(err)
			}
		}
		r.sealvol("mount", "--key-file", r.key, r.img, r.dir)
		if err := r.w.check(); err != nil {
			t.Fatalf("before %v: %v", c.args, err)
		}
		err := r.run(c.args)
		r.sealvol("fsck", "--key-file", r.key, r.img)
		r.sealvol("mount", "--key-file", r.key, r.img, r.dir)
		if err := r.w.check(); err != nil {
			t.Fatalf("after %v: %v", c.args, err)
		}
		if err == nil && c.holds != nil && !c.holds() {
			t.Errorf("%v said that it had succeeded, and it has not", c.args)
		}
		t.Logf("%v: %v", c.args[:len(c.args)-1], err)
		r.sealvol("umount", r.dir)
		r.sealvol("fsck", "--key-file", r.key, r.img)
	}
}
