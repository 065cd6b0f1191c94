package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestShareTree adds and drops references of runs around the border of two
// regions, against an array. The tree must have the one form that the counts
// have, the regions their numbers, and what has no reference left must be free.
func TestShareTree(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 5))
		v := mustOpen(t, newDev(t, 300<<20), Options{CommitInterval: -1, Memory: minMemory})
		const n, base = 600, layout.RegionBlocks - 300
		var refs [n]int
		free := func() int64 {
			f, _, waiting := v.space.Counts()
			return f + waiting
		}
		ok(t, v.space.Claim(layout.Run{Start: base, Count: n}))
		for i := range refs {
			refs[i] = 1
		}
		for step := range 3000 {
			a := rng.IntN(n)
			run := layout.Run{Start: base + uint64(a), Count: uint32(1 + rng.IntN(min(n-a, 1+rng.IntN(200))))}
			d := 1
			if rng.IntN(2) == 0 {
				d = -1
			}
			gone := int64(0)
			for i := a; i < a+int(run.Count); i++ {
				if refs[i] == 0 { // nobody adds to or drops from what is free
					run.Count = uint32(i - a)
					break
				}
			}
			if run.Count == 0 {
				continue
			}
			for i := a; i < a+int(run.Count); i++ {
				if refs[i] += d; refs[i] == 0 {
					gone++
				}
			}
			before := free()
			most, err := v.shares.Most(run)
			ok(t, err)
			ok(t, v.fs.Update(func(*tree.Writer) error {
				if d > 0 {
					return v.shares.Add(run)
				}
				return v.shares.Drop(run)
			}))
			if now := free(); now != before+gone {
				t.Fatalf("step %d: %d blocks are free, %d before, %d lost their last reference", step, now, before, gone)
			}
			want := 0
			for i := a; i < a+int(run.Count); i++ {
				want = max(want, refs[i]-d-1)
			}
			if int(most) != want {
				t.Fatalf("step %d: Most says %d, want %d", step, most, want)
			}
			checkSharing(t, v, base, refs[:])
		}
		ok(t, v.com.commitAll())
		checkSharing(t, v, base, refs[:])
		v.fail(errors.New("the end")) // files do not have these blocks
		if v.Close() == nil {
			t.Fatal("close of a failed volume")
		}
	}
}

// checkSharing compares the reference-count tree with counts of references.
func checkSharing(t *testing.T, v *Volume, base uint64, refs []int) {
	t.Helper()
	var want []items.Sharing
	shared := map[uint64]int{}
	for i, n := range refs {
		s := base + uint64(i)
		if n < 2 {
			continue
		}
		shared[s/layout.RegionBlocks]++
		if k := len(want); k > 0 && want[k-1].End == s && want[k-1].Extra == uint32(n-1) && s%layout.RegionBlocks != 0 {
			want[k-1].End++
			continue
		}
		want = append(want, items.Sharing{Start: s, End: s + 1, Extra: uint32(n - 1)})
	}
	i := 0
	ok(t, v.shares.Tree.Scan(layout.Key{}, layout.Key{Obj: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		s, err := items.GetSharing(k, val)
		if err != nil || i >= len(want) || s != want[i] {
			t.Errorf("item %d is %+v, %v; want %+v", i, s, err, want[min(i, len(want)-1)])
			return false
		}
		i++
		return true
	}))
	if i != len(want) {
		t.Fatalf("%d items, want %d", i, len(want))
	}
	for r := range uint64(2) {
		if n, err := v.space.Shared(base/layout.RegionBlocks + r); err != nil || n != shared[base/layout.RegionBlocks+r] {
			t.Fatalf("region %d has %d shared blocks, %v; want %d", base/layout.RegionBlocks+r, n, err, shared[base/layout.RegionBlocks+r])
		}
	}
	if h := v.shares.Height(); h == 0 != (len(want) == 0) {
		t.Fatalf("height %d with %d items", h, len(want))
	}
}

// Data with very many references is copied.
func TestManyShares(t *testing.T) {
	v := mustOpen(t, newDev(t, 128<<20), Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "a", 0o644, 0)
	ok(t, err)
	_, err = v.Write(crashReq, a.Ino, 0, make([]byte, 64<<10), false)
	ok(t, err)
	clone := func(name string) {
		b, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		if n, err := v.CopyRange(crashReq, a.Ino, 0, b.Ino, 0, 64<<10); n != 64<<10 || err != nil {
			t.Fatal(n, err)
		}
		ok(t, v.Sync(vfs.RootIno))
	}
	clone("b")
	if n := len(dataBlocks(t, v)); n != 16 {
		t.Fatalf("%d blocks", n)
	}
	ok(t, v.shares.Tree.Update(func(w *tree.Writer) error {
		var keys []layout.Key
		ok(t, w.Scan(layout.Key{}, layout.Key{Obj: 1}, func(k layout.Key, _ []byte) bool { keys = append(keys, k); return true }))
		return w.Put(keys[0], layout.Share{Count: 16, Extra: shares.MaxExtra + 1}.Append(nil))
	}))
	clone("c")
	if n := len(dataBlocks(t, v)); n != 32 {
		t.Fatalf("%d blocks: what has very many references is shared once more", n)
	}
	ok(t, v.Close())
}

