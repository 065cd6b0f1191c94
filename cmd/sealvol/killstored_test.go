package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// storedKillRig runs commands of stored snapshots, some of which it kills.
type storedKillRig struct {
	t    *testing.T
	work string
	rng  *rand.Rand
}

func newStoredKillRig(t *testing.T) *storedKillRig {
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &storedKillRig{t: t, work: work, rng: rand.New(rand.NewPCG(seed, 4))}
	timer := time.AfterFunc(scriptDeadline, func() { abortAll(work) })
	t.Cleanup(func() {
		timer.Stop()
		abortAll(work)
		unmountAll(t, work)
	})
	if err := os.Mkdir(r.at("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.run("key", "generate", "key")
	r.run("key", "generate", "tenant")
	r.run("mkfs", "--key-file", "key", "--size", "256MiB", "img")
	r.run("snapshot", "init", "--store", r.url(), "--pack-size", "1MiB")
	r.run("mount", "--key-file", "key", "img", "m")
	return r
}

func (r *storedKillRig) at(name string) string { return filepath.Join(r.work, name) }
func (r *storedKillRig) url() string           { return "file://" + r.at("store") }

func (r *storedKillRig) command(args ...string) *exec.Cmd {
	c := exec.Command("sealvol", args...)
	c.Dir = r.work
	return c
}

func (r *storedKillRig) run(args ...string) string {
	r.t.Helper()
	out, err := r.command(args...).Output()
	if err != nil {
		var text []byte
		if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // of Output itself
			text = e.Stderr
		}
		r.t.Fatalf("sealvol %s: %v: %s", strings.Join(args, " "), err, text)
	}
	return string(out)
}

// stored are the flags of commands of stored snapshots.
func (r *storedKillRig) stored(args ...string) []string {
	return append([]string{"snapshot", args[0], "--store", r.url(), "--tenant-file", "tenant", "--key-file", "key"}, args[1:]...)
}

// fill writes a file of random bytes.
func (r *storedKillRig) fill(name string, n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	if err := os.WriteFile(filepath.Join(r.at("m"), name), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// size is the size of all files below a directory.
func (r *storedKillRig) size(name string) (n int64) {
	err := filepath.WalkDir(r.at(name), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it was removed meanwhile
		}
		if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
			n += fi.Size()
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// kill runs a command and kills it when done says so. It reports whether the command was faster.
func (r *storedKillRig) kill(args []string, done func() bool) (ended bool) {
	r.t.Helper()
	c := r.command(args...)
	var out bytes.Buffer
	c.Stderr = &out
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- c.Wait() }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case err := <-end:
			if err != nil {
				r.t.Fatalf("sealvol %v: %v: %s", args, err, out.String())
			}
			return true
		case <-tick.C:
		}
	}
	_ = c.Process.Kill()
	return (<-end) == nil
}

// finished returns the last event that a command printed.
func (r *storedKillRig) finished(out string) (x struct {
	ID       string `json:"id"`
	Resumed  bool   `json:"resumed"`
	Read     int64  `json:"readBytes"`
	Stored   int64  `json:"storedBytes"`
	Present  int64  `json:"present"`
	Requests struct {
		Uploaded   int64 `json:"uploadedBytes"`
		Downloaded int64 `json:"downloadedBytes"`
	} `json:"requests"`
}) {
	r.t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &x); err != nil {
		r.t.Fatalf("%s: %v", out, err)
	}
	return x
}

// local returns the names of local snapshots.
func (r *storedKillRig) local() string {
	r.t.Helper()
	var names []string
	for line := range strings.Lines(r.run("snapshot", "list", "m")) {
		if f := strings.Fields(line); strings.HasPrefix(f[0], "ses-") {
			names = append(names, f[0])
		}
	}
	return strings.Join(names, " ")
}

// same compares the files of two directories.
func (r *storedKillRig) same(a, b string) {
	r.t.Helper()
	out, err := exec.Command("rsync", "-aHAX", "--checksum", "--dry-run", "--delete", "--itemize-changes", r.at(a)+"/", r.at(b)+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		r.t.Errorf("%s and %s differ: %v: %s", a, b, err, out)
	}
}

