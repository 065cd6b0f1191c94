package check

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// inodeCheck collects the items of one inode, which are consecutive.
type inodeCheck struct {
	ino    uint64 // 0: none
	seen   bool
	attr   layout.Inode
	inline int // bytes, -1: none

	names, dirs uint64
	hash        uint64   // of the names in same
	same        []string // names with the same hash

	next   uint64 // block after the last extent
	blocks uint64

	xattr      uint64 // sub of piece 0 of the current attribute
	xattrName  string
	xattrNext  int // index of the next piece
	xattrLeft  int // bytes that are still to come
	xattrNames []string
	flags      uint32 // that the attributes require
}

// fsItem checks an item of tree 1.
func (c *checker) fsItem(birth uint64, k layout.Key, v []byte) {
	if k.Obj != c.in.ino {
		c.endInode()
		c.in = inodeCheck{ino: k.Obj, inline: -1}
	}
	if k.Obj == 0 {
		switch {
		case k.Type == layout.KeyOrphan && len(v) == 0:
			c.orphans = append(c.orphans, k.Sub)
		case k.Type == layout.KeyReserver && len(v) == 0:
			c.res.reservers = append(c.res.reservers, k.Sub)
		case k.Type == layout.KeyPosition:
			c.positionItem(k.Sub, v)
		default:
			c.problem(fmt.Sprintf("item %v", k), "unexpected item type")
		}
		return
	}
	in := &c.in
	var err error
	switch k.Type {
	case layout.KeyInode:
		if k.Sub != 0 {
			err = fmt.Errorf("inode item %v", k)
		} else if in.attr, err = layout.DecodeInode(v); err == nil {
			in.seen = true
		}
	case layout.KeyInline:
		if k.Sub != 0 {
			err = fmt.Errorf("inline item %v", k)
		}
		in.inline = len(v)
	case layout.KeyReserved:
		err = c.res.item(k.Sub, v)
	case layout.KeyXattr:
		err = c.xattrItem(k.Sub, v)
	case layout.KeyName:
		err = c.nameItem(k.Sub, v)
	case layout.KeyExtent:
		err = c.extentItem(birth, k.Sub, v)
	default:
		err = fmt.Errorf("item of unknown type %#x", k.Type)
	}
	if err != nil {
		c.inodeProblem(k.Obj, "", "%v", err)
	}
}

// endInode checks an inode after its last item.
func (c *checker) endInode() {
	in := &c.in
	if in.ino == 0 {
		return
	}
	c.endReserved()
	if err := c.endXattr(); err != nil {
		c.inodeProblem(in.ino, "", "%v", err)
	}
	if !in.seen {
		if !c.lostFS { // else the inode item may be on a lost page
			c.inodeProblem(in.ino, "", "its items exist, but no inode item")
		}
		return
	}
	c.rep.Counts.Inodes++
	a := &in.attr
	typ := a.Mode & items.ModeType
	if in.ino >= c.root.NextIno {
		c.inodeProblem(in.ino, "", "the root's next inode number is %d, which is not above it", c.root.NextIno)
	}
	orphan := c.takeOrphan(in.ino)
	switch {
	case a.Nlink == 0 && !orphan:
		c.inodeProblem(in.ino, "", "no name and no orphan item")
	case a.Nlink > 0 && orphan && typ != items.ModeReg:
		c.inodeProblem(in.ino, "", "it has names and an orphan item")
	case a.Nlink > vfs.MaxLinks:
		c.inodeProblem(in.ino, "", "invalid link count %d", a.Nlink)
	}
	s := c.state(in.ino)
	c.setType(in.ino, s, typ)
	*s |= inoSeen
	names := int64(a.Nlink)
	if typ == items.ModeDir {
		names = c.endDir(s)
	}
	c.addLinks(in.ino, s, -names)
	c.endContent(typ, orphan)
	c.checkFlags()
	known := layout.InodeAccessACL | layout.InodeDefaultACL | layout.InodeCapability
	if in.flags&layout.InodeXattrs != 0 && a.Flags&layout.InodeXattrs == 0 || (in.flags^a.Flags)&known != 0 {
		c.inodeProblem(in.ino, "", "flags are %#x, but its attributes require %#x", a.Flags&^layout.InodeInline, in.flags)
	}
}

