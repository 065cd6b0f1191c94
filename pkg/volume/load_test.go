package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// fact is one fact of a volume. Exactly one of the pointers is set; data is the whole content of a
// file, without the zeros at its end.
type fact struct {
	key    logical.Key
	inode  *logical.Inode
	name   *logical.Name
	xattr  *logical.Xattr
	inline []byte
	data   []byte
}

// facts is what a volume contains.
type facts struct {
	seed [16]byte
	next uint64
	list []fact // in the order of their keys
}

// factsOf reads the facts of a volume, or of a view of a snapshot.
func factsOf(t testing.TB, v *Volume) facts {
	t.Helper()
	var f facts
	if v.durable.root != nil { // not a view
		f.seed, f.next = v.durable.root.HashSeed, v.com.inos.next
	}
	dead := map[uint64]bool{}
	var raw []struct {
		k layout.Key
		v []byte
	}
	ok(t, v.fs.Scan(items.InodeKey(1), layout.Key{Obj: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		raw = append(raw, struct {
			k layout.Key
			v []byte
		}{k, bytes.Clone(val)})
		return true
	}))
	for _, r := range raw {
		k, val := r.k, r.v
		switch k.Type {
		case layout.KeyInode:
			n, err := layout.DecodeInode(val)
			ok(t, err)
			if dead[k.Obj] = n.Nlink == 0; dead[k.Obj] {
				continue
			}
			f.list = append(f.list, fact{key: logical.Key{Ino: k.Obj, Type: logical.InodeType}, inode: logicalInode(&n)})
			if n.Mode&items.ModeType == items.ModeReg {
				f.addContent(t, v, k.Obj, n.Size)
			}
		case layout.KeyInline:
			n, err := v.table.readInode(k.Obj)
			ok(t, err)
			if n.Mode&items.ModeType == items.ModeLink {
				f.list = append(f.list, fact{key: logical.Key{Ino: k.Obj, Type: logical.InlineType}, inline: val})
			}
		case layout.KeyXattr:
			x, err := layout.DecodeXattr(val, int(k.Sub&0xff))
			ok(t, err)
			if k.Sub&0xff == 0 && !dead[k.Obj] {
				b, err := v.GetXattr(vfs.Ino(k.Obj), x.Name)
				ok(t, err)
				f.list = append(f.list, fact{key: logical.Key{Ino: k.Obj, Type: logical.XattrType, Sub: k.Sub}, xattr: &logical.Xattr{Name: x.Name, Value: b}})
			}
		case layout.KeyName:
			n, err := layout.DecodeName(val)
			ok(t, err)
			f.list = append(f.list, fact{key: logical.Key{Ino: k.Obj, Type: logical.NameType, Sub: k.Sub}, name: &logical.Name{Ino: n.Ino, Type: n.Type, Name: n.Name}})
		}
	}
	slices.SortFunc(f.list, func(a, b fact) int { return a.key.Compare(b.key) })
	return f
}

