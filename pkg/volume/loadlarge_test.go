package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// manyFiles loads directories with files: small ones, some with attributes, and larger ones.
type manyFiles struct {
	dirs, files int // files in each directory
	hash        items.Hasher
	each        func() // after each file
}

func (m *manyFiles) dirIno(d int) uint64     { return uint64(2 + d) }
func (m *manyFiles) fileIno(d, f int) uint64 { return uint64(2 + m.dirs + d*m.files + f) }

// names loads the names of a directory, in the order of their numbers.
func (m *manyFiles) names(l *Loader, dir uint64, n int, name func(i int) logical.Name) error {
	type numbered struct {
		sub uint64
		n   logical.Name
	}
	var all []numbered
	for i := range n {
		x := name(i)
		all = append(all, numbered{m.hash.Name(x.Name), x})
	}
	slices.SortFunc(all, func(a, b numbered) int {
		return bytes.Compare(fmt.Appendf(nil, "%020d", a.sub), fmt.Appendf(nil, "%020d", b.sub))
	})
	for i := range all {
		if err := l.Name(dir, all[i].sub, &all[i].n); err != nil {
			return err
		}
	}
	return nil
}

func (m *manyFiles) load(l *Loader) error {
	dir := func(ino uint64, names, dirs int) *logical.Inode {
		return &logical.Inode{Mode: items.ModeDir | 0o755, Nlink: uint32(2 + dirs), Size: uint64(names), Parent: 1}
	}
	err := l.Inode(1, dir(1, m.dirs, m.dirs))
	if err == nil {
		err = m.names(l, 1, m.dirs, func(i int) logical.Name {
			return logical.Name{Ino: m.dirIno(i), Type: items.ModeDir, Name: fmt.Sprintf("directory %d", i)}
		})
	}
	for d := 0; d < m.dirs && err == nil; d++ {
		if err = l.Inode(m.dirIno(d), dir(m.dirIno(d), m.files, 0)); err == nil {
			err = m.names(l, m.dirIno(d), m.files, func(i int) logical.Name {
				return logical.Name{Ino: m.fileIno(d, i), Type: items.ModeReg, Name: fmt.Sprintf("file %d of the directory", i)}
			})
		}
	}
	for i := 0; i < m.dirs*m.files && err == nil; i++ {
		err = m.file(l, m.fileIno(0, i), i)
		m.each()
	}
	return err
}

func (m *manyFiles) file(l *Loader, ino uint64, i int) error {
	b := bytes.Repeat([]byte(fmt.Sprintf("%d ", i)), 20)
	if i%10 == 0 {
		b = bytes.Repeat(b, 5000/len(b)+1)
	}
	err := l.Inode(ino, &logical.Inode{Mode: items.ModeReg | 0o644, Nlink: 1, Size: uint64(len(b)), Parent: 2})
	if err == nil && i%10 > 0 {
		err = l.Inline(ino, b)
	}
	if err == nil && i%4 == 0 {
		err = l.Xattr(ino, m.hash.Xattr("user.attribute"), &logical.Xattr{Name: "user.attribute", Value: b[:30]})
	}
	if err == nil && i%10 == 0 {
		err = l.WriteAt(ino, b, 0)
	}
	return err
}

// The memory of a load does not depend on the number of files.
func TestLoadMemory(t *testing.T) {
	m := &manyFiles{dirs: 100, files: 2000, hash: items.NewHasher([16]byte{})}
	if testing.Short() {
		m.files = 200
	}
	path := filepath.Join(t.TempDir(), "img")
	dev := newImage(t, path, 1<<30)
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before, most, n := heap(), uint64(0), 0
	measure := func() {
		if n++; n%(m.dirs*m.files/40) == 0 {
			most = max(most, heap())
		}
	}
	m.each = measure
	l, err := NewLoader(dev, newFormat(t), LoadOptions{Credential: testCred(t), Memory: minMemory, NextIno: m.fileIno(m.dirs, 0)})
	ok(t, err)
	ok(t, m.load(l))
	commits := l.v.com.commits.Load()
	ok(t, l.Finish())
	most = max(most, heap())
	t.Logf("%d files, %d commits, at most %d KiB", m.dirs*m.files, commits, (most-before)>>10)
	if most > before+minMemory {
		t.Errorf("%d bytes, of %d allowed", most-before, minMemory)
	}
	ok(t, cleanErr(dev))
}

