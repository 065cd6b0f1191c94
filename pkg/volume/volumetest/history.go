package volumetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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

// Key opens volumes.
type Key interface {
	crypto.Credential
	crypto.Recipient
}

// NewKey returns the key of all volumes of this package.
func NewKey(t testing.TB) Key {
	t.Helper()
	b := make([]byte, crypto.KeyBytes)
	for i := range b {
		b[i] = byte(i + 1)
	}
	k, err := crypto.NewKey(b)
	ok(t, err)
	return crypto.SecretCredential(k)
}

// Format returns a device with a volume.
func Format(t testing.TB, sizeBytes int64) *device.Mem {
	t.Helper()
	dev := device.NewMem(sizeBytes)
	ok(t, volume.Format(dev, volume.FormatOptions{Recipient: NewKey(t)}))
	return dev
}

const engineMemory = 16 << 20

// Mount opens the volume of a device.
func Mount(t testing.TB, dev device.Device) *volume.Volume {
	t.Helper()
	v, err := volume.Open(dev, volume.Options{Credential: NewKey(t), CommitInterval: -1, Memory: engineMemory})
	ok(t, err)
	return v
}

// History changes a volume at random. It keeps no model: what a snapshot holds is compared with
// what the engine reads in it.
type History struct {
	T     testing.TB
	Rng   *rand.Rand
	Dev   *device.Mem
	V     *volume.Volume
	Key   Key       // opens the volume
	Inos  []vfs.Ino // of files, some of which may be gone
	Dirs  []vfs.Ino
	Open  []vfs.Ino // tmpfiles and removed files that are still open
	Snaps []string  // the oldest first
	Last  string    // operation, for messages

	// Large has files of up to 20 MiB, trees that are removed as a whole, and files with data
	// anywhere below 8 TiB, too.
	Large bool
	// Keep are snapshots that are never deleted.
	Keep  map[string]bool
	count int
}

// NewHistory formats a device and mounts it.
func NewHistory(t testing.TB, seed uint64, sizeBytes int64) *History {
	h := &History{T: t, Key: NewKey(t), Keep: map[string]bool{}, Rng: rand.New(rand.NewPCG(seed, 15)), Dev: Format(t, sizeBytes), Dirs: []vfs.Ino{vfs.RootIno}}
	h.V = Mount(t, h.Dev)
	return h
}

// Close closes the volume.
func (h *History) Close() {
	h.T.Helper()
	ok(h.T, h.V.Close())
}

// expected are what operations on random names and inodes fail with.
var expected = []error{vfs.ErrNotExist, vfs.ErrExist, vfs.ErrNotDir, vfs.ErrIsDir, vfs.ErrNotEmpty, vfs.ErrNotPermitted, vfs.ErrNoSpace,
	vfs.ErrStale, vfs.ErrNoXattr, vfs.ErrInvalid, vfs.ErrNotSupported}

// Allow fails the test unless an operation on random names and inodes may fail with err.
func (h *History) Allow(err error) {
	h.T.Helper()
	if err != nil && !slices.ContainsFunc(expected, func(e error) bool { return errors.Is(err, e) }) {
		h.T.Fatalf("%s: %v", h.Last, err)
	}
}

func pick[T any](rng *rand.Rand, list []T) (x T) {
	if len(list) > 0 {
		x = list[rng.IntN(len(list))]
	}
	return x
}

// name is one of a few. In large histories, one is long and no text.
func (h *History) name() string {
	n := h.Rng.IntN(12)
	if h.Large && n == 11 {
		return strings.Repeat("\xff\n", 127) + "x"
	}
	return fmt.Sprint("n", n)
}

// Req is a caller.
func (h *History) Req() *vfs.Req { return &vfs.Req{UID: h.Rng.Uint32N(3), GID: 5} }

// Bytes are random, or one of a few values, or zeros.
func (h *History) Bytes(n int) []byte {
	b := make([]byte, n)
	switch h.Rng.IntN(6) {
	case 0:
	case 1:
		for i := range b {
			b[i] = 7
		}
	default:
		for i := range b {
			b[i] = byte(h.Rng.Uint32())
		}
	}
	return b
}

// size is one of a file or a write: around all borders.
func (h *History) size() int {
	switch h.Rng.IntN(6) {
	case 0:
		return h.Rng.IntN(64)
	case 1:
		return 2040 + h.Rng.IntN(16)
	case 2:
		return 4096*h.Rng.IntN(8) + h.Rng.IntN(3)
	case 3:
		return h.Rng.IntN(200000)
	}
	return h.Rng.IntN(9000)
}

