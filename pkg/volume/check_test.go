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
	p := &populator{t: t, v: v, rng: rand.New(rand.NewPCG(7, 7)), req: &vfs.Req{Umask: 0o022}, files: fx.files}
	a := p.dir(vfs.RootIno, "a")
	b := p.dir(a, "b")
	many := p.dir(vfs.RootIno, "many")
	for i := range 600 {
		p.file(many, fmt.Sprintf("many/file-%d", i), p.rng.IntN(3000))
	}
	big := p.file(b, "a/b/big", 5<<20+777)
	p.file(b, "a/b/small", 100)
	p.file(a, "a/empty", 0)
	p.splitExtents(big, "a/b/big")
	p.special(a, big)
	p.attributes(b, big)
	p.file(b, "a/b/inherits", 70000)
	p.dir(b, "sub")
	// A directory that moved below a younger one.
	young := p.dir(vfs.RootIno, "young")
	ok(t, v.Rename(p.req, a, "b", young, "b", 0))
	for path, d := range fx.files {
		if strings.HasPrefix(path, "a/b/") {
			delete(fx.files, path)
			fx.files["young/b/"+path[4:]] = d
		}
	}
	for i := range 100 {
		name := fmt.Sprintf("file-%d", i*3)
		ok(t, v.Unlink(p.req, many, name))
		delete(fx.files, "many/"+name)
	}
	_, err := v.Tmpfile(p.req, vfs.RootIno, 0o600)
	ok(t, err)
}

// populator makes files for populate, and notes what they hold.
type populator struct {
	t     testing.TB
	v     *Volume
	rng   *rand.Rand
	req   *vfs.Req
	files map[string][]byte
}

func (p *populator) dir(parent vfs.Ino, name string) vfs.Ino {
	a, err := p.v.Mkdir(p.req, parent, name, 0o755)
	ok(p.t, err)
	return a.Ino
}

func (p *populator) file(dir vfs.Ino, path string, n int) vfs.Ino {
	a, err := p.v.Mknod(p.req, dir, path[strings.LastIndex(path, "/")+1:], 0o644, 0)
	ok(p.t, err)
	data := noise(p.rng, n)
	for off := 0; off < n; off += 1 << 20 {
		_, err := p.v.Write(p.req, a.Ino, uint64(off), data[off:min(n, off+1<<20)], false)
		ok(p.t, err)
	}
	p.files[path] = data
	return a.Ino
}

// splitExtents overwrites single blocks of a large file, and punches a hole.
func (p *populator) splitExtents(big vfs.Ino, path string) {
	for i := range 40 {
		off := uint64(p.rng.IntN(5<<20)) &^ 4095
		data := noise(p.rng, 4096)
		_, err := p.v.Write(p.req, big, off, data, false)
		ok(p.t, err)
		copy(p.files[path][off:], data)
		if i == 20 {
			ok(p.t, p.v.Sync(vfs.RootIno))
		}
	}
	ok(p.t, p.v.Fallocate(p.req, big, vfs.FallocPunchHole|vfs.FallocKeepSize, 1<<20+100, 300000))
	clear(p.files[path][1<<20+100 : 1<<20+100+300000])
}

// special makes what is no file, and hard links.
func (p *populator) special(dir, big vfs.Ino) {
	_, err := p.v.Symlink(p.req, dir, "link", strings.Repeat("x/", 1000))
	ok(p.t, err)
	_, err = p.v.Mknod(p.req, dir, "fifo", 0o010644, 0)
	ok(p.t, err)
	_, err = p.v.Mknod(p.req, dir, "dev", 0o020644, 0x103)
	ok(p.t, err)
	_, err = p.v.Link(p.req, big, vfs.RootIno, "big2")
	ok(p.t, err)
	_, err = p.v.Link(p.req, big, vfs.RootIno, "big3")
	ok(p.t, err)
	p.files["big2"], p.files["big3"] = p.files["a/b/big"], p.files["a/b/big"]
}

// attributes sets extended attributes of a file, and access control lists of a directory.
func (p *populator) attributes(dir, big vfs.Ino) {
	ok(p.t, p.v.SetXattr(p.req, big, "user.large", noise(p.rng, 20000), 0))
	ok(p.t, p.v.SetXattr(p.req, big, "user.exact", noise(p.rng, 4096), 0))
	ok(p.t, p.v.SetXattr(p.req, big, "user.none", nil, 0))
	ok(p.t, p.v.SetXattr(p.req, big, "security.capability", []byte("cap"), 0))
	acl := posixacl.ACL{{Tag: posixacl.UserObj, Perm: 7, ID: posixacl.NoID}, {Tag: posixacl.User, Perm: 7, ID: 5},
		{Tag: posixacl.GroupObj, Perm: 5, ID: posixacl.NoID}, {Tag: posixacl.Mask, Perm: 7, ID: posixacl.NoID},
		{Tag: posixacl.Other, Perm: 0, ID: posixacl.NoID}}
	ok(p.t, p.v.SetXattr(p.req, dir, posixacl.DefaultName, acl.Encode(), 0))
	ok(p.t, p.v.SetXattr(p.req, dir, posixacl.AccessName, acl.Encode(), 0))
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
