package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/backendtest"
	"golang.org/x/sys/unix"
)

// TestCopyOfVolumeInUse: a served volume is copied while it is frozen, or not at all.
func TestCopyOfVolumeInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	var rests, releases int
	var releaseErr, restErr error
	b := open(t, Options{Dir: dir, Quiesce: func(context.Context, string) (func() error, error) {
		rests++
		return func() error {
			releases++
			return releaseErr
		}, restErr
	}})
	must := backendtest.Must[backend.Volume](t)
	v := must(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	backendtest.Must[map[string]string](t)(b.Attach(t.Context(), v.ID, "node-1", false))
	path := filepath.Join(dir, "images", imageFile(v.ID))
	if err := markImage(path); err != nil {
		t.Fatal(err)
	}
	snap := func(name string) error {
		_, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: name, Volume: v.ID})
		return err
	}
	if err := snap("idle"); err != nil || rests != 0 {
		t.Fatal(rests, err)
	}
	server, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := unix.Flock(int(server.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal("a copy that is done keeps the volume: ", err)
	}
	if err := snap("served"); err != nil || rests != 1 || releases != 1 {
		t.Fatal(rests, releases, err)
	}
	releaseErr = errors.New("it was thawed")
	if err := snap("broken"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	restErr = backend.ErrNotAttached // no server, and still a lock
	if err := snap("strange"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	list, _, err := b.ListSnapshots(t.Context(), v.ID, "", 0)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	shut(t, b)
	b = open(t, Options{Dir: dir})
	if err := snap("unreachable"); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	server.Close()
	if err := snap("again"); err != nil {
		t.Fatal(err)
	}
	shut(t, b)
	check(t, dir)
}

// TestCopyOutlivesItsCall: when a call ends, its copy continues. A retry finds the copy, and what
// it reads cannot be deleted.
func TestCopyOutlivesItsCall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	reached, goOn := make(chan bool), make(chan bool)
	b := open(t, Options{Dir: dir, Hook: func(step string) error {
		if strings.HasPrefix(step, "clone ") {
			reached <- true
			<-goOn
		}
		return nil
	}})
	must := backendtest.Must[backend.Volume](t)
	v := must(b.Create(t.Context(), backend.Spec{Name: "a", RequiredBytes: size}))
	if err := markImage(filepath.Join(dir, "images", imageFile(v.ID))); err != nil {
		t.Fatal(err)
	}
	before := backendtest.Must[backend.Capacity](t)(b.Capacity(t.Context(), nil))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "s", Volume: v.ID})
		first <- err
	}()
	<-reached
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), v.ID); !errors.Is(err, backend.ErrBusy) {
		t.Fatal(err)
	}
	if list, _, err := b.ListSnapshots(t.Context(), "", "", 0); err != nil || len(list) != 0 {
		t.Fatal("a snapshot that is not cut is listed: ", list, err)
	}
	if c := backendtest.Must[backend.Capacity](t)(b.Capacity(t.Context(), nil)); before.AvailableBytes-c.AvailableBytes != size {
		t.Fatal("its space is not promised: ", before, c)
	}
	goOn <- true
	s, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID})
	if err != nil || s.State != backend.SnapshotReady {
		t.Fatal(s, err)
	}
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	// Closing the backend ends a copy.
	go func() {
		_, err := b.Create(t.Context(), backend.Spec{Name: "copy", Source: &backend.Source{Snapshot: s.ID}})
		first <- err
	}()
	<-reached
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	for b.running.Err() == nil {
		runtime.Gosched()
	}
	if f, err := os.OpenFile(filepath.Join(dir, "images", imageFile(s.ID)), os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.WriteAt([]byte("data to be copied"), 4096); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	goOn <- true
	if err := errors.Join(<-closed); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err == nil {
		t.Fatal("a copy that was broken off succeeded")
	}
	check(t, dir)
}
