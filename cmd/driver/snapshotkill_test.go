package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// gone waits until a process has ended.
func (r *snapRig) gone(pid int) {
	r.t.Helper()
	ctx := r.ctx()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("process %d is still there: %s", pid, b)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestSnapshotWithoutServer: the mount server dies, and the worker goes on. The volume is mounted
// again meanwhile. Local snapshots are settled by the new server.
func TestSnapshotWithoutServer(t *testing.T) {
	r := newSnapRig(t)
	base, id := newSnapshot(), newSnapshot()
	r.mustBegin(workerctl.Start{ID: base}, jobParams{Blocks: 1})
	r.untilEnd(workerctl.Succeeded)
	r.mustBegin(workerctl.Start{ID: id, Base: base}, jobParams{Blocks: 300, Pause: 5 * time.Millisecond})
	pid := r.untilRunning().PID
	server, err := r.server().Status(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	kill(t, server.PID)
	r.gone(server.PID)
	at := r.until("going on", func(s workerctl.Status) bool { return s.PID == pid }).Progress.BytesDone
	r.until("going on", func(s workerctl.Status) bool { return s.Progress.BytesDone > at })
	if err := r.client.Unmount(r.ctx(), mounter.UnmountRequest{Volume: snapVolume, Source: "other", Target: "/other"}); !errors.Is(err, mounter.ErrConflict) {
		t.Errorf("%v", err)
	}
	r.mount()
	r.use()
	if st := r.untilEnd(workerctl.Succeeded); st.Progress.BytesDone != 300*jobBlock {
		t.Errorf("%+v", st)
	}
	r.local(id)
	// The server is dead when the job ends: the next one settles.
	next := newSnapshot()
	r.mustBegin(workerctl.Start{ID: next, Base: id}, jobParams{Blocks: 60, Pause: 5 * time.Millisecond})
	r.untilRunning()
	if server, err = r.server().Status(r.ctx()); err != nil {
		t.Fatal(err)
	}
	kill(t, server.PID)
	r.untilEnd(workerctl.Succeeded)
	r.mount()
	r.local(next)
	r.use()
}

// TestSnapshotWithoutMounter: the mounter dies, and the worker goes on. The next mounter knows it,
// also if it has ended meanwhile.
func TestSnapshotWithoutMounter(t *testing.T) {
	r := newSnapRig(t)
	base, id := newSnapshot(), newSnapshot()
	r.mustBegin(workerctl.Start{ID: base}, jobParams{Blocks: 1})
	r.untilEnd(workerctl.Succeeded)
	r.mustBegin(workerctl.Start{ID: id, Base: base}, jobParams{Blocks: 100, Pause: 5 * time.Millisecond})
	pid := r.untilRunning().PID
	r.kill("mounter")
	r.use()
	r.start("mounter", 0)
	if st := r.until("there", func(workerctl.Status) bool { return true }); st.ID != id || st.PID != pid || st.Outcome != workerctl.Running {
		t.Errorf("%+v", st)
	}
	r.untilEnd(workerctl.Succeeded)
	r.local(id)
	// The result waits for the next mounter.
	next := newSnapshot()
	r.mustBegin(workerctl.Start{ID: next, Base: id}, jobParams{Blocks: 20, Pause: 5 * time.Millisecond})
	pid = r.untilRunning().PID
	r.kill("mounter")
	r.stored(next)
	r.start("mounter", 0)
	if st := r.untilEnd(workerctl.Succeeded); len(st.Result) == 0 {
		t.Errorf("%+v", st)
	}
	r.local(next)
	r.gone(pid)
	// It died while no mounter ran.
	last := newSnapshot()
	r.mustBegin(workerctl.Start{ID: last, Base: next}, long)
	pid = r.untilRunning().PID
	r.kill("mounter")
	kill(t, pid)
	r.start("mounter", 0)
	r.untilEnd(workerctl.Died)
	r.local(next, last)
	// And after another restart.
	r.kill("mounter")
	r.start("mounter", 0)
	r.untilEnd(workerctl.Died)
	r.mustBegin(workerctl.Start{ID: last, Base: next}, jobParams{Blocks: 1})
	r.untilEnd(workerctl.Succeeded)
	r.local(last)
	r.use()
}

// stored waits until a snapshot is whole in the store.
func (r *snapRig) stored(id string) {
	r.t.Helper()
	ctx := r.ctx()
	for {
		_, err := r.store.Stat(ctx, "snap/"+id+"/card")
		if err == nil {
			return
		}
		if !errors.Is(err, chunkstore.ErrNotFound) {
			r.t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestSnapshotUnmount: a volume whose snapshot is being stored is unmounted soon, and nothing has its
// device open then. The snapshot is continued after the next mount. The same holds if the mount
// server is dead, and if the worker does not answer.
func TestSnapshotUnmount(t *testing.T) {
	r := newSnapRig(t)
	id := newSnapshot()
	for _, how := range []string{"normal", "server dead", "worker stopped", "frozen"} {
		r.mustBegin(workerctl.Start{ID: id}, long)
		pid := r.untilRunning().PID
		switch how {
		case "server dead":
			server, err := r.server().Status(r.ctx())
			if err != nil {
				t.Fatal(err)
			}
			kill(t, server.PID)
			r.gone(server.PID)
		case "worker stopped":
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		case "frozen":
			if err := r.server().Do(r.ctx(), control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: 20_000}}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		r.gone(pid)
		if entries, err := os.ReadDir(r.path("mounter/volumes")); err != nil || len(entries) != 0 {
			t.Errorf("%s: %d records, %v", how, len(entries), err)
		}
		r.mount()
		if _, err := r.client.SnapshotStatus(r.ctx(), snapVolume); !errors.Is(err, mounter.ErrNoWorker) {
			t.Errorf("%s: %v", how, err)
		}
		r.local(id)
	}
	r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: 1})
	r.untilEnd(workerctl.Succeeded)
	r.local(id)
}

// TestSnapshotFrozen: a freeze delays the beginning, not what runs, and the volume works afterwards.
func TestSnapshotFrozen(t *testing.T) {
	r := newSnapRig(t)
	freeze := func() {
		t.Helper()
		if err := r.server().Do(r.ctx(), control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: 30_000}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	thaw := func() {
		t.Helper()
		if err := r.server().Do(r.ctx(), control.Request{Op: "thaw", Args: volumectl.ThawArgs{}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	freeze()
	id := newSnapshot()
	begun := make(chan error, 1)
	go func() {
		_, err := r.begin(workerctl.Start{ID: id}, jobParams{Blocks: 20})
		begun <- err
	}()
	r.until("starting", func(s workerctl.Status) bool { return s.Progress.Step == "starting" })
	thaw()
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	r.untilEnd(workerctl.Succeeded)
	next := newSnapshot()
	r.mustBegin(workerctl.Start{ID: next}, jobParams{Blocks: 100, Pause: 2 * time.Millisecond})
	r.untilRunning()
	freeze()
	r.untilEnd(workerctl.Succeeded)
	thaw()
	r.use()
	r.local(id, next)
}

// TestSnapshotStoreLost: the process that serves the store is replaced, several times. The worker
// waits, and each object is stored.
func TestSnapshotStoreLost(t *testing.T) {
	r := newSnapRig(t)
	id := newSnapshot()
	const blocks = 150
	end := r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: blocks, Pause: time.Millisecond})
	for range 3 {
		at := r.untilRunning().Progress.BytesDone
		_ = end.Close()
		r.until("waiting for the store", func(s workerctl.Status) bool { return s.NoStore })
		r.use()
		end = r.serve(id)
		if err := r.client.AttachStore(r.ctx(), snapVolume, id, end.Worker); err != nil {
			t.Fatal(err)
		}
		end.Worker.Close()
		st := r.until("going on", func(s workerctl.Status) bool { return s.Progress.BytesDone > at || s.Outcome != workerctl.Running })
		if st.Outcome != workerctl.Running && st.Outcome != workerctl.Succeeded {
			t.Fatalf("%+v", st)
		}
	}
	// To start it again gives it the store, too.
	_ = end.Close()
	r.until("waiting for the store", func(s workerctl.Status) bool { return s.NoStore || s.Outcome != workerctl.Running })
	r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: blocks})
	if st := r.untilEnd(workerctl.Succeeded); st.Progress.BytesDone != blocks*jobBlock {
		t.Errorf("%+v", st)
	}
	n := 0
	for _, err := range r.store.List(r.ctx(), "packs/", "") {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != blocks {
		t.Errorf("%d objects, want %d", n, blocks)
	}
	if err := r.client.AttachStore(r.ctx(), snapVolume, newSnapshot(), r.serve(id).Worker); !errors.Is(err, mounter.ErrNoWorker) {
		t.Errorf("a store for another snapshot: %v", err)
	}
}

// TestSnapshotMounterKilledAtAnyStep kills the mounter before each step of a job. The caller starts
// the job again with another mounter. The application goes on, and nothing is left.
func TestSnapshotMounterKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 3
	}
	for n := 1; ; n += stride {
		killed := false
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			r := newSnapRig(t)
			first, second := newSnapshot(), newSnapshot()
			r.mustBegin(workerctl.Start{ID: first}, jobParams{Blocks: 1})
			r.untilEnd(workerctl.Succeeded)
			r.settled()
			r.kill("mounter")
			r.start("mounter", n)
			for try := 0; ; try++ {
				_, err := r.begin(workerctl.Start{ID: second, Base: first}, jobParams{Blocks: 2})
				st, serr := r.awaitOutcome()
				if err == nil && serr == nil && st.Outcome == workerctl.Succeeded {
					break
				}
				if !errors.Is(err, mounter.ErrUnreachable) && !errors.Is(serr, mounter.ErrUnreachable) && !st.Outcome.Resumable() || try > 3 {
					t.Fatalf("%v, %v, %+v", err, serr, st)
				}
				if r.client.Ping(r.ctx()) != nil {
					killed = true
					r.kill("mounter")
					r.use()
					r.start("mounter", 0)
				}
			}
			r.use()
			if err := r.client.Ping(r.ctx()); err != nil { // killed when it settled
				killed = true
				r.kill("mounter")
				r.start("mounter", 0)
			}
			r.local(second)
			if err := r.client.Unmount(r.ctx(), r.unmountRequest()); errors.Is(err, mounter.ErrUnreachable) {
				killed = true
				r.kill("mounter")
				r.start("mounter", 0)
			}
		})
		if t.Failed() || !killed {
			t.Logf("%d steps", n-1)
			return
		}
	}
}

