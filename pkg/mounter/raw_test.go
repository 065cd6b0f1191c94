package mounter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

const rawSize = 8 << 20

func (r *rig) rawRequest() mounter.MountRequest {
	r.t.Helper()
	q := r.request()
	q.Block = &mounter.Block{SizeBytes: rawSize}
	return q
}

func (r *rig) mountRaw(change ...func(*mounter.MountRequest)) {
	r.t.Helper()
	q := r.rawRequest()
	for _, c := range change {
		c(&q)
	}
	if err := r.client.Mount(r.ctx(), q); err != nil {
		r.t.Fatal(err)
	}
}

func readOnlyToo(q *mounter.MountRequest) { q.Block.ReadOnlyToo = true }

// device returns the type of device of a node, and its number.
func (r *rig) device(node string) (size int64, rdev uint64) {
	r.t.Helper()
	f, err := os.Open(r.path("target/" + node))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if size, err = f.Seek(0, 2); err != nil {
		r.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		r.t.Fatal(err)
	}
	return size, st.Rdev
}

// writeDevice writes durably through the node.
func (r *rig) writeDevice(b []byte, off int64) error {
	f, err := os.OpenFile(r.path("target/rw"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	return f.Sync()
}

func (r *rig) readDevice(node string, n int, off int64) ([]byte, error) {
	f, err := os.Open(r.path("target/" + node))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, off)
	return b, err
}

func (r *rig) wantNoLoops() {
	r.t.Helper()
	for name, path := range mountertest.Loops() {
		if bytes.HasPrefix([]byte(path), []byte(r.dir)) {
			r.t.Fatalf("%s is bound to %s", name, path)
		}
	}
	if hidden, err := os.ReadDir(r.path("state/hidden")); err != nil || len(hidden) != 0 {
		r.t.Fatal(hidden, err)
	}
}

// TestRaw: a device with direct I/O and 4 KiB sectors, a hidden file, a read-only device beside it,
// and growth while it is open.
func TestRaw(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mountRaw()
	text := bytes.Repeat([]byte("raw data"), 1024)
	rdev := rawWritten(t, r, text)
	size := rawGrown(t, r, rdev)
	r.unmount()
	r.unmount()
	r.wantClean()
	r.wantNoLoops()
	rawReadOnly(t, r, text)
	r.mountRaw()
	if now, _ := r.device("rw"); now != size {
		t.Fatal("it shrank to", now)
	}
	r.unmount()
}

// rawWritten checks a newly mounted device and writes text to it; it returns the device number.
func rawWritten(t *testing.T, r *rig, text []byte) (rdev uint64) {
	t.Helper()
	size, rdev := r.device("rw")
	if size != rawSize {
		t.Fatal(size)
	}
	name := fmt.Sprint("/sys/block/loop", unix.Minor(rdev))
	for file, want := range map[string]string{"/queue/logical_block_size": "4096\n", "/loop/dio": "1\n", "/loop/autoclear": "0\n", "/ro": "0\n"} {
		if b, err := os.ReadFile(name + file); err != nil || string(b) != want {
			t.Fatalf("%s: %q %v", file, b, err)
		}
	}
	if list, err := os.ReadDir(r.path("target")); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	r.mountRaw() // again: nothing happens
	if _, again := r.device("rw"); again != rdev {
		t.Fatal("another device")
	}
	if i := r.health(); i.BlockBytes != rawSize {
		t.Fatalf("%+v", i)
	}
	if err := r.writeDevice(text, 4096); err != nil {
		t.Fatal(err)
	}
	r.mountRaw(readOnlyToo)
	if b, err := r.readDevice("ro", len(text), 4096); err != nil || !bytes.Equal(b, text) {
		t.Fatal(err)
	}
	ro, err := os.OpenFile(r.path("target/ro"), os.O_RDWR, 0)
	if err == nil {
		if _, err = ro.WriteAt(text, 0); err == nil {
			err = ro.Sync()
		}
		ro.Close()
	}
	if err == nil {
		t.Fatal("the read-only device was written")
	}
	if err := r.client.Mount(r.ctx(), r.request()); !errors.Is(err, mounter.ErrConflict) {
		t.Fatal("mounted as a file system beside: ", err)
	}
	return rdev
}

// rawGrown grows an open device, which then prevents unmounting; it returns its size.
func rawGrown(t *testing.T, r *rig, rdev uint64) int64 {
	t.Helper()
	open, err := os.Open(r.path("target/rw"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Truncate(r.path("image"), 512<<20); err != nil {
		t.Fatal(err)
	}
	n, err := r.client.Grow(r.ctx(), "vol-1")
	if err != nil || n != mounter.RawBytes(512<<20) {
		t.Fatal(n, err)
	}
	for _, node := range []string{"rw", "ro"} {
		if size, _ := r.device(node); size != n {
			t.Fatal(size)
		}
	}
	if size, err := open.Seek(0, 2); err != nil || size != n {
		t.Fatal("who had it open does not see it grow", size, err)
	}
	if i := r.health(); i.BlockBytes != n {
		t.Fatalf("%+v", i)
	}
	// The open device stays, and no later cleanup removes it.
	if err := r.client.Unmount(r.ctx(), r.unmountRequest()); !errors.Is(err, mounter.ErrBusy) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(fmt.Sprint("/sys/block/loop", unix.Minor(rdev), "/loop/autoclear")); err != nil || string(b) != "0\n" {
		t.Fatalf("%q %v", b, err)
	}
	r.mountRaw() // and the device can still be used
	if _, again := r.device("rw"); again != rdev {
		t.Fatal("another device")
	}
	return n
}

// rawReadOnly mounts a device read-only and reads text from it.
func rawReadOnly(t *testing.T, r *rig, text []byte) {
	t.Helper()
	r.mountRaw(func(q *mounter.MountRequest) { q.ReadOnly, q.Format = true, nil })
	if list, err := os.ReadDir(r.path("target")); err != nil || len(list) != 1 || list[0].Name() != "ro" {
		t.Fatal(list, err)
	}
	if b, err := r.readDevice("ro", len(text), 4096); err != nil || !bytes.Equal(b, text) {
		t.Fatal(err)
	}
	r.unmount()
	r.wantNoLoops()
}

// TestRawRefusals: refused requests leave nothing behind.
func TestRawRefusals(t *testing.T) {
	r := newRig(t)
	r.start(0)
	for name, c := range map[string]struct {
		change func(*mounter.MountRequest)
		want   error
	}{
		"no size":       {func(q *mounter.MountRequest) { q.Block.SizeBytes = 0 }, mounter.ErrInvalid},
		"odd size":      {func(q *mounter.MountRequest) { q.Block.SizeBytes = 4095 }, mounter.ErrInvalid},
		"negative size": {func(q *mounter.MountRequest) { q.Block.SizeBytes = -4096 }, mounter.ErrInvalid},
	} {
		q := r.rawRequest()
		c.change(&q)
		if err := r.client.Mount(r.ctx(), q); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.mount() // a file system, and then read-only as the device that it never was
	r.unmount()
	q := r.rawRequest()
	q.ReadOnly, q.Format = true, nil
	if err := r.client.Mount(r.ctx(), q); !errors.Is(err, mounter.ErrNoBlockFile) {
		t.Error(err)
	}
	data := filepath.Join(r.path("data"), "vol-1", "block")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.rawRequest()); !errors.Is(err, mounter.ErrDamaged) {
		t.Error(err)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", data); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Mount(r.ctx(), r.rawRequest()); !errors.Is(err, mounter.ErrDamaged) {
		t.Error(err)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	r.wantClean()
	q = r.rawRequest()
	q.Target = r.path("none")
	if err := r.client.Mount(r.ctx(), q); err == nil {
		t.Error("mounted at a path that does not exist")
	}
	r.wantClean()
	r.wantNoLoops()
	r.mountRaw()
	r.unmount()
	r.wantClean()
	r.wantNoLoops()
}

// TestRawServerKilled: programs get I/O errors and do not hang, and mounting again provides another
// device. While the volume is mounted, the number of the old device is not reused.
func TestRawServerKilled(t *testing.T) {
	r := newRig(t)
	r.start(0)
	r.mountRaw()
	text := bytes.Repeat([]byte("kept"), 1024)
	if err := r.writeDevice(text, 0); err != nil {
		t.Fatal(err)
	}
	_, old := r.device("rw")
	open, err := os.Open(r.path("target/rw"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for round := range 2 {
		signal(t, r.health().PID, unix.SIGKILL)
		// A synced write returns only once the connection is aborted, with an error.
		for err = nil; err == nil; {
			err = r.writeDevice(text, 1<<20)
		}
		if !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		// A request that the dying server was just reading fails before the process has ended;
		// until then, the server counts as running.
		r.awaitDeath()
		if round == 1 { // the mounter dies as well
			r.stop()
			r.start(0)
		}
		r.mountRaw()
		if b, err := r.readDevice("rw", len(text), 0); err != nil || !bytes.Equal(b, text) {
			t.Fatal(err)
		}
		if _, now := r.device("rw"); now == old {
			t.Fatal("the number of a dead device was used again")
		}
	}
	direct := make([]byte, 4096)
	if n, err := unix.Pread(int(open.Fd()), direct, 2<<20); !errors.Is(err, unix.EIO) {
		t.Fatal("the dead device: ", n, err)
	}
	open.Close()
	r.unmount()
	r.wantClean()
	r.wantNoLoops()
	if b, err := os.ReadFile(fmt.Sprint("/sys/block/loop", unix.Minor(old), "/loop/backing_file")); err == nil && strings.HasPrefix(string(b), r.path("mounter")) {
		t.Fatalf("the dead device is still bound to %s", b) // by now it may be bound to a file of another test
	}

	// Dead, and unmounted without being mounted again.
	r.mountRaw()
	signal(t, r.health().PID, unix.SIGKILL)
	for err = nil; err == nil; {
		err = r.writeDevice(text, 1<<20)
	}
	r.unmount()
	r.wantClean()
	r.wantNoLoops()
}

// TestRawMounterKilledAtAnyStep is TestMounterKilledAtAnyStep with the steps for a device, and once
// with a server that dies.
func TestRawMounterKilledAtAnyStep(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 4
	}
	for n := 1; ; n += stride {
		done := false
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			r := newRig(t)
			r.start(n)
			call := func(ctx context.Context, q mounter.MountRequest) error { return r.client.Mount(ctx, q) }
			q := r.rawRequest()
			q.Block.ReadOnlyToo = true
			err := call(r.ctx(), q)
			if err == nil {
				signal(t, r.health().PID, unix.SIGKILL)
				q.Keys = key(1)
				for werr := error(nil); werr == nil; {
					werr = r.writeDevice(make([]byte, 4096), 0)
				}
				err = call(r.ctx(), q)
			}
			if err == nil {
				err = r.client.Unmount(r.ctx(), r.unmountRequest())
			}
			if err == nil {
				done = true
				return
			}
			r.stop()
			r.start(0)
			for err = unix.EBUSY; errors.Is(err, mounter.ErrBusy) || errors.Is(err, unix.EBUSY); {
				q.Keys = key(1)
				err = call(r.ctx(), q)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := r.writeDevice([]byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			if size, _ := r.device("ro"); size != rawSize {
				t.Fatal(size)
			}
			r.unmount()
			r.wantClean()
			r.wantNoLoops()
		})
		if t.Failed() || done {
			t.Logf("%d steps", n-1)
			return
		}
	}
}

// TestRawSizes: the two functions are inverse to each other.
func TestRawSizes(t *testing.T) {
	for _, raw := range []int64{4096, 8192, 1 << 20, 1<<20 + 4096, 1 << 30, 1<<30 - 4096, 12345 * 4096, 1 << 40, 16 << 40} {
		d := mounter.RawDeviceBytes(raw)
		if d%4096 != 0 || mounter.RawBytes(d) != raw || mounter.RawBytes(d-4096) >= raw {
			t.Errorf("%d: device %d, back %d, one sector less %d", raw, d, mounter.RawBytes(d), mounter.RawBytes(d-4096))
		}
	}
	for _, d := range []int64{0, -1, 4096, 64 << 20} {
		if mounter.RawBytes(d) != 0 {
			t.Errorf("%d bytes offer %d", d, mounter.RawBytes(d))
		}
	}
	if mounter.RawDeviceBytes(1) != mounter.RawDeviceBytes(4096) {
		t.Error("not rounded up")
	}
}
