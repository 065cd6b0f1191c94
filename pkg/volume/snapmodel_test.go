package volume

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var snapSeed = flag.Uint64("snap.seed", 0, "seed of the model of snapshots; 0: from the clock")

// The model of snapshots: random operations, snapshots, deletes, rollbacks and
// remounts. A second bookkeeping, which knows nothing of dead lists, reads every
// tree as a whole and notes which of them reach a block: what the volume says
// is free, and what each snapshot holds alone, must be the same to the block.

type blockSet map[uint64]struct{}

// reach adds all blocks that a tree reaches.
func (set blockSet) reach(t testing.TB, v *Volume, p *layout.Pointer, id uint64) {
	t.Helper()
	add := func(r layout.Run) {
		for i := range uint64(r.Count) {
			set[r.Start+i] = struct{}{}
		}
	}
	items.EachCopy(p, add)
	b, err := v.store.ReadNode(p)
	if err != nil {
		t.Fatal(err)
	}
	n, err := layout.DecodeNode(b, id, p.Level)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n.Count() {
		if n.Level() > 0 {
			k, err := layout.GetPointer(n.PointerBytesAt(i), id)
			if err != nil {
				t.Fatal(err)
			}
			set.reach(t, v, &k, id)
		} else if id == layout.TreeFS && n.Key(i).Type == layout.KeyExtent {
			e, err := layout.DecodeFileExtent(n.Value(i))
			if err != nil {
				t.Fatal(err)
			}
			add(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(e.Blocks())})
		}
	}
}

// checkSpace compares the newest root, which nothing follows, with what all
// trees reach.
func checkSpace(t testing.TB, v *Volume) {
	t.Helper()
	v.durable.mu.Lock()
	root := v.durable.root
	v.durable.mu.Unlock()
	all := blockSet{}
	reached := map[uint64]uint64{} // block → snapshot, 0: several or the head
	for id := range root.Trees {
		if p := &root.Trees[id]; !p.IsZero() {
			all.reach(t, v, p, uint64(id))
		}
	}
	for s := range all {
		reached[s] = 0
	}
	v.snap.mu.Lock()
	live := slices.Clone(v.snap.live)
	v.snap.mu.Unlock()
	for _, s := range live {
		x, err := v.snap.read(s)
		if err != nil {
			t.Fatal(err)
		}
		set := blockSet{}
		set.reach(t, v, &x.Tree, layout.TreeFS)
		for sec := range set {
			if _, ok := reached[sec]; ok {
				reached[sec] = 0
			} else {
				reached[sec] = uint64(s.id)
			}
		}
	}
	unique := map[uint64]int64{}
	for _, id := range reached {
		unique[id] += layout.BlockBytes
	}
	used := root.DeviceBlocks - root.DataStart() - root.FreeBlocks
	for i := range root.FreeLists {
		used -= root.FreeLists[i].Blocks
		_, pieces, err := v.store.ReadFreeList(&root.FreeLists[i], txn.DataArea(root), minMemory)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			used -= uint64(p.Count)
		}
	}
	if used != uint64(len(reached)) {
		t.Fatalf("%d blocks are in use, the trees reach %d", used, len(reached))
	}
	infos, err := v.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != len(live) {
		t.Fatalf("%d snapshots are listed, %d are live", len(infos), len(live))
	}
	for _, i := range infos {
		// Each reference to shared data counts there.
		if n := unique[uint64(i.ID)]; i.UniqueBytes < n || i.UniqueBytes > n && root.Trees[layout.TreeShares].IsZero() {
			t.Fatalf("snapshot %s holds %d bytes alone, it says %d", i.Name, n, i.UniqueBytes)
		}
	}
}

// readSnap reads a snapshot as a model state.
func readSnap(v *Volume, name string) (modelState, error) {
	fs, end, err := v.OpenSnapshot(name)
	if err != nil {
		return modelState{}, err
	}
	defer end()
	return readTree(fs.(*snapView).Volume)
}

func checkSnaps(v *Volume, want map[string]modelState) error {
	infos, err := v.Snapshots()
	if err != nil {
		return err
	}
	var names []string
	for _, i := range infos {
		if !i.Deleting {
			names = append(names, i.Name)
		}
	}
	slices.Sort(names)
	if w := slices.Sorted(maps.Keys(want)); !slices.Equal(names, w) {
		return fmt.Errorf("there are snapshots %v, there should be %v", names, w)
	}
	for name, state := range want {
		got, err := readSnap(v, name)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		if !sameState(got, state) {
			return fmt.Errorf("snapshot %s: %s", name, diffState(got, state))
		}
	}
	return nil
}

