package volume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// snapScrub is a volume with snapshots whose trees share some pages and data,
// and who holds what of it.
type snapScrub struct {
	t     *testing.T
	dev   *device.Mem
	v     *Volume
	rng   *rand.Rand
	names []string // of snapshots
	paths map[uint64]string
	pages map[uint64]*heldDamage // by address
	data  map[uint64]*heldDamage
}

// heldDamage is a page or an extent, and who holds it.
type heldDamage struct {
	p     layout.Pointer
	ino   uint64
	in    []string // snapshots, the oldest first
	head  bool
	bytes uint64
	off   uint64
}

func (s *snapScrub) write(name string, bytes int) {
	s.t.Helper()
	a, err := walkTo(s.v, name)
	if err != nil {
		a, err = s.v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0)
	}
	ok(s.t, err)
	s.paths[uint64(a.Ino)] = "/" + name
	_, err = s.v.Write(crashReq, a.Ino, 0, noise(s.rng, bytes), false)
	ok(s.t, err)
}

func (s *snapScrub) remove(name string) {
	s.t.Helper()
	a := mustWalk(s.t, s.v, name)
	ok(s.t, s.v.Unlink(crashReq, vfs.RootIno, name))
	s.v.Forget(a.Ino)
	s.v.background.reaper.wait()
}

func (s *snapScrub) snapshot(name string) {
	s.t.Helper()
	_, err := s.v.CreateSnapshot(name)
	ok(s.t, err)
	s.names = append(s.names, name)
}

const snapScrubFile = 400 << 10

// newSnapScrub makes snapshots one, two and three. Files of 400 KiB: "all" is
// the same everywhere, "first" and "second" are of those snapshots alone, "old"
// of one and two, "changed" differs everywhere, "young" is the head's alone.
func newSnapScrub(t *testing.T) *snapScrub {
	s := &snapScrub{t: t, dev: device.NewMem(80 << 20), rng: rand.New(rand.NewPCG(7, 7)), paths: map[uint64]string{}}
	mustFormat(t, s.dev)
	s.v = mustOpen(t, s.dev, Options{CommitInterval: -1, Memory: minMemory})
	s.write("first", snapScrubFile)
	s.write("changed", snapScrubFile)
	for i := range 400 { // several leaves
		_, err := s.v.Mknod(crashReq, vfs.RootIno, fmt.Sprint(strings.Repeat("long", 50), i), 0o644, 0)
		ok(t, err)
	}
	s.write("all", snapScrubFile)
	s.write("old", snapScrubFile)
	s.snapshot("one")
	s.remove("first")
	s.write("changed", snapScrubFile)
	s.write("second", snapScrubFile)
	s.snapshot("two")
	s.snapshot("between")
	s.remove("old")
	s.remove("second")
	s.write("changed", snapScrubFile)
	s.snapshot("three")
	ok(t, s.v.DeleteSnapshot("between"))
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == "between" })
	ok(t, s.v.WaitFreed())
	s.write("changed", snapScrubFile)
	s.write("young", snapScrubFile)
	ok(t, s.v.Sync(vfs.RootIno))
	s.look()
	return s
}

// look notes who holds what.
func (s *snapScrub) look() {
	s.t.Helper()
	s.pages, s.data = map[uint64]*heldDamage{}, map[uint64]*heldDamage{}
	o := operate(s.t, s.dev)
	tree := func(hold func(*heldDamage)) {
		for _, p := range o.nodes(layout.TreeFS) {
			if s.pages[p.Addr] == nil {
				s.pages[p.Addr] = &heldDamage{p: p}
			}
			hold(s.pages[p.Addr])
		}
		o.items(layout.TreeFS, func(k layout.Key, val []byte) {
			if k.Type != layout.KeyExtent {
				return
			}
			e, err := layout.DecodeFileExtent(val)
			ok(s.t, err)
			if s.data[e.Addr] == nil {
				s.data[e.Addr] = &heldDamage{ino: k.Obj, off: k.Sub * layout.BlockBytes, bytes: e.Blocks() * layout.BlockBytes}
			}
			hold(s.data[e.Addr])
		})
	}
	head := o.root.Trees[layout.TreeFS]
	for _, name := range s.names {
		x, err := s.v.snap.read(s.v.snap.byName[name])
		ok(s.t, err)
		o.root.Trees[layout.TreeFS] = x.Tree
		tree(func(d *heldDamage) { d.in = append(d.in, name) })
	}
	o.root.Trees[layout.TreeFS] = head
	tree(func(d *heldDamage) { d.head = true })
}

