package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func TestSnapshotSmoke(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	write := func(n int) {
		t.Helper()
		if _, err := v.Write(crashReq, a.Ino, 0, bytes.Repeat([]byte{byte(n)}, 300_000), false); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		write(i)
		if _, err := v.CreateSnapshot(fmt.Sprint("s", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := v.CreateSnapshot(fmt.Sprint("s", i)); !errors.Is(err, ErrSnapshotExists) {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
	}
	write(9)
	for _, n := range []string{"s2", "s4", "s0", "s1", "s3"} {
		infos, err := v.Snapshots()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", infos)
		if err := v.DeleteSnapshot(n); err != nil {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
		if err := v.WaitFreed(); err != nil {
			t.Fatal(err)
		}
		checkNow(t, v, dev)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev); err != nil {
		t.Fatal(err)
	}
}

// checkNow runs fsck on the newest root of a volume in use.
func checkNow(t testing.TB, v *Volume, dev *device.Mem) {
	t.Helper()
	if err := v.Sync(vfs.RootIno); err != nil {
		t.Fatal(err)
	}
	if err := cleanErr(dev.Clone()); err != nil {
		t.Fatal(err)
	}
}

// snapshotFull is a volume that is full, and its files.
type snapshotFull struct {
	t     *testing.T
	v     *Volume
	buf   []byte
	files []vfs.Ino
}

// fill writes a new file until nothing fits any more, and returns its size.
func (x *snapshotFull) fill() (n int) {
	x.t.Helper()
	a, err := x.v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("f", len(x.files)), 0o644, 0)
	if errors.Is(err, vfs.ErrNoSpace) {
		return 0
	}
	ok(x.t, err)
	x.files = append(x.files, a.Ino)
	for {
		m, err := x.v.Write(crashReq, a.Ino, uint64(n), x.buf, false)
		if errors.Is(err, vfs.ErrNoSpace) {
			return n
		}
		ok(x.t, err)
		n += m
	}
}

// overwrite writes single blocks of the first file, where there is room for them.
func (x *snapshotFull) overwrite(size uint64, rng *rand.Rand) {
	x.t.Helper()
	for i := range 4000 {
		_, err := x.v.Write(crashReq, x.files[0], rng.Uint64N(size/4096)*4096, x.buf[:4096], false)
		if err != nil && !errors.Is(err, vfs.ErrNoSpace) {
			x.t.Fatal(err)
		}
		if i%500 == 0 {
			ok(x.t, x.v.Sync(vfs.RootIno))
		}
	}
}

// TestSnapshotFull fills a volume of which a snapshot holds everything: files can
// be deleted, which frees nothing, and the snapshot, which frees all.
func TestSnapshotFull(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	x := &snapshotFull{t: t, v: v, buf: make([]byte, maxWrite)}
	spare, err := v.Mknod(crashReq, vfs.RootIno, "spare", 0o644, 0)
	ok(t, err)
	for i := range 4 {
		_, err := v.Write(crashReq, spare.Ino, uint64(i)*maxWrite, x.buf, false)
		ok(t, err)
	}
	first := x.fill()
	x.overwrite(uint64(first), rand.New(rand.NewPCG(2, 2)))
	if first < 40<<20 {
		t.Fatalf("full with %d bytes", first)
	}
	free := v.StatFS().BlocksFree
	// There is room for a snapshot as soon as there is for anything.
	size := uint64(first)
	ok(t, v.Unlink(crashReq, vfs.RootIno, "spare"))
	v.Forget(spare.Ino)
	v.background.reaper.wait()
	_, err = v.CreateSnapshot("all")
	ok(t, err)
	x.fill()
	x.overwrite(size, rand.New(rand.NewPCG(1, 1))) // what is free becomes single blocks
	for i := range 200 {                           // inodes change, and take space
		mode := uint32(0o600 + i%8)
		if _, err := v.SetAttr(crashReq, x.files[i%len(x.files)], &vfs.SetAttr{Mode: &mode}); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	x.deleteFiles(size)
	if n := x.fill(); n > first/2 {
		t.Fatalf("%d bytes fit beside the snapshot", n)
	}
	x.deleteSnapshot()
	if now := v.StatFS().BlocksFree; now < free+uint64(first)/4096-200 {
		t.Fatalf("%d blocks are free, %d were when it was full with %d bytes", now, free, first)
	}
	checkSpace(t, v)
	ok(t, v.Close())
	checkClean(t, dev)
}

// deleteFiles deletes all files. What they had is the snapshot's alone then.
func (x *snapshotFull) deleteFiles(size uint64) {
	t, v := x.t, x.v
	t.Helper()
	for i, ino := range x.files {
		ok(t, v.Unlink(crashReq, vfs.RootIno, fmt.Sprint("f", i)))
		v.Forget(ino)
	}
	v.background.reaper.wait()
	ok(t, v.Sync(vfs.RootIno))
	infos, err := v.Snapshots()
	ok(t, err)
	if infos[0].UniqueBytes < int64(size) {
		t.Fatalf("%d bytes are the snapshot's alone, %d were deleted", infos[0].UniqueBytes, size)
	}
}

// deleteSnapshot deletes the snapshot and the last file, and has all of it freed.
func (x *snapshotFull) deleteSnapshot() {
	t, v := x.t, x.v
	t.Helper()
	ok(t, v.DeleteSnapshot("all"))
	ok(t, v.WaitFreed())
	last := len(x.files) - 1
	ok(t, v.Unlink(crashReq, vfs.RootIno, fmt.Sprint("f", last)))
	v.Forget(x.files[last])
	v.background.reaper.wait()
	for range 3 {
		ok(t, v.Sync(vfs.RootIno))
	}
}

// A step that frees what snapshots held asks for less than half of the smallest
// reserve, which is there on a full volume, however high the reference-count tree is.
func TestFreeBudget(t *testing.T) {
	v := mustOpen(t, newDev(t, 80<<20), Options{CommitInterval: -1, Memory: minMemory})
	defer mustClose(t, v)
	v.snap.newest.Store(1)
	defer v.snap.newest.Store(0)
	own := v.shares
	defer func() { v.shares = own }()
	for height := range 8 {
		v.shares = shares.New(own.Tree, v.space, height, func() {})
		runs, pages := v.snap.freeBudget()
		v.adm.mu.Lock()
		meta := v.adm.meta(reservation{nodes: freeNodes + pages})
		v.adm.mu.Unlock()
		if runs < 4 || meta > v.adm.reserveSlots/2 {
			t.Errorf("height %d: %d runs, %d groups of %d in reserve", height, runs, meta, v.adm.reserveSlots)
		}
	}
}

// A snapshot costs the same however much there is, and snapshots do not make
// writes dearer: counted in bytes, which nothing else on the machine changes.
func TestSnapshotCost(t *testing.T) {
	many := 1000
	if testing.Short() {
		many = 100
	}
	var made, written []int64
	for _, c := range []struct {
		size      uint64
		snapshots int
	}{{4 << 20, 0}, {64 << 20, 0}, {64 << 20, many}} {
		r := newSnapshotBench(t, c.size, c.snapshots)
		total := int64(0)
		for range 6 {
			_, n := r.turn(t, 2500)
			total += n
		}
		before := r.dev.since(ioCounts{})
		_, err := r.v.CreateSnapshot("costs")
		ok(t, err)
		made, written = append(made, r.dev.since(before).written), append(written, total)
		mustClose(t, r.v)
	}
	t.Logf("a snapshot: %v bytes; writes: %v bytes", made, written)
	if written[2]*100 > written[1]*110 {
		t.Errorf("with %d snapshots writes took %d bytes, without %d", many, written[2], written[1])
	}
	for _, n := range made {
		if n > made[0]+64<<10 {
			t.Errorf("a snapshot of much took %d bytes, of little %d", n, made[0])
		}
	}
}

// What a rollback left is freed a part of a leaf at a time once data is shared: the
// volume is whole after each of these steps, also if power goes.
func TestFreePartOfLeaf(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.CreateSnapshot("s")
	ok(t, err)
	const size, clones = 8 << 20, 40
	first := writeFile(t, v, "first", noise(rand.New(rand.NewPCG(1, 2)), size))
	for i := range clones {
		share(t, v, first, 0, writeFile(t, v, fmt.Sprint(i), nil), 0, size)
	}
	ok(t, v.Rollback("s", true))
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory, idle: true})
	v.snap.places.Store(4)
	f, left := &freer{v: v}, v.snap.abandoned
	within := 0 // steps that ended in the middle of a leaf
	for step, done := 0, false; !done; step++ {
		done, err = v.snap.freeStep(f, nil, left)
		ok(t, err)
		if done || step%40 != 39 || left.Next.Type != layout.KeyExtent || left.Next.Sub == 0 {
			continue
		}
		within++
		ok(t, v.com.commitAll())
		img := dev.Clone()
		ok(t, cleanErr(img))
		again := mustOpen(t, img, Options{CommitInterval: -1, Memory: minMemory}) // goes on from there
		ok(t, again.WaitFreed())
		mustClose(t, again)
		ok(t, cleanErr(img))
	}
	if within < 5 {
		t.Errorf("%d steps ended in the middle of a leaf", within)
	}
	v.snap.mu.Lock()
	v.snap.abandoned = nil
	v.snap.mu.Unlock()
	v.snap.startReaper()
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// TestDropDuringDeletion drops what the newest snapshot held while that is being
// deleted: who drops saw the snapshot, and then has to wait for the deletion. An
// older snapshot is the newest then, and does not hold it.
func TestDropDuringDeletion(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.CreateSnapshot("base")
	ok(t, err)
	a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(t, err)
	_, err = v.Write(crashReq, a.Ino, 0, make([]byte, 100_000), false)
	ok(t, err)
	last, err := v.CreateSnapshot("last")
	ok(t, err)
	ok(t, v.DeleteSnapshot("last"))
	ok(t, v.WaitFreed())
	seen := v.snap.newest.Swap(last.Generation)
	size := uint64(0)
	_, err = v.SetAttr(crashReq, a.Ino, &vfs.SetAttr{Size: &size})
	ok(t, err)
	v.snap.newest.Store(seen)
	checkNow(t, v, dev)
	checkSpace(t, v)
	ok(t, v.Close())
	checkClean(t, dev)
}

// TestOpenDuringDeletion opens a snapshot that a deletion has looked at and not
// deleted yet: it is one or the other, open or deleted.
func TestOpenDuringDeletion(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	_, err := v.CreateSnapshot("s")
	ok(t, err)
	v.gate.Lock()
	done := make(chan error)
	go func() { done <- v.DeleteSnapshot("s") }()
	for admitted := false; !admitted; { // and waits for the gate
		v.adm.mu.Lock()
		admitted = v.adm.granted.nodes > 0
		v.adm.mu.Unlock()
	}
	_, _, err = v.OpenSnapshot("s")
	v.gate.Unlock()
	ok(t, <-done)
	if !errors.Is(err, ErrNoSnapshot) {
		t.Fatalf("opened while it is being deleted: %v", err)
	}
	ok(t, v.Close())
	checkClean(t, dev)
}