// settled waits until the mount server has been told about the end of the job, which a mounter would
// do when it starts.
func (r *snapRig) settled() {
	r.t.Helper()
	ctx := r.ctx()
	for {
		files, err := filepath.Glob(r.path("mounter/volumes/*/worker.json"))
		if err != nil || len(files) != 1 {
			r.t.Fatal(files, err)
		}
		if b, err := os.ReadFile(files[0]); err == nil && strings.Contains(string(b), `"settled":true`) {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatal("not settled")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitOutcome waits until the job has ended, or its state is not known.
func (r *snapRig) awaitOutcome() (workerctl.Status, error) {
	ctx, cancel := context.WithTimeout(r.ctx(), 20*time.Second)
	defer cancel()
	for {
		st, err := r.client.SnapshotStatus(ctx, snapVolume)
		if err != nil || st.Outcome != workerctl.Running {
			return st, err
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestSnapshotWorkerKilled kills workers early and late. The application writes all the time. The
// last one succeeds.
func TestSnapshotWorkerKilled(t *testing.T) {
	r := newSnapRig(t)
	f, err := os.OpenFile(filepath.Join(r.path("target"), "lines"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop, done, lines := make(chan struct{}), make(chan error, 1), 0
	go func() { done <- writeLines(f, stop, &lines) }()
	id := newSnapshot()
	for i := range 8 {
		r.mustBegin(workerctl.Start{ID: id}, long)
		st := r.until("there", func(s workerctl.Status) bool { return s.PID > 0 && s.Progress.BytesDone >= int64(i)*jobBlock })
		kill(t, st.PID)
		r.untilEnd(workerctl.Died)
		r.gone(st.PID)
	}
	r.local(id)
	r.mustBegin(workerctl.Start{ID: id}, jobParams{Blocks: 10})
	r.untilEnd(workerctl.Succeeded)
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(lines)*int64(len(aLine)) {
		t.Fatal(fi.Size(), lines, err)
	}
}
