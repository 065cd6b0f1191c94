package pinned_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type key interface {
	crypto.Credential
	crypto.Recipient
}

func newKey(t testing.TB) key {
	t.Helper()
	b := make([]byte, crypto.KeyBytes)
	for i := range b {
		b[i] = byte(i + 1)
	}
	k, err := crypto.NewKey(b)
	ok(t, err)
	return crypto.SecretCredential(k)
}

func format(t testing.TB, sizeBytes int64) *device.Mem {
	t.Helper()
	dev := device.NewMem(sizeBytes)
	ok(t, volume.Format(dev, volume.FormatOptions{Recipient: newKey(t)}))
	return dev
}

const engineMemory = 16 << 20

func mount(t testing.TB, dev device.Device) *volume.Volume {
	t.Helper()
	v, err := volume.Open(dev, volume.Options{Credential: newKey(t), CommitInterval: -1, Memory: engineMemory})
	ok(t, err)
	return v
}

// newBlank is a device without a volume.
func newBlank(t testing.TB) device.Device {
	t.Helper()
	return device.NewMem(96 << 20)
}

// history changes a volume at random. It keeps no model: what a snapshot holds is compared with
// what the engine reads in it.
type history struct {
	t     testing.TB
	rng   *rand.Rand
	dev   *device.Mem
	v     *volume.Volume
	inos  []vfs.Ino // of files, some of which may be gone
	dirs  []vfs.Ino
	open  []vfs.Ino // tmpfiles and removed files that are still open
	snaps []string  // the oldest first
	count int
	last  string // operation, for messages
}

func newHistory(t testing.TB, seed uint64, sizeBytes int64) *history {
	h := &history{t: t, rng: rand.New(rand.NewPCG(seed, 15)), dev: format(t, sizeBytes), dirs: []vfs.Ino{vfs.RootIno}}
	h.v = mount(t, h.dev)
	return h
}

func (h *history) close() {
	h.t.Helper()
	ok(h.t, h.v.Close())
}

// expected are what operations on random names and inodes fail with.
var expected = []error{vfs.ErrNotExist, vfs.ErrExist, vfs.ErrNotDir, vfs.ErrIsDir, vfs.ErrNotEmpty, vfs.ErrNotPermitted, vfs.ErrNoSpace,
	vfs.ErrStale, vfs.ErrNoXattr, vfs.ErrInvalid, vfs.ErrNotSupported}

func (h *history) allow(err error) {
	h.t.Helper()
	if err != nil && !slices.ContainsFunc(expected, func(e error) bool { return errors.Is(err, e) }) {
		h.t.Fatalf("%s: %v", h.last, err)
	}
}

func pick[T any](rng *rand.Rand, list []T) (x T) {
	if len(list) > 0 {
		x = list[rng.IntN(len(list))]
	}
	return x
}

func (h *history) name() string { return fmt.Sprint("n", h.rng.IntN(12)) }

func (h *history) req() *vfs.Req { return &vfs.Req{UID: h.rng.Uint32N(3), GID: 5} }

// bytes are random, or one of a few values, or zeros.
func (h *history) bytes(n int) []byte {
	b := make([]byte, n)
	switch h.rng.IntN(6) {
	case 0:
	case 1:
		for i := range b {
			b[i] = 7
		}
	default:
		for i := range b {
			b[i] = byte(h.rng.Uint32())
		}
	}
	return b
}

// size is one of a file or a write: around all borders.
func (h *history) size() int {
	switch h.rng.IntN(6) {
	case 0:
		return h.rng.IntN(64)
	case 1:
		return 2040 + h.rng.IntN(16)
	case 2:
		return 4096*h.rng.IntN(8) + h.rng.IntN(3)
	case 3:
		return h.rng.IntN(200000)
	}
	return h.rng.IntN(9000)
}

// steps makes n random operations.
func (h *history) steps(n int) {
	h.t.Helper()
	for range n {
		ops := []struct {
			weight int
			name   string
			do     func()
		}{
			{14, "create", h.create}, {25, "write", h.write}, {10, "truncate", h.truncate}, {6, "fallocate", h.fallocate},
			{9, "rename", h.rename}, {6, "link", h.link}, {9, "unlink", h.unlink}, {5, "tmpfile", h.tmpfile}, {8, "copy", h.copyRange},
			{9, "xattr", h.xattr}, {4, "flags", h.flags}, {5, "attributes", h.attributes}, {2, "forget", h.forget}, {3, "sync", h.sync},
		}
		k := h.rng.IntN(115)
		for _, op := range ops {
			if k -= op.weight; k < 0 {
				h.last = op.name
				op.do()
				break
			}
		}
	}
}

