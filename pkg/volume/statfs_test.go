package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestStatFSAgrees keeps a volume full with small writes, deletes and snapshots. Once
// everything is committed, df, a walk of all trees, and after the unmount info
// and fsck come to the same number of blocks in use.
func TestStatFSAgrees(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(4, 2))
	for round := range 4 {
		inos := fillWithSmall(t, v, rng, round)
		if round == 0 {
			for n := range inos { // room for it
				ok(t, v.Unlink(crashReq, vfs.RootIno, n))
				v.Forget(inos[n])
				delete(inos, n)
			}
			r, err := v.Mknod(crashReq, vfs.RootIno, "reserved", 0o644, 0)
			ok(t, err)
			ok(t, v.Fallocate(crashReq, r.Ino, 0, 0, 3<<20))
			_, err = v.Write(crashReq, r.Ino, 1<<20, make([]byte, 1<<20), false)
			ok(t, err)
		}
		if round == 2 {
			k := 0
			for n, ino := range inos {
				if k++; k%8 == 0 { // a snapshot owes what is reserved again
					ok(t, v.Unlink(crashReq, vfs.RootIno, n))
					v.Forget(ino)
					delete(inos, n)
				}
			}
			v.background.reaper.wait()
			_, err := v.CreateSnapshot("s")
			ok(t, err)
		}
		agree(t, v)
		for n, ino := range inos {
			ok(t, v.Unlink(crashReq, vfs.RootIno, n))
			v.Forget(ino)
		}
		v.background.reaper.wait()
		if round < 3 {
			agree(t, v)
		}
	}
	// What was deleted last is in the free lists of the last two commits.
	s := v.StatFS()
	used := s.Blocks - s.BlocksFree
	ok(t, v.Close())
	i, err := Inspect(dev, testCred(t), false)
	ok(t, err)
	rep := checkClean(t, dev)
	n := rep.Counts
	if got := uint64(i.DataBytes-i.FreeBytes) / layout.BlockBytes; got > used+64 || got+64 < used {
		t.Errorf("df says that %d blocks are in use, info %d", used, got)
	}
	if got := n.UsedBlocks + n.ReservedBlocks - v.dataStart; got > used+64 || got+64 < used {
		t.Errorf("df says that %d blocks are in use, fsck %d, %d of them reserved, %d in the free lists", used, got, n.ReservedBlocks, n.FreedBlocks)
	}
}

// fillWithSmall makes files of one write each, until nothing fits any more.
func fillWithSmall(t *testing.T, v *Volume, rng *rand.Rand, round int) map[string]vfs.Ino {
	t.Helper()
	inos := map[string]vfs.Ino{}
	for i := range 3000 {
		n := fmt.Sprintf("f%d.%d", round, i)
		a, err := v.Mknod(crashReq, vfs.RootIno, n, 0o644, 0)
		if err == nil {
			inos[n] = a.Ino
			_, err = v.Write(crashReq, a.Ino, rng.Uint64N(100_000), make([]byte, 1+rng.IntN(100_000)), false)
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			break
		}
		ok(t, err)
		if i%50 == 0 {
			ok(t, v.Sync(a.Ino))
		}
	}
	return inos
}

// agree settles a volume and compares df with what the trees reach.
func agree(t *testing.T, v *Volume) (used uint64) {
	t.Helper()
	v.background.reaper.wait()
	ok(t, v.Sync(vfs.RootIno))
	checkSpace(t, v) // the root with the trees
	v.durable.mu.Lock()
	root := *v.durable.root
	v.durable.mu.Unlock()
	want := root.DeviceBlocks - root.DataStart() - root.FreeBlocks + root.Reserved.Owed
	for i := range root.FreeLists {
		want -= root.FreeLists[i].Blocks
	}
	s := v.StatFS()
	if used = s.Blocks - s.BlocksFree; used != want {
		free, _, waiting := v.space.Counts()
		t.Fatalf("df says that %d blocks are in use, the trees and what is reserved take %d; free %d, waiting %d", used, want, free, waiting)
	}
	return used
}
