package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// reserved is a volume with files that have reserved ranges, and a file that takes
// whatever else there is.
type reserved struct {
	t    *testing.T
	dev  *device.Mem
	v    *Volume
	fill vfs.Ino
	end  uint64 // of fill
	n    byte
}

func newReserved(t *testing.T, sizeBytes int64) *reserved {
	t.Helper()
	r := &reserved{t: t, dev: device.NewMem(sizeBytes)}
	mustFormat(t, r.dev)
	r.open()
	r.fill = r.file("fill")
	return r
}

func (r *reserved) open() {
	r.t.Helper()
	r.v = mustOpen(r.t, r.dev, Options{CommitInterval: -1, Memory: minMemory})
}

func (r *reserved) reopen() {
	r.t.Helper()
	ok(r.t, r.v.Close())
	checkClean(r.t, r.dev)
	r.open()
}

// crash continues from what was durable.
func (r *reserved) crash() {
	r.t.Helper()
	img := r.dev.Clone()
	r.v.fail(device.ErrCrashed)
	if r.v.Close() == nil {
		r.t.Fatal("close after the crash: no error")
	}
	r.dev = img
	r.open()
}

func (r *reserved) file(name string) vfs.Ino {
	r.t.Helper()
	a, err := r.v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
	ok(r.t, err)
	return a.Ino
}

func (r *reserved) write(ino vfs.Ino, off, length uint64) {
	r.t.Helper()
	for end := off + length; off < end; off += 1 << 20 {
		_, err := r.v.Write(crashReq, ino, off, bytes.Repeat([]byte{3}, int(min(end-off, 1<<20))), false)
		ok(r.t, err)
	}
}

func (r *reserved) remove(name string) {
	r.t.Helper()
	a, err := r.v.Lookup(vfs.RootIno, name)
	ok(r.t, err)
	ok(r.t, r.v.Unlink(crashReq, vfs.RootIno, name))
	r.v.Forget(a.Ino)
}

// full fills the volume to the last block that anybody may have.
func (r *reserved) full() {
	r.t.Helper()
	for n := uint64(1 << 20); n >= 1; n /= 4 {
		for {
			_, err := r.v.Write(crashReq, r.fill, r.end, bytes.Repeat([]byte{7}, int(n)), false)
			if errors.Is(err, vfs.ErrNoSpace) {
				break
			}
			ok(r.t, err)
			r.end += n
		}
	}
	for i := 0; ; i++ { // names take metadata
		_, err := r.v.Mknod(crashReq, vfs.RootIno, fmt.Sprintf("%0250d", i), 0o644, 0)
		if errors.Is(err, vfs.ErrNoSpace) || i == 3000 {
			break
		}
		if !errors.Is(err, vfs.ErrExist) {
			ok(r.t, err)
		}
	}
}

// overwrite writes all of a range in pieces, in an odd order, and syncs.
func (r *reserved) overwrite(ino vfs.Ino, off, length, piece uint64) {
	r.t.Helper()
	r.n++
	for pass := range uint64(3) {
		for at := pass * piece; at < length; at += 3 * piece {
			n := min(piece, length-at)
			if _, err := r.v.Write(crashReq, ino, off+at, bytes.Repeat([]byte{r.n}, int(n)), false); err != nil {
				r.t.Fatalf("write %d of pieces of %d at %d of %d: %v", r.n, piece, off+at, length, err)
			}
		}
		ok(r.t, r.v.Sync(ino))
	}
	got := make([]byte, length)
	if _, err := r.v.Read(ino, off, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{r.n}, int(length))) {
		r.t.Fatal("another content", err)
	}
}

// TestReserve overwrites a reserved range again and again on a full volume: first what is
// not written yet, then the same, then what a snapshot holds, then what is shared.
func TestReserve(t *testing.T) {
	pieces := []uint64{4096, 1000, 65536, 1 << 20}
	for _, piece := range pieces[len(pieces)-fewer(len(pieces)):] {
		t.Run(fmt.Sprint(piece), func(t *testing.T) { testReserve(t, piece) })
	}
}