func (h *history) create() {
	dir, name, req := pick(h.rng, h.dirs), h.name(), h.req()
	switch h.rng.IntN(8) {
	case 0:
		a, err := h.v.Mkdir(req, dir, name, 0o755)
		if h.allow(err); err == nil {
			h.dirs = append(h.dirs, a.Ino)
		}
	case 1:
		_, err := h.v.Symlink(req, dir, name, "target/"+string(slices.Repeat([]byte("x"), h.rng.IntN(4000))))
		h.allow(err)
	case 2:
		_, err := h.v.Mknod(req, dir, name, []uint32{0o010644, 0o020600, 0o060600, 0o140700}[h.rng.IntN(4)], h.rng.Uint32N(3))
		h.allow(err)
	default:
		a, err := h.v.Mknod(req, dir, name, 0o100644, 0)
		if h.allow(err); err == nil {
			h.inos = append(h.inos, a.Ino)
		}
	}
}

// file is a random file, rarely an open one without a name.
func (h *history) file() vfs.Ino {
	if len(h.open) > 0 && h.rng.IntN(4) == 0 {
		return pick(h.rng, h.open)
	}
	return pick(h.rng, h.inos)
}

func (h *history) write() {
	ino := h.file()
	a, err := h.v.GetAttr(ino)
	if err != nil {
		return
	}
	off := uint64(h.rng.IntN(int(a.Size) + 1))
	b := h.bytes(h.size())
	switch h.rng.IntN(5) {
	case 0: // as a mapped page is written
		off = off / 4096 * 4096
		b = h.bytes(4096)
	case 1:
		off += uint64(h.rng.IntN(30000))
	case 2:
		off = 0
	}
	if off+uint64(len(b)) > 700000 {
		return
	}
	_, err = h.v.Write(h.req(), ino, off, b, false)
	h.allow(err)
}

func (h *history) truncate() {
	ino, size := h.file(), uint64(h.size())
	if h.rng.IntN(12) == 0 {
		size = 1<<40 + uint64(h.rng.IntN(10000)) // sparse
	}
	_, err := h.v.SetAttr(h.req(), ino, &vfs.SetAttr{Size: &size})
	h.allow(err)
	if size >= 1<<40 && h.rng.IntN(2) == 0 {
		_, err := h.v.Write(h.req(), ino, size-uint64(h.rng.IntN(9000)), h.bytes(4096), false)
		h.allow(err)
	}
}

func (h *history) fallocate() {
	mode := []uint32{0, vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocZeroRange}[h.rng.IntN(5)]
	h.allow(h.v.Fallocate(h.req(), h.file(), mode, uint64(h.rng.IntN(60000)), uint64(1+h.rng.IntN(30000))))
}

func (h *history) rename() {
	flags := []uint32{0, 0, 0, vfs.RenameNoreplace, vfs.RenameExchange}[h.rng.IntN(5)]
	h.allow(h.v.Rename(h.req(), pick(h.rng, h.dirs), h.name(), pick(h.rng, h.dirs), h.name(), flags))
}

func (h *history) link() {
	_, err := h.v.Link(h.req(), h.file(), pick(h.rng, h.dirs), h.name())
	h.allow(err)
}

func (h *history) unlink() {
	dir, name := pick(h.rng, h.dirs), h.name()
	a, err := h.v.Lookup(dir, name)
	if err != nil {
		return
	}
	if a.Mode&0o170000 == 0o040000 {
		h.allow(h.v.Rmdir(h.req(), dir, name))
		h.v.Forget(a.Ino)
		return
	}
	err = h.v.Unlink(h.req(), dir, name)
	if h.allow(err); err != nil || a.Nlink > 1 {
		return
	}
	if h.rng.IntN(3) == 0 {
		h.open = append(h.open, a.Ino)
		return
	}
	h.v.Forget(a.Ino)
}

// tmpfile makes a file without a name. link may give it one later.
func (h *history) tmpfile() {
	a, err := h.v.Tmpfile(h.req(), pick(h.rng, h.dirs), 0o600)
	if h.allow(err); err != nil {
		return
	}
	h.open = append(h.open, a.Ino)
	_, err = h.v.Write(h.req(), a.Ino, uint64(h.rng.IntN(3000)), h.bytes(h.size()), false)
	h.allow(err)
	if h.rng.IntN(3) == 0 {
		h.allow(h.v.SetXattr(h.req(), a.Ino, "user.tmp", h.bytes(h.rng.IntN(5000)), 0))
	}
}

func (h *history) forget() {
	if len(h.open) == 0 {
		return
	}
	i := h.rng.IntN(len(h.open))
	h.v.Forget(h.open[i]) // one that has a name stays
	h.inos = append(h.inos, h.open[i])
	h.open = slices.Delete(h.open, i, i+1)
}

