package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestSnapshotStress makes, reads, compares and deletes snapshots while several
// writers work. Each snapshot must be the same when it is read again later.
func TestSnapshotStress(t *testing.T) {
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{Memory: minMemory})
	steps := 600
	if testing.Short() {
		steps = 150
	}
	var writers sync.WaitGroup
	for i := range 3 {
		d, err := v.Mkdir(crashReq, vfs.RootIno, fmt.Sprint("w", i), 0o755)
		ok(t, err)
		r := &crashRun{v: v, base: d.Ino, rng: rand.New(rand.NewPCG(uint64(i), 77)), states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
		writers.Go(func() {
			for range steps {
				if err := r.step(); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		writers.Wait()
	}()
	rng := rand.New(rand.NewPCG(9, 9))
	first := map[string]modelState{}
	var names []string
	for i, ended := 0, false; !ended; i++ {
		select {
		case <-done:
			ended = true
		default:
		}
		name := fmt.Sprint("s", i)
		_, err := v.CreateSnapshot(name)
		ok(t, err)
		first[name], err = readSnap(v, name)
		ok(t, err)
		names = append(names, name)
		if i%4 == 3 {
			ok(t, v.Diff(names[0], "", DiffOptions{Ranges: true}, func(Change) error { return nil }))
		}
		if len(names) > 4 {
			j := rng.IntN(len(names))
			name := names[j]
			got, err := readSnap(v, name)
			ok(t, err)
			if !sameState(got, first[name]) {
				t.Fatalf("%s changed: %s", name, diffState(got, first[name]))
			}
			ok(t, v.DeleteSnapshot(name))
			if err := v.DeleteSnapshot(name); !errors.Is(err, ErrNoSnapshot) {
				t.Fatal(err)
			}
			names = slices.Delete(names, j, j+1)
		}
	}
	for _, name := range names {
		got, err := readSnap(v, name)
		ok(t, err)
		if !sameState(got, first[name]) {
			t.Fatalf("%s changed: %s", name, diffState(got, first[name]))
		}
	}
	ok(t, v.WaitFreed())
	v.background.reaper.wait()
	ok(t, v.Sync(vfs.RootIno))
	ok(t, v.Close())
	checkClean(t, dev)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	checkSpace(t, v)
	// A snapshot that is open keeps the volume open.
	_, end, err := v.OpenSnapshot(names[0])
	ok(t, err)
	if err := v.DeleteSnapshot(names[0]); !errors.Is(err, ErrSnapshotInUse) {
		t.Fatal(err)
	}
	if err := v.Close(); !errors.Is(err, ErrSnapshotInUse) {
		t.Fatal(err)
	}
	end()
	ok(t, v.Close())
	if _, _, err := v.OpenSnapshot(names[0]); !errors.Is(err, vfs.ErrClosed) {
		t.Fatal(err)
	}
}