// check compares a damage with who holds it.
func (d *heldDamage) check(t *testing.T, got *Damage) {
	t.Helper()
	oldest := ""
	if len(d.in) > 0 {
		oldest = d.in[0]
	}
	if got.Snapshot != oldest || got.Head != (d.head && oldest != "") {
		t.Errorf("held by %v (head %t): %+v", d.in, d.head, got)
	}
}

// only returns the address of some data of a file that those alone hold.
func (s *snapScrub) only(path string, head bool, in ...string) uint64 {
	s.t.Helper()
	for addr, d := range s.data {
		if s.paths[d.ino] == path && d.head == head && slices.Equal(d.in, in) {
			return addr
		}
	}
	s.t.Fatalf("%s is not held by %v", path, in)
	return 0
}

// TestScrubSnapshots: what only some snapshots hold is read, once, told with
// their name, and mended if it has a second copy.
func TestScrubSnapshots(t *testing.T) {
	s := newSnapScrub(t)
	rep := scrubAll(t, s.v, ScrubOptions{})
	if rep.Total != 0 {
		t.Fatalf("%+v", rep)
	}
	// Each page and each extent was read once.
	gen := s.v.snap.newest.Load()
	rest := scrubAll(t, s.v, ScrubOptions{From: scrubPosition{tree: layout.TreeFS + 1, since: gen, snap: gen + 1}.String()})
	once := uint64(0)
	for _, d := range s.data {
		once += d.bytes
	}
	for _, d := range s.pages {
		items.EachCopy(&d.p, func(layout.Run) { once += layout.NodeBytes })
	}
	if rep.Bytes-rest.Bytes != once {
		t.Errorf("%d bytes read of %d", rep.Bytes-rest.Bytes, once)
	}
	image := s.dev.Clone()
	seen := map[string]int{}
	for addr, d := range s.data {
		flip(s.dev, addr)
		got := scrubAll(t, s.v, ScrubOptions{}).want(t, fmt.Sprintf("data at %d", addr), false)
		flip(s.dev, addr)
		d.check(t, got)
		if got.Ino != d.ino || got.Path != s.paths[d.ino] || got.Offset != d.off || got.Length != layout.BlockBytes {
			t.Errorf("%+v is of %s, %+v", got, s.paths[d.ino], d)
		}
		seen[fmt.Sprintf("data %v %t", d.in, d.head)]++
	}
	for _, d := range s.pages {
		where := fmt.Sprintf("tree 1, level %d, node at %d", d.p.Level, d.p.Addr)
		whose := fmt.Sprintf("%v %t", d.in, d.head)
		flip(s.dev, d.p.Addr)
		if d.p.Addr2 != 0 {
			d.check(t, scrubAll(t, s.v, ScrubOptions{}).want(t, where, true))
			flip(s.dev, d.p.Addr2+8192)
			d.check(t, scrubAll(t, s.v, ScrubOptions{}).want(t, where, true))
			if !sameBytes(image, s.dev) {
				t.Fatalf("%s: not mended", where)
			}
			seen["copy "+whose]++
			continue
		}
		got := scrubAll(t, s.v, ScrubOptions{}).want(t, where, false)
		flip(s.dev, d.p.Addr)
		d.check(t, got)
		if len(got.Files) > 0 {
			seen["named "+whose]++
		}
		seen["page "+whose]++
	}
	for _, who := range []string{"data [one] false", "data [two] false", "data [one two] false", "data [one two three] true", "data [] true",
		"copy [one] false", "copy [two] false", "copy [three] false", "copy [] true", "page [one] false", "page [one two three] true", "named [one] false"} {
		if seen[who] == 0 {
			t.Errorf("nothing like %q was tried: %v", who, seen)
		}
	}
	ok(t, s.v.Close())
	checkClean(t, s.dev)
}

