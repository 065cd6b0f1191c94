package volume

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// hostileMaker makes the volumes of hostileBases.
type hostileMaker struct {
	t     *testing.T
	fx    *fixture
	v     *Volume
	rng   *rand.Rand
	req   *vfs.Req
	deep  vfs.Ino // a large directory
	big   vfs.Ino // a large file
	bases []hostileBase
}

func (m *hostileMaker) keep(name string) {
	m.bases = append(m.bases, hostileBase{name, m.fx.dev.Clone()})
}

// hostileBases makes volumes that have something of everything: trees of three
// levels, snapshots, dead lists, shared data, reserved ranges, flags, orphans, anchors;
// at rest, with a log, with what a rollback left, in a rotation. The device is large, so that its log is.
func hostileBases(t *testing.T) (bases []hostileBase) {
	fx := newFixture(t, 4<<30)
	m := &hostileMaker{t: t, fx: fx, v: checkOpen(t, fx.dev, Options{Memory: minMemory}), rng: rand.New(rand.NewPCG(12, 12)), req: &vfs.Req{}}
	m.files()
	m.snapshots()
	hostileLog(t, m.v, m.rng)
	ok(t, m.v.Sync(vfs.RootIno))
	m.keep("with a log")
	m.v.snap.stop, m.v.snap.done = false, nil
	m.v.snap.startReaper()
	ok(t, m.v.Close())
	m.keep("at rest")
	v := checkOpen(t, fx.dev, Options{Memory: minMemory})
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{checkKey(t)}, BytesPerSecond: 1 << 20})
	ok(t, err)
	m.keep("in a rotation")
	ok(t, v.Close())
	v = checkOpen(t, m.bases[1].dev, Options{Memory: minMemory})
	fx.dev = m.bases[1].dev.Clone()
	ok(t, v.Close())
	v = checkOpen(t, fx.dev, Options{Memory: minMemory})
	ok(t, v.Rollback("s2", true))
	m.keep("rolled back")
	for _, b := range m.bases {
		rep, err := check.Run(b.dev, check.Options{Credential: checkKey(t), Data: true})
		ok(t, err)
		if !rep.Clean {
			t.Fatalf("image %s: %v", b.name, rep.Problems)
		}
	}
	return m.bases
}

// files makes files of all kinds, and enough of them for trees of three levels.
func (m *hostileMaker) files() {
	t, v := m.t, m.v
	m.fx.populate(t, v)
	deep, err := v.Mkdir(m.req, vfs.RootIno, "deep", 0o755)
	ok(t, err)
	m.deep = deep.Ino
	for i := range 1200 { // 2000 bytes each in the tree
		a, err := v.Mknod(m.req, m.deep, fmt.Sprintf("%d-%s", i, strings.Repeat("n", 100)), 0o644, 0)
		ok(t, err)
		_, err = v.Write(m.req, a.Ino, 0, make([]byte, 2000), false)
		ok(t, err)
	}
	big, err := walkTo(v, "big2")
	ok(t, err)
	m.big = big.Ino
	hostileReserved(t, v)
}

// scribble overwrites parts of the large file, makes small ones, and commits.
func (m *hostileMaker) scribble() {
	t, v, rng := m.t, m.v, m.rng
	for range 60 {
		_, err := v.Write(m.req, m.big, uint64(rng.IntN(4<<20))&^4095, noise(rng, 9000), false)
		ok(t, err)
	}
	for i := range 10 {
		a, err := v.Mknod(m.req, m.deep, fmt.Sprintf("s-%d-%d", rng.IntN(1<<30), i), 0o644, 0)
		ok(t, err)
		_, err = v.Write(m.req, a.Ino, 0, noise(rng, rng.IntN(20000)), false)
		ok(t, err)
	}
	ok(t, v.com.commitAll())
}

