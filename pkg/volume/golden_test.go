package volume

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

var writeGolden = flag.String("write-golden", "", "make that image of testdata/golden anew: only before its format is released")

// golden are the images, by the format that first had what they hold.
var golden = []struct {
	name string
	make func(t *testing.T, v *Volume)
}{
	{"v2.0", goldenTree},
	{"v2.2", goldenShared},
	{"v2.3", goldenReserved},
	{"v2.4", goldenFlags},
}

// goldenTree makes what the golden images hold: something of everything.
func goldenTree(t *testing.T, v *Volume) {
	t.Helper()
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok := func(a vfs.Attr, err error) vfs.Ino { t.Helper(); no(err); return a.Ino }
	req := &vfs.Req{UID: 1000, GID: 100, Umask: 0o022}
	pattern := func(n, seed int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte((31*i + seed) % 251)
		}
		return b
	}
	write := func(ino vfs.Ino, off uint64, b []byte) {
		t.Helper()
		_, err := v.Write(req, ino, off, b, false)
		no(err)
	}
	d := ok(v.Mkdir(req, vfs.RootIno, "dir", 0o755))
	write(ok(v.Mknod(req, d, "inline", 0o644, 0)), 0, pattern(700, 1))
	big := ok(v.Mknod(req, d, "big", 0o600, 0))
	write(big, 0, pattern(300_000, 2))
	no(v.Sync(vfs.RootIno))
	write(big, 100_001, pattern(5000, 3)) // splits an extent
	sparse := ok(v.Mknod(req, d, "sparse", 0o644, 0))
	write(sparse, 1<<40, pattern(10, 4))
	ok(v.Symlink(req, d, "link", "../dir/big"))
	ok(v.Mknod(req, d, "fifo", 0o010600, 0))
	ok(v.Mknod(req, d, "null", 0o020666, 0x0103))
	_, err := v.Link(req, big, vfs.RootIno, "hard")
	no(err)
	no(v.SetXattr(req, big, "user.note", pattern(5000, 5), 0))
	no(v.SetXattr(req, d, "user.empty", nil, 0))
	many := ok(v.Mkdir(req, vfs.RootIno, "many", 0o2775))
	for i := range 600 {
		ok(v.Mknod(req, many, "name-x"+itoa(i), 0o644, 0))
	}
	no(v.Unlink(req, many, "name-x7"))
	no(v.Rename(req, many, "name-x8", d, "moved", 0))
	ok(v.Tmpfile(req, d, 0o600)) // an orphan
	no(v.Sync(vfs.RootIno))
	// From here on only the log has it.
	write(ok(v.Mknod(req, d, "logged", 0o644, 0)), 0, pattern(150_000, 6))
	size := uint64(250_000)
	_, err = v.SetAttr(req, big, &vfs.SetAttr{Size: &size})
	no(err)
	no(v.Sync(big))
}

// goldenShared makes files that share blocks, by a root and by the log.
func goldenShared(t *testing.T, v *Volume) {
	t.Helper()
	req := &vfs.Req{UID: 1000, GID: 100, Umask: 0o022}
	a, err := v.Mknod(req, vfs.RootIno, "a", 0o644, 0)
	ok(t, err)
	data := make([]byte, 150_000)
	for i := range data {
		data[i] = byte((31*i + i/4096) % 251)
	}
	_, err = v.Write(req, a.Ino, 0, data, false)
	ok(t, err)
	clone := func(name string, from, to, n uint64) vfs.Ino {
		t.Helper()
		b, err := v.Mknod(req, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		done, err := v.CopyRange(req, a.Ino, from, b.Ino, to, n)
		if err != nil || done == 0 {
			t.Fatal(done, err)
		}
		return b.Ino
	}
	clone("clone", 0, 0, 1<<20)
	clone("shifted", 8192, 65536, 100_000)
	part := clone("part", 0, 0, 1<<20)
	_, err = v.Write(req, part, 50_000, []byte("changed"), false)
	ok(t, err)
	ok(t, v.Sync(vfs.RootIno))
	if v.shares.Height() == 0 {
		t.Fatal("nothing is shared")
	}
	clone("logged clone", 4096, 0, 1<<20)
	ok(t, v.Fallocate(req, part, vfs.FallocPunchHole|vfs.FallocKeepSize, 100_000, 50_000))
	ok(t, v.Sync(part))
}

// goldenReserved makes files with reserved ranges, by a root and by the log.
func goldenReserved(t *testing.T, v *Volume) {
	t.Helper()
	req := &vfs.Req{UID: 1000, GID: 100, Umask: 0o022}
	file := func(name string) vfs.Ino {
		t.Helper()
		a, err := v.Mknod(req, vfs.RootIno, name, 0o644, 0)
		ok(t, err)
		return a.Ino
	}
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte((31*i + i/4096) % 251)
	}
	write := func(ino vfs.Ino, off uint64) {
		t.Helper()
		_, err := v.Write(req, ino, off, data, false)
		ok(t, err)
	}
	a, b := file("a"), file("b")
	ok(t, v.Fallocate(req, a, 0, 0, 1<<20))
	write(a, 50_000)
	ok(t, v.Fallocate(req, a, vfs.FallocPunchHole|vfs.FallocKeepSize, 300_000, 100_000))
	write(b, 0)
	ok(t, v.Fallocate(req, b, vfs.FallocKeepSize, 65_536, 200_000)) // beyond the end as well
	_, err := v.CreateSnapshot("snap")
	ok(t, err)
	write(a, 60_000)
	_, err = v.CopyRange(req, a, 0, file("copy"), 0, 90_000)
	ok(t, err)
	ok(t, v.Sync(vfs.RootIno))
	if x := v.ranges.stored(); x.Owed == 0 || x.Owed == x.Promised || x.Mark == 0 || x.Ranges != 3 {
		t.Fatalf("%+v", x)
	}
	ok(t, v.Fallocate(req, file("logged"), vfs.FallocZeroRange, 5000, 100_000))
	ok(t, v.Sync(b))
}

