package mounter

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// TestDeathText: each way in which a process may die has a reason that a person can read.
func TestDeathText(t *testing.T) {
	group := t.TempDir()
	for _, c := range []struct {
		script, events, want string
	}{
		{"exit 0", "", "it exited"},
		{"echo lines; echo 'panic: broken' >&2; echo 'goroutine 1:' >&2; exit 2", "", "status 2 and said: panic: broken"},
		{"echo 'fatal error: out of memory' >&2; exit 2", "", "said: fatal error: out of memory"},
		{"printf 'a\\033[31mb\\000c' >&2; exit 3", "", "status 3 and said: a[31mbc"},
		{"kill -TERM $$", "", "signal 15"},
		{"kill -KILL $$", "low 0\noom 0\noom_kill 0\n", "signal 9"},
		{"kill -KILL $$", "low 0\noom 1\noom_kill 1\n", "more memory"},
		{"kill -SEGV $$", "oom_kill 1\n", "signal 11"},
	} {
		if err := os.WriteFile(filepath.Join(group, "memory.events"), []byte(c.events), 0o600); err != nil {
			t.Fatal(err)
		}
		log := &tail{to: &bytes.Buffer{}}
		cmd := exec.Command("/bin/sh", "-c", c.script)
		cmd.Stdout, cmd.Stderr = log, log
		if got := deathText(cmd.Run(), group, log.text()); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
	if oomKilled("") || oomKilled(filepath.Join(group, "none")) {
		t.Error("killed without a cgroup")
	}
}

// TestTail: only the end of a log is kept, and all of it is passed on.
func TestTail(t *testing.T) {
	var to bytes.Buffer
	log := &tail{to: &to}
	for range 100 {
		if n, err := log.Write(bytes.Repeat([]byte("x"), 1000)); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if to.Len() != 100_000 || len(log.line) != lineBytes || len(log.text()) != lineBytes {
		t.Errorf("%d, %d, %d bytes", to.Len(), len(log.line), len(log.text()))
	}
}

// TestTrim: a worker can say neither that another one did something, nor more than its part.
func TestTrim(t *testing.T) {
	w := &snapWorker{start: workerctl.Start{ID: "mine"}, pid: 7}
	w.rec.Limits = workerctl.Limits{UID: 5}
	long := strings.Repeat("x\n", 1000)
	s := workerctl.Status{ID: "yours", PID: 1, Outcome: "cancelled", Message: long, Limits: workerctl.Limits{Cgroup: true}, Result: make([]byte, maxResult+1)}
	s.Progress.Step = long
	w.trim(&s)
	if s.ID != "mine" || s.PID != 7 || s.Outcome != workerctl.Stopped || len(s.Message) > maxMessage || strings.Contains(s.Message, "\n") ||
		len(s.Progress.Step) > maxStep || s.Limits != w.rec.Limits || s.Result != nil {
		t.Errorf("%+v", s)
	}
	for _, o := range []workerctl.Outcome{workerctl.Running, workerctl.Succeeded, workerctl.Failed, workerctl.Stopped, workerctl.Interrupted} {
		s = workerctl.Status{Outcome: o}
		if w.trim(&s); s.Outcome != o {
			t.Errorf("%s became %s", o, s.Outcome)
		}
	}
}

// TestMakeGroup: what a cgroup lacks is said, and whether the process must limit itself.
func TestMakeGroup(t *testing.T) {
	all := []string{"memory.max", "memory.swap.max", "cpu.weight", "io.weight", "pids.max"}
	for _, c := range []struct {
		group   string
		lacks   []string
		missing string
		data    bool
	}{
		{"", nil, "no cgroup", true},
		{"/proc/none/group", nil, "create a cgroup", true},
		{"whole", nil, "", false},
		{"io", []string{"io.weight"}, "the cgroup has no io.weight", false},
		{"memory", []string{"memory.max", "cpu.weight"}, "the cgroup has no memory.max, cpu.weight", true},
	} {
		group := c.group
		if group != "" && group[0] != '/' {
			group = filepath.Join(t.TempDir(), c.group)
			if err := os.Mkdir(group, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range all {
				if len(c.lacks) > 0 && (name == c.lacks[0] || name == c.lacks[len(c.lacks)-1]) {
					if err := os.Mkdir(filepath.Join(group, name), 0o755); err != nil { // cannot be written
						t.Fatal(err)
					}
				}
			}
		}
		w := &snapWorker{}
		w.rec.Limits.MemoryBytes = 123
		f, err := w.makeGroup(group)
		if err != nil {
			t.Fatal(err)
		}
		l := w.rec.Limits
		if l.Cgroup != (c.missing == "") || !strings.Contains(l.Missing, c.missing) || limitsData(l) != c.data {
			t.Errorf("%s: %+v, %v", c.group, l, limitsData(l))
		}
		if f != nil {
			f.Close()
		}
		if c.group == "whole" {
			if b, err := os.ReadFile(filepath.Join(group, "memory.max")); err != nil || string(b) != "123" {
				t.Errorf("%q, %v", b, err)
			}
		}
	}
}