// takeOrphan reports whether an inode has an orphan item. It is called in ascending order. Orphan
// items that it skips have no inode.
func (c *checker) takeOrphan(ino uint64) bool {
	for len(c.orphans) > 0 && c.orphans[0] <= ino {
		o := c.orphans[0]
		c.orphans = c.orphans[1:]
		if o == ino {
			return true
		}
		if !c.lostFS {
			c.inodeProblem(o, "", "an orphan item exists, but no inode")
		}
	}
	return false
}

// endDir checks a directory and returns how many names the directory must have.
func (c *checker) endDir(s *uint8) int64 {
	in := &c.in
	a := &in.attr
	if c.rep.Restoring {
		return 0
	}
	if a.Size != in.names && !c.lostFS {
		c.inodeProblem(in.ino, "", "the directory's size is %d names, but it has %d", a.Size, in.names)
	}
	if a.Nlink == 0 {
		return 0
	}
	if uint64(a.Nlink) != 2+in.dirs && !c.lostFS {
		c.inodeProblem(in.ino, "", "the directory's link count is %d, but it has %d subdirectories", a.Nlink, in.dirs)
	}
	if in.ino == uint64(vfs.RootIno) {
		if a.Parent != in.ino {
			c.inodeProblem(in.ino, "", "the root directory has parent %d", a.Parent)
		}
		*s |= inoRooted
		return 0
	}
	c.parents -= c.parentMark(a.Parent, in.ino)
	if c.rooted(a.Parent) {
		*s |= inoRooted
	} else {
		c.pending = append(c.pending, in.ino)
	}
	return 1
}

// endContent compares an inode with its content.
func (c *checker) endContent(typ uint32, orphan bool) {
	in := &c.in
	a := &in.attr
	if c.lostFS {
		return // items may be missing
	}
	if a.Blocks != in.blocks {
		c.inodeProblem(in.ino, "", "block count is %d, but it has %d", a.Blocks, in.blocks)
	}
	if typ != items.ModeDir && (in.names > 0 || in.dirs > 0) {
		c.inodeProblem(in.ino, "", "a %s must not have names", typeName(typ))
	}
	if typ != items.ModeReg && in.blocks > 0 {
		c.inodeProblem(in.ino, "", "a %s must not have extents", typeName(typ))
	}
	inline := a.Flags&layout.InodeInline != 0
	switch typ {
	case items.ModeReg:
		if inline != (in.inline >= 0) {
			c.inodeProblem(in.ino, "", "inline flag is %t, but inline content exists: %t", inline, in.inline >= 0)
		} else if inline && (uint64(in.inline) != a.Size || in.inline > layout.MaxInline || in.blocks > 0) {
			c.inodeProblem(in.ino, "", "size is %d, but it has %d bytes of inline content and %d blocks", a.Size, in.inline, in.blocks)
		}
		if end := (a.Size + layout.BlockBytes - 1) / layout.BlockBytes; in.next > end && !orphan {
			c.inodeProblem(in.ino, "", "size is %d, but its extents end at %d", a.Size, in.next*layout.BlockBytes)
		}
	case items.ModeLink:
		if c.rep.Restoring && in.inline < 0 {
			return
		}
		if in.inline < 1 || uint64(in.inline) != a.Size || in.inline > vfs.MaxSymlinkBytes {
			c.inodeProblem(in.ino, "", "the symlink's size is %d, but its target has %d bytes", a.Size, max(in.inline, 0))
		}
	default:
		if inline || in.inline >= 0 || typ != items.ModeDir && a.Size != 0 {
			c.inodeProblem(in.ino, "", "a %s must not have content", typeName(typ))
		}
	}
}

// checkFlags checks the flags that users set.
func (c *checker) checkFlags() {
	in := &c.in
	flags := in.attr.Flags & layout.InodeUserFlags
	typ := in.attr.Mode & items.ModeType
	switch {
	case flags != 0 && !c.flags:
		c.inodeProblem(in.ino, "", "it has user flags, but the header lacks their feature bit")
	case flags&^layout.InodeInherited != 0 && typ != items.ModeReg && typ != items.ModeDir:
		c.inodeProblem(in.ino, "", "flags %#x are only allowed on files and directories", flags)
	}
}
