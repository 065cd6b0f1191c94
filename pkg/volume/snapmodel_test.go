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

// snapModel runs the model once; single leaves out what shares data.
func snapModel(t *testing.T, seed uint64, single bool, steps int) {
	t.Logf("-snap.seed=%d, single %t", seed, single)
	rng := rand.New(rand.NewPCG(seed, 3))
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	opts := Options{CommitInterval: -1, Memory: minMemory}
	r := &crashRun{rng: rng, single: single, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	open := func() *Volume {
		v := mustOpen(t, dev, opts)
		if seed%2 == 0 {
			v.snap.places.Store(4) // steps of which one frees little
		}
		return v
	}
	r.v = open()
	snaps := map[string]modelState{}
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pick := func() string {
		names := slices.Sorted(maps.Keys(snaps))
		if len(names) == 0 {
			return ""
		}
		return names[rng.IntN(len(names))]
	}
	made := 0
	for range steps {
		switch k := rng.IntN(100); {
		case k < 8:
			name := fmt.Sprint("s", made)
			made++
			_, err := r.v.CreateSnapshot(name)
			no(err)
			snaps[name] = r.state()
		case k < 14:
			if name := pick(); name != "" {
				no(r.v.DeleteSnapshot(name))
				delete(snaps, name)
			}
		case k < 16:
			no(r.v.Close())
			r.v = open()
		case k < 17:
			if r.v.RotationStatus().Phase == RotationNone {
				_, err := r.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
				no(err)
			}
			_, err := r.v.WaitRotation(t.Context(), nil) // as a rule it waits for snapshots
			no(err)
		case k < 19:
			if name := pick(); name != "" {
				no(r.v.Rollback(name, true))
				r.states = append(r.states, snaps[name])
				for n := range snaps { // names are numbers
					if len(n) > len(name) || len(n) == len(name) && n > name {
						delete(snaps, n)
					}
				}
				r.v = open()
				no(r.findInodes())
			}
		default:
			for range 4 {
				no(r.step())
			}
		}
		if rng.IntN(8) == 0 {
			no(r.v.WaitFreed())
			r.v.background.reaper.wait()
			_, err := r.v.WaitRotation(t.Context(), nil)
			no(err)
			no(r.v.Sync(vfs.RootIno))
			checkSpace(t, r.v)
			no(checkSnaps(r.v, snaps))
			no(cleanErr(dev.Clone()))
		}
	}
	for len(snaps) > 0 {
		name := pick()
		no(r.v.DeleteSnapshot(name))
		delete(snaps, name)
	}
	no(r.v.WaitFreed())
	r.v.background.reaper.wait()
	no(r.v.Sync(vfs.RootIno))
	if r.v.rot.target.Load() != 0 {
		endOf(t, r.v)
	}
	checkSpace(t, r.v)
	got, err := readTree(r.v)
	no(err)
	if !sameState(got, r.state()) {
		t.Fatal(diffState(got, r.state()))
	}
	no(r.v.Close())
	no(cleanErr(dev))
}
