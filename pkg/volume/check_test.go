package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// checkKey is the key of every volume that this package's tests make.
func checkKey(t testing.TB) interface {
	crypto.Credential
	crypto.Recipient
} {
	t.Helper()
	b := make([]byte, 32)
	for i := range b {
		b[i] = byte(i)
	}
	k, err := crypto.NewKey(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return crypto.SecretCredential(k)
}

// checkClean fails the test unless the volume on dev is whole, data included.
// Operations in the log are no damage.
func checkClean(t testing.TB, dev device.Device) *check.Report {
	t.Helper()
	rep, err := check.Run(dev, check.Options{Credential: checkKey(t), Data: true})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for i, p := range rep.Problems {
		if i == 20 {
			break
		}
		t.Errorf("check: %v", p)
	}
	if !rep.Clean {
		t.Fatalf("check: %d problems at generation %d", rep.Total, rep.Generation)
	}
	return rep
}

// fixture is a volume for tests of damage, and what it should hold.
type fixture struct {
	dev   *device.Mem
	files map[string][]byte
}

func checkOpen(t testing.TB, dev device.Device, opts Options) *Volume {
	t.Helper()
	opts.Credential = checkKey(t)
	if opts.CommitInterval == 0 {
		opts.CommitInterval = -1
	}
	v, err := Open(dev, opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newFixture(t testing.TB, sizeBytes int64) *fixture {
	t.Helper()
	fx := &fixture{dev: device.NewMem(sizeBytes), files: map[string][]byte{}}
	if err := Format(fx.dev, FormatOptions{Recipient: checkKey(t)}); err != nil {
		t.Fatal(err)
	}
	return fx
}

// noise is content that tells its file and place.
func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// populate makes one of everything, and enough of some to have trees of
// several levels.
func (fx *fixture) populate(t testing.TB, v *Volume) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 7))
	req := &vfs.Req{Umask: 0o022}
	mk := func(dir vfs.Ino, path string, n int) vfs.Ino {
		a, err := v.Mknod(req, dir, path[strings.LastIndex(path, "/")+1:], 0o644, 0)
		ok(t, err)
		data := noise(rng, n)
		for off := 0; off < n; off += 1 << 20 {
			_, err := v.Write(req, a.Ino, uint64(off), data[off:min(n, off+1<<20)], false)
			ok(t, err)
		}
		fx.files[path] = data
		return a.Ino
	}
	dir := func(parent vfs.Ino, name string) vfs.Ino {
		a, err := v.Mkdir(req, parent, name, 0o755)
		ok(t, err)
		return a.Ino
	}
	a := dir(vfs.RootIno, "a")
	b := dir(a, "b")
	many := dir(vfs.RootIno, "many")
	for i := range 600 {
		mk(many, fmt.Sprintf("many/file-%d", i), rng.IntN(3000))
	}
	big := mk(b, "a/b/big", 5<<20+777)
	mk(b, "a/b/small", 100)
	mk(a, "a/empty", 0)
	for i := range 40 { // single blocks: split extents
		off := uint64(rng.IntN(5<<20)) &^ 4095
		data := noise(rng, 4096)
		_, err := v.Write(req, big, off, data, false)
		ok(t, err)
		copy(fx.files["a/b/big"][off:], data)
		if i == 20 {
			ok(t, v.Sync(vfs.RootIno))
		}
	}
	ok(t, v.Fallocate(req, big, vfs.FallocPunchHole|vfs.FallocKeepSize, 1<<20+100, 300000))
	clear(fx.files["a/b/big"][1<<20+100 : 1<<20+100+300000])
	_, err := v.Symlink(req, a, "link", strings.Repeat("x/", 1000))
	ok(t, err)
	_, err = v.Mknod(req, a, "fifo", 0o010644, 0)
	ok(t, err)
	_, err = v.Mknod(req, a, "dev", 0o020644, 0x103)
	ok(t, err)
	_, err = v.Link(req, big, vfs.RootIno, "big2")
	ok(t, err)
	_, err = v.Link(req, big, vfs.RootIno, "big3")
	ok(t, err)
	fx.files["big2"], fx.files["big3"] = fx.files["a/b/big"], fx.files["a/b/big"]
	ok(t, v.SetXattr(req, big, "user.large", noise(rng, 20000), 0))
	ok(t, v.SetXattr(req, big, "user.exact", noise(rng, 4096), 0))
	ok(t, v.SetXattr(req, big, "user.none", nil, 0))
	ok(t, v.SetXattr(req, big, "security.capability", []byte("cap"), 0))
	acl := posixacl.ACL{{Tag: posixacl.UserObj, Perm: 7, ID: posixacl.NoID}, {Tag: posixacl.User, Perm: 7, ID: 5},
		{Tag: posixacl.GroupObj, Perm: 5, ID: posixacl.NoID}, {Tag: posixacl.Mask, Perm: 7, ID: posixacl.NoID},
		{Tag: posixacl.Other, Perm: 0, ID: posixacl.NoID}}
	ok(t, v.SetXattr(req, b, posixacl.DefaultName, acl.Encode(), 0))
	ok(t, v.SetXattr(req, b, posixacl.AccessName, acl.Encode(), 0))
	mk(b, "a/b/inherits", 70000)
	dir(b, "sub")
	// A directory that moved below a younger one.
	young := dir(vfs.RootIno, "young")
	ok(t, v.Rename(req, a, "b", young, "b", 0))
	for p, d := range fx.files {
		if strings.HasPrefix(p, "a/b/") {
			delete(fx.files, p)
			fx.files["young/b/"+p[4:]] = d
		}
	}
	for i := range 100 {
		name := fmt.Sprintf("file-%d", i*3)
		ok(t, v.Unlink(req, many, name))
		delete(fx.files, "many/"+name)
	}
	_, err = v.Tmpfile(req, vfs.RootIno, 0o600)
	ok(t, err)
}

