package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// TestSnapshotWorker: a job gets the keys, the local snapshot and the store. The next one has it as
// its base, and the base goes when the new one is stored.
func TestSnapshotWorker(t *testing.T) {
	r := newSnapRig(t)
	r.use()
	first, second := newSnapshot(), newSnapshot()
	end := r.mustBegin(workerctl.Start{ID: first}, jobParams{Blocks: 40})
	st := r.untilEnd(workerctl.Succeeded)
	if st.Progress.BytesDone != 40*jobBlock || st.BytesRead != 40*jobBlock || st.ID != first {
		t.Errorf("%+v", st)
	}
	if err := end.Wait(); err != nil {
		t.Error(err)
	}
	var got jobResult
	if err := json.Unmarshal(st.Result, &got); err != nil {
		t.Fatal(err)
	}
	tenant := sha256.Sum256(r.tenant)
	if got.Tenant != hex.EncodeToString(tenant[:]) || len(got.Epochs) != 1 || got.KEKs != 1 || got.Base != "" || got.Source != workerctl.LocalName(first) {
		t.Errorf("%+v", got)
	}
	r.local(first)
	r.use()
	r.mustBegin(workerctl.Start{ID: second, Base: first}, jobParams{Blocks: 4})
	st = r.untilEnd(workerctl.Succeeded)
	if err := json.Unmarshal(st.Result, &got); err != nil || got.Base != workerctl.LocalName(first) {
		t.Errorf("%+v %v", got, err)
	}
	r.local(second)
	n := 0
	for _, err := range r.store.List(r.ctx(), "", "") {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 40+4+2 {
		t.Errorf("%d objects", n)
	}
	// To store it again does nothing.
	r.mustBegin(workerctl.Start{ID: second}, jobParams{Blocks: 1, End: "final"})
	if again := r.untilEnd(workerctl.Succeeded); string(again.Result) != string(st.Result) {
		t.Errorf("%+v", again)
	}
	r.local(second)
	// A user may delete it. Then there is no base.
	if err := r.server().Do(r.ctx(), control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: workerctl.LocalName(second)}}, nil); err != nil {
		t.Fatal(err)
	}
	third := newSnapshot()
	r.mustBegin(workerctl.Start{ID: third, Base: second}, jobParams{Blocks: 1})
	got = jobResult{}
	if err := json.Unmarshal(r.untilEnd(workerctl.Succeeded).Result, &got); err != nil || got.Base != "" {
		t.Errorf("%+v %v", got, err)
	}
	r.local(third)
}

// TestSnapshotWorkerFails: what stays after each way to end.
func TestSnapshotWorkerFails(t *testing.T) {
	r := newSnapRig(t)
	base := newSnapshot()
	r.mustBegin(workerctl.Start{ID: base}, jobParams{Blocks: 1})
	r.untilEnd(workerctl.Succeeded)
	for _, c := range []struct {
		end  string
		want workerctl.Outcome
		text string
		keep bool
	}{
		{"fail", workerctl.Stopped, "failed for a while", true},
		{"final", workerctl.Failed, "failed for good", false},
		{"panic", workerctl.Died, "panic: the job is broken", true},
		{"exit", workerctl.Died, "status 7", true},
	} {
		id := newSnapshot()
		r.mustBegin(workerctl.Start{ID: id, Base: base}, jobParams{Blocks: 1, End: c.end})
		if st := r.untilEnd(c.want); !strings.Contains(st.Message, c.text) || len(st.Result) != 0 {
			t.Errorf("%s: %+v", c.end, st)
		}
		if !c.keep {
			r.local(base)
			continue
		}
		r.local(base, id)
		// The same job again.
		r.mustBegin(workerctl.Start{ID: id, Base: base}, jobParams{Blocks: 1})
		r.untilEnd(workerctl.Succeeded)
		r.local(id)
		base = id
	}
	r.use()
}

// TestSnapshotCancelled: a job ends when its caller says so, and nothing stays, even when its
// process was killed.
func TestSnapshotCancelled(t *testing.T) {
	r := newSnapRig(t)
	id := newSnapshot()
	r.mustBegin(workerctl.Start{ID: id}, long)
	pid := r.untilRunning().PID
	// One that is read cannot be deleted.
	err := r.server().Do(r.ctx(), control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: workerctl.LocalName(id)}}, nil)
	if !control.HasCode(err, volumectl.CodeInUse) {
		t.Errorf("%v", err)
	}
	if _, err := r.begin(workerctl.Start{ID: newSnapshot()}, long); !errors.Is(err, mounter.ErrBusy) {
		t.Errorf("a second job: %v", err)
	}
	if err := r.client.CancelSnapshot(r.ctx(), snapVolume, id); err != nil {
		t.Fatal(err)
	}
	r.untilEnd(workerctl.Cancelled)
	r.local()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the worker is still there: %v", err)
	}
	// Killed, and then given up.
	r.mustBegin(workerctl.Start{ID: id}, long)
	kill(t, r.untilRunning().PID)
	if st := r.untilEnd(workerctl.Died); !strings.Contains(st.Message, "signal 9") {
		t.Errorf("%+v", st)
	}
	r.local(id)
	if err := r.client.CancelSnapshot(r.ctx(), snapVolume, id); err != nil {
		t.Fatal(err)
	}
	r.local()
	r.use()
}

