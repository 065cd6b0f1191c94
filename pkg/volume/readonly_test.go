package volume

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestReadOnlyReplayReused opens crashed images without writing where the log
// refers to blocks that the generation before the root freed.
func TestReadOnlyReplayReused(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, maxWrite)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		for j := range data {
			data[j] = byte(i + j)
		}
		if _, err := v.Write(crashReq, a.Ino, 0, data, false); err != nil {
			t.Fatal(err)
		}
		if err := v.Sync(a.Ino); err != nil {
			t.Fatal(err)
		}
		img := dev.Crash(device.CrashLoseAll, rng)
		for _, ro := range []bool{true, false} {
			x := mustOpen(t, img, Options{ReadOnly: ro, CommitInterval: -1})
			got := make([]byte, maxWrite)
			if _, err := x.Read(a.Ino, 0, got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("round %d, read-only %t: %v", i, ro, err)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.Sync(vfs.RootIno); err != nil {
			t.Fatal(err)
		}
		v.space.Rewind() // as on a full volume, what was freed is taken at once
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReplayReadError has the device refuse to read data that the last record
// of the log refers to: it was acknowledged, so the volume must not open as if
// it had never been written.
func TestReplayReadError(t *testing.T) {
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	v := mustOpen(t, mem, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("acknowledged"), maxWrite/12)
	if _, err := v.Write(crashReq, a.Ino, 0, data, false); err != nil {
		t.Fatal(err)
	}
	if err := v.Sync(a.Ino); err != nil {
		t.Fatal(err)
	}
	es := v.flush.refs.get(v.nextOp - 1)
	if len(es) == 0 {
		t.Fatal("nothing was logged by reference")
	}
	img := mem.Crash(device.CrashLoseAll, rand.New(rand.NewPCG(1, 1)))
	v.fail(device.ErrCrashed)
	if v.Close() == nil {
		t.Fatal("close of a cut volume says nothing")
	}
	dev := device.NewFault(img, nil)
	dev.SetHook(func(_ int, op device.Op, off int64, n int) error {
		if bad := int64(es[0].Addr); op == device.OpRead && off <= bad && bad < off+int64(n) {
			return syscall.EIO
		}
		return nil
	})
	for _, ro := range []bool{true, false} {
		if v, err := Open(dev, Options{Credential: testCred(t), ReadOnly: ro}); !errors.Is(err, vfs.ErrIO) {
			if err == nil {
				err = v.Close()
			}
			t.Fatalf("read-only %t: opened with %v", ro, err)
		}
	}
	dev.SetHook(nil)
	v = mustOpen(t, dev, Options{})
	got := make([]byte, len(data))
	if n, err := v.Read(a.Ino, 0, got); err != nil || n != len(data) || !bytes.Equal(got, data) {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// A header that cannot be read is an I/O error, not a device without a volume;
// one good copy is enough.
func TestHeaderUnreadable(t *testing.T) {
	mem := device.NewMem(64 << 20)
	mustFormat(t, mem)
	for bad, want := range map[int64]error{0: nil, 1 << 20: nil, -1: vfs.ErrIO} {
		dev := device.NewFault(mem.Clone(), nil)
		dev.SetHook(func(_ int, op device.Op, off int64, _ int) error {
			if op == device.OpRead && (off == bad || bad < 0 && (off == 0 || off == 1<<20)) {
				return syscall.EIO
			}
			return nil
		})
		v, err := Open(dev, Options{Credential: testCred(t), ReadOnly: true})
		if err == nil {
			err = v.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("copy at %d unreadable: %v", bad, err)
		}
	}
}