func testReserve(t *testing.T, piece uint64) {
	const length = 5 << 20
	r := newReserved(t, 96<<20)
	ino := r.file("reserved")
	before := r.v.StatFS()
	ok(t, r.v.Fallocate(crashReq, ino, 0, 0, length))
	after := r.v.StatFS()
	if n := before.BlocksFree - after.BlocksFree; n < length/4096 || n > length/4096+16 {
		t.Fatalf("%d blocks are used for %d", n, length/4096)
	}
	if a, err := r.v.GetAttr(ino); err != nil || a.Blocks != length/512 || a.Size != length {
		t.Fatal(a.Blocks, a.Size, err)
	}
	c := r.file("c")
	r.write(r.file("spare0"), 0, 3*length)
	r.full()
	for range 3 {
		r.overwrite(ino, 0, length, piece)
	}
	r.reopen()
	r.full()
	r.overwrite(ino, 0, length, piece)
	// A snapshot does not fit: it would owe all of it again.
	if _, err := r.v.CreateSnapshot("s"); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal("snapshot on a full volume:", err)
	}
	r.remove("spare0")
	_, err := r.v.CreateSnapshot("s")
	ok(t, err)
	r.write(r.file("spare1"), 0, 3*length/2)
	r.full()
	r.overwrite(ino, 0, length, piece)
	r.overwrite(ino, 0, length, piece)
	ok(t, r.v.Sync(ino))
	r.crash()
	r.full()
	r.overwrite(ino, 0, length, piece)
	// A copy that shares does not fit either.
	if _, err := r.v.CopyRange(crashReq, ino, 0, c, 0, length); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal("copy on a full volume:", err)
	}
	r.remove("spare1")
	if n, err := r.v.CopyRange(crashReq, ino, 0, c, 0, length); err != nil || n != length {
		t.Fatal(n, err)
	}
	r.full()
	r.overwrite(ino, 0, length, piece)
	r.overwrite(ino, 0, length, piece)
	r.reopen()
	r.overwrite(ino, 0, length, piece)
	checkSpace(t, r.v)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// burn takes what is lent to changes that give back more, as a rule: deletes. With
// snapshots they give back nothing.
func (r *reserved) burn() {
	r.t.Helper()
	var inos []vfs.Ino
	ok(r.t, r.v.ReadDir(vfs.RootIno, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
		inos = append(inos, d.Ino)
		return true
	}))
	for i, ino := range inos {
		mode := uint32(0o600)
		_, err := r.v.SetAttr(crashReq, ino, &vfs.SetAttr{Mode: &mode})
		if errors.Is(err, vfs.ErrNoSpace) {
			break
		}
		ok(r.t, err)
		if i%32 == 0 {
			ok(r.t, r.v.Sync(vfs.RootIno))
		}
	}
}

// TestReserveWorst overwrites reserved blocks one by one in a random order, each with
// a sync: extents of one block, spread over files of all sizes, whose pages and data
// a snapshot or a copy holds, on a volume whose metadata is full, too.
func TestReserveWorst(t *testing.T) {
	holds := []string{"nothing", "snapshot", "copies", "both"}
	for _, hold := range holds[len(holds)-fewer(len(holds)):] {
		t.Run(hold, func(t *testing.T) { reserveWorst(t, hold) })
	}
}

