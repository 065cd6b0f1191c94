package doublecrypt

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestFailedOperationsLeakNothing checks that refused changes take no blocks.
func TestFailedOperationsLeakNothing(t *testing.T) {
	c, _ := testCore(t, 4096, 40)
	must(t, c.CreateFile("f"))
	must(t, c.Flush())
	before, err := c.Statistics()
	must(t, err)
	for range 100 {
		wantCode(t, c.WriteFile("f", 0, make([]byte, 40*4096)), CodeNoSpace)
		wantCode(t, c.CreateFile("f"), CodeAlreadyExists)
		wantCode(t, c.Rename("f", "f"), CodeAlreadyExists)
		wantCode(t, c.RemoveFile("none"), CodeNotFound)
	}
	must(t, c.Flush())
	after, err := c.Statistics()
	must(t, err)
	if after.FreeBlocks != before.FreeBlocks {
		t.Errorf("%+v, then %+v", before, after)
	}
}

// TestAllocator compares the allocator with a plain set. It also checks that an operation on a
// large volume reads only a few words, and not all free blocks.
func TestAllocator(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 0))
	const total = 70_000
	used := newBitset(total + 100)
	for id := range uint64(firstObject) {
		used.add(id)
	}
	a := newAllocator(total, used, nil)
	free := map[uint64]bool{}
	for id := uint64(firstObject); id < total; id++ {
		free[id] = true
	}
	var taken []uint64
	for range 300_000 {
		if len(taken) > 0 && rng.IntN(100) < 48 {
			i := rng.IntN(len(taken))
			id := taken[i]
			taken[i] = taken[len(taken)-1]
			taken = taken[:len(taken)-1]
			a.release(id)
			free[id] = true
			continue
		}
		id, ok := a.allocate()
		if ok != (len(free) > 0) || ok && !free[id] {
			t.Fatalf("allocated %d, %t", id, ok)
		}
		if ok {
			delete(free, id)
			taken = append(taken, id)
		}
		if a.free != uint64(len(free)) {
			t.Fatalf("%d free, counted %d", len(free), a.free)
		}
	}
	for len(free) > 0 {
		id, ok := a.allocate()
		if !ok || !free[id] {
			t.Fatalf("%d left", len(free))
		}
		delete(free, id)
	}
	if _, ok := a.allocate(); ok {
		t.Error("allocated from nothing")
	}
	big := newAllocator(1<<26, newBitset(1<<26), nil)
	if len(big.levels) != 5 {
		t.Errorf("%d levels", len(big.levels))
	}
	// On a volume of 4 TiB, one block is free, then all except for one. If each search read every
	// word or every free block, this would take days.
	full := newBitset(1 << 26)
	for i := range full {
		full[i] = math.MaxUint64
	}
	full[1<<20-1] = 1<<63 - 1
	for name, a := range map[string]*allocator{"full": newAllocator(1<<26, full, nil), "empty": big} {
		for range 1_000_000 {
			id, ok := a.allocate()
			if !ok || name == "full" && id != 1<<26-1 {
				t.Fatalf("%s: allocated %d, %t", name, id, ok)
			}
			a.release(id)
		}
	}
}

// TestReaderKeepsBlocks checks that a block that is being read is not reused for another file
// meanwhile, after any number of commits. The format has no check that would detect it.
func TestReaderKeepsBlocks(t *testing.T) {
	dev := device.NewMem(4096 * 400) // so large that no commit must wait for the reader
	fault := device.NewFault(dev, nil)
	key := testKey(t)
	must(t, Format(fault, key, 4096, 0, Options{}))
	v := mustOpen(t, fault, key, Options{})
	a, err := v.Mknod(nil, vfs.RootIno, "a", 0, 0)
	must(t, err)
	old := bytes.Repeat([]byte("old"), 1000)
	_, err = v.Write(nil, a.Ino, 0, old, false)
	must(t, err)
	must(t, v.Sync(0))
	at := int64(v.nodes[a.Ino].extents[0].block) * 4096
	reading, goOn := make(chan struct{}), make(chan struct{})
	fault.SetHook(func(_ int, op device.Op, off int64, _ int) error {
		if op == device.OpRead && off == at {
			close(reading)
			<-goOn
		}
		return nil
	})
	result := make(chan error, 1)
	got := make([]byte, len(old))
	go func() {
		_, err := v.Read(a.Ino, 0, got)
		result <- err
	}()
	<-reading
	for i := range 30 {
		v.mu.Lock()
		v.alloc.cursor = firstObject // blocks are reused in the order in which they were freed
		v.mu.Unlock()
		_, err := v.Write(nil, a.Ino, 0, bytes.Repeat([]byte{byte(i)}, 3000), false)
		must(t, err)
		must(t, v.Sync(0))
	}
	close(goOn)
	if err := <-result; err != nil || !bytes.Equal(got, old) {
		t.Errorf("read %q, %v", got[:3], err)
	}
	must(t, v.Close())
	mustClean(t, dev, key)
}