// newImage makes a file of a size and opens it.
func newImage(t testing.TB, path string, size int64) *device.File {
	t.Helper()
	ok(t, os.WriteFile(path, nil, 0o600))
	ok(t, os.Truncate(path, size))
	dev, err := device.Open(path, device.OpenOptions{})
	ok(t, err)
	t.Cleanup(func() { ok(t, dev.Close()) })
	return dev
}

// Content is written by several goroutines, while facts come and are committed.
func TestLoadConcurrent(t *testing.T) {
	t.Parallel()
	v := richVolume(t, 7, 300)
	want := factsOf(t, v)
	mustClose(t, v)
	dev := device.NewMem(192 << 20)
	l := newLoader(t, dev, &want, 0)
	feed := make(chan piece, 16)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for p := range feed {
				if err := l.WriteAt(p.ino, p.b, p.off); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 1))
	pieces := want.pieces(rng)
	slices.SortStableFunc(pieces, func(a, b piece) int { return int(a.ino) - int(b.ino) })
	for i := range want.list {
		ok(t, want.list[i].give(l))
		for len(pieces) > 0 && (i+1 == len(want.list) || pieces[0].ino < want.list[i+1].key.Ino) {
			feed <- pieces[0]
			pieces = pieces[1:]
		}
		if rng.IntN(50) == 0 {
			ok(t, l.Commit(nil))
		}
	}
	close(feed)
	wg.Wait()
	ok(t, l.Finish())
	want.check(t, dev)
}

// A device that is too small is refused at once, or when it is full. Then it can grow.
func TestLoadNoSpace(t *testing.T) {
	t.Parallel()
	dev := device.NewMem(64 << 20)
	o := LoadOptions{Credential: testCred(t), Memory: minMemory, NextIno: 10, ContentBytes: 60 << 20, Inodes: 2}
	if _, err := NewLoader(dev, newFormat(t), o); !errors.Is(err, vfs.ErrNoSpace) {
		t.Errorf("a device of 64 MiB for 60 MiB of content: %v", err)
	}
	if dev.Writes() != 0 {
		t.Error("the device was written")
	}
	o.ContentBytes = 0
	l, err := NewLoader(dev, newFormat(t), o)
	ok(t, err)
	h := newHostile()
	h.file(2, 50<<20)
	slices.SortStableFunc(h.f.list, func(a, b fact) int { return a.key.Compare(b.key) })
	for i := range h.f.list {
		ok(t, h.f.list[i].give(l))
	}
	b := bytes.Repeat([]byte{1, 2, 3, 4}, 256<<10)
	fill := func(l *Loader) error {
		for off := uint64(0); off < 50<<20; off += uint64(len(b)) {
			if err := l.WriteAt(2, b, off); err != nil {
				return err
			}
		}
		return nil
	}
	err = fill(l)
	if !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("50 MiB on 64 MiB: %v", err)
	}
	t.Log(err)
	ok(t, l.Commit([]byte("full")))
	ok(t, l.Close())
	if _, err := Open(dev, Options{Credential: testCred(t)}); !errors.Is(err, ErrRestoring) {
		t.Error(err)
	}
	ok(t, cleanErr(dev))
	l, position, err := ResumeLoader(dev, LoadOptions{Credential: testCred(t), Memory: minMemory})
	ok(t, err)
	if string(position) != "full" {
		t.Errorf("position %q", position)
	}
	dev.Grow(128 << 20)
	_, err = l.Grow()
	ok(t, err)
	ok(t, fill(l))
	ok(t, l.Finish())
	ok(t, cleanErr(dev))
	v := mustOpen(t, dev, Options{ReadOnly: true})
	got := make([]byte, 50<<20)
	_, err = v.Read(2, 0, got)
	ok(t, err)
	if !bytes.Equal(got, bytes.Repeat(b, 50)) {
		t.Error("content differs")
	}
	mustClose(t, v)
}

// loadState loads a state of package pinned as it comes.
type loadState struct {
	*Loader
	s *pinned.State
}