func logicalInode(n *layout.Inode) *logical.Inode {
	l := &logical.Inode{Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size, Parent: n.Parent, NameSub: n.NameSub,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	for _, u := range userFlags {
		if n.Flags&u.inode != 0 {
			l.Flags |= u.fs
		}
	}
	return l
}

// addContent adds the content of a file.
func (f *facts) addContent(t testing.TB, v *Volume, ino, size uint64) {
	var data []byte
	for off := uint64(0); ; {
		from, err := v.SeekData(vfs.Ino(ino), off)
		if errors.Is(err, vfs.ErrNoData) {
			break
		}
		ok(t, err)
		to, err := v.SeekHole(vfs.Ino(ino), from)
		ok(t, err)
		data = append(data, make([]byte, to-uint64(len(data)))...)
		_, err = v.Read(vfs.Ino(ino), from, data[from:to])
		ok(t, err)
		off = to
	}
	data = bytes.TrimRight(data, "\x00")
	switch {
	case len(data) == 0:
	case size <= logical.MaxInline:
		f.list = append(f.list, fact{key: logical.Key{Ino: ino, Type: logical.InlineType}, inline: append(data, make([]byte, size-uint64(len(data)))...)})
	default:
		f.list = append(f.list, fact{key: logical.Key{Ino: ino, Type: logical.DataType}, data: data})
	}
}

func (f *fact) String() string {
	switch {
	case f.inode != nil:
		return fmt.Sprintf("%v %+v", f.key, *f.inode)
	case f.name != nil:
		return fmt.Sprintf("%v %+v", f.key, *f.name)
	case f.xattr != nil:
		return fmt.Sprintf("%v %q, %d bytes", f.key, f.xattr.Name, len(f.xattr.Value))
	}
	return fmt.Sprintf("%v %d, %d bytes", f.key, len(f.inline), len(f.data))
}

func (f *fact) equal(o *fact) bool {
	if f.key != o.key || !bytes.Equal(f.inline, o.inline) || !bytes.Equal(f.data, o.data) {
		return false
	}
	switch {
	case f.inode != nil:
		return *f.inode == *o.inode
	case f.name != nil:
		return *f.name == *o.name
	case f.xattr != nil:
		return f.xattr.Name == o.xattr.Name && bytes.Equal(f.xattr.Value, o.xattr.Value)
	}
	return true
}

// differ compares two volumes.
func (f *facts) differ(got *facts) error {
	if f.seed != got.seed || f.next != got.next {
		return fmt.Errorf("hash seed or next inode number %d differ from %d", got.next, f.next)
	}
	for i := range max(len(f.list), len(got.list)) {
		switch {
		case i >= len(f.list):
			return fmt.Errorf("too much: %v", &got.list[i])
		case i >= len(got.list):
			return fmt.Errorf("missing: %v", &f.list[i])
		case !f.list[i].equal(&got.list[i]):
			return fmt.Errorf("got %v\nwant %v", &got.list[i], &f.list[i])
		}
	}
	return nil
}

// give gives a fact to a loader.
func (f *fact) give(l *Loader) error {
	switch {
	case f.inode != nil:
		return l.Inode(f.key.Ino, f.inode)
	case f.name != nil:
		return l.Name(f.key.Ino, f.key.Sub, f.name)
	case f.xattr != nil:
		return l.Xattr(f.key.Ino, f.key.Sub, f.xattr)
	case f.inline != nil:
		return l.Inline(f.key.Ino, f.inline)
	}
	return nil
}

// give gives all facts and content, in pieces of random size and order.
func (f *facts) give(l *Loader, rng *rand.Rand) error {
	for i := range f.list {
		if err := f.list[i].give(l); err != nil {
			return err
		}
	}
	return f.giveData(l, rng)
}

// piece is a part of a file.
type piece struct {
	ino, off uint64
	b        []byte
}

func (f *facts) pieces(rng *rand.Rand) (all []piece) {
	for i := range f.list {
		x := &f.list[i]
		for b, off := x.data, uint64(0); len(b) > 0; {
			n := min(len(b), 1+rng.IntN(200_000))
			if rng.IntN(2) == 0 {
				n = min(len(b), (n+pageBytes-1)/pageBytes*pageBytes)
			}
			all = append(all, piece{x.key.Ino, off, b[:n]})
			b, off = b[n:], off+uint64(n)
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (f *facts) giveData(l *Loader, rng *rand.Rand) error {
	for _, p := range f.pieces(rng) {
		if err := l.WriteAt(p.ino, p.b, p.off); err != nil {
			return err
		}
	}
	return nil
}

func (f *facts) options(t testing.TB) LoadOptions {
	return LoadOptions{Credential: testCred(t), Memory: minMemory, HashSeed: f.seed, NextIno: f.next}
}

func newLoader(t testing.TB, dev device.Device, f *facts, suite crypto.Suite) *Loader {
	t.Helper()
	l, err := NewLoader(dev, FormatOptions{Recipient: testCred(t), Suite: suite}, f.options(t))
	ok(t, err)
	return l
}

// check compares the volume on a device with the facts.
func (f *facts) check(t testing.TB, dev device.Device) {
	t.Helper()
	ok(t, cleanErr(dev))
	for _, ro := range []bool{true, false} {
		v := mustOpen(t, dev, Options{ReadOnly: ro, CommitInterval: -1, Memory: minMemory})
		got := factsOf(t, v)
		if err := f.differ(&got); err != nil {
			t.Fatal(err)
		}
		mustClose(t, v)
	}
}

// A restored volume is equal to its source, and works.
func TestLoad(t *testing.T) {
	t.Parallel()
	for seed := range uint64(fewer(5)) {
		v := richVolume(t, seed, 1500)
		want := factsOf(t, v)
		mustClose(t, v)
		dev := device.NewMem(200<<20 + int64(seed)*4096*7)
		l := newLoader(t, dev, &want, crypto.Suite(1+seed%2))
		rng := rand.New(rand.NewPCG(seed, 2))
		ok(t, want.give(l, rng))
		ok(t, l.Finish())
		want.check(t, dev)
		useLoaded(t, dev, seed)
	}
}

// useLoaded uses a restored volume as any other.
func useLoaded(t testing.TB, dev device.Device, seed uint64) {
	t.Helper()
	v := mustOpen(t, dev, Options{Memory: minMemory, CommitInterval: -1})
	_, err := v.CreateSnapshot("before")
	ok(t, err)
	before := factsOf(t, v)
	req := &vfs.Req{}
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range before.list {
		x := &before.list[i]
		if x.inode == nil || !x.inode.IsRegular() || x.inode.Flags != 0 || rng.IntN(2) == 0 {
			continue
		}
		_, err := v.Write(req, vfs.Ino(x.key.Ino), uint64(rng.IntN(300_000)), []byte("new"), false)
		ok(t, err)
	}
	for i := range before.list {
		x := &before.list[i]
		if x.name == nil || x.name.Type == items.ModeDir || rng.IntN(3) > 0 {
			continue
		}
		if err := v.Unlink(req, vfs.Ino(x.key.Ino), x.name.Name); err == nil {
			v.Forget(vfs.Ino(x.name.Ino))
		} else if !errors.Is(err, vfs.ErrNotPermitted) {
			t.Fatal(err)
		}
	}
	a, err := v.Mkdir(req, vfs.RootIno, "fresh", 0o755)
	ok(t, err)
	if uint64(a.Ino) < before.next {
		t.Errorf("new inode %d is below %d", a.Ino, before.next)
	}
	view, end, err := v.OpenSnapshot("before")
	ok(t, err)
	got := factsOf(t, view.(*snapView).Volume)
	got.seed, got.next = before.seed, before.next
	if err := before.differ(&got); err != nil {
		t.Error(err)
	}
	end()
	mustClose(t, v)
	ok(t, cleanErr(dev))
	v = mustOpen(t, dev, Options{Memory: minMemory, CommitInterval: -1})
	ok(t, v.DeleteSnapshot("before"))
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// Nobody opens a volume that is being restored.
func TestLoadRefused(t *testing.T) {
	t.Parallel()
	v := richVolume(t, 1, 100)
	want := factsOf(t, v)
	mustClose(t, v)
	dev := device.NewMem(128 << 20)
	l := newLoader(t, dev, &want, 0)
	for i := range want.list[:len(want.list)/2] {
		ok(t, want.list[i].give(l))
	}
	ok(t, l.Commit([]byte("half")))
	ok(t, l.Close())
	cred := testCred(t)
	for _, ro := range []bool{true, false} {
		if _, err := Open(dev, Options{Credential: cred, ReadOnly: ro}); !errors.Is(err, ErrRestoring) {
			t.Errorf("open, read-only %t: %v", ro, err)
		}
	}
	if err := VerifyAnchor(dev, cred, &Anchor{}); !errors.Is(err, ErrOtherVolume) && !errors.Is(err, ErrRestoring) {
		t.Errorf("anchor: %v", err)
	}
	i, err := Inspect(dev, cred, false)
	ok(t, err)
	if !i.Header.Restoring {
		t.Error("info does not tell that the volume is being restored")
	}
	rep, err := check.Run(dev, check.Options{Credential: cred, Data: true})
	ok(t, err)
	if !rep.Clean || !rep.Restoring {
		t.Errorf("fsck: %+v", rep.Problems)
	}
	o := want.options(t)
	o.NextIno++
	if _, _, err := ResumeLoader(dev, o); !errors.Is(err, logical.ErrInvalid) {
		t.Errorf("resume of another snapshot: %v", err)
	}
	l, position, err := ResumeLoader(dev, want.options(t))
	ok(t, err)
	if string(position) != "half" {
		t.Errorf("position %q", position)
	}
	ok(t, want.give(l, rand.New(rand.NewPCG(1, 1))))
	ok(t, l.Finish())
	want.check(t, dev)
	if _, _, err := ResumeLoader(dev, want.options(t)); !errors.Is(err, ErrNotRestoring) {
		t.Errorf("resume of a whole volume: %v", err)
	}
}
