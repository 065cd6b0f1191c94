package mounter_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"golang.org/x/sys/unix"
)

func TestMountUseUnmount(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.mount() // again: nothing happens
	r.write("hello")
	if s, err := r.client.Stats(r.ctx(), "vol-1"); err != nil || s.TotalBytes != 64<<20 {
		t.Fatalf("%+v %v", s, err)
	}
	if err := os.Truncate(r.path("image"), 128<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := r.client.Grow(r.ctx(), "vol-1"); err != nil || n != 128<<20 {
		t.Fatal(n, err)
	}
	if i := r.health(); !i.Alive || !i.HoldsFuse || len(i.Conditions) != 0 {
		t.Fatalf("%+v", i)
	}
	other := r.request()
	other.Target = r.path("other")
	if err := r.client.Mount(r.ctx(), other); !errors.Is(err, mounter.ErrConflict) {
		t.Fatalf("second place: %v", err)
	}
	if idle, err := r.client.Quit(r.ctx()); idle || err != nil {
		t.Fatalf("a mounter with a volume ended: %v", err)
	}
	r.unmount()
	r.unmount()
	r.wantClean()
	if _, err := r.client.Health(r.ctx(), "vol-1"); !errors.Is(err, mounter.ErrNotMounted) {
		t.Fatal(err)
	}
	r.mount()
	r.wantFile("hello")
	r.unmount()
	if idle, err := r.client.Quit(r.ctx()); !idle || err != nil {
		t.Fatal(idle, err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	r.cmd = nil
}

// TestRefusals: a refused request leaves nothing behind, and a valid request works afterwards.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	r.unmount()
	if err := os.Symlink(r.path("target"), r.path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.path("image"), r.path("image-link")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*mounter.MountRequest)
		want   error
	}{
		"wrong key":       {func(q *mounter.MountRequest) { q.Keys = key(2) }, mounter.ErrWrongKey},
		"no key":          {func(q *mounter.MountRequest) { q.Keys = mounter.Keys{} }, mounter.ErrNoKey},
		"no volume":       {func(q *mounter.MountRequest) { q.Volume = "" }, mounter.ErrInvalid},
		"long volume":     {func(q *mounter.MountRequest) { q.Volume = strings.Repeat("v", 129) }, mounter.ErrInvalid},
		"source":          {func(q *mounter.MountRequest) { q.Source = "a,b" }, mounter.ErrInvalid},
		"relative target": {func(q *mounter.MountRequest) { q.Target = "x" }, mounter.ErrInvalid},
		"dotted target":   {func(q *mounter.MountRequest) { q.Target = r.dir + "/x/../target" }, mounter.ErrInvalid},
		"linked target":   {func(q *mounter.MountRequest) { q.Target = r.path("link") }, nil},
		"missing target":  {func(q *mounter.MountRequest) { q.Target = r.path("none") }, nil},
		"file as target":  {func(q *mounter.MountRequest) { q.Target = r.path("image") }, nil},
		"other inode":     {func(q *mounter.MountRequest) { q.Device.Ino++ }, mounter.ErrForeign},
		"bigger device":   {func(q *mounter.MountRequest) { q.Device.SizeBytes++ }, mounter.ErrForeign},
		"not a block dev": {func(q *mounter.MountRequest) { q.Device.Ino, q.Device.Rdev = 0, 5 }, mounter.ErrForeign},
		"no identity":     {func(q *mounter.MountRequest) { q.Device.Ino = 0 }, mounter.ErrInvalid},
		"linked device":   {func(q *mounter.MountRequest) { q.Device.Path = r.path("image-link") }, nil},
		"missing device":  {func(q *mounter.MountRequest) { q.Device.Path = r.path("none") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			q := r.request()
			q.Source = strings.Split(q.Source, "/")[0]
			c.change(&q)
			err := r.client.Mount(r.ctx(), q)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if entries, err := os.ReadDir(r.path("state/volumes")); err != nil || len(entries) != 0 {
				t.Errorf("%d records left, %v", len(entries), err)
			}
		})
	}
	r.mount()
	r.unmount()
	// A device that holds something else is never formatted.
	if err := os.WriteFile(r.path("image"), bytes.Repeat([]byte("precious"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.request()); !errors.Is(err, mounter.ErrForeign) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path("image")); err != nil || !bytes.HasPrefix(b, []byte("precious")) {
		t.Fatal("the device was written")
	}
	blank := r.request()
	if err := os.WriteFile(r.path("image"), make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	blank.Format = nil
	if err := r.client.Mount(r.ctx(), blank); !errors.Is(err, mounter.ErrBlank) {
		t.Fatal(err)
	}
	r.wantClean()
}

// TestKeysOfHungServer: a hanging mount server blocks neither a caller that sends keys for ever,
// nor other requests at all.
func TestKeysOfHungServer(t *testing.T) {
	r := newRig(t, "SEALVOL_TEST_MOUNT=3s")
	r.start(0)
	r.mount()
	if err := r.client.CheckKeys(r.ctx(), "vol-1", key(1)); err != nil { // the server of this test accepts all keys
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-1", mounter.Keys{}); !errors.Is(err, mounter.ErrNoKey) {
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-2", key(1)); !errors.Is(err, mounter.ErrNotMounted) {
		t.Fatal(err)
	}
	pid := r.health().PID
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; { // wait until all threads have stopped
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if stopped = err == nil && len(tasks) > 0; !stopped {
			t.Fatal(tasks, err)
		}
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			stopped = stopped && err == nil && bytes.Contains(b, []byte(") T "))
		}
	}
	q := r.request()
	q.ReplaceKey = true
	if err := r.client.Mount(r.ctx(), q); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	if err := r.client.CheckKeys(r.ctx(), "vol-1", key(1)); !errors.Is(err, mounter.ErrServer) {
		t.Fatal(err)
	}
	q.ReplaceKey = false
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	q.ReplaceKey = true
	if err := r.client.Mount(r.ctx(), q); err != nil {
		t.Fatal(err)
	}
	r.unmount()
	r.wantClean()
}

func TestForeignMountAtTarget(t *testing.T) {
	r := newRig(t)
	r.start(0)
	if err := unix.Mount("tmpfs", r.path("target"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.request()); !errors.Is(err, mounter.ErrConflict) {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(r.path("target"), 0); err != nil {
		t.Fatalf("the foreign mount was touched: %v", err)
	}
}

func TestPublishedElsewhereKeepsTheVolume(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mount()
	if err := unix.Mount(r.path("target"), r.path("other"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrBusy) {
		t.Fatal(err)
	}
	r.write("still there")
	if err := unix.Unmount(r.path("other"), 0); err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Open(r.path("target"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrBusy) {
		t.Fatal(err)
	}
	r.wantFile("still there")
	cwd.Close()
	r.unmount()
	r.wantClean()
}

// TestConcurrent: many callers start only one server.
func TestConcurrent(t *testing.T) {
	r := newRig(t)
	r.start(0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			q := r.request()
			q.Keys = key(1)
			if err := r.client.Mount(r.ctx(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(mountertest.Below(r.path("target"))); n != 1 {
		t.Fatalf("%d mounts", n)
	}
	for range 8 {
		wg.Go(func() {
			if err := r.client.Unmount(r.ctx(), r.unmountRequest()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.wantClean()
}
