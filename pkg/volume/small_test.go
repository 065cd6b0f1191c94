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
	const workers, files = 4, 3
	var inos [workers][files]vfs.Ino
	var want [workers][files][]byte
	for w := range workers {
		for f := range files {
			a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprintf("%d.%d", w, f), 0o644, 0)
			if err != nil {
				t.Fatal(err)
			}
			inos[w][f] = a.Ino
		}
	}
	look := func(v *Volume, w, f int) error {
		a, err := v.GetAttr(inos[w][f])
		if err != nil {
			return err
		}
		got := make([]byte, len(want[w][f])+10)
		n, err := v.Read(inos[w][f], 0, got)
		if err != nil {
			return err
		}
		if a.Size != uint64(len(want[w][f])) || !bytes.Equal(got[:n], want[w][f]) {
			return fmt.Errorf("file %d.%d: %d bytes differ from the model's %d", w, f, a.Size, len(want[w][f]))
		}
		return nil
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range ops {
				f := rng.IntN(files)
				c := want[w][f]
				var err error
				what := ""
				switch rng.IntN(8) {
				case 0, 1, 2: // append, perhaps after a gap
					off := len(c)
					if rng.IntN(3) == 0 {
						off += rng.IntN(6000)
					}
					if rng.IntN(5) == 0 {
						off = (off + pageBytes - 1) / pageBytes * pageBytes
					}
					data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(700))
					what = fmt.Sprintf("write %d+%d", off, len(data))
					c = append(append(bytes.Clone(c), make([]byte, off-len(c))...), data...)
					_, err = v.Write(crashReq, inos[w][f], uint64(off), data, false)
				case 3: // overwrite
					off := rng.IntN(min(len(c), 3000) + 1)
					data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(700))
					what = fmt.Sprintf("overwrite %d+%d", off, len(data))
					n := make([]byte, max(len(c), off+len(data)))
					copy(n, c)
					copy(n[off:], data)
					c = n
					_, err = v.Write(crashReq, inos[w][f], uint64(off), data, false)
				case 4, 5: // cut or extend
					size := rng.IntN(3000)
					switch rng.IntN(4) {
					case 0:
						size += 100000
					case 1:
						size = 0
					}
					n := make([]byte, size)
					copy(n, c)
					c = n
					s := uint64(size)
					what = fmt.Sprintf("truncate %d", size)
					_, err = v.SetAttr(crashReq, inos[w][f], &vfs.SetAttr{Size: &s})
				case 6: // hole
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
					what = fmt.Sprintf("hole %d+%d mode %d", off, n, mode)
					err = v.Fallocate(crashReq, inos[w][f], mode, uint64(off), uint64(n))
				case 7:
					v.flush.kick()
					if rng.IntN(8) == 0 {
						err = v.Sync(inos[w][f])
					}
				}
				want[w][f] = c
				if err == nil {
					err = look(v, w, f)
				}
				if err != nil {
					t.Errorf("worker %d, operation %d (%s): %v", w, i, what, err)
					return
				}
			}
		}()
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
	v = mustOpen(t, dev, Options{})
	for w := range workers {
		for f := range files {
			if err := look(v, w, f); err != nil {
				t.Error(err)
			}
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
