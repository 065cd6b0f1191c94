package volume

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// richVolume makes a volume with about everything that a volume can hold.
func richVolume(t testing.TB, seed uint64, ops int) *Volume {
	t.Helper()
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{Memory: minMemory, CommitInterval: -1})
	vfstest.Compare(t, seed, ops, v, vfstest.NewMemFS())
	r := &rich{t: t, v: v, req: &vfs.Req{UID: 7, GID: 8}, rng: rand.New(rand.NewPCG(seed, 1))}
	r.top = r.mkdir(vfs.RootIno, "rich")
	r.files()
	r.names()
	r.attributes()
	ok(t, v.Sync(vfs.RootIno))
	return v
}

type rich struct {
	t   testing.TB
	v   *Volume
	req *vfs.Req
	rng *rand.Rand
	top vfs.Ino

	holes, zeros, copied, late vfs.Ino
}

func (r *rich) mkdir(dir vfs.Ino, name string) vfs.Ino {
	a, err := r.v.Mkdir(r.req, dir, name, 0o755)
	ok(r.t, err)
	return a.Ino
}

func (r *rich) mknod(name string, mode, rdev uint32) vfs.Ino {
	a, err := r.v.Mknod(r.req, r.top, name, mode, rdev)
	ok(r.t, err)
	return a.Ino
}

func (r *rich) write(ino vfs.Ino, off uint64, n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	for len(b) > 0 {
		n, err := r.v.Write(r.req, ino, off, b, false)
		ok(r.t, err)
		b, off = b[n:], off+uint64(n)
	}
}

// files makes files of many sizes, with holes, shared blocks and reserved ranges.
func (r *rich) files() {
	t, v := r.t, r.v
	for i, n := range []int{1, 2047, 2048, 2049, 4096, 65536, 65537, 3 << 20} {
		r.write(r.mknod(fmt.Sprintf("size%d", i), 0o644, 0), 0, n)
	}
	r.holes = r.mknod("holes", 0o600, 0)
	for _, off := range []uint64{0, 10_000, 100 << 10, 1 << 20, 5<<20 + 4095, 9 << 20} {
		r.write(r.holes, off, 5000)
	}
	size := uint64(1 << 40)
	_, err := v.SetAttr(r.req, r.holes, &vfs.SetAttr{Size: &size})
	ok(t, err)
	r.zeros = r.mknod("zeros", 0o600, 0)
	_, err = v.Write(r.req, r.zeros, 0, make([]byte, 20_000), false)
	ok(t, err)
	r.copied = r.mknod("copy", 0o600, 0)
	_, err = v.CopyRange(r.req, r.holes, 0, r.copied, 0, 10<<20)
	ok(t, err)
	reserved := r.mknod("reserved", 0o600, 0)
	ok(t, v.Fallocate(r.req, reserved, 0, 0, 1<<20))
	r.write(reserved, 8192, 4096)
	for i, mode := range []uint32{0o010644, 0o020644, 0o060644, 0o140644} {
		r.mknod(fmt.Sprintf("special%d", i), mode, uint32(0x1234+i))
	}
	for _, n := range []int{1, 100, 4095} {
		_, err := v.Symlink(r.req, r.top, fmt.Sprintf("link%d", n), string(bytes.Repeat([]byte{'x'}, n)))
		ok(t, err)
	}
}

// names makes deep directories, hard links, stale hints, an inode without a name, and a directory
// with a lower number than its parent.
func (r *rich) names() {
	t, v := r.t, r.v
	deep := r.top
	for i := range 20 {
		deep = r.mkdir(deep, fmt.Sprintf("d%d", i))
	}
	ok(t, v.Rename(r.req, r.top, "d0", vfs.RootIno, "moved", 0))
	r.late = r.mkdir(vfs.RootIno, "late")
	ok(t, v.Rename(r.req, vfs.RootIno, "moved", r.late, "moved", 0))
	for i := range 5 {
		_, err := v.Link(r.req, r.holes, deep, fmt.Sprintf("hard%d", i))
		ok(t, err)
	}
	ok(t, v.Unlink(r.req, r.top, "holes"))
	_, err := v.Tmpfile(r.req, r.top, 0o600)
	ok(t, err)
}

// attributes makes extended attributes, ACLs and flags.
func (r *rich) attributes() {
	t, v := r.t, r.v
	for i, n := range []int{0, 1, 2048, 2049, 65536} {
		ok(t, v.SetXattr(r.req, r.top, fmt.Sprintf("user.%d", i), bytes.Repeat([]byte{byte(i)}, n), 0))
	}
	ok(t, v.SetXattr(r.req, r.copied, items.CapabilityName, bytes.Repeat([]byte{1}, 20), 0))
	acl := posixacl.ACL{{Tag: posixacl.UserObj, Perm: 7, ID: posixacl.NoID}, {Tag: posixacl.User, Perm: 5, ID: 1000}, {Tag: posixacl.GroupObj, Perm: 5, ID: posixacl.NoID},
		{Tag: posixacl.Mask, Perm: 7, ID: posixacl.NoID}, {Tag: posixacl.Other, Perm: 1, ID: posixacl.NoID}}.Encode()
	ok(t, v.SetXattr(r.req, r.top, posixacl.DefaultName, acl, 0))
	ok(t, v.SetXattr(r.req, r.top, posixacl.AccessName, acl, 0))
	r.mknod("inherits", 0o664, 0)
	ok(t, vfs.SetLabel(v, r.req, "rich"))
	ok(t, v.SetFlags(r.req, r.zeros, vfs.FlagImmutable|vfs.FlagNodump))
	ok(t, v.SetFlags(r.req, r.late, vfs.FlagAppend|vfs.FlagNoatime))
}
