package volumetest

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const largeWeight = 20

// largeOps are further operations.
func (h *History) largeOps() []operation {
	return []operation{{2, "plant", h.plant}, {2, "remove tree", h.removeTree}, {1, "large write", h.largeWrite}, {4, "scatter", h.scatter},
		{2, "border", h.border}, {3, "overwrite", h.overwrite},
		{3, "acl", h.acl}, {3, "times", h.times}}
}

// plant makes many inodes in a directory of their own.
func (h *History) plant() {
	dir := pick(h.Rng, h.Dirs)
	a, err := h.V.Mkdir(h.Req(), dir, h.name(), 0o755)
	if h.Allow(err); err != nil {
		return
	}
	h.Dirs = append(h.Dirs, a.Ino)
	for i := range h.Rng.IntN(60) {
		f, err := h.V.Mknod(h.Req(), a.Ino, fmt.Sprint("n", i), 0o100644, 0)
		if h.Allow(err); err != nil {
			return
		}
		h.Inos = append(h.Inos, f.Ino)
		if i%3 == 0 {
			_, err := h.V.Write(h.Req(), f.Ino, 0, h.Bytes(h.size()), false)
			h.Allow(err)
		}
	}
}

// removeTree removes all that is in a directory, and the directory: neighbours in the order of keys.
func (h *History) removeTree() {
	dir, name := pick(h.Rng, h.Dirs), h.name()
	if a, err := h.V.Lookup(dir, name); err == nil && a.Mode&0o170000 == 0o040000 {
		h.empty(a.Ino)
		h.Allow(h.V.Rmdir(h.Req(), dir, name))
		h.V.Forget(a.Ino)
	}
}

func (h *History) empty(dir vfs.Ino) {
	var names []vfs.Dirent
	h.Allow(h.V.ReadDir(dir, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
		names = append(names, d)
		return true
	}))
	for _, d := range names {
		if d.Type == 0o040000 {
			h.empty(d.Ino)
			h.Allow(h.V.Rmdir(h.Req(), dir, d.Name))
		} else {
			h.Allow(h.V.Unlink(h.Req(), dir, d.Name))
		}
		h.V.Forget(d.Ino)
	}
}

// largeWrite writes across a border of 16 MiB.
func (h *History) largeWrite() {
	ino := h.file()
	for i := range 3 {
		b := h.Bytes(200<<10 + h.Rng.IntN(3))
		_, err := h.V.Write(h.Req(), ino, 16<<20-300<<10+uint64(i)*(200<<10), b, false)
		h.Allow(err)
	}
}

// scatter writes a few blocks anywhere.
func (h *History) scatter() {
	ino := h.file()
	for range 1 + h.Rng.IntN(4) {
		_, err := h.V.Write(h.Req(), ino, h.Rng.Uint64()>>(21+h.Rng.IntN(20)), h.Bytes(1+h.Rng.IntN(5000)), false)
		h.Allow(err)
	}
}

// border changes a size to, or near, one at which something changes.
func (h *History) border() {
	at := []uint64{0, 2048, 4096, 16 << 10, 64 << 10, 128 << 10, 16 << 20, 256 << 16, 1 << 30, 1 << 40}[h.Rng.IntN(10)]
	size := at + uint64(h.Rng.IntN(3)) - min(at, 1)
	_, err := h.V.SetAttr(h.Req(), h.file(), &vfs.SetAttr{Size: &size})
	h.Allow(err)
}

// overwrite writes what is there already, or zeros over it.
func (h *History) overwrite() {
	ino := h.file()
	b := make([]byte, 1+h.Rng.IntN(100000))
	off := uint64(h.Rng.IntN(100000))
	n, err := h.V.Read(ino, off, b)
	if err != nil || n == 0 {
		return
	}
	if h.Rng.IntN(3) == 0 {
		clear(b)
	}
	_, err = h.V.Write(h.Req(), ino, off, b[:n], false)
	h.Allow(err)
}

// acls are a list of three and of five entries.
var acls = []string{
	"\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff",
	"\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\x09\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff",
}

// acl sets and removes ACLs, and attributes of other kinds.
func (h *History) acl() {
	ino := h.file()
	if h.Rng.IntN(3) == 0 {
		ino = pick(h.Rng, h.Dirs)
	}
	name := []string{"system.posix_acl_access", "system.posix_acl_default", "trusted.overlay.opaque", "security.selinux"}[h.Rng.IntN(4)]
	if h.Rng.IntN(3) == 0 {
		h.Allow(h.V.RemoveXattr(h.Req(), ino, name))
		return
	}
	h.Allow(h.V.SetXattr(h.Req(), ino, name, []byte(acls[h.Rng.IntN(len(acls))]), 0))
}

// times sets times before 1970, and far in the future.
func (h *History) times() {
	at := vfs.Timespec{Sec: []int64{-1, -1 << 31, 1 << 33, 0, 253402300799}[h.Rng.IntN(5)], Nsec: h.Rng.Uint32N(1e9)}
	set := &vfs.SetAttr{Mtime: &at}
	if h.Rng.IntN(2) == 0 {
		set.Atime = &at
	}
	_, err := h.V.SetAttr(h.Req(), h.file(), set)
	h.Allow(err)
}
