package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func isErr(err, target error) bool { return errors.Is(err, target) }

var sentinels = []error{
	vfs.ErrNotExist, vfs.ErrExist, vfs.ErrNotDir, vfs.ErrIsDir, vfs.ErrNotEmpty, vfs.ErrNameTooLong, vfs.ErrInvalid,
	vfs.ErrNotPermitted, vfs.ErrTooManyLinks, vfs.ErrNoSpace, vfs.ErrFileTooBig, vfs.ErrReadOnly, vfs.ErrNotSupported,
	vfs.ErrNoXattr, vfs.ErrXattrTooBig, vfs.ErrNoData, vfs.ErrStale, vfs.ErrCorrupt, vfs.ErrIO, vfs.ErrClosed,
}

// kind returns the sentinel that err wraps, or err itself if it wraps none.
func kind(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s
		}
	}
	return err
}

// Compare makes the same ops random changes to two file systems. It fails the test if results or
// errors differ, or if the trees differ at the end. Both must begin with the same tree. got is the
// file system under test, and want, a MemFS, is the model. Inode numbers, times, cookies and the
// granularity of holes may differ. If an operation has two errors, MemFS determines which one must
// be returned.
func Compare(t testing.TB, seed uint64, ops int, got, want vfs.FS) {
	t.Helper()
	w := &walker{t: t, rng: rand.New(rand.NewPCG(seed, 0)), got: got, want: want}
	w.inodes = []pair{{vfs.RootIno, vfs.RootIno}}
	for w.step = range ops {
		w.op()
		if t.Failed() {
			t.Fatalf("seed %d: differs at operation %d: %s", seed, w.step, w.what)
		}
		if w.step%500 == 499 {
			w.compareTrees()
		}
	}
	for _, p := range w.orphans {
		w.forget(p)
	}
	w.compareTrees()
	if t.Failed() {
		t.Fatalf("seed %d: trees differ after %d operations", seed, ops)
	}
}

// pair is one inode in both file systems.
type pair struct{ got, want vfs.Ino }

type walker struct {
	t         testing.TB
	rng       *rand.Rand
	got, want vfs.FS
	inodes    []pair // with and without names, except for forgotten ones
	orphans   []pair // without names, but not yet forgotten
	step      int
	what      string
}

func (w *walker) compareTrees() {
	w.t.Helper()
	g, err := Snapshot(w.got, SnapshotOptions{})
	if err != nil {
		w.t.Fatalf("operation %d: snapshot: %v", w.step, err)
	}
	m, err := Snapshot(w.want, SnapshotOptions{})
	if err != nil {
		w.t.Fatalf("operation %d: snapshot of the model: %v", w.step, err)
	}
	if d := diff(g, m); d != "" {
		w.t.Errorf("after operation %d: %s", w.step, d)
	}
}

func (w *walker) any() pair { return w.inodes[w.rng.IntN(len(w.inodes))] }

// ofType prefers an inode of the given type.
func (w *walker) ofType(typ uint32) pair {
	for range 10 {
		p := w.any()
		if a, err := w.want.GetAttr(p.want); err == nil && a.Mode&syscall.S_IFMT == typ {
			return p
		}
	}
	return w.any()
}

// dir returns a directory or another inode, but no removed directory, because the kernel sends no
// requests for it.
func (w *walker) dir() pair {
	p := w.ofType(syscall.S_IFDIR)
	if slices.Contains(w.orphans, p) {
		return w.inodes[0]
	}
	return p
}

func (w *walker) file() pair { return w.ofType(syscall.S_IFREG) }

func (w *walker) name() string {
	if w.rng.IntN(200) == 0 {
		return string(bytes.Repeat([]byte("long"), 60+w.rng.IntN(6)))
	}
	return fmt.Sprintf("n%d", w.rng.IntN(12))
}

