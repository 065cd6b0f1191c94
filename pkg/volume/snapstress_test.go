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

// snapStress is a volume with snapshots that come and go while writers work.
type snapStress struct {
	t     *testing.T
	v     *Volume
	rng   *rand.Rand
	first map[string]modelState // what each snapshot held when it was made
	names []string              // of those that there are
}

// TestSnapshotStress makes, reads, compares and deletes snapshots while several
// writers work. Each snapshot must be the same when it is read again later.
func TestSnapshotStress(t *testing.T) {
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{Memory: minMemory})
	x := &snapStress{t: t, v: v, rng: rand.New(rand.NewPCG(9, 9)), first: map[string]modelState{}}
	done := x.write()
	for i, ended := 0, false; !ended; i++ {
		select {
		case <-done:
			ended = true
		default:
		}
		x.step(i)
	}
	for _, name := range x.names {
		x.same(name)
	}
	ok(t, v.WaitFreed())
	v.background.reaper.wait()
	ok(t, v.Sync(vfs.RootIno))
	ok(t, v.Close())
	checkClean(t, dev)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	checkSpace(t, v)
	closeWhileOpen(t, v, x.names[0])
}

// write has writers work, and tells when they have ended.
func (x *snapStress) write() (done chan struct{}) {
	steps := 600
	if testing.Short() {
		steps = 150
	}
	var writers sync.WaitGroup
	for i := range 3 {
		d, err := x.v.Mkdir(crashReq, vfs.RootIno, fmt.Sprint("w", i), 0o755)
		ok(x.t, err)
		r := &crashRun{v: x.v, base: d.Ino, rng: rand.New(rand.NewPCG(uint64(i), 77)), states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
		writers.Go(func() {
			for range steps {
				if err := r.step(); err != nil {
					x.t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		writers.Wait()
	}()
	return done
}

// step makes a snapshot, and deletes one if there are many.
func (x *snapStress) step(i int) {
	t, v := x.t, x.v
	t.Helper()
	name := fmt.Sprint("s", i)
	_, err := v.CreateSnapshot(name)
	ok(t, err)
	x.first[name], err = readSnap(v, name)
	ok(t, err)
	x.names = append(x.names, name)
	if i%4 == 3 {
		ok(t, v.Diff(x.names[0], "", DiffOptions{Ranges: true}, func(Change) error { return nil }))
	}
	if len(x.names) > 4 {
		j := x.rng.IntN(len(x.names))
		name := x.names[j]
		x.same(name)
		ok(t, v.DeleteSnapshot(name))
		if err := v.DeleteSnapshot(name); !errors.Is(err, ErrNoSnapshot) {
			t.Fatal(err)
		}
		x.names = slices.Delete(x.names, j, j+1)
	}
}

// same wants a snapshot to hold what it held when it was made.
func (x *snapStress) same(name string) {
	x.t.Helper()
	got, err := readSnap(x.v, name)
	ok(x.t, err)
	if !sameState(got, x.first[name]) {
		x.t.Fatalf("%s changed: %s", name, diffState(got, x.first[name]))
	}
}

// closeWhileOpen closes a volume: a snapshot that is open keeps it open.
func closeWhileOpen(t *testing.T, v *Volume, name string) {
	t.Helper()
	_, end, err := v.OpenSnapshot(name)
	ok(t, err)
	if err := v.DeleteSnapshot(name); !errors.Is(err, ErrSnapshotInUse) {
		t.Fatal(err)
	}
	if err := v.Close(); !errors.Is(err, ErrSnapshotInUse) {
		t.Fatal(err)
	}
	end()
	ok(t, v.Close())
	if _, _, err := v.OpenSnapshot(name); !errors.Is(err, vfs.ErrClosed) {
		t.Fatal(err)
	}
}
