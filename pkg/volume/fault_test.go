package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// faultRun does a fixed workload on a device that fails as hook says, and then
// looks at what is left without faults. It returns the number of device calls.
func faultRun(t *testing.T, seed uint64, hook func(n int, op device.Op) error) (calls int, failed bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 11))
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	dev := device.NewFault(mem, nil)
	r := &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	r.v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	dev.SetHook(func(n int, op device.Op, _ int64, _ int) error { return hook(n, op) })
	var opErr error
	for i := 0; i < 120 && opErr == nil; i++ {
		opErr = r.step()
		if opErr != nil && r.v.Failed() == nil && errors.Is(opErr, vfs.ErrIO) {
			// A read failed and the operation did not happen: the volume goes on.
			r.states = r.states[:len(r.states)-1]
			opErr = nil
		}
	}
	closeErr := r.v.Close()
	calls = dev.Calls()
	dev.SetHook(nil)
	failed = r.v.Failed() != nil
	if opErr != nil && !errors.Is(opErr, vfs.ErrIO) && !errors.Is(opErr, vfs.ErrReadOnly) {
		t.Fatalf("operation: %v", opErr)
	}
	if failed {
		if closeErr == nil {
			t.Fatal("close of a failed volume says nothing")
		}
		for _, p := range []error{
			r.v.Sync(vfs.RootIno), r.v.Sync(2),
			func() error { _, err := r.v.Mkdir(crashReq, vfs.RootIno, "late", 0o755); return err }(),
		} {
			if p == nil {
				t.Fatal("a failed volume accepts changes")
			}
		}
	} else if closeErr != nil {
		t.Fatalf("close: %v", closeErr)
	} else {
		r.synced = len(r.states) - 1
	}
	if err := checkCrash(mem.Clone(), r, t); err != nil {
		t.Fatal(err)
	}
	// Power goes as well: what was not flushed may be lost.
	if failed {
		if err := checkCrash(mem.Crash(device.CrashMix, rng), r, t); err != nil {
			t.Fatalf("after a cut: %v", err)
		}
	}
	return calls, failed
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		for seed := range uint64(3) {
			calls, failed := faultRun(t, seed, func(int, device.Op) error { return nil })
			if failed {
				t.Fatal("failed without a fault")
			}
			step := 1
			if testing.Short() {
				step = 41
			}
			for _, forever := range []bool{false, true} {
				for at := 0; at < calls; at += step {
					name := fmt.Sprintf("%v seed %d call %d forever %v", errno, seed, at, forever)
					var hit atomic.Bool // flushers call the device as well
					_, failed := faultRun(t, seed, func(n int, op device.Op) error {
						if n == at || forever && n > at {
							if op != device.OpRead {
								hit.Store(true)
							}
							return errno
						}
						return nil
					})
					if t.Failed() {
						t.Fatal(name)
					}
					if hit.Load() && !failed {
						t.Fatalf("%s: a failed write or flush went unnoticed", name)
					}
				}
			}
		}
	}
}

// fill writes files of size bytes until the volume is full, syncing each sync files.
func fill(t *testing.T, v *Volume, size, sync int) (names []string) {
	t.Helper()
	data := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for {
		name := fmt.Sprintf("f%d", len(names))
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		if err == nil {
			names = append(names, name)
			for off := 0; off < len(data) && err == nil; off += maxWrite {
				_, err = v.Write(crashReq, a.Ino, uint64(off), data[off:min(len(data), off+maxWrite)], false)
			}
		}
		if err == nil && len(names)%sync == 0 {
			err = v.Sync(a.Ino)
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(names) > 1<<20 {
			t.Fatal("never full")
		}
	}
	// Whatever was acknowledged must fit: a sync now may not run out of space.
	if err := v.Sync(vfs.RootIno); err != nil {
		t.Fatalf("sync of a full volume: %v", err)
	}
	return names
}

func TestFullVolume(t *testing.T) {
	t.Parallel()
	sizes := []int{100, 4096, 70_000, 3 << 20}
	if testing.Short() {
		sizes = sizes[2:]
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dev := device.NewMem(96 << 20)
			mustFormat(t, dev)
			v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
			if size <= 4096 { // else there would be a quarter of a million of them
				writeFile(t, v, "ballast", make([]byte, 60<<20))
			}
			var first int
			every, rounds := 10, 3
			if size == 100 {
				every, rounds = 2000, 2
			}
			for round := range rounds {
				before := v.StatFS()
				names := fill(t, v, size, every)
				if round == 0 {
					first = len(names)
				}
				if len(names) < first*9/10 {
					t.Errorf("round %d: full after %d files, at first after %d", round, len(names), first)
				}
				if got := v.StatFS(); got.BlocksAvail > before.BlocksAvail/5 {
					t.Errorf("full with %d of %d blocks available", got.BlocksAvail, before.BlocksAvail)
				}
				// In another order than they came, so that what is left is scattered.
				for i := range names {
					n := names[(i*7919)%len(names)]
					if len(names)%7919 == 0 {
						n = names[i]
					}
					a, err := v.Lookup(vfs.RootIno, n)
					if errors.Is(err, vfs.ErrNotExist) {
						continue
					}
					if err == nil {
						err = v.Unlink(crashReq, vfs.RootIno, n)
					}
					if err != nil {
						t.Fatalf("delete on a full volume: %v", err)
					}
					v.Forget(a.Ino)
				}
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				checkClean(t, dev)
				v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
				if got := v.StatFS(); got.BlocksAvail < before.BlocksAvail*98/100 {
					t.Errorf("round %d: %d blocks available, %d before", round, got.BlocksAvail, before.BlocksAvail)
				}
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Overwriting in a volume that is nearly full must go on for ever.
func TestOverwriteFull(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	size := uint64(0)
	for {
		if _, err := v.Write(crashReq, a.Ino, size, data, false); errors.Is(err, vfs.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		size += 1 << 20
	}
	if err := v.Sync(a.Ino); err != nil {
		t.Fatal(err)
	}
	// Free a little, so that copy on write has room to breathe.
	cut := size - 4<<20
	if _, err := v.SetAttr(crashReq, a.Ino, &vfs.SetAttr{Size: &cut}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 4000 {
		off := rng.Uint64N(cut/4096) * 4096
		if _, err := v.Write(crashReq, a.Ino, off, data[:4096], false); err != nil {
			t.Fatalf("overwrite %d: %v", i, err)
		}
		if i%100 == 0 {
			if err := v.Sync(a.Ino); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, dev)
}

// Writers that overwrite at the same time where there is room for some of them
// only wait for each other: what one frees is not the next one's at once.
func TestOverwriteFullTogether(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	const piece = 128 << 10
	pieces := int(v.StatFS().BlocksAvail*layout.BlockBytes)/piece - 14
	for i := range pieces {
		_, err := v.Write(crashReq, a.Ino, uint64(i)*piece, make([]byte, piece), false)
		ok(t, err)
	}
	ok(t, v.Sync(a.Ino))
	var g errgroup.Group
	for w := range 16 {
		g.Go(func() error {
			data := bytes.Repeat([]byte{byte(w)}, piece)
			for i := range 30 {
				if _, err := v.Write(crashReq, a.Ino, uint64((w*7+i*3)%pieces)*piece, data, false); err != nil {
					return fmt.Errorf("writer %d, write %d: %w", w, i, err)
				}
			}
			return nil
		})
	}
	ok(t, g.Wait())
	ok(t, v.Close())
	checkClean(t, dev)
}