// A volume full of shared data, whose counts are in pieces: it can be synced, and
// everything can be deleted, in any order, although that changes counts.
func TestFullShared(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	before := v.StatFS()
	rng := rand.New(rand.NewPCG(5, 6))
	data := noise(rng, 1<<20)
	const clones, size, filler = 8, 16 << 20, 34 << 20
	var inos []vfs.Ino
	for i := range clones {
		a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint(i), 0o644, 0)
		ok(t, err)
		inos = append(inos, a.Ino)
		for off := uint64(0); i == 0 && off < size; off += 1 << 20 {
			_, err := v.Write(crashReq, a.Ino, off, data, false)
			ok(t, err)
		}
		if n, err := v.CopyRange(crashReq, inos[0], 0, a.Ino, 0, size); i > 0 && (n != size || err != nil) {
			t.Fatal(n, err)
		}
	}
	a, err := v.Mknod(crashReq, vfs.RootIno, "filler", 0o644, 0)
	ok(t, err)
	for off := uint64(0); off < filler; off += 1 << 20 {
		_, err := v.Write(crashReq, a.Ino, off, data, false)
		ok(t, err)
	}
	fillBySectors(t, v, inos, size, data[:pageBytes], rng)
	ok(t, v.Sync(vfs.RootIno))
	if h := v.shares.Height(); h < 2 {
		t.Fatalf("height %d: the counts are not in pieces", h)
	}
	checkClean(t, dev.Clone())
	for i, ino := range inos {
		switch i % 3 { // all ways to give space back
		case 0:
			zero := uint64(0)
			_, err := v.SetAttr(crashReq, ino, &vfs.SetAttr{Size: &zero})
			ok(t, err)
		case 1:
			for off := uint64(0); off < size; off += 3 << 20 {
				ok(t, v.Fallocate(crashReq, ino, vfs.FallocPunchHole|vfs.FallocKeepSize, off, 3<<20))
			}
		}
		ok(t, v.Unlink(crashReq, vfs.RootIno, fmt.Sprint(i)))
		v.Forget(ino)
		v.background.reaper.wait()
	}
	ok(t, v.Unlink(crashReq, vfs.RootIno, "filler"))
	v.Forget(a.Ino)
	v.background.reaper.wait()
	for range 3 {
		ok(t, v.com.since(v.com.commits.Load()))
	}
	if after := v.StatFS(); after.BlocksAvail < before.BlocksAvail*98/100 || v.shares.Height() != 0 {
		t.Errorf("%d blocks available, %d before; height %d", after.BlocksAvail, before.BlocksAvail, v.shares.Height())
	}
	ok(t, v.Close())
	checkClean(t, dev)
}

// fillBySectors overwrites single blocks of files until nothing fits any more.
func fillBySectors(t *testing.T, v *Volume, inos []vfs.Ino, size uint64, b []byte, rng *rand.Rand) {
	t.Helper()
	for i := 0; ; i++ {
		_, err := v.Write(crashReq, inos[rng.IntN(len(inos))], rng.Uint64N(size/pageBytes)*pageBytes, b, false)
		if errors.Is(err, vfs.ErrNoSpace) {
			return
		}
		ok(t, err)
		if i%500 == 0 {
			ok(t, v.Sync(inos[0]))
		}
		if i > 1<<20 {
			t.Fatal("never full")
		}
	}
}