func reserveWorst(t *testing.T, hold string) {
	r := newReserved(t, 160<<20)
	rng := rand.New(rand.NewPCG(5, 8))
	type block struct {
		ino vfs.Ino
		n   uint64
	}
	var all []block
	var files []vfs.Ino
	add := func(name string, blocks uint64) {
		ino := r.file(name)
		ok(t, r.v.Fallocate(crashReq, ino, 0, 0, blocks*pageBytes))
		if rng.IntN(4) > 0 {
			r.write(ino, 0, blocks*pageBytes)
		}
		files = append(files, ino)
		for n := range blocks {
			all = append(all, block{ino, n})
		}
	}
	add("big", 3000)
	for i := range 400 {
		add(fmt.Sprintf("small%d", i), 1+rng.Uint64N(4))
		for j := range rng.IntN(12) { // others' metadata lies between
			ino := r.file(fmt.Sprintf("other%d.%d", i, j))
			ok(t, r.v.SetXattr(crashReq, ino, "user.x", make([]byte, 700), 0))
		}
	}
	if hold == "copies" || hold == "both" {
		for i, ino := range files {
			c := r.file(fmt.Sprintf("copy%d", i))
			_, err := r.v.CopyRange(crashReq, ino, 0, c, 0, 1<<40)
			ok(t, err)
		}
	}
	if hold == "snapshot" || hold == "both" {
		_, err := r.v.CreateSnapshot("s")
		ok(t, err)
	}
	r.full()
	r.burn()
	least := int64(1 << 62)
	for round := range 2 {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i, s := range all {
			if _, err := r.v.Write(crashReq, s.ino, s.n*pageBytes, bytes.Repeat([]byte{byte(i)}, pageBytes), false); err != nil {
				t.Fatalf("round %d, write %d of %d: %v", round, i, len(all), err)
			}
			if i%16 == 0 {
				ok(t, r.v.Sync(s.ino))
			}
			if i%128 == 0 {
				ok(t, r.v.Sync(vfs.RootIno))
				free, _, waiting := r.v.space.Counts()
				least = min(least, free+waiting-r.v.ranges.owed.Load())
			}
		}
	}
	if lent := 2 * r.v.adm.reserveSlots; least < lent {
		t.Errorf("%d blocks beyond what is owed were left, at least %d should be", least, lent)
	}
	t.Logf("%d blocks beyond what is owed were left at least, half of the reserve is %d; %+v", least, 2*r.v.adm.reserveSlots, r.v.ranges.stored())
	checkSpace(t, r.v)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// TestRestamp deletes what reserved ranges were owed for: the room is back.
func TestRestamp(t *testing.T) {
	const length = 2 << 20
	r := newReserved(t, 96<<20)
	ino, c := r.file("reserved"), r.file("copy")
	ok(t, r.v.Fallocate(crashReq, ino, vfs.FallocKeepSize, 0, length))
	r.write(ino, 0, length/2)
	owed := func(what string, want int64) {
		t.Helper()
		ok(t, r.v.Sync(vfs.RootIno))
		if n := r.v.ranges.owed.Load() * pageBytes; n != want {
			t.Fatalf("%s: %d bytes are owed, want %d", what, n, want)
		}
	}
	owed("half is written", length/2)
	for _, name := range []string{"a", "b"} {
		_, err := r.v.CreateSnapshot(name)
		ok(t, err)
		owed("a snapshot", length)
		r.write(ino, 0, length/4)
		owed("a quarter is written again", length*3/4)
	}
	_, err := r.v.CopyRange(crashReq, ino, 0, c, 0, length/8)
	ok(t, err)
	owed("an eighth is shared", length*7/8)
	ok(t, r.v.DeleteSnapshot("b"))
	ok(t, r.v.WaitFreed())
	pass := func() {
		t.Helper()
		ok(t, r.v.ranges.restamp(func() bool { return false }))
	}
	pass()
	// What was written before snapshot a still is owed.
	owed("one snapshot is left", length*7/8)
	ok(t, r.v.DeleteSnapshot("a"))
	ok(t, r.v.WaitFreed())
	pass()
	owed("no snapshot is left", length*5/8)
	if x := r.v.ranges.stored(); x.Mark != 0 {
		t.Fatalf("%+v", x)
	}
	r.reopen()
	owed("mounted again", length*5/8)
	r.remove("copy")
	r.v.background.reaper.wait()
	if !r.v.ranges.stale.Load() {
		t.Fatal("nobody noted that something is not shared any more")
	}
	pass()
	owed("nothing is shared", length/2)
	r.reopen()
	r.full()
	r.overwrite(ino, 0, length, 8192)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// TestReserveFreesRoom fills a volume while more than needed is reserved: whoever
// finds no room has it looked at.
func TestReserveFreesRoom(t *testing.T) {
	reserveFreesRoom(t, false)
	reserveFreesRoom(t, true)
}

// reserveFreesRoom opens the volume again before, if it is to.
func reserveFreesRoom(t *testing.T, again bool) {
	const length = 10 << 20
	r := newReserved(t, 96<<20)
	ino, c := r.file("reserved"), r.file("copy")
	ok(t, r.v.Fallocate(crashReq, ino, 0, 0, length))
	r.write(ino, 0, length)
	_, err := r.v.CopyRange(crashReq, ino, 0, c, 0, length)
	ok(t, err)
	r.remove("copy")
	r.v.background.reaper.wait()
	if n := r.v.ranges.owed.Load(); n != length/pageBytes {
		t.Fatalf("%d blocks are owed", n)
	}
	if again {
		r.reopen()
	}
	for err = nil; err == nil; r.end += 1 << 20 { // nobody is told of a full volume before
		_, err = r.v.Write(crashReq, r.fill, r.end, make([]byte, 1<<20), false)
	}
	if n := r.v.ranges.owed.Load(); !errors.Is(err, vfs.ErrNoSpace) || n > 0 {
		t.Fatalf("%v, and %d blocks are owed for nothing", err, n)
	}
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// TestOldFallocate applies an operation of a version that reserved nothing.
func TestOldFallocate(t *testing.T) {
	r := newReserved(t, 64<<20)
	ino := r.file("f")
	in, err := r.v.table.inode(ino)
	ok(t, err)
	defer r.v.table.put(in)
	in.mu.Lock()
	err = r.v.inGate(func() error {
		return r.v.apply(&layout.Op{Type: layout.OpFallocate, Ino: uint64(ino), Len: 1 << 20})
	})
	in.mu.Unlock()
	ok(t, err)
	if a, err := r.v.GetAttr(ino); err != nil || a.Size != 1<<20 || a.Blocks != 0 || r.v.ranges.promised.Load() != 0 {
		t.Fatalf("%+v %v", a, err)
	}
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}

// TestReservedDamage changes what a volume says of reserved ranges: fsck says so.
func TestReservedDamage(t *testing.T) {
	r := newReserved(t, 64<<20)
	ino := r.file("f")
	ok(t, r.v.Fallocate(crashReq, ino, 0, 0, 1<<20))
	ok(t, r.v.Fallocate(crashReq, ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 65536, 65536))
	r.write(ino, 0, 65536)
	_, err := r.v.CopyRange(crashReq, ino, 0, r.file("copy"), 0, 65536)
	ok(t, err)
	_, err = r.v.CreateSnapshot("s")
	ok(t, err)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
	change := func(typ uint8, fn func(v []byte)) func(s *surgeon) {
		return func(s *surgeon) {
			done := false
			s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) {
				if k.Type != typ || done || k.Obj != uint64(ino) {
					return k, v, false
				}
				done = true
				fn(v)
				return k, v, true
			})
		}
	}
	for _, c := range []struct {
		name, want string
		do         func(s *surgeon)
	}{
		{"owed", "reserved blocks in", func(s *surgeon) { s.root.Reserved.Owed--; s.writeRoot() }},
		{"promised", "reserved blocks in", func(s *surgeon) { s.root.Reserved.Promised++; s.writeRoot() }},
		{"ranges", "reserved blocks in", func(s *surgeon) { s.root.Reserved.Ranges--; s.writeRoot() }},
		{"mark", "below the newest snapshot's generation", func(s *surgeon) { s.root.Reserved.Mark = 1; s.writeRoot() }},
		{"range", "reserved blocks in", change(layout.KeyReserved, func(v []byte) { v[0]-- })},
		{"ranges that touch", "overlaps or touches its predecessor", change(layout.KeyReserved, func(v []byte) { v[0] = 32 })},
		{"vacant", "reserved blocks have no extent", change(layout.KeyInode, func(v []byte) { v[104]-- })},
		{"flag", "its flag is", change(layout.KeyInode, func(v []byte) { v[20] &^= 32; clear(v[104:112]) })},
		{"list", "it is listed", func(s *surgeon) {
			s.item(layout.TreeFS, func(k layout.Key, v []byte) (layout.Key, []byte, bool) { return k, nil, k.Type == layout.KeyReserver })
		}},
		{"no inode", "it is listed as having reserved ranges, but does not exist", func(s *surgeon) {
			s.insert(layout.TreeFS, layout.Key{Type: layout.KeyReserver, Sub: 9999}, nil)
		}},
		{"shared", "lacks the owed bit", func(s *surgeon) {
			change(layout.KeyExtent, func(v []byte) { v[len(v)-1] &^= 0x80 })(s)
			s.root.Reserved.Mark = 1
			s.writeRoot()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := r.dev.Clone()
			c.do(operate(t, dev))
			if found := findings(t, dev); !strings.Contains(found, c.want) {
				t.Errorf("fsck says\n%s", found)
			}
			use(t, dev)
		})
	}
}

// TestReserveRollback rolls a full volume back to a snapshot with reserved ranges: it
// owes them again, and what it then frees is more than that.
func TestReserveRollback(t *testing.T) {
	const length = 12 << 20
	r := newReserved(t, 112<<20)
	ino := r.file("reserved")
	ok(t, r.v.Fallocate(crashReq, ino, 0, 0, length))
	r.write(ino, 0, length)
	_, err := r.v.CreateSnapshot("s")
	ok(t, err)
	r.full()
	r.burn()
	r.overwrite(ino, 0, length, 1<<20)
	if n := r.v.ranges.owed.Load(); n != 0 {
		t.Fatalf("%d blocks are owed", n)
	}
	ok(t, r.v.Rollback("s", false))
	checkClean(t, r.dev)
	r.open()
	if x := r.v.ranges.stored(); x.Owed != length/pageBytes || x.Promised != x.Owed || x.Ranges != 1 {
		t.Fatalf("%+v", x)
	}
	r.overwrite(ino, 0, length, 1<<20) // waits for the room
	ok(t, r.v.WaitFreed())
	a, err := r.v.Lookup(vfs.RootIno, "fill")
	ok(t, err)
	r.fill, r.end = a.Ino, a.Size
	r.full()
	r.burn()
	r.overwrite(ino, 0, length, 1<<20)
	ok(t, r.v.Close())
	checkClean(t, r.dev)
}