// TestScrubTornSnapshot: a leaf of a snapshot is lost. What the head still
// reaches of what it named is read all the same, and nothing is told twice.
func TestScrubTornSnapshot(t *testing.T) {
	s := newSnapScrub(t)
	addr := s.only("/all", true, "one", "two", "three")
	for _, d := range s.pages {
		if d.p.Level == 0 && !d.head { // the snapshots' leaves that the head has replaced
			flip(s.dev, d.p.Addr)
		}
	}
	rep := scrubAll(t, s.v, ScrubOptions{})
	pages := rep.Total
	flip(s.dev, addr)
	rep = scrubAll(t, s.v, ScrubOptions{})
	where := map[string]int{}
	for _, d := range rep.Damages {
		if where[d.Where]++; where[d.Where] > 1 {
			t.Errorf("told twice: %+v", d)
		}
	}
	if rep.Total != pages+1 || where[fmt.Sprintf("data at %d", addr)] != 1 {
		t.Errorf("%d damages, the data's %d: %+v", rep.Total, pages, rep.Damages)
	}
	ok(t, s.v.Close())
}

// TestScrubSnapshotsResume: parts of a scrub find together what is damaged, each
// once, also if a snapshot is deleted between them.
func TestScrubSnapshotsResume(t *testing.T) {
	for _, gone := range []string{"", "one", "two"} {
		s, deletes := newSnapScrub(t), gone != ""
		bad := map[string]int{}
		for addr, d := range s.data {
			if gone == "" || len(d.in) != 1 || d.head || d.in[0] != gone {
				flip(s.dev, addr)
				bad[fmt.Sprintf("data at %d", addr)] = 0
			}
		}
		ok(t, s.v.Close())
		parts, from := 0, ""
		for done := false; !done; parts++ {
			v := checkOpen(t, s.dev, Options{})
			if gone != "" && strings.HasPrefix(from, "2-0-") {
				ok(t, v.DeleteSnapshot(gone))
				gone = ""
			}
			ctx, cancel := context.WithCancel(t.Context())
			rep, err := v.Scrub(ctx, ScrubOptions{From: from, Progress: func(uint64, uint64) { cancel() }})
			cancel()
			if done = rep.Done; !done && !errors.Is(err, context.Canceled) || rep.Position == from && !done {
				t.Fatalf("part %d: %+v, %v", parts, rep, err)
			}
			for _, d := range rep.Damages {
				bad[d.Where]++
			}
			from = rep.Position
			ok(t, v.Close())
		}
		if parts < 8 || gone != "" {
			t.Errorf("%d parts, %q", parts, gone)
		}
		for where, n := range bad {
			if n == 0 || n > 1 && !deletes {
				t.Errorf("%s was told %d times", where, n)
			}
		}
	}
}

// TestScrubSnapshotsChange: a snapshot is deleted while its tree is walked: the
// next one is read instead. One is made while the head is walked: it is read as well.
func TestScrubSnapshotsChange(t *testing.T) {
	s := newSnapScrub(t)
	both := s.only("/old", false, "one", "two")
	flip(s.dev, both)
	rep := scrubAll(t, s.v, ScrubOptions{At: func(func() string) {
		if s.v.snap.byName["one"] != nil {
			ok(t, s.v.DeleteSnapshot("one"))
			ok(t, s.v.WaitFreed())
		}
	}})
	if d := rep.want(t, fmt.Sprintf("data at %d", both), false); d.Snapshot != "two" || d.Path != "/old" {
		t.Errorf("%+v", d)
	}
	flip(s.dev, both)
	// More than a step, then what the head drops before it is read there.
	s.write("big", 3<<20)
	s.write("late", snapScrubFile)
	ok(t, s.v.Sync(vfs.RootIno))
	s.names = s.names[1:]
	s.look()
	late := s.only("/late", true)
	flip(s.dev, late)
	made := false
	rep = scrubAll(t, s.v, ScrubOptions{At: func(position func() string) {
		if !made && strings.HasPrefix(position(), "2-1-") && !strings.Contains(position(), "-0-0-0-0-") {
			made = true
			s.snapshot("meanwhile")
			s.remove("late")
			ok(t, s.v.Sync(vfs.RootIno))
		}
	}})
	if d := rep.want(t, fmt.Sprintf("data at %d", late), false); !made || d.Snapshot != "meanwhile" || d.Head || d.Path != "/late" {
		t.Errorf("%+v", d)
	}
	flip(s.dev, late)
	ok(t, s.v.Close())
	checkClean(t, s.dev)
}
