package volume

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// snapRun is a crash run with snapshots: power goes while they are made,
// deleted and gone back to, under load.
type snapRun struct {
	*crashRun
	snaps  []*crashSnap
	dev    *device.Mem
	cred   func() crypto.Credential
	closed bool // a rollback closed the volume, and it was not opened again
	places int64
}

// crashSnap is a snapshot as the run knows it.
type crashSnap struct {
	name          string
	state         modelState
	made, deleted int // 0 not asked for, 1 asked for, 2 acknowledged
}

func (r *snapRun) step() error {
	switch k := r.rng.IntN(100); {
	case k < 12:
		s := &crashSnap{name: fmt.Sprint("s", len(r.snaps)), state: r.state(), made: 1}
		r.snaps = append(r.snaps, s)
		n := len(r.states) - 1
		r.note("snapshot %s", s.name)
		if _, err := r.v.CreateSnapshot(s.name); err != nil {
			return err
		}
		s.made = 2
		r.synced = n
	case k < 22:
		var live []*crashSnap
		for _, s := range r.snaps {
			if s.deleted == 0 {
				live = append(live, s)
			}
		}
		if len(live) == 0 {
			return nil
		}
		s := live[r.rng.IntN(len(live))]
		n := len(r.states) - 1
		s.deleted = 1
		r.note("delete %s", s.name)
		if err := r.v.DeleteSnapshot(s.name); err != nil {
			return err
		}
		s.deleted = 2
		r.synced = n
	case k < 24:
		var live []int
		for i, s := range r.snaps {
			if s.deleted == 0 {
				live = append(live, i)
			}
		}
		if len(live) == 0 {
			return nil
		}
		return r.rollback(live[r.rng.IntN(len(live))])
	default:
		return r.crashRun.step()
	}
	return nil
}

// rollback goes back to a snapshot and opens the volume again.
func (r *snapRun) rollback(i int) error {
	s := r.snaps[i]
	var newer []*crashSnap
	for _, n := range r.snaps[i+1:] {
		if n.deleted == 0 {
			newer = append(newer, n)
		}
	}
	r.note("roll back to %s, %d are newer", s.name, len(newer))
	if len(newer) > 0 {
		switch err := r.v.Rollback(s.name, false); {
		case err == nil:
			return fmt.Errorf("rollback to %s deleted newer ones", s.name)
		case !errors.Is(err, ErrNewerSnapshots):
			return err
		}
		for _, n := range newer {
			n.deleted = 1
		}
	}
	r.states = append(r.states, s.state)
	r.closed = true
	if err := r.v.Rollback(s.name, true); err != nil {
		r.closed = r.v.life.closing.Load()
		return err
	}
	for _, n := range newer {
		n.deleted = 2
	}
	r.synced = len(r.states) - 1
	v, err := Open(r.dev, Options{Credential: r.cred(), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return err
	}
	r.v, r.closed = v, false
	r.v.snap.places.Store(r.places)
	return r.findInodes()
}

// findInodes learns where everything is after a rollback.
func (r *crashRun) findInodes() error {
	clear(r.inos)
	r.dirs = nil
	for _, p := range slices.Sorted(maps.Keys(r.state().files)) {
		d, n := r.split(p)
		a, err := r.v.Lookup(d, n)
		if err != nil {
			return fmt.Errorf("%s after the rollback: %w", p, err)
		}
		r.inos[p] = a.Ino
		if r.state().files[p] == nil {
			r.dirs = append(r.dirs, p)
		}
	}
	return nil
}

// check compares the snapshots of a volume with what may be.
func (r *snapRun) check(v *Volume) error {
	infos, err := v.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range r.snaps {
		there := slices.ContainsFunc(infos, func(i SnapshotInfo) bool { return i.Name == s.name && !i.Deleting })
		switch {
		case !there && s.made == 2 && s.deleted == 0:
			return fmt.Errorf("snapshot %s is gone", s.name)
		case there && s.deleted == 2:
			return fmt.Errorf("snapshot %s is back", s.name)
		case !there:
			continue
		}
		got, err := readSnap(v, s.name)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.name, err)
		}
		if !sameState(got, s.state) {
			return fmt.Errorf("snapshot %s: %s", s.name, diffState(got, s.state))
		}
	}
	return nil
}

