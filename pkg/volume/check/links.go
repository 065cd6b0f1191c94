package check

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// State of an inode in checker.inodes: its type (0: neither read nor named), whether its item was
// read, whether the root directory is known to be above it, and names minus link count as far as it
// fits.
const (
	inodesPerChunk = 64
	inoType        = 0x0f
	inoSeen        = 0x10
	inoRooted      = 0x20
	inoLinks       = 0xc0 // 0, 1, 2 means -1, 3 means see checker.links
	inoLinksShift  = 6
)

func (c *checker) state(ino uint64) *uint8 {
	chunk := c.inodes[ino/inodesPerChunk]
	if chunk == nil {
		chunk = new([inodesPerChunk]uint8)
		c.inodes[ino/inodesPerChunk] = chunk
	}
	return &chunk[ino%inodesPerChunk]
}

func (c *checker) rooted(ino uint64) bool {
	chunk := c.inodes[ino/inodesPerChunk]
	return chunk != nil && chunk[ino%inodesPerChunk]&inoRooted != 0
}

func (c *checker) linkDelta(ino uint64, s uint8) int64 {
	switch s >> inoLinksShift {
	case 3:
		return c.links[ino]
	case 2:
		return -1
	}
	return int64(s >> inoLinksShift)
}

func (c *checker) addLinks(ino uint64, s *uint8, n int64) {
	sum := c.linkDelta(ino, *s) + n
	bits := uint8(3)
	switch sum {
	case 0, 1:
		bits = uint8(sum)
	case -1:
		bits = 2
	}
	if bits == 3 {
		c.links[ino] = sum
	} else if *s>>inoLinksShift == 3 {
		delete(c.links, ino)
	}
	*s = *s&^inoLinks | bits<<inoLinksShift
}

// setType records the type of an inode as its item or a name states it.
func (c *checker) setType(ino uint64, s *uint8, typ uint32) {
	t := uint8(typ >> 12)
	switch known := *s & inoType; {
	case known == 0:
		*s |= t & inoType
	case known != t && !c.rep.Restoring:
		c.inodeProblem(ino, "", "the inode and its names disagree on its type: %s and %s", typeName(uint32(*s&inoType)<<12), typeName(typ))
	}
}

func typeName(typ uint32) string {
	switch typ {
	case items.ModeDir:
		return "directory"
	case items.ModeReg:
		return "file"
	case items.ModeLink:
		return "symlink"
	}
	return fmt.Sprintf("type %#o", typ)
}

// parentMark is a keyed hash of a directory and its parent. The sums over all names and over all
// Parents are equal only if the sets are equal.
func (c *checker) parentMark(parent, ino uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], parent)
	binary.LittleEndian.PutUint64(b[8:], ino)
	return c.hash.Sum(b[:])
}

// checkLinks checks what is known after all items of the tree have been read.
func (c *checker) checkLinks() {
	c.takeOrphan(^uint64(0))
	if c.rep.Counts.Inodes != c.root.Inodes {
		c.problem("root", "inode count is %d, but the tree has %d", c.root.Inodes, c.rep.Counts.Inodes)
	}
	if c.rep.Restoring {
		return
	}
	fs := c.lookup()
	if s := *c.state(uint64(vfs.RootIno)); s&inoSeen == 0 || s&inoType != items.ModeDir>>12 {
		c.inodeProblem(uint64(vfs.RootIno), "", "the root directory is missing")
	}
	chunks := make([]uint64, 0, len(c.inodes))
	for i := range c.inodes {
		chunks = append(chunks, i)
	}
	slices.Sort(chunks)
	for _, i := range chunks {
		for j, s := range c.inodes[i] {
			ino := i*inodesPerChunk + uint64(j)
			d := c.linkDelta(ino, s)
			switch {
			case s&inoSeen == 0 && s&inoType != 0:
				c.inodeProblem(ino, "", "%d names refer to it, but it does not exist", d)
			case d != 0:
				want := int64(1)
				if n, err := fs.Inode(ino); err == nil && n.Mode&items.ModeType != items.ModeDir {
					want = int64(n.Nlink)
				} else if err == nil && (n.Nlink == 0 || ino == uint64(vfs.RootIno)) {
					want = 0
				}
				c.inodeProblem(ino, "", "link count requires %d names, but it has %d", want, want+d)
			}
		}
	}
	c.checkReachable(fs)
	if c.parents != 0 {
		c.checkParents(fs)
	}
}

// checkReachable follows the parents of directories to the root.
func (c *checker) checkReachable(fs *items.Lookup) {
	lost := map[uint64]bool{}
	for _, ino := range c.pending {
		var path []uint64
		at, ok := ino, true
		for !c.rooted(at) && ok {
			if ok = !lost[at]; !ok {
				break
			}
			lost[at] = true // until the root is found
			path = append(path, at)
			n, err := fs.Inode(at)
			if ok = err == nil && n.Mode&items.ModeType == items.ModeDir && n.Nlink > 0; ok {
				at = n.Parent
			}
		}
		if !ok {
			c.inodeProblem(ino, "", "the directory is not reachable from the root directory")
			continue
		}
		for _, i := range path {
			delete(lost, i)
			*c.state(i) |= inoRooted
		}
	}
}

// checkParents finds the directories whose parent field disagrees with their name.
func (c *checker) checkParents(fs *items.Lookup) {
	w := walk{c: c, id: layout.TreeFS, item: func(_ uint64, k layout.Key, v []byte) {
		if k.Type != layout.KeyName {
			return
		}
		n, err := layout.DecodeName(v)
		if err != nil || n.Type != items.ModeDir {
			return
		}
		if in, err := fs.Inode(n.Ino); err == nil && in.Parent != k.Obj {
			c.inodeProblem(n.Ino, "", "the directory's name is in inode %d, but its parent field is %d", k.Obj, in.Parent)
		}
	}}
	p := &c.root.Trees[layout.TreeFS]
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
}
