package volume

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// alone keeps the background from looking at what reserved ranges have: the test does.
func (r *reserved) alone() {
	r.v.snap.mu.Lock()
	defer r.v.snap.mu.Unlock()
	r.v.snap.restampFailed = true
}

// A snapshot is deleted while a pass is in progress that has left alone what it held:
// that still counts as owed, until the next pass, which there is.
func TestRestampSnapshotGoes(t *testing.T) {
	for _, gone := range []string{"b", "c"} { // c is the newest; else it is deleted before
		for at := range 3 {
			t.Run(fmt.Sprintf("%s before step %d", gone, at), func(t *testing.T) {
				const length = 1 << 20
				r := newReserved(t, 96<<20)
				r.alone()
				ino := r.file("reserved")
				ok(t, r.v.Fallocate(crashReq, ino, vfs.FallocKeepSize, 0, length))
				for i, name := range []string{"a", "b", "c"} {
					r.write(ino, uint64(i)*65536, 65536)
					_, err := r.v.CreateSnapshot(name)
					ok(t, err)
				}
				if gone != "c" {
					ok(t, r.v.DeleteSnapshot("c"))
				}
				steps := 0
				ok(t, r.v.ranges.restamp(func() bool {
					if steps == at {
						ok(t, r.v.DeleteSnapshot(gone))
					}
					steps++
					return false
				}))
				if steps != 3 {
					t.Fatalf("%d steps", steps)
				}
				ok(t, r.v.WaitFreed())
				for n := 0; r.v.ranges.mayRestamp() && n < 5; n++ {
					ok(t, r.v.ranges.restamp(func() bool { return false }))
				}
				want := uint64(length/pageBytes - 16) // what no snapshot holds any more is not
				if gone == "b" {
					want -= 16
				}
				if x := r.v.ranges.stored(); x.Owed != want {
					t.Errorf("%+v, want %d owed", x, want)
				}
				r.reopen()
				ok(t, r.v.Close())
			})
		}
	}
}

// Snapshots are deleted one by one: each time there is something to look at.
func TestRestampEachSnapshot(t *testing.T) {
	const length = 1 << 20
	r := newReserved(t, 96<<20)
	r.alone()
	ino := r.file("reserved")
	ok(t, r.v.Fallocate(crashReq, ino, vfs.FallocKeepSize, 0, length))
	names := []string{"a", "b", "c"}
	for i, name := range names {
		r.write(ino, uint64(i)*length/4, length/4)
		_, err := r.v.CreateSnapshot(name)
		ok(t, err)
	}
	ok(t, r.v.ranges.restamp(func() bool { return false })) // finds nothing
	for i := len(names) - 1; i >= 0; i-- {
		ok(t, r.v.DeleteSnapshot(names[i]))
		if !r.v.ranges.mayRestamp() {
			t.Errorf("after snapshot %s was deleted nobody would look: %+v", names[i], r.v.ranges.stored())
		}
		ok(t, r.v.ranges.restamp(func() bool { return false }))
		if r.v.ranges.mayRestamp() {
			t.Errorf("after snapshot %s was deleted passes do not end: %+v", names[i], r.v.ranges.stored())
		}
	}
	if n := r.v.ranges.owed.Load(); n != length/4/pageBytes {
		t.Errorf("%d blocks are owed, %d are not written yet", n, length/4/pageBytes)
	}
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// A copy begins of what is owed for nothing any more: it takes no room for that. What
// others find meanwhile is not the room that it counts on.
func TestReserveShareCounted(t *testing.T) {
	const length = 24 << 20 // more than the reserve of the volume
	r := newReserved(t, 128<<20)
	ino, first, second := r.file("reserved"), r.file("first"), r.file("second")
	ok(t, r.v.Fallocate(crashReq, ino, 0, 0, length))
	r.write(ino, 0, length)
	_, err := r.v.CopyRange(crashReq, ino, 0, first, 0, length)
	ok(t, err)
	r.remove("first")
	r.v.background.reaper.wait()
	ok(t, r.v.Sync(vfs.RootIno))
	src, dst, unlock, err := r.v.lockPair(ino, second)
	ok(t, err)
	giveBack, err := r.v.ranges.roomToShare(src, dst, 0, 0, length)
	ok(t, err)
	for err = nil; err == nil; r.end += 1 << 20 {
		_, err = r.v.Write(crashReq, r.fill, r.end, make([]byte, 1<<20), false)
	}
	if !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal(err)
	}
	r.end -= 1 << 20
	err = r.v.perform(&layout.Op{Type: layout.OpCopyRange, Ino: dst.ino, Parent2: src.ino, Len: length, Time: vfs.Now()})
	giveBack()
	unlock()
	ok(t, err)
	r.full()
	r.overwrite(ino, 0, length, 1<<20)
	r.overwrite(ino, 0, length, 1<<20)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// A file of many extents is reserved in pieces, on volumes with a little more room each
// time: the call fails as a whole, or finds room for all of them.
func TestReservePieces(t *testing.T) {
	const blocks, spares = 3000, 40
	r := newReserved(t, 96<<20)
	ino := r.file("reserved")
	for i := range uint64(blocks) {
		r.write(ino, 2*i*pageBytes, pageBytes)
	}
	for i := range spares {
		r.write(r.file(fmt.Sprint("spare", i)), 0, 1<<20)
	}
	var err error
	for ; err == nil; r.end += 1 << 16 {
		_, err = r.v.Write(crashReq, r.fill, r.end, make([]byte, 1<<16), false)
	}
	for i := range spares {
		err = r.v.Fallocate(crashReq, ino, vfs.FallocKeepSize, 0, 2*blocks*pageBytes)
		if err == nil {
			break
		}
		if n := r.v.ranges.promised.Load(); !errors.Is(err, vfs.ErrNoSpace) || n > 0 {
			t.Fatalf("%v, and %d blocks are reserved", err, n)
		}
		r.remove(fmt.Sprint("spare", i))
		r.v.background.reaper.wait()
		ok(t, r.v.Sync(vfs.RootIno))
	}
	ok(t, err)
	if x := r.v.ranges.stored(); x.Promised != 2*blocks || x.Owed != blocks {
		t.Errorf("%+v", x)
	}
	if n := r.v.adm.granted.hold; n != 0 {
		t.Errorf("%d blocks stay set aside", n)
	}
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}
