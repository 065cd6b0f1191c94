package volume

import (
	"bytes"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A flush that fails must fail the volume before anybody can take its pages for
// flushed. Both tests do what a flusher does, step by step, and have a sync come at
// the moment at which it would pass.

// dirtyFile is a volume on a device that can fail, with a file whose content is on the
// device in many extents, and of which one page is dirty.
func dirtyFile(t *testing.T) (mem *device.Mem, fault *device.Fault, v *Volume, ino vfs.Ino) {
	t.Helper()
	mem = newDev(t, 80<<20)
	v = mustOpen(t, mem, Options{CommitInterval: -1, Memory: minMemory})
	for _, name := range []string{"e", "f", "g"} {
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		for i := range uint64(1000) { // the tree of extents has several pages
			_, err := v.Write(crashReq, a.Ino, 2*i*pageBytes, bytes.Repeat([]byte{1}, pageBytes), false)
			ok(t, err)
		}
		if name == "f" {
			ino = a.Ino
		}
	}
	mustClose(t, v)
	fault = device.NewFault(mem, nil)
	v = mustOpen(t, fault, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.Write(crashReq, ino, dirtyBlock*pageBytes, bytes.Repeat([]byte{2}, pageBytes), false)
	ok(t, err)
	return mem, fault, v, ino
}

const dirtyBlock = 1500

// failOnce fails the next call of a kind.
func failOnce(fault *device.Fault, kind device.Op) (hit *atomic.Bool) {
	hit = new(atomic.Bool) // flushers call the device as well
	fault.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
		if op != kind || !hit.CompareAndSwap(false, true) {
			return nil
		}
		return syscall.EIO
	})
	return hit
}

// lost checks that no sync passes, and that the device has the file as it was.
func lost(t *testing.T, v *Volume, mem *device.Mem, ino vfs.Ino) {
	t.Helper()
	if err := v.Sync(vfs.RootIno); !errors.Is(err, vfs.ErrIO) {
		t.Errorf("sync after a flush that failed: %v", err)
	}
	if v.Close() == nil {
		t.Error("close after a flush that failed: no error")
	}
	checkClean(t, mem)
	v = mustOpen(t, mem, Options{CommitInterval: -1, Memory: minMemory})
	defer mustClose(t, v)
	b := make([]byte, pageBytes)
	_, err := v.Read(ino, dirtyBlock*pageBytes, b)
	ok(t, err)
	if b[0] != 1 {
		t.Errorf("byte %d, want what was there before", b[0])
	}
}

// A device write that fails: the records of its extents are in the tree already,
// and a commit that did not know would make a root that names them.
func TestFailedDataWrite(t *testing.T) {
	mem, fault, v, ino := dirtyFile(t)
	v.gate.RLock()
	items, _, id := v.flush.take()
	done, err := v.flush.sealBatches(items)
	v.gate.RUnlock()
	ok(t, err)
	hit := failOnce(fault, device.OpWrite)
	for _, b := range done {
		_ = v.flush.writeBatch(b)
	}
	if !hit.Load() {
		t.Fatal("nothing was written")
	}
	if v.Failed() == nil {
		t.Error("the flight has ended and the volume has not failed")
	}
	b := make([]byte, pageBytes)
	_, err = v.Read(ino, dirtyBlock*pageBytes, b)
	if ok(t, err); b[0] != 2 {
		t.Errorf("byte %d, want what was written", b[0])
	}
	v.flush.endFlight(id)
	lost(t, v, mem, ino)
}

// A page of the tree that cannot be read while a batch is sealed: the pages count
// as clean, and the batch will not be written.
func TestFailedSeal(t *testing.T) {
	mem, fault, v, ino := dirtyFile(t)
	hit := failOnce(fault, device.OpRead)
	v.gate.RLock()
	items, _, id := v.flush.take()
	_, err := v.flush.sealBatches(items)
	failed := v.Failed() // before anybody else comes into the gate
	v.gate.RUnlock()
	if err == nil || !hit.Load() {
		t.Fatal("nothing was read")
	}
	if failed == nil {
		t.Error("the gate is open and the volume has not failed")
	}
	v.flush.endFlight(id)
	lost(t, v, mem, ino)
}

// A page of the tree that cannot be read while a commit stores the inodes: they do
// not count as changed any more, and who loads one then has its old size.
func TestFailedFreeze(t *testing.T) {
	mem, _, v, ino := dirtyFile(t)
	mustClose(t, v)
	fault := device.NewFault(mem, nil)
	v = mustOpen(t, fault, Options{CommitInterval: -1, Memory: minMemory})
	in := newInode(uint64(ino), layout.Inode{Mode: items.ModeReg}) // as if it was read, and its page is in memory no more
	v.table.add(in)
	v.table.touch(in)
	v.table.put(in)
	hit := failOnce(fault, device.OpRead)
	if _, err := v.com.freeze(false); err == nil || !hit.Load() {
		t.Fatal("nothing was read")
	}
	if v.Failed() == nil {
		t.Error("the gate is open and the volume has not failed")
	}
	if v.Close() == nil {
		t.Error("close after a commit that failed: no error")
	}
}