// A sync logs a copy, but commits where the log would have a read-only mount
// hold much of what it shares.
func TestSyncOfCopies(t *testing.T) {
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	a, err := v.Mknod(crashReq, vfs.RootIno, "a", 0o644, 0)
	ok(t, err)
	const size = maxLogCopies*pageBytes + 4<<20 // less than half a ring, which would be committed
	data := noise(rand.New(rand.NewPCG(1, 2)), 1<<20)
	for off := uint64(0); off < size; off += 1 << 20 {
		_, err := v.Write(crashReq, a.Ino, off, data, false)
		ok(t, err)
	}
	clone := func(name string, n uint64) (commits uint64) {
		t.Helper()
		b, err := v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		before := v.com.commits.Load()
		if done, err := v.CopyRange(crashReq, a.Ino, 0, b.Ino, 0, n); err != nil || done != n {
			t.Fatal(done, err)
		}
		ok(t, v.Sync(b.Ino))
		return v.com.commits.Load() - before
	}
	ok(t, v.Sync(a.Ino))
	if n := clone("small", 1<<20); n != 0 {
		t.Errorf("%d commits for a small copy", n)
	}
	if n := clone("large", size); n == 0 {
		t.Error("no commit for a large copy of what no root has")
	}
	if n := clone("again", size); n != 0 {
		t.Errorf("%d commits for a copy of what a root has", n)
	}
	img := dev.Clone()
	v.fail(device.ErrCrashed)
	if v.Close() == nil {
		t.Fatal("close of a failed volume")
	}
	for _, readOnly := range []bool{true, false} {
		v := mustOpen(t, img, Options{ReadOnly: readOnly, CommitInterval: -1})
		for _, name := range []string{"small", "large", "again"} {
			b, err := v.Lookup(vfs.RootIno, name)
			ok(t, err)
			got := make([]byte, 1<<20)
			for off := uint64(0); off < b.Size; off += 1 << 20 {
				if n, err := v.Read(b.Ino, off, got); n != 1<<20 || err != nil || string(got) != string(data) {
					t.Fatalf("%s at %d: %d, %v, or other data", name, off, n, err)
				}
			}
		}
		if n := len(dataBlocks(t, v)); n != size/pageBytes {
			t.Errorf("read-only %v: data takes %d blocks of %d", readOnly, n, size/pageBytes)
		}
		ok(t, v.Close())
	}
	checkClean(t, img)
}

// Copies both ways between the same files, with writes, holes and cuts of them
// at the same time: nobody waits for ever, and the counts are right.
func TestConcurrentCopies(t *testing.T) {
	watch := time.AfterFunc(5*time.Minute, func() { panic("copies: hang") })
	defer watch.Stop()
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: time.Millisecond, Memory: minMemory})
	tighten(v)
	var inos []vfs.Ino
	for i := range 4 {
		a, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint(i), 0o644, 0)
		ok(t, err)
		inos = append(inos, a.Ino)
	}
	ops := 600
	if testing.Short() {
		ops = 100
	}
	var wg sync.WaitGroup
	for w := range uint64(6) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(w, 8))
			data := noise(rng, 100_000)
			for range ops {
				a, b := inos[rng.IntN(len(inos))], inos[rng.IntN(len(inos))]
				off := rng.Uint64N(200) * pageBytes
				var err error
				switch rng.IntN(6) {
				case 0, 1:
					_, err = v.Write(crashReq, a, off+rng.Uint64N(pageBytes), data[:rng.IntN(len(data))], false)
				case 2:
					err = v.Fallocate(crashReq, a, vfs.FallocPunchHole|vfs.FallocKeepSize, off, 1+rng.Uint64N(100_000))
				case 3:
					_, err = v.SetAttr(crashReq, a, &vfs.SetAttr{Size: &off})
				default:
					_, err = v.CopyRange(crashReq, a, off, b, rng.Uint64N(200)*pageBytes, rng.Uint64N(500_000))
				}
				if err != nil && !errors.Is(err, vfs.ErrInvalid) {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	ok(t, v.Close())
	checkClean(t, dev)
}

// A rotation of the data key rewrites what files share, for each of them; what
// is shared while it walks is found, wherever it is put.
func TestRotateShared(t *testing.T) {
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	data := noise(rand.New(rand.NewPCG(3, 3)), 300_000)
	var inos []vfs.Ino
	mk := func(name string) vfs.Ino {
		a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o600, 0)
		ok(t, err)
		inos = append(inos, a.Ino)
		return a.Ino
	}
	clone := func(from, to vfs.Ino) {
		t.Helper()
		if n, err := v.CopyRange(crashReq, from, 0, to, 0, 1<<20); err != nil || n != uint64(len(data)) {
			t.Fatal(n, err)
		}
	}
	early, a, b := mk("early"), mk("a"), mk("b")
	_, err := v.Write(crashReq, a, 0, data, false)
	ok(t, err)
	clone(a, b)
	ok(t, v.Sync(vfs.RootIno))
	stop := blockRotation(v)
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	clone(b, early) // old data, where the walk comes first
	if !v.rot.current().Again {
		t.Error("a copy of old data went unnoticed")
	}
	stop()
	if s := rotated(t, v); s.Phase != RotationNone || len(s.Epochs) != 1 {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
	v = mustOpen(t, dev, Options{ReadOnly: true})
	for _, ino := range inos {
		got := make([]byte, len(data))
		if n, err := v.Read(ino, 0, got); n != len(data) || err != nil || !bytes.Equal(got, data) {
			t.Fatalf("inode %d: %d, %v, or other data", ino, n, err)
		}
	}
	mustClose(t, v)
}