// goldenFlags makes inodes with flags, by a root and by the log, and a label.
func goldenFlags(t *testing.T, v *Volume) {
	t.Helper()
	req := &vfs.Req{UID: 1000, GID: 100, Umask: 0o022}
	file := func(dir vfs.Ino, name string, flags uint32) {
		t.Helper()
		a, err := v.Mknod(req, dir, name, 0o644, 0)
		ok(t, err)
		_, err = v.Write(req, a.Ino, 0, []byte(name), false)
		ok(t, err)
		ok(t, v.SetFlags(req, a.Ino, flags))
	}
	d, err := v.Mkdir(req, vfs.RootIno, "append", 0o755)
	ok(t, err)
	ok(t, v.SetFlags(req, d.Ino, vfs.FlagAppend|vfs.FlagNodump))
	file(vfs.RootIno, "immutable", vfs.FlagImmutable)
	file(d.Ino, "noatime", vfs.FlagNoatime)
	ok(t, vfs.SetLabel(v, req, "golden"))
	ok(t, v.Sync(vfs.RootIno))
	file(d.Ino, "logged", vfs.FlagImmutable|vfs.FlagAppend|vfs.FlagNodump|vfs.FlagNoatime)
	a, err := v.Mknod(req, d.Ino, "inherits", 0o644, 0)
	ok(t, err)
	ok(t, v.Sync(a.Ino))
}

func itoa(i int) string { b, _ := json.Marshal(i); return string(b) }

// TestGolden opens the image of each released format and compares what it
// holds. Images are kept for ever.
func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) { testGolden(t, g.name, g.make) })
	}
}