// checkSnapCrash examines an image: fsck before and after, the snapshots, free
// space to the block, and then the head.
func checkSnapCrash(t testing.TB, img *device.Mem, r *snapRun) error {
	rep, err := check.Run(img.Clone(), check.Options{Credential: r.cred()})
	if err != nil {
		return fmt.Errorf("before the mount: %w", err)
	}
	for _, p := range rep.Problems { // a header or root that was being written
		if !strings.Contains(p.What, "a read-write mount repairs it") {
			return fmt.Errorf("before the mount: %v", p)
		}
	}
	v, err := Open(img, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := r.check(v); err != nil {
		return err
	}
	if err := v.WaitFreed(); err != nil {
		return fmt.Errorf("freeing: %w", err)
	}
	v.background.reaper.wait()
	if err := v.Sync(vfs.RootIno); err != nil {
		return err
	}
	checkSpace(t, v)
	if err := r.check(v); err != nil {
		return fmt.Errorf("later: %w", err)
	}
	if err := v.Close(); err != nil {
		return err
	}
	if err := cleanErr(img.Clone()); err != nil {
		return err
	}
	return checkCrash(img, r.crashRun, t)
}

func oneSnapCrash(t testing.TB, seed uint64, images int) (*snapRun, error) {
	rng := rand.New(rand.NewPCG(seed, 11))
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	r := &snapRun{crashRun: &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}, dev: dev,
		cred: func() crypto.Credential { return testCred(t) }}
	r.v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	if r.places = freePlaces; seed%2 == 0 {
		r.places = 4 // steps of which one frees little
	}
	r.v.snap.places.Store(r.places)
	dev.CutAfter(1 + rng.IntN(400))
	var opErr error
	for opErr == nil && len(r.states) < 2000 {
		opErr = r.step()
	}
	dev.Cut()
	r.v.fail(device.ErrCrashed)
	if r.v.Close() == nil && !r.closed {
		return r, errors.New("close after the crash: no error")
	}
	if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) && !errors.Is(opErr, vfs.ErrIO) {
		return r, fmt.Errorf("operation: %w", opErr)
	}
	for i := range images {
		mode := device.CrashMix
		switch i {
		case 0:
			mode = device.CrashLoseAll
		case 1:
			mode = device.CrashKeepAll
		}
		img := dev.Crash(mode, rng)
		if i%2 == 1 { // crash once more, while what was left is freed
			again := img.Clone()
			again.CutAfter(1 + rng.IntN(40))
			v, err := Open(again, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory})
			if err == nil {
				v.snap.places.Store(r.places)
				for err == nil { // commits until the cut
					err = v.Sync(vfs.RootIno)
				}
				v.fail(device.ErrCrashed)
				if v.Close() == nil {
					return r, fmt.Errorf("image %d, close after the crash: no error", i)
				}
			} else if !errors.Is(err, device.ErrCrashed) {
				return r, fmt.Errorf("image %d, interrupted open: %w", i, err)
			}
			again.Cut()
			img = again.Crash(device.CrashMix, rng)
		}
		if err := checkSnapCrash(t, img, r); err != nil {
			return r, fmt.Errorf("image %d: %w", i, err)
		}
	}
	return r, nil
}

func TestSnapshotCrash(t *testing.T) {
	seed := *snapSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rounds := *crashCuts / 25
	if testing.Short() {
		rounds = min(rounds, 8)
	}
	defer func() {
		if t.Failed() {
			t.Logf("-snap.seed=%d", seed)
		}
	}()
	for range rounds {
		if r, err := oneSnapCrash(t, seed, 6); err != nil {
			if testing.Verbose() {
				t.Log(strings.Join(r.trace, "\n"))
			}
			t.Fatal(err)
		}
		seed++
	}
}