// TestSnapshotWorkerMemory: a worker that needs too much memory ends, says so, and nothing else is
// affected.
func TestSnapshotWorkerMemory(t *testing.T) {
	r := newSnapRig(t)
	id := newSnapshot()
	r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: 1, End: "memory"})
	if st := r.untilEnd(workerctl.Died); !strings.Contains(st.Message, "out of memory") && !strings.Contains(st.Message, "more memory") && !strings.Contains(st.Message, "failed to allocate") {
		t.Errorf("%+v", st)
	}
	r.local(id)
	r.use()
}

// TestSnapshotWorkerCgroup: a worker has a cgroup of its own, which goes with it. Its status says
// what the cgroup cannot limit here.
func TestSnapshotWorkerCgroup(t *testing.T) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil || len(mounts) == 0 {
		t.Fatalf("cgroup v2 is not mounted: %v", err)
	}
	parent := filepath.Join(mounts[0].Mountpoint, fmt.Sprintf("sealvol-test-worker-%d", os.Getpid()))
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	groups := func() []string {
		g, err := filepath.Glob(parent + "/sealvol-*-snapshot")
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	r := newSnapRigOn(t, false, "--server-cgroup", parent)
	id := newSnapshot()
	r.mustBegin(workerctl.Start{ID: id}, long)
	st := r.untilRunning()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", st.PID))
	if err != nil || len(groups()) != 1 || !strings.Contains(string(b), filepath.Base(groups()[0])) {
		t.Errorf("%s %v", b, err)
	}
	for _, f := range []string{"memory.max", "cpu.weight", "io.weight", "pids.max"} { // depends on the machine
		if _, err := os.Stat(filepath.Join(groups()[0], f)); (err == nil) == strings.Contains(st.Limits.Missing, f) {
			t.Errorf("%s: %+v", f, st.Limits)
		}
	}
	kill(t, st.PID)
	r.untilEnd(workerctl.Died)
	if g := groups(); len(g) != 0 {
		t.Errorf("left: %v", g)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Error(err)
	}
}

// TestSnapshotLoad: the mount server says how busy it is, each time since the time before.
func TestSnapshotLoad(t *testing.T) {
	r := newSnapRig(t)
	enough := errors.New("enough")
	wrote, synced, first := false, false, true
	done := make(chan error, 1)
	start := make(chan struct{})
	go func() {
		done <- r.server().Do(r.ctx(), control.Request{Op: pacing.OpLoad, Item: func(b json.RawMessage) error {
			var l pacing.Load
			if err := json.Unmarshal(b, &l); err != nil || l.Queue < 0 || l.Queue > 8 {
				return fmt.Errorf("%s: %w", b, err)
			}
			if first {
				first = false
				close(start)
			}
			wrote = wrote || l.Kinds[pacing.Write].Count > 0 && l.Kinds[pacing.Write].Micros > 0
			synced = synced || l.Kinds[pacing.Sync].Count > 0
			if wrote && synced && l.Count() < 5 {
				return enough // nothing happens any more, and it says so
			}
			return nil
		}}, nil)
	}()
	<-start
	for range 50 {
		r.use()
	}
	if err := <-done; !errors.Is(err, enough) {
		t.Error(err)
	}
}

// TestSnapshotOfBlockDevice: a worker reads a volume on a block device, which the mount server has
// open exclusively.
func TestSnapshotOfBlockDevice(t *testing.T) {
	r := newSnapRigOn(t, true)
	r.use()
	id := newSnapshot()
	r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: 20, Pause: 10 * time.Millisecond})
	st := r.untilRunning()
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", st.PID, workerctl.FDDevice))
	if err != nil || target != r.device {
		t.Errorf("%s, %v", target, err)
	}
	r.untilEnd(workerctl.Succeeded)
	r.local(id)
	end := "escape 127.0.0.1:1 @none /none 999999999 /"
	r.mustBegin(workerctl.Start{ID: newSnapshot()}, jobParams{Blocks: 1, End: end})
	if st := r.untilEnd(workerctl.Stopped); st.Message != "reached: " {
		t.Errorf("%+v", st)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Error(err)
	}
}