func testGolden(t *testing.T, name string, populate func(t *testing.T, v *Volume)) {
	image, manifest := "testdata/golden/"+name+".img.gz", "testdata/golden/"+name+".json"
	if *writeGolden == name {
		dev := device.NewMem(64 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		populate(t, v)
		img := dev.Clone() // as after a power cut: the log waits
		tree, err := vfstest.Snapshot(v, vfstest.SnapshotOptions{Times: true, Inos: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		writeImage(t, image, img)
		j, _ := json.MarshalIndent(tree, "", " ")
		if err := os.WriteFile(manifest, append(j, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dev := readImage(t, image)
	j, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	if err := json.Unmarshal(j, &want); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false, true} {
		rep, err := check.Run(dev, check.Options{Credential: testCred(t), Data: true})
		if err != nil || !rep.Clean {
			t.Fatalf("check: %v %+v", err, rep)
		}
		v := mustOpen(t, dev, Options{ReadOnly: readOnly, CommitInterval: -1})
		got, err := vfstest.Snapshot(v, vfstest.SnapshotOptions{Times: true, Inos: true})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("read-only %v: the tree differs", readOnly)
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("got  %s\nwant %s", got[i], want[i])
				}
			}
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func writeImage(t *testing.T, path string, img *device.Mem) {
	t.Helper()
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression)
	b := make([]byte, 64<<20)
	if _, err := img.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, z.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readImage(t *testing.T, path string) *device.Mem {
	t.Helper()
	z, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	dev := device.NewMem(int64(len(b)))
	for off := 0; off < len(b); off += device.SectorBytes {
		if s := b[off : off+device.SectorBytes]; !bytes.Equal(s, make([]byte, device.SectorBytes)) {
			if _, err := dev.WriteAt(s, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dev
}

// snapGolden is what the image with snapshots holds.
type snapGolden struct {
	Head      []string            `json:"head"`
	Snapshots map[string][]string `json:"snapshots"`
	Diff      []string            `json:"diff"` // of the last snapshot against the first
}

func readSnapGolden(t *testing.T, v *Volume) (g snapGolden) {
	t.Helper()
	opts := vfstest.SnapshotOptions{Times: true, Inos: true}
	var err error
	if g.Head, err = vfstest.Snapshot(v, opts); err != nil {
		t.Fatal(err)
	}
	infos, err := v.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	g.Snapshots = map[string][]string{}
	var names []string
	for _, i := range infos {
		if i.Deleting {
			continue
		}
		fs, end, err := v.OpenSnapshot(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		if g.Snapshots[i.Name], err = vfstest.Snapshot(fs, opts); err != nil {
			t.Fatal(err)
		}
		end()
		names = append(names, i.Name)
	}
	g.Diff, _ = diffAll(t, v, names[0], names[len(names)-1])
	return g
}

// TestGoldenSnapshots is TestGolden for a volume with snapshots: dead lists as
// they were written and as they were sorted, a deletion that was cut, and a log.
func TestGoldenSnapshots(t *testing.T) {
	const image, manifest = "testdata/golden/v2.1.img.gz", "testdata/golden/v2.1.json"
	if *writeGolden == "v2.1" {
		dev := device.NewMem(64 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		d, err := v.Mkdir(crashReq, vfs.RootIno, "dir", 0o755)
		ok(t, err)
		for i, size := range []int{0, 700, 5000, 60_000} {
			a, err := v.Mknod(crashReq, d.Ino, "f"+itoa(i), 0o644, 0)
			ok(t, err)
			_, err = v.Write(crashReq, a.Ino, 0, bytes.Repeat([]byte{byte(i)}, size), false)
			ok(t, err)
			if i == 3 {
				_, err = v.Link(crashReq, a.Ino, vfs.RootIno, "hard")
				ok(t, err)
			}
		}
		ok(t, v.SetXattr(crashReq, d.Ino, "user.note", []byte("x"), 0))
		for _, name := range []string{"first", "second", "third", "fourth"} {
			if _, err := v.CreateSnapshot(name); err != nil {
				t.Fatal(err)
			}
			a, err := v.Mknod(crashReq, vfs.RootIno, "after-"+name, 0o644, 0)
			ok(t, err)
			big, err := v.Lookup(vfs.RootIno, "hard")
			ok(t, err)
			for _, ino := range []vfs.Ino{a.Ino, big.Ino} {
				_, err = v.Write(crashReq, ino, 8192, []byte(strings.Repeat(name, 3000)), false)
				ok(t, err)
			}
		}
		ok(t, v.Rename(crashReq, vfs.RootIno, "after-first", vfs.RootIno, "renamed", 0))
		ok(t, v.DeleteSnapshot("second"))
		ok(t, v.WaitFreed())
		v.snap.endReaper()
		v.snap.stop = false
		ok(t, v.DeleteSnapshot("third"))
		ok(t, v.Unlink(crashReq, vfs.RootIno, "after-third"))
		big, err := v.Lookup(vfs.RootIno, "hard")
		ok(t, err)
		ok(t, v.Sync(big.Ino))
		writeImage(t, image, dev.Clone())
		j, _ := json.MarshalIndent(readSnapGolden(t, v), "", " ")
		ok(t, os.WriteFile(manifest, append(j, '\n'), 0o644))
		v.snap.startReaper()
		ok(t, v.Close())
	}
	dev := readImage(t, image)
	j, err := os.ReadFile(manifest)
	ok(t, err)
	var want snapGolden
	ok(t, json.Unmarshal(j, &want))
	for _, readOnly := range []bool{true, false, true} {
		checkClean(t, dev)
		v := mustOpen(t, dev, Options{ReadOnly: readOnly, CommitInterval: -1})
		if got := readSnapGolden(t, v); !reflect.DeepEqual(got, want) {
			t.Errorf("read-only %t: got %+v", readOnly, got)
		}
		if !readOnly {
			ok(t, v.WaitFreed())
			v.background.reaper.wait() // one file was unlinked: a snapshot alone holds its data then
			ok(t, v.Sync(vfs.RootIno))
			checkSpace(t, v)
		}
		ok(t, v.Close())
	}
}