// snapshots makes snapshots, of which one is deleted and one is being deleted, shared
// data, and anchors.
func (m *hostileMaker) snapshots() {
	t, v := m.t, m.v
	for i := range 5 {
		m.scribble()
		_, err := v.CreateSnapshot(fmt.Sprint("s", i))
		ok(t, err)
	}
	m.scribble()
	twin, err := v.Mknod(m.req, vfs.RootIno, "twin", 0o644, 0)
	ok(t, err)
	_, err = v.CopyRange(m.req, m.big, 0, twin.Ino, 0, 4<<20)
	ok(t, err)
	a, err := v.OfferAnchor()
	ok(t, err)
	ok(t, v.ConfirmAnchor(a))
	ok(t, v.DeleteSnapshot("s1"))
	ok(t, v.WaitFreed())
	v.snap.endReaper() // as after a crash right after a deletion
	v.snap.stop = false
	ok(t, v.DeleteSnapshot("s3"))
	_, err = v.OfferAnchor()
	ok(t, err)
}

// hostileReserved makes files with reserved ranges, written and not, and such with flags.
func hostileReserved(t *testing.T, v *Volume) {
	req := &vfs.Req{}
	for i := range 4 {
		a, err := v.Mknod(req, vfs.RootIno, fmt.Sprint("reserved", i), 0o644, 0)
		ok(t, err)
		for n := range uint64(10) {
			ok(t, v.Fallocate(req, a.Ino, uint32(i%2)*vfs.FallocKeepSize, n*100_000, 40_000))
		}
		_, err = v.Write(req, a.Ino, 200_000, make([]byte, 300_000), false)
		ok(t, err)
		b, err := v.Mknod(req, vfs.RootIno, fmt.Sprint("shares", i), 0o644, 0)
		ok(t, err)
		_, err = v.CopyRange(req, a.Ino, 204_800, b.Ino, 0, 100_000)
		ok(t, err)
		ok(t, v.SetFlags(req, b.Ino, 1<<(4+i))) // immutable, append, nodump, noatime
	}
	ok(t, vfs.SetLabel(v, req, "hostile"))
}

// hostileLog leaves operations of every kind in the log.
func hostileLog(t *testing.T, v *Volume, rng *rand.Rand) {
	req := &vfs.Req{}
	d, err := v.Mkdir(req, vfs.RootIno, "logged", 0o755)
	ok(t, err)
	f, err := v.Mknod(req, d.Ino, "f", 0o644, 0)
	ok(t, err)
	_, err = v.Write(req, f.Ino, 0, noise(rng, 300_000), false) // by reference
	ok(t, err)
	ok(t, v.Sync(f.Ino))
	_, err = v.Write(req, f.Ino, 5000, noise(rng, 5000), true)
	ok(t, err)
	_, err = v.Link(req, f.Ino, d.Ino, "g")
	ok(t, err)
	_, err = v.Symlink(req, d.Ino, "l", "target")
	ok(t, err)
	_, err = v.Mkdir(req, d.Ino, "sub", 0o755)
	ok(t, err)
	ok(t, v.Rename(req, d.Ino, "g", d.Ino, "h", 0))
	ok(t, v.Rename(req, d.Ino, "h", vfs.RootIno, "h", vfs.RenameWhiteout))
	ok(t, v.Unlink(req, d.Ino, "l"))
	ok(t, v.Rmdir(req, d.Ino, "sub"))
	size := uint64(100_000)
	_, err = v.SetAttr(req, f.Ino, &vfs.SetAttr{Size: &size})
	ok(t, err)
	ok(t, v.Fallocate(req, f.Ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 8192, 20000))
	ok(t, v.Fallocate(req, f.Ino, 0, 50_000, 200_000))
	ok(t, v.Fallocate(req, f.Ino, vfs.FallocZeroRange, 60_000, 20_000))
	ok(t, v.SetXattr(req, f.Ino, "user.a", []byte("value"), 0))
	ok(t, v.SetXattr(req, f.Ino, "user.b", []byte("value"), 0))
	ok(t, v.RemoveXattr(req, f.Ino, "user.a"))
	c, err := v.Mknod(req, d.Ino, "copy", 0o644, 0)
	ok(t, err)
	_, err = v.CopyRange(req, f.Ino, 32768, c.Ino, 0, 65536)
	ok(t, err)
	ok(t, v.SetFlags(req, c.Ino, vfs.FlagImmutable))
	_, err = v.Tmpfile(req, vfs.RootIno, 0o600)
	ok(t, err)
}
