package volume

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// smallFiles are small files of several workers, and what they should hold.
type smallFiles struct {
	v    *Volume
	inos [4][3]vfs.Ino // of each worker
	want [4][3][]byte
}

// TestStressSmall changes small files, whose content moves between tree and
// extents, while flushers and commits decide where it goes.
func TestStressSmall(t *testing.T) {
	seed := stressStart(t)
	ops := *stressOps
	if testing.Short() {
		ops = min(ops, 300)
	}
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	watch := time.AfterFunc(5*time.Minute, func() { panic("stress: hangs") })
	defer watch.Stop()
	v.adm.mu.Lock()
	v.adm.soft = 0 // flushers take everything at once
	v.adm.mu.Unlock()
	x := &smallFiles{v: v}
	for w := range x.inos {
		for f := range x.inos[w] {
			a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprintf("%d.%d", w, f), 0o644, 0)
			if err != nil {
				t.Fatal(err)
			}
			x.inos[w][f] = a.Ino
		}
	}
	var wg sync.WaitGroup
	for w := range x.inos {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range ops {
				if what, err := x.step(w, rng); err != nil {
					t.Errorf("worker %d, operation %d (%s): %v", w, i, what, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev); err != nil {
		t.Fatal(err)
	}
	x.v = mustOpen(t, dev, Options{})
	for w := range x.inos {
		for f := range x.inos[w] {
			if err := x.look(w, f); err != nil {
				t.Error(err)
			}
		}
	}
	if err := x.v.Close(); err != nil {
		t.Fatal(err)
	}
}

// look compares a file with what it should hold.
func (x *smallFiles) look(w, f int) error {
	ino, want := x.inos[w][f], x.want[w][f]
	a, err := x.v.GetAttr(ino)
	if err != nil {
		return err
	}
	got := make([]byte, len(want)+10)
	n, err := x.v.Read(ino, 0, got)
	if err != nil {
		return err
	}
	if a.Size != uint64(len(want)) || !bytes.Equal(got[:n], want) {
		return fmt.Errorf("file %d.%d: %d bytes differ from the model's %d", w, f, a.Size, len(want))
	}
	return nil
}

// step makes one operation on a file of a worker, and looks at the file.
func (x *smallFiles) step(w int, rng *rand.Rand) (what string, err error) {
	f := rng.IntN(len(x.inos[w]))
	ino, c := x.inos[w][f], x.want[w][f]
	switch rng.IntN(8) {
	case 0, 1, 2:
		c, what, err = x.append(ino, c, rng)
	case 3:
		c, what, err = x.overwrite(ino, c, rng)
	case 4, 5:
		c, what, err = x.truncate(ino, c, rng)
	case 6:
		c, what, err = x.punch(ino, c, rng)
	case 7:
		x.v.flush.kick()
		if rng.IntN(8) == 0 {
			err = x.v.Sync(ino)
		}
	}
	x.want[w][f] = c
	if err == nil {
		err = x.look(w, f)
	}
	return what, err
}

// append writes at the end of a file, perhaps after a gap. As the operations that
// follow, it returns what a file that held c holds then, and what it did.
func (x *smallFiles) append(ino vfs.Ino, c []byte, rng *rand.Rand) (now []byte, what string, err error) {
	off := len(c)
	if rng.IntN(3) == 0 {
		off += rng.IntN(6000)
	}
	if rng.IntN(5) == 0 {
		off = (off + pageBytes - 1) / pageBytes * pageBytes
	}
	data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(700))
	c = append(append(bytes.Clone(c), make([]byte, off-len(c))...), data...)
	_, err = x.v.Write(crashReq, ino, uint64(off), data, false)
	return c, fmt.Sprintf("write %d+%d", off, len(data)), err
}

func (x *smallFiles) overwrite(ino vfs.Ino, c []byte, rng *rand.Rand) (now []byte, what string, err error) {
	off := rng.IntN(min(len(c), 3000) + 1)
	data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(700))
	n := make([]byte, max(len(c), off+len(data)))
	copy(n, c)
	copy(n[off:], data)
	_, err = x.v.Write(crashReq, ino, uint64(off), data, false)
	return n, fmt.Sprintf("overwrite %d+%d", off, len(data)), err
}

// truncate cuts or extends a file.
func (x *smallFiles) truncate(ino vfs.Ino, c []byte, rng *rand.Rand) (now []byte, what string, err error) {
	size := rng.IntN(3000)
	switch rng.IntN(4) {
	case 0:
		size += 100000
	case 1:
		size = 0
	}
	n := make([]byte, size)
	copy(n, c)
	s := uint64(size)
	_, err = x.v.SetAttr(crashReq, ino, &vfs.SetAttr{Size: &s})
	return n, fmt.Sprintf("truncate %d", size), err
}

// punch makes a hole, or zeroes a range, also beyond the end.
func (x *smallFiles) punch(ino vfs.Ino, c []byte, rng *rand.Rand) (now []byte, what string, err error) {
	off, n := rng.IntN(5000), 1+rng.IntN(5000)
	mode := vfs.FallocPunchHole | vfs.FallocKeepSize
	c = bytes.Clone(c)
	if rng.IntN(2) == 0 {
		mode = vfs.FallocZeroRange
		c = append(c, make([]byte, max(0, off+n-len(c)))...)
	}
	if off < len(c) {
		clear(c[off:min(len(c), off+n)])
	}
	err = x.v.Fallocate(crashReq, ino, mode, uint64(off), uint64(n))
	return c, fmt.Sprintf("hole %d+%d mode %d", off, n, mode), err
}