func walkTo(v *Volume, path string) (vfs.Attr, error) {
	at := vfs.Attr{Ino: vfs.RootIno}
	for _, name := range strings.Split(path, "/") {
		var err error
		if at, err = v.Lookup(at.Ino, name); err != nil {
			return at, err
		}
	}
	return at, nil
}

// readAll reads a file block by block: each either has the right content or
// gives ErrCorrupt. It returns the blocks that do.
func (fx *fixture) readAll(t testing.TB, v *Volume, path string) (bad []int) {
	t.Helper()
	want := fx.files[path]
	a, err := walkTo(v, path)
	if err != nil {
		if !errors.Is(err, vfs.ErrCorrupt) {
			t.Fatalf("%s: %v", path, err)
		}
		return []int{-1}
	}
	if a.Size != uint64(len(want)) {
		t.Fatalf("%s: %d bytes instead of %d", path, a.Size, len(want))
	}
	for off := 0; off < len(want); off += 4096 {
		b := make([]byte, min(4096, len(want)-off))
		n, err := v.Read(a.Ino, uint64(off), b)
		switch {
		case errors.Is(err, vfs.ErrCorrupt):
			bad = append(bad, off/4096)
		case err != nil:
			t.Fatalf("%s at %d: %v", path, off, err)
		case n != len(b) || !bytes.Equal(b, want[off:off+n]):
			t.Fatalf("%s at %d: wrong data", path, off)
		}
	}
	return bad
}

func TestCheckClean(t *testing.T) {
	fx := newFixture(t, 256<<20)
	rep := checkClean(t, fx.dev)
	if rep.Counts.Inodes != 1 || rep.NeedsReplay || rep.Generation != 2 {
		t.Fatalf("a new volume: %+v", rep)
	}
	v := checkOpen(t, fx.dev, Options{})
	fx.populate(t, v)
	ok(t, v.Sync(vfs.RootIno))
	rep = checkClean(t, fx.dev)
	if rep.NeedsReplay {
		t.Fatal("committed, and yet to be replayed")
	}
	_, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "logged", 0o644, 0)
	ok(t, err)
	ok(t, v.Sync(2))
	if rep = checkClean(t, fx.dev); !rep.NeedsReplay {
		t.Fatal("the log was not noticed")
	}
	crashed := fx.dev.Clone()
	ok(t, v.Close())
	rep = checkClean(t, fx.dev)
	if rep.Counts.Inodes < 500 || rep.Counts.Extents < 40 || rep.Counts.Nodes < 20 || rep.Counts.UsedBlocks+rep.Counts.FreeBlocks+rep.Counts.FreedBlocks != 256<<20/4096 {
		t.Fatalf("%+v", rep.Counts)
	}
	// Opening and closing again and again must not lose a block.
	var free uint64
	for i := range 6 {
		v = checkOpen(t, crashed, Options{})
		v.Forget(1 << 40)
		ok(t, v.Close())
		rep = checkClean(t, crashed)
		if i == 2 {
			free = rep.Counts.FreeBlocks + rep.Counts.FreedBlocks
		}
	}
	if rep.Counts.FreeBlocks+rep.Counts.FreedBlocks < free-100 {
		t.Fatalf("%d free blocks became %d", free, rep.Counts.FreeBlocks)
	}
	v = checkOpen(t, fx.dev, Options{ReadOnly: true})
	for path := range fx.files {
		if bad := fx.readAll(t, v, path); bad != nil {
			t.Fatalf("%s: blocks %v", path, bad)
		}
	}
	ok(t, v.Close())
}

// What a small file held is gone after it was cut or punched, also where its
// content was in the tree.
func TestInlineContentIsGone(t *testing.T) {
	zero, six := uint64(0), uint64(6)
	for name, clearIt := range map[string]func(v *Volume, ino vfs.Ino) error{
		"truncate": func(v *Volume, ino vfs.Ino) error {
			_, err := v.SetAttr(&vfs.Req{}, ino, &vfs.SetAttr{Size: &zero})
			return err
		},
		"punch": func(v *Volume, ino vfs.Ino) error {
			return v.Fallocate(&vfs.Req{}, ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 0, 4096)
		},
	} {
		fx := newFixture(t, 64<<20)
		v := checkOpen(t, fx.dev, Options{})
		a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "f", 0o644, 0)
		ok(t, err)
		_, err = v.Write(&vfs.Req{}, a.Ino, 0, []byte("secret"), false)
		ok(t, err)
		ok(t, v.Sync(vfs.RootIno))
		ok(t, clearIt(v, a.Ino))
		ok(t, v.Sync(vfs.RootIno))
		checkClean(t, fx.dev)
		_, err = v.SetAttr(&vfs.Req{}, a.Ino, &vfs.SetAttr{Size: &six})
		ok(t, err)
		b := make([]byte, 6)
		_, err = v.Read(a.Ino, 0, b)
		ok(t, err)
		if !bytes.Equal(b, make([]byte, 6)) {
			t.Errorf("%s: it still reads %q", name, b)
		}
		ok(t, v.Close())
		checkClean(t, fx.dev)
	}
}