func (w *walker) off() uint64 {
	switch w.rng.IntN(4) {
	case 0:
		return uint64(w.rng.IntN(64)) * 4096
	case 1:
		return uint64(w.rng.IntN(5000))
	case 2:
		return uint64(w.rng.IntN(4 << 20))
	}
	return uint64(w.rng.IntN(300_000))
}

func (w *walker) length() uint64 {
	if w.rng.IntN(3) == 0 {
		return uint64(1+w.rng.IntN(32)) * 4096
	}
	return uint64(w.rng.IntN(70_000))
}

func (w *walker) req() *vfs.Req {
	return &vfs.Req{UID: uint32(w.rng.IntN(3)) * 1000, GID: uint32(w.rng.IntN(3)) * 1000, Umask: []uint32{0, 0o22, 0o77}[w.rng.IntN(3)]}
}

// same compares errors, and returns whether both operations succeeded.
func (w *walker) same(g, m error) bool {
	w.t.Helper()
	if !errors.Is(kind(g), kind(m)) { // nil equals only nil
		w.t.Errorf("error %v, want %v", g, m)
	}
	return g == nil && m == nil
}

func (w *walker) sameAttr(g, m vfs.Attr) {
	w.t.Helper()
	if g.Mode != m.Mode || g.Nlink != m.Nlink || g.UID != m.UID || g.GID != m.GID || g.Rdev != m.Rdev ||
		g.Mode&syscall.S_IFMT != syscall.S_IFDIR && g.Size != m.Size {
		w.t.Errorf("attributes %+v, want %+v", g, m)
	}
}

func (w *walker) made(g, m vfs.Attr, gerr, merr error) {
	w.t.Helper()
	if !w.same(gerr, merr) {
		return
	}
	w.sameAttr(g, m)
	w.inodes = append(w.inodes, pair{g.Ino, m.Ino})
}

// gone keeps an inode that lost a name for some time, like an open file.
func (w *walker) gone(p pair) {
	if a, err := w.want.GetAttr(p.want); err == nil && a.Nlink == 0 && !slices.Contains(w.orphans, p) {
		w.orphans = append(w.orphans, p)
	}
	if len(w.orphans) > 20 {
		i := w.rng.IntN(len(w.orphans))
		w.forget(w.orphans[i])
		w.orphans = slices.Delete(w.orphans, i, i+1)
	}
}

func (w *walker) forget(p pair) {
	w.got.Forget(p.got)
	w.want.Forget(p.want)
	_, gerr := w.got.GetAttr(p.got)
	_, merr := w.want.GetAttr(p.want)
	w.same(gerr, merr)
	if merr != nil {
		w.inodes = slices.DeleteFunc(w.inodes, func(q pair) bool { return q == p })
	}
}

// named returns the pair of a name, if it exists.
func (w *walker) named(dir pair, name string) (pair, bool) {
	g, gerr := w.got.Lookup(dir.got, name)
	m, merr := w.want.Lookup(dir.want, name)
	ok := w.same(gerr, merr)
	return pair{g.Ino, m.Ino}, ok
}

func (w *walker) op() {
	type choice struct {
		weight int
		name   string
		run    func()
	}
	choices := []choice{
		{8, "mknod", w.mknod}, {4, "mkdir", w.mkdir}, {2, "symlink", w.symlink}, {1, "tmpfile", w.tmpfile},
		{4, "link", w.link}, {6, "unlink", w.unlink}, {3, "rmdir", w.rmdir}, {8, "rename", w.rename},
		{14, "write", w.write}, {8, "read", w.read}, {5, "setattr", w.setAttr}, {5, "fallocate", w.fallocate},
		{3, "copy", w.copy}, {3, "seek", w.seek}, {4, "xattr", w.xattr}, {2, "acl", w.acl}, {2, "readdir", w.readDir},
		{2, "sync", w.sync}, {2, "forget", w.forgetOne},
	}
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := w.rng.IntN(total)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			w.what = c.name
			c.run()
			return
		}
	}
}