func (l *loadState) Data(d *pinned.DataChange) error {
	for r, err := range d.Dirty {
		for err == nil && r.Len > 0 {
			b := make([]byte, min(r.Len, 300_000))
			if _, err = l.s.ReadAt(d.Ino, b, r.Off); err == nil {
				err = l.WriteAt(d.Ino, b, r.Off)
			}
			r.Off, r.Len = r.Off+uint64(len(b)), r.Len-uint64(len(b))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The facts of a local snapshot, as package pinned reads them, make the volume that it was made of.
func TestLoadPinned(t *testing.T) {
	t.Parallel()
	v := richVolume(t, 3, 1000)
	_, err := v.CreateSnapshot("s")
	ok(t, err)
	want := factsOf(t, v)
	p, err := pinned.Open(v.store.Dev, pinned.Options{Credential: testCred(t)})
	ok(t, err)
	s, err := p.Snapshot("s")
	ok(t, err)
	dev := device.NewMem(160 << 20)
	l, err := NewLoader(dev, newFormat(t), LoadOptions{Credential: testCred(t), Memory: minMemory, HashSeed: p.Identity().HashSeed, NextIno: want.next})
	ok(t, err)
	ok(t, pinned.Diff(t.Context(), nil, s, &loadState{l, s}))
	ok(t, l.Finish())
	p.Close()
	mustClose(t, v)
	want.check(t, dev)
}

// A restore whose end was interrupted after the header said that the volume is complete leaves the
// position. fsck notes it, a read-only mount ignores it, a read-write mount removes it.
func TestLoadLeftover(t *testing.T) {
	t.Parallel()
	v := richVolume(t, 5, 50)
	want := factsOf(t, v)
	mustClose(t, v)
	dev := device.NewMem(128 << 20)
	l := newLoader(t, dev, &want, 0)
	ok(t, want.give(l, rand.New(rand.NewPCG(1, 1))))
	ok(t, l.Commit(make([]byte, MaxPosition)))
	old := [2][]byte{headerAt(t, dev, 0), headerAt(t, dev, 1<<20)}
	k := &l.v.keys
	k.mu.Lock()
	h := *k.header
	h.Incompat &^= 1 << 4
	ok(t, k.writeHeader(&h))
	k.mu.Unlock()
	l.v.fail(device.ErrCrashed)
	_ = l.Close()
	notes := func() []check.Problem {
		rep, err := check.Run(dev, check.Options{Credential: testCred(t)})
		ok(t, err)
		if !rep.Clean || rep.Restoring {
			t.Errorf("%+v", rep)
		}
		return rep.Notes
	}
	if n := notes(); len(n) != 1 || n[0].Where != "position of the restore" {
		t.Errorf("notes %v", n)
	}
	want.check(t, dev) // read-only, then read-write
	if n := notes(); len(n) != 0 {
		t.Errorf("notes %v", n)
	}
	// The header of the restore is not accepted any more.
	for i, b := range old {
		_, err := dev.WriteAt(b, int64(i)<<20)
		ok(t, err)
	}
	if _, _, err := ResumeLoader(dev, want.options(t)); !errors.Is(err, ErrForged) {
		t.Errorf("resume with an old header: %v", err)
	}
}

// countReads counts the bytes that are read.
type countReads struct {
	*device.Mem
	n atomic.Int64
}

func (c *countReads) ReadAt(b []byte, off int64) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Mem.ReadAt(b, off)
}

// The end of a load does not read where the data of large files lies.
func TestLoadCheckReads(t *testing.T) {
	t.Parallel()
	dev := &countReads{Mem: device.NewMem(128 << 20)}
	h := newHostile()
	h.file(2, 1<<40)
	h.file(3, 100)
	slices.SortStableFunc(h.f.list, func(a, b fact) int { return a.key.Compare(b.key) })
	l := newLoader(t, dev, &h.f, 0)
	for i := range h.f.list {
		ok(t, h.f.list[i].give(l))
	}
	const extents = 8000
	for i := range uint64(extents) {
		ok(t, l.WriteAt(2, bytes.Repeat([]byte{1}, pageBytes), i*2*pageBytes))
	}
	ok(t, l.Commit(nil))
	ok(t, l.Close())
	l, _, err := ResumeLoader(dev, h.f.options(t))
	ok(t, err)
	before := dev.n.Load()
	ok(t, l.checkFacts())
	n := dev.n.Load() - before
	t.Logf("%d KiB", n>>10)
	if n > extents*120/2 {
		t.Errorf("%d bytes were read", n)
	}
	ok(t, l.Finish())
	ok(t, cleanErr(dev))
}