// operation is one of a random choice.
type operation struct {
	weight int
	name   string
	do     func()
}

// Steps makes n random operations.
func (h *History) Steps(n int) {
	h.T.Helper()
	for range n {
		ops := []operation{
			{14, "create", h.create}, {25, "write", h.write}, {10, "truncate", h.truncate}, {6, "fallocate", h.fallocate},
			{9, "rename", h.rename}, {6, "link", h.link}, {9, "unlink", h.Unlink}, {5, "tmpfile", h.tmpfile}, {8, "copy", h.copyRange},
			{9, "xattr", h.xattr}, {4, "flags", h.flags}, {5, "attributes", h.attributes}, {2, "forget", h.forget}, {3, "sync", h.sync},
		}
		all := 115
		if h.Large {
			ops, all = append(ops, h.largeOps()...), all+largeWeight
		}
		k := h.Rng.IntN(all)
		for _, op := range ops {
			if k -= op.weight; k < 0 {
				h.Last = op.name
				op.do()
				break
			}
		}
	}
}

func (h *History) create() {
	dir, name, req := pick(h.Rng, h.Dirs), h.name(), h.Req()
	switch h.Rng.IntN(8) {
	case 0:
		a, err := h.V.Mkdir(req, dir, name, 0o755)
		if h.Allow(err); err == nil {
			h.Dirs = append(h.Dirs, a.Ino)
		}
	case 1:
		_, err := h.V.Symlink(req, dir, name, "target/"+string(slices.Repeat([]byte("x"), h.Rng.IntN(4000))))
		h.Allow(err)
	case 2:
		_, err := h.V.Mknod(req, dir, name, []uint32{0o010644, 0o020600, 0o060600, 0o140700}[h.Rng.IntN(4)], h.Rng.Uint32N(3))
		h.Allow(err)
	default:
		a, err := h.V.Mknod(req, dir, name, 0o100644, 0)
		if h.Allow(err); err == nil {
			h.Inos = append(h.Inos, a.Ino)
		}
	}
}

// file is a random file, rarely an open one without a name.
func (h *History) file() vfs.Ino {
	if len(h.Open) > 0 && h.Rng.IntN(4) == 0 {
		return pick(h.Rng, h.Open)
	}
	return pick(h.Rng, h.Inos)
}

func (h *History) write() {
	ino := h.file()
	a, err := h.V.GetAttr(ino)
	if err != nil {
		return
	}
	off := uint64(h.Rng.IntN(int(a.Size) + 1))
	b := h.Bytes(h.size())
	switch h.Rng.IntN(5) {
	case 0: // as a mapped page is written
		off = off / 4096 * 4096
		b = h.Bytes(4096)
	case 1:
		off += uint64(h.Rng.IntN(30000))
	case 2:
		off = 0
	}
	if off+uint64(len(b)) > 700000 {
		return
	}
	_, err = h.V.Write(h.Req(), ino, off, b, false)
	h.Allow(err)
}

func (h *History) truncate() {
	ino, size := h.file(), uint64(h.size())
	if h.Rng.IntN(12) == 0 {
		size = 1<<40 + uint64(h.Rng.IntN(10000)) // sparse
	}
	_, err := h.V.SetAttr(h.Req(), ino, &vfs.SetAttr{Size: &size})
	h.Allow(err)
	if size >= 1<<40 && h.Rng.IntN(2) == 0 {
		_, err := h.V.Write(h.Req(), ino, size-uint64(h.Rng.IntN(9000)), h.Bytes(4096), false)
		h.Allow(err)
	}
}

func (h *History) fallocate() {
	mode := []uint32{0, vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocZeroRange}[h.Rng.IntN(5)]
	h.Allow(h.V.Fallocate(h.Req(), h.file(), mode, uint64(h.Rng.IntN(60000)), uint64(1+h.Rng.IntN(30000))))
}

func (h *History) rename() {
	flags := []uint32{0, 0, 0, vfs.RenameNoreplace, vfs.RenameExchange}[h.Rng.IntN(5)]
	h.Allow(h.V.Rename(h.Req(), pick(h.Rng, h.Dirs), h.name(), pick(h.Rng, h.Dirs), h.name(), flags))
}

func (h *History) link() {
	_, err := h.V.Link(h.Req(), h.file(), pick(h.Rng, h.Dirs), h.name())
	h.Allow(err)
}