// TestKillCreate kills `snapshot create`, again and again: the next one goes on with the same state,
// and uploads only what is missing. What it makes is whole, and nothing is left behind.
func TestKillCreate(t *testing.T) {
	r := newStoredKillRig(t)
	r.fill("first", 30<<20)
	begun, before := "", int64(0)
	create := r.stored("create", "--json", "--limit-upload", "40MiB", "m", "killed")
	for range 4 {
		enough := before + 2<<20 + r.rng.Int64N(4<<20)
		if r.kill(create, func() bool { return r.size("store/packs") > enough }) {
			t.Fatal("it was faster than expected")
		}
		before = r.size("store/packs")
		now := r.local()
		if strings.Contains(now, " ") || begun != "" && now != begun {
			t.Fatalf("it began again:\n%s\n%s", begun, now)
		}
		begun = now
		r.fill("later", 1<<20) // the snapshot is of the state before
	}
	rep := r.finished(r.run(r.stored("create", "--json", "m", "killed")...))
	if !rep.Resumed || rep.Stored > 34<<20-before {
		t.Errorf("%+v; %d bytes were there", rep, before)
	}
	if list := r.local(); list == "" || strings.Contains(list, " ") {
		t.Errorf("local snapshots: %q", list)
	}
	r.run(r.stored("verify", "killed")...)
	second := r.finished(r.run(r.stored("create", "--json", "m", "second")...))
	if second.Read > 2<<20 {
		t.Errorf("the next one read %d bytes", second.Read)
	}
	r.run("snapshot", "prune", "--store", r.url(), "--undelete", "0", "--grace", "0")
	r.run("snapshot", "prune", "--store", r.url(), "--undelete", "0", "--grace", "0")
	r.run(r.stored("verify", "killed")...)
	r.run(r.stored("verify", "second")...)
	r.run(r.stored("restore", "killed", "out/")...)
	if _, err := os.Stat(r.at("out/later")); err == nil {
		t.Error("the snapshot has a file that was made after its local snapshot")
	}
	r.run(r.stored("restore", "second", "out2/")...)
	r.same("m", "out2")
	r.run("umount", "m")
	r.run("fsck", "--key-file", "key", "img")
}

// TestKillFresh: with --fresh, what was begun is given up.
func TestKillFresh(t *testing.T) {
	r := newStoredKillRig(t)
	r.fill("first", 20<<20)
	create := r.stored("create", "--json", "--limit-upload", "40MiB", "m", "killed")
	if r.kill(create, func() bool { return r.size("store/packs") > 4<<20 }) {
		t.Fatal("it was faster than expected")
	}
	r.fill("later", 1<<20)
	if rep := r.finished(r.run(r.stored("create", "--fresh", "--json", "m", "fresh")...)); rep.Resumed {
		t.Errorf("%+v", rep)
	}
	if list := r.local(); list == "" || strings.Contains(list, " ") {
		t.Errorf("local snapshots: %q", list)
	}
	r.run(r.stored("restore", "fresh", "out/")...)
	r.same("m", "out")
}

// TestKillRestore kills `snapshot restore`, again and again: the next one goes on, and nothing opens
// the volume before it is complete.
func TestKillRestore(t *testing.T) {
	r := newStoredKillRig(t)
	r.fill("big", 40<<20)
	for _, name := range []string{"a", "b", "c"} {
		r.fill(name, 3000+r.rng.IntN(100000))
	}
	r.run(r.stored("create", "m", "one")...)
	restore := r.stored("restore", "--json", "--limit-download", "20MiB", "--size", "128MiB", "one", "new")
	for range 3 {
		deadline := time.Now().Add(time.Duration(200+r.rng.IntN(700)) * time.Millisecond)
		if r.kill(restore, func() bool { return time.Now().After(deadline) }) {
			t.Fatal("it was faster than expected")
		}
		if out, err := r.command("mount", "--key-file", "key", "new", "m").CombinedOutput(); err == nil {
			t.Fatalf("the volume opens: %s", out)
		}
	}
	r.run(restore...)
	r.run("fsck", "--key-file", "key", "new")
	if err := os.Mkdir(r.at("m2"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.run("mount", "--key-file", "key", "new", "m2")
	r.same("m", "m2")
	r.run("umount", "m2")

	toDir := r.stored("restore", "--json", "--limit-download", "20MiB", "one", "out/")
	for range 2 {
		deadline := time.Now().Add(time.Duration(100+r.rng.IntN(900)) * time.Millisecond)
		r.kill(toDir, func() bool { return time.Now().After(deadline) })
	}
	r.run(toDir...)
	r.same("m", "out")
}