func TestSnapshotModel(t *testing.T) {
	seed := *snapSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for i := range 2 * rounds {
		snapModel(t, seed+uint64(i), i%2 == 0, 250)
	}
}

// snapModelRun is one run of the model: a run of the crash model, and its snapshots.
type snapModelRun struct {
	*crashRun
	t     *testing.T
	seed  uint64
	dev   *device.Mem
	snaps map[string]modelState
	count int // of snapshots that were made
}

// snapModel runs the model once; single leaves out what shares data.
func snapModel(t *testing.T, seed uint64, single bool, steps int) {
	t.Logf("-snap.seed=%d, single %t", seed, single)
	rng := rand.New(rand.NewPCG(seed, 3))
	x := &snapModelRun{t: t, seed: seed, dev: device.NewMem(96 << 20), snaps: map[string]modelState{}}
	mustFormat(t, x.dev)
	x.crashRun = &crashRun{rng: rng, single: single, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	x.open()
	for range steps {
		x.step()
		if rng.IntN(8) == 0 {
			ok(t, x.v.WaitFreed())
			x.v.background.reaper.wait()
			_, err := x.v.WaitRotation(t.Context(), nil)
			ok(t, err)
			ok(t, x.v.Sync(vfs.RootIno))
			checkSpace(t, x.v)
			ok(t, checkSnaps(x.v, x.snaps))
			ok(t, cleanErr(x.dev.Clone()))
		}
	}
	for len(x.snaps) > 0 {
		name := x.pickSnapshot()
		ok(t, x.v.DeleteSnapshot(name))
		delete(x.snaps, name)
	}
	ok(t, x.v.WaitFreed())
	x.v.background.reaper.wait()
	ok(t, x.v.Sync(vfs.RootIno))
	if x.v.rot.target.Load() != 0 {
		endOf(t, x.v)
	}
	checkSpace(t, x.v)
	got, err := readTree(x.v)
	ok(t, err)
	if !sameState(got, x.state()) {
		t.Fatal(diffState(got, x.state()))
	}
	ok(t, x.v.Close())
	ok(t, cleanErr(x.dev))
}

func (x *snapModelRun) open() {
	x.t.Helper()
	x.v = mustOpen(x.t, x.dev, Options{CommitInterval: -1, Memory: minMemory})
	if x.seed%2 == 0 {
		x.v.snap.places.Store(4) // steps of which one frees little
	}
}

// pickSnapshot is the name of one, if there are any.
func (x *snapModelRun) pickSnapshot() string {
	names := slices.Sorted(maps.Keys(x.snaps))
	if len(names) == 0 {
		return ""
	}
	return names[x.rng.IntN(len(names))]
}

// step changes the snapshots, mounts the volume again, or makes a few operations.
func (x *snapModelRun) step() {
	t := x.t
	t.Helper()
	switch k := x.rng.IntN(100); {
	case k < 8:
		name := fmt.Sprint("s", x.count)
		x.count++
		_, err := x.v.CreateSnapshot(name)
		ok(t, err)
		x.snaps[name] = x.state()
	case k < 14:
		if name := x.pickSnapshot(); name != "" {
			ok(t, x.v.DeleteSnapshot(name))
			delete(x.snaps, name)
		}
	case k < 16:
		ok(t, x.v.Close())
		x.open()
	case k < 17:
		if x.v.RotationStatus().Phase == RotationNone {
			_, err := x.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
			ok(t, err)
		}
		_, err := x.v.WaitRotation(t.Context(), nil) // as a rule it waits for snapshots
		ok(t, err)
	case k < 19:
		if name := x.pickSnapshot(); name != "" {
			x.rollback(name)
		}
	default:
		for range 4 {
			ok(t, x.crashRun.step())
		}
	}
}

// rollback rolls back to a snapshot; younger ones go.
func (x *snapModelRun) rollback(name string) {
	x.t.Helper()
	ok(x.t, x.v.Rollback(name, true))
	x.states = append(x.states, x.snaps[name])
	for n := range x.snaps { // names are numbers
		if len(n) > len(name) || len(n) == len(name) && n > name {
			delete(x.snaps, n)
		}
	}
	x.open()
	ok(x.t, x.findInodes())
}