// Unlink removes a name.
func (h *History) Unlink() {
	dir, name := pick(h.Rng, h.Dirs), h.name()
	a, err := h.V.Lookup(dir, name)
	if err != nil {
		return
	}
	if a.Mode&0o170000 == 0o040000 {
		h.Allow(h.V.Rmdir(h.Req(), dir, name))
		h.V.Forget(a.Ino)
		return
	}
	err = h.V.Unlink(h.Req(), dir, name)
	if h.Allow(err); err != nil || a.Nlink > 1 {
		return
	}
	if h.Rng.IntN(3) == 0 {
		h.Open = append(h.Open, a.Ino)
		return
	}
	h.V.Forget(a.Ino)
}

// tmpfile makes a file without a name. link may give it one later.
func (h *History) tmpfile() {
	a, err := h.V.Tmpfile(h.Req(), pick(h.Rng, h.Dirs), 0o600)
	if h.Allow(err); err != nil {
		return
	}
	h.Open = append(h.Open, a.Ino)
	_, err = h.V.Write(h.Req(), a.Ino, uint64(h.Rng.IntN(3000)), h.Bytes(h.size()), false)
	h.Allow(err)
	if h.Rng.IntN(3) == 0 {
		h.Allow(h.V.SetXattr(h.Req(), a.Ino, "user.tmp", h.Bytes(h.Rng.IntN(5000)), 0))
	}
}

func (h *History) forget() {
	if len(h.Open) == 0 {
		return
	}
	i := h.Rng.IntN(len(h.Open))
	h.V.Forget(h.Open[i]) // one that has a name stays
	h.Inos = append(h.Inos, h.Open[i])
	h.Open = slices.Delete(h.Open, i, i+1)
}

func (h *History) copyRange() {
	src, dst := h.file(), h.file()
	at := func() uint64 { return uint64(h.Rng.IntN(20)) * 4096 }
	n := uint64(h.Rng.IntN(100000))
	if h.Rng.IntN(2) == 0 {
		n = n / 4096 * 4096
	}
	_, err := h.V.CopyRange(h.Req(), src, at(), dst, at(), n)
	h.Allow(err)
}

func (h *History) xattr() {
	ino := h.file()
	if h.Rng.IntN(5) == 0 {
		ino = pick(h.Rng, h.Dirs)
	}
	name := fmt.Sprint("user.x", h.Rng.IntN(4))
	switch h.Rng.IntN(6) {
	case 0, 1:
		h.Allow(h.V.RemoveXattr(h.Req(), ino, name))
	case 2:
		h.Allow(h.V.SetXattr(h.Req(), ino, name, h.Bytes([]int{65536, 65535, 2048, 2049, 4096}[h.Rng.IntN(5)]), 0))
	default:
		h.Allow(h.V.SetXattr(h.Req(), ino, name, h.Bytes(h.Rng.IntN(300)), 0))
	}
}

func (h *History) flags() {
	flags := []uint32{0, 0, vfs.FlagNodump, vfs.FlagNoatime, vfs.FlagAppend, vfs.FlagImmutable}[h.Rng.IntN(6)]
	h.Allow(h.V.SetFlags(h.Req(), h.file(), flags))
}

func (h *History) attributes() {
	mode, now := h.Rng.Uint32N(0o7777), vfs.Timespec{Sec: int64(h.Rng.IntN(1000)), Nsec: 5}
	set := &vfs.SetAttr{Mode: &mode}
	if h.Rng.IntN(2) == 0 {
		set = &vfs.SetAttr{Atime: &now}
	}
	_, err := h.V.SetAttr(h.Req(), h.file(), set)
	h.Allow(err)
}

func (h *History) sync() {
	if h.Rng.IntN(2) == 0 {
		h.Allow(h.V.Sync(vfs.RootIno))
		return
	}
	h.Allow(h.V.Sync(h.file()))
}

// Find finds the inodes that there are after a mount.
func (h *History) Find() {
	h.T.Helper()
	h.Inos, h.Open, h.Dirs = nil, nil, []vfs.Ino{vfs.RootIno}
	for i := 0; i < len(h.Dirs); i++ {
		ok(h.T, h.V.ReadDir(h.Dirs[i], 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			switch d.Type {
			case 0o040000:
				h.Dirs = append(h.Dirs, d.Ino)
			case 0o100000:
				h.Inos = append(h.Inos, d.Ino)
			}
			return true
		}))
	}
}