func (h *history) copyRange() {
	src, dst := h.file(), h.file()
	at := func() uint64 { return uint64(h.rng.IntN(20)) * 4096 }
	n := uint64(h.rng.IntN(100000))
	if h.rng.IntN(2) == 0 {
		n = n / 4096 * 4096
	}
	_, err := h.v.CopyRange(h.req(), src, at(), dst, at(), n)
	h.allow(err)
}

func (h *history) xattr() {
	ino := h.file()
	if h.rng.IntN(5) == 0 {
		ino = pick(h.rng, h.dirs)
	}
	name := fmt.Sprint("user.x", h.rng.IntN(4))
	switch h.rng.IntN(6) {
	case 0, 1:
		h.allow(h.v.RemoveXattr(h.req(), ino, name))
	case 2:
		h.allow(h.v.SetXattr(h.req(), ino, name, h.bytes([]int{65536, 65535, 2048, 2049, 4096}[h.rng.IntN(5)]), 0))
	default:
		h.allow(h.v.SetXattr(h.req(), ino, name, h.bytes(h.rng.IntN(300)), 0))
	}
}

func (h *history) flags() {
	flags := []uint32{0, 0, vfs.FlagNodump, vfs.FlagNoatime, vfs.FlagAppend, vfs.FlagImmutable}[h.rng.IntN(6)]
	h.allow(h.v.SetFlags(h.req(), h.file(), flags))
}

func (h *history) attributes() {
	mode, now := h.rng.Uint32N(0o7777), vfs.Timespec{Sec: int64(h.rng.IntN(1000)), Nsec: 5}
	set := &vfs.SetAttr{Mode: &mode}
	if h.rng.IntN(2) == 0 {
		set = &vfs.SetAttr{Atime: &now}
	}
	_, err := h.v.SetAttr(h.req(), h.file(), set)
	h.allow(err)
}

func (h *history) sync() {
	if h.rng.IntN(2) == 0 {
		h.allow(h.v.Sync(vfs.RootIno))
		return
	}
	h.allow(h.v.Sync(h.file()))
}

// snapshot makes a snapshot, and deletes one if there are many.
func (h *history) snapshot() string {
	h.t.Helper()
	if len(h.snaps) >= 4 {
		i := h.rng.IntN(len(h.snaps))
		ok(h.t, h.v.DeleteSnapshot(h.snaps[i]))
		h.snaps = slices.Delete(h.snaps, i, i+1)
	}
	name := fmt.Sprint("s", h.count)
	h.count++
	_, err := h.v.CreateSnapshot(name)
	ok(h.t, err)
	h.snaps = append(h.snaps, name)
	return name
}

// maintain does one of what moves data, or changes the volume as a whole.
func (h *history) maintain() {
	h.t.Helper()
	switch h.rng.IntN(6) {
	case 0:
		h.last = "rotate"
		if h.v.RotationStatus().Phase == volume.RotationNone {
			_, err := h.v.RotateDataKey(volume.RotateOptions{Keys: []crypto.Credential{newKey(h.t)}, BytesPerSecond: -1})
			ok(h.t, err)
		}
		_, err := h.v.WaitRotation(h.t.Context(), nil) // as a rule it waits for snapshots
		ok(h.t, err)
	case 1:
		h.last = "defrag"
		_, err := h.v.Defrag(h.t.Context(), volume.DefragOptions{})
		ok(h.t, err)
	case 2:
		h.last = "rollback"
		if len(h.snaps) == 0 {
			return
		}
		i := h.rng.IntN(len(h.snaps))
		ok(h.t, h.v.Rollback(h.snaps[i], true))
		h.snaps = h.snaps[:i+1]
		h.v = mount(h.t, h.dev)
		h.find()
	case 3:
		h.last = "grow"
		size, err := h.dev.Size()
		ok(h.t, err)
		h.dev.Grow(size + 8<<20)
		_, err = h.v.Grow()
		ok(h.t, err)
	case 4:
		h.last = "remount"
		h.close()
		h.v = mount(h.t, h.dev)
		h.find()
	}
}

// find finds the inodes that there are after a mount.
func (h *history) find() {
	h.t.Helper()
	h.inos, h.open, h.dirs = nil, nil, []vfs.Ino{vfs.RootIno}
	for i := 0; i < len(h.dirs); i++ {
		ok(h.t, h.v.ReadDir(h.dirs[i], 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			switch d.Type {
			case 0o040000:
				h.dirs = append(h.dirs, d.Ino)
			case 0o100000:
				h.inos = append(h.inos, d.Ino)
			}
			return true
		}))
	}
}
