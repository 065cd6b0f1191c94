package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// diffAll collects what Diff tells, as sorted lines.
func diffAll(t testing.TB, v *Volume, from, to string) (lines []string, changes []Change) {
	t.Helper()
	err := v.Diff(from, to, DiffOptions{Ranges: true}, func(c Change) error {
		changes = append(changes, c)
		l := c.Kind.String() + " " + c.Path
		if c.OldPath != "" {
			l += " from " + c.OldPath
		}
		for _, r := range c.Ranges {
			l += fmt.Sprintf(" %d+%d", r.Off, r.Len)
		}
		lines = append(lines, l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines, changes
}

// diffFiles are changed between two snapshots.
type diffFiles struct {
	t    *testing.T
	v    *Volume
	fill byte

	dir, sub, deep, big, small, gone, moved, two, meta, cut vfs.Ino
}

func (x *diffFiles) made(a vfs.Attr, err error) vfs.Ino {
	x.t.Helper()
	ok(x.t, err)
	return a.Ino
}

func (x *diffFiles) write(ino vfs.Ino, off uint64, n int) {
	x.t.Helper()
	x.fill++
	_, err := x.v.Write(crashReq, ino, off, bytes.Repeat([]byte{x.fill}, n), false)
	ok(x.t, err)
}

func (x *diffFiles) file(dir vfs.Ino, name string, n int) vfs.Ino {
	x.t.Helper()
	f := x.made(x.v.Mknod(crashReq, dir, name, 0o644, 0))
	if n > 0 {
		x.write(f, 0, n)
	}
	return f
}

// make makes what the first snapshot has.
func (x *diffFiles) make() {
	v := x.v
	x.dir = x.made(v.Mkdir(crashReq, vfs.RootIno, "dir", 0o755))
	x.sub = x.made(v.Mkdir(crashReq, x.dir, "sub", 0o755))
	x.deep = x.file(x.sub, "deep", 100)
	x.big = x.file(x.dir, "big", 200_000)
	x.small = x.file(x.dir, "small", 10)
	x.gone = x.file(x.dir, "gone", 10)
	x.moved = x.file(x.dir, "moved", 10)
	x.two = x.file(x.dir, "two", 10)
	_, err := v.Link(crashReq, x.two, x.dir, "two-b")
	ok(x.t, err)
	x.meta = x.file(x.dir, "meta", 10)
	x.cut = x.file(x.dir, "cut", 50_000)
	x.made(v.Mkdir(crashReq, vfs.RootIno, "empty", 0o755))
	for i := range 200 {
		x.file(vfs.RootIno, fmt.Sprint("x", i), 5000)
	}
}

// change makes what differs in the second one, and tells what Diff should say of it.
func (x *diffFiles) change() (want []string) {
	t, v, d := x.t, x.v, x.dir
	x.write(x.big, 8192, 100) // a block
	x.write(x.big, 100_000, 9000)
	x.write(x.small, 3, 20)
	ok(t, v.Unlink(crashReq, d, "gone"))
	v.Forget(x.gone)
	ok(t, v.Rename(crashReq, d, "moved", vfs.RootIno, "moved2", 0))
	x.write(x.moved, 0, 5)
	ok(t, v.Unlink(crashReq, d, "two-b")) // the name that the inode remembers
	x.write(x.two, 0, 6000)
	mode := uint32(0o600)
	_, err := v.SetAttr(crashReq, x.meta, &vfs.SetAttr{Mode: &mode})
	ok(t, err)
	size := uint64(20_000)
	_, err = v.SetAttr(crashReq, x.cut, &vfs.SetAttr{Size: &size})
	ok(t, err)
	ok(t, v.Rename(crashReq, d, "sub", vfs.RootIno, "sub2", 0))
	x.write(x.deep, 0, 50)
	_, err = v.Link(crashReq, x.deep, d, "deep-link")
	ok(t, err)
	ok(t, v.Rmdir(crashReq, vfs.RootIno, "empty"))
	n := x.made(v.Mkdir(crashReq, vfs.RootIno, "new", 0o755))
	x.file(n, "f", 10)
	ok(t, v.SetXattr(crashReq, n, "user.x", []byte("y"), 0))
	ok(t, v.SetXattr(crashReq, d, "user.x", []byte("y"), 0))
	return []string{
		"changed /dir", // its attribute
		"changed /dir/meta",
		"created /new", "created /new/f",
		"linked /dir/deep-link",
		"modified /dir/big 8192+4096 98304+12288",
		"modified /dir/cut 16384+33616",
		"modified /dir/deep-link 0+100",
		"modified /dir/small 0+23",
		"modified /dir/two 0+6000",
		"modified /moved2 0+10",
		"removed /dir/gone", "removed /empty",
		"renamed /moved2 from /dir/moved",
		"renamed /sub2 from /dir/sub",
		"unlinked /dir/two-b",
	}
}

func TestDiff(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	x := &diffFiles{t: t, v: v, fill: 7}
	x.make()
	_, err := v.CreateSnapshot("a")
	ok(t, err)
	want := x.change()
	head, _ := diffAll(t, v, "a", "")
	ok(t, v.WaitFreed()) // the head was held for a moment
	_, err = v.CreateSnapshot("b")
	ok(t, err)
	got, _ := diffAll(t, v, "a", "b")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(head, want) {
		t.Errorf("against the head: got\n%s", strings.Join(head, "\n"))
	}
	if none, _ := diffAll(t, v, "b", ""); len(none) > 0 {
		t.Error(none)
	}
	back, _ := diffAll(t, v, "b", "a")
	if !slices.Contains(back, "renamed /dir/sub from /sub2") || !slices.Contains(back, "removed /new/f") || !slices.Contains(back, "created /dir/gone") {
		t.Error(back)
	}
	stop := errors.New("stop")
	if err := v.Diff("a", "b", DiffOptions{}, func(Change) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := v.Diff("a", "no", DiffOptions{}, nil); !errors.Is(err, ErrNoSnapshot) {
		t.Error(err)
	}
	ok(t, v.WaitFreed())
	if infos, err := v.Snapshots(); err != nil || len(infos) != 2 || infos[0].Open || infos[1].Open {
		t.Errorf("%+v %v", infos, err)
	}
	ok(t, v.Close())
	ok(t, cleanErr(dev))
	diffReadsLittle(t, dev, want)
}

// diffReadsLittle compares the snapshots of a volume mounted read-only. What is not
// changed is not read: 200 files of two pages each stay aside.
func diffReadsLittle(t *testing.T, dev *device.Mem, want []string) {
	t.Helper()
	reads := 0
	slow := device.NewFault(dev, nil)
	slow.SetHook(func(_ int, op device.Op, _ int64, _ int) error {
		if op == device.OpRead {
			reads++
		}
		return nil
	})
	v := mustOpen(t, slow, Options{ReadOnly: true})
	reads = 0
	if got, _ := diffAll(t, v, "a", "b"); !slices.Equal(got, want) {
		t.Errorf("read-only: got\n%s", strings.Join(got, "\n"))
	}
	changed := reads
	reads = 0
	if _, err := readSnap(v, "a"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reads for the difference, %d for the snapshot", changed, reads)
	if changed > 60 {
		t.Errorf("%d reads for a small difference", changed)
	}
	ok(t, v.Close())
}

// snapshotState is what a snapshot of the model holds.
type snapshotState struct {
	files map[string][]byte
	inos  map[string]vfs.Ino
}

// TestDiffModel compares random states with what Diff says of them.
func TestDiffModel(t *testing.T) {
	seed := *snapSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-snap.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 5))
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	r := &crashRun{rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	r.v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	var states []snapshotState
	for i := range 8 {
		for range 60 {
			if err := r.step(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.v.CreateSnapshot(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		states = append(states, snapshotState{r.state().files, maps.Clone(r.inos)})
	}
	for i := range states {
		for j := range states {
			_, changes := diffAll(t, r.v, fmt.Sprint(i), fmt.Sprint(j))
			checkChanges(t, fmt.Sprintf("%d to %d", i, j), states[i], states[j], changes)
		}
	}
	if err := r.v.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkChanges wants changes to lead from one state to another: from all of its names to
// all of the other's, with each byte that differs in a range.
func checkChanges(t *testing.T, what string, a, b snapshotState, changes []Change) {
	t.Helper()
	paths := map[string]bool{}
	for p := range a.files {
		paths["/"+p] = true
	}
	ranges := map[string][]ByteRange{}
	for _, c := range changes { // what goes, goes first
		switch c.Kind {
		case Removed, Unlinked:
			delete(paths, c.Path)
		case Renamed:
			delete(paths, c.OldPath)
		case Modified:
			ranges[c.Path] = append(ranges[c.Path], c.Ranges...)
		}
	}
	for _, c := range changes {
		switch c.Kind {
		case Created, Linked, Renamed:
			paths[c.Path] = true
		}
	}
	for p := range b.files {
		if !paths["/"+p] {
			t.Fatalf("%s: %s was not told", what, p)
		}
		delete(paths, "/"+p)
	}
	if len(paths) > 0 {
		t.Fatalf("%s: %v are gone, and it was not told", what, paths)
	}
	for p, content := range b.files {
		for q, old := range a.files {
			if a.inos[q] == b.inos[p] && old != nil {
				checkRanges(t, p, old, content, ranges["/"+p])
			}
		}
	}
}

// checkRanges wants all bytes that differ to be in a range.
func checkRanges(t *testing.T, p string, a, b []byte, rs []ByteRange) {
	t.Helper()
	at := func(c []byte, i int) int {
		if i < len(c) {
			return int(c[i])
		}
		return -1
	}
	for i := range max(len(a), len(b)) {
		if at(a, i) == at(b, i) {
			continue
		}
		if !slices.ContainsFunc(rs, func(r ByteRange) bool { return uint64(i) >= r.Off && uint64(i) < r.Off+r.Len }) {
			t.Fatalf("%s differs at %d, told were %v", p, i, rs)
		}
	}
}

// TestDiffClose closes a volume while a Diff is in progress: that ends, and all is
// on the device.
func TestDiffClose(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	_, err := v.CreateSnapshot("a")
	ok(t, err)
	for i := range 50 {
		_, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("f", i), 0o644, 0)
		ok(t, err)
	}
	closed := make(chan error, 1)
	told := 0
	err = v.Diff("a", "", DiffOptions{}, func(Change) error {
		if told++; told == 1 {
			go func() { closed <- v.Close() }()
			for !v.life.closing.Load() { // Close waits for us from here on
				runtime.Gosched()
			}
			v.background.mu.Lock()
			for !v.background.closed {
				v.background.mu.Unlock()
				runtime.Gosched()
				v.background.mu.Lock()
			}
			v.background.mu.Unlock()
		}
		return nil
	})
	if !errors.Is(err, vfs.ErrClosed) || told > 2 {
		t.Errorf("%d told: %v", told, err)
	}
	ok(t, <-closed)
	checkClean(t, dev)
	v = mustOpen(t, dev, Options{CommitInterval: -1})
	if _, err := v.Lookup(vfs.RootIno, "f49"); err != nil {
		t.Error(err)
	}
	ok(t, v.WaitFreed())
	ok(t, v.Sync(vfs.RootIno))
	checkSpace(t, v)
	ok(t, v.Close())
}

// A diff reads what was changed and the way there, however much there is beside
// it: few of the pages of a large tree.
func TestDiffCost(t *testing.T) {
	dev := newCountingDevice(1 << 30)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	files := 20_000
	if testing.Short() {
		files = 5000
	}
	for i := range files {
		_, err := v.Mknod(crashReq, vfs.RootIno, fmt.Sprintf("some file of a large directory %d", i), 0o644, 0)
		ok(t, err)
	}
	_, err := v.CreateSnapshot("a")
	ok(t, err)
	mode := uint32(0o600)
	for i := range 3 {
		a, err := v.Lookup(vfs.RootIno, fmt.Sprintf("some file of a large directory %d", i*files/3))
		ok(t, err)
		_, err = v.SetAttr(crashReq, a.Ino, &vfs.SetAttr{Mode: &mode})
		ok(t, err)
	}
	_, err = v.CreateSnapshot("b")
	ok(t, err)
	mustClose(t, v)
	v = mustOpen(t, dev, Options{ReadOnly: true, CommitInterval: -1})
	before := dev.since(ioCounts{})
	n := 0
	ok(t, v.Diff("a", "b", DiffOptions{}, func(Change) error { n++; return nil }))
	diff := dev.since(before).nodeReads
	before = dev.since(ioCounts{})
	_, err = readSnap(v, "a")
	ok(t, err)
	all := dev.since(before).nodeReads
	mustClose(t, v)
	t.Logf("%d pages read for the difference, %d more for all of one snapshot", diff, all)
	if n != 3 || diff > 60 || all < 2*diff {
		t.Errorf("%d changes, %d pages read for them, %d for all of one", n, diff, all)
	}
}
