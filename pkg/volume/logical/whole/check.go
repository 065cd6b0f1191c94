package whole

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Inode is what is needed of an inode's attributes.
type Inode struct {
	Mode, Nlink           uint32
	Size, Parent, NameSub uint64
}

// Of returns what is needed of an inode's attributes.
func Of(n *logical.Inode) Inode { return Inode{n.Mode, n.Nlink, n.Size, n.Parent, n.NameSub} }

// Source reads facts again.
type Source interface {
	// Each calls v for all inodes and names in the order of keys.
	Each(v Visitor) error
	// Inode returns an inode; false: it does not exist.
	Inode(ino uint64) (Inode, bool, error)
	// NextDir finds the first name of a directory in dir from a sub on, and where it is. child is 0
	// if there is none.
	NextDir(dir, from uint64) (sub, child uint64, err error)
}

// Visitor is given facts in the order of keys.
type Visitor interface {
	// Inode takes an inode.
	Inode(ino uint64, n Inode) error
	// Inline takes the length of the inline content of the inode before it.
	Inline(bytes int) error
	// Name takes a name in the directory before it: of an inode, of a type (S_IFMT).
	Name(dir, ino uint64, typ uint32) error
}

// Check checks all facts of a volume. Its errors wrap logical.ErrInvalid, unless they are those of a
// Source.
type Check struct {
	root bool
	dirs uint64 // without the root
	up   bool   // a directory has a lower number than its parent: only then there can be a cycle

	links   *balance // names of inodes, and link counts
	parents *balance // names of directories, and parents

	in    Inode // the inode whose facts are being given
	ino   uint64
	size  int // of its inline content
	names uint64
	subs  uint64 // names of directories
}

// New returns a Check to which nothing was given.
func New() *Check { return &Check{links: newBalance(), parents: newBalance()} }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", logical.ErrInvalid, fmt.Sprintf(format, args...))
}

// MaxIno is the highest next inode number of a restored volume. It leaves as many to the volume,
// because a root's must be below 1<<62.
const MaxIno = 1 << 61

const (
	// maxFileBytes is that of the volume's format (docs/format.md).
	maxFileBytes = 1<<63 - 4096
	// commonFlags are the flags that inodes of any type may have.
	commonFlags = vfs.FlagNodump | vfs.FlagNoatime
)

// CheckInode checks what can be checked of an inode's attributes alone, beyond their Validate.
func CheckInode(ino uint64, n *logical.Inode) error {
	root := ino == uint64(vfs.RootIno)
	switch {
	case ino >= MaxIno-1:
		return invalid("inode %d has too high a number", ino)
	case root && !n.IsDir():
		return invalid("the root directory has mode %#o", n.Mode)
	case n.IsDir() && (n.Nlink < 2 || n.Size < uint64(n.Nlink)-2):
		return invalid("directory %d has %d names, but a link count of %d", ino, n.Size, n.Nlink)
	case n.IsDir() && (n.Parent == 0 || (n.Parent == ino) != root):
		return invalid("directory %d has parent %d", ino, n.Parent)
	case n.IsSymlink() && n.Size == 0, n.Size > maxFileBytes, n.Size > 0 && !n.IsDir() && !n.IsRegular() && !n.IsSymlink():
		return invalid("inode %d of mode %#o has %d bytes", ino, n.Mode, n.Size)
	case n.Flags&^commonFlags != 0 && !n.IsRegular() && !n.IsDir():
		return invalid("inode %d of mode %#o has flags %#x", ino, n.Mode, n.Flags)
	}
	return nil
}

// CheckXattr checks an extended attribute of an inode, with those before it: names is the sum of the
// lengths of their names, from 0.
func CheckXattr(ino uint64, mode uint32, x *logical.Xattr, names *uint64) error {
	if err := x.Validate(); err != nil {
		return fmt.Errorf("inode %d: %w", ino, err)
	}
	typ := mode & logical.TypeMask
	if x.Name == posixacl.AccessName || x.Name == posixacl.DefaultName {
		if _, err := posixacl.Parse(x.Value); err != nil || typ == logical.TypeLink || x.Name == posixacl.DefaultName && typ != logical.TypeDir {
			return invalid("inode %d of mode %#o has no valid ACL %q", ino, mode, x.Name)
		}
		return nil
	}
	if *names += uint64(len(x.Name)) + 1; *names > vfs.MaxXattrList {
		return invalid("the names of inode %d's attributes have more than %d bytes", ino, vfs.MaxXattrList)
	}
	return nil
}

// Inode takes an inode. An error is about the inode before it, whose facts are complete.
func (c *Check) Inode(ino uint64, n Inode) error {
	err := c.end()
	c.ino, c.in, c.size, c.names, c.subs = ino, n, 0, 0, 0
	typ := n.Mode & logical.TypeMask
	root := ino == uint64(vfs.RootIno)
	c.root = c.root || root
	switch {
	case root:
	case typ == logical.TypeDir:
		c.dirs++
		c.up = c.up || n.Parent > ino
		c.links.add(ino, uint64(typ), -1)
		c.parents.add(ino, n.Parent, -1)
	default:
		c.links.add(ino, uint64(typ), -int64(n.Nlink))
	}
	return err
}

// Inline takes the length of the inline content of the inode before it.
func (c *Check) Inline(bytes int) error {
	c.size = bytes
	return nil
}

// Name takes a name in the directory before it.
func (c *Check) Name(dir, ino uint64, typ uint32) error {
	if dir != c.ino {
		return invalid("directory %d has a name, but does not exist", dir)
	}
	c.names++
	c.links.add(ino, uint64(typ), 1)
	if typ == logical.TypeDir {
		c.subs++
		c.parents.add(ino, dir, 1)
	}
	return nil
}

// end checks an inode after its last fact.
func (c *Check) end() error {
	if c.ino == 0 {
		return nil
	}
	n, ino := &c.in, c.ino
	switch typ := n.Mode & logical.TypeMask; {
	case typ == logical.TypeDir && (n.Size != c.names || uint64(n.Nlink) != 2+c.subs):
		return invalid("directory %d has %d names, %d of them of directories, instead of %d and %d", ino, c.names, c.subs, n.Size, int64(n.Nlink)-2)
	case typ == logical.TypeLink && c.size == 0:
		return invalid("symlink %d has no target", ino)
	}
	return nil
}

// Finish checks what only all facts together show. ino is the inode that an error is about; 0: none.
// It reads again only if something is wrong, or if a cycle of directories is possible.
func (c *Check) Finish(src Source) (ino uint64, err error) {
	if err := c.end(); err != nil {
		return c.ino, err
	}
	if !c.root {
		return 0, invalid("there is no root directory")
	}
	if !c.links.even() {
		return c.wrongLinks(src)
	}
	if !c.parents.even() {
		ino, err := c.parents.find(func() error { return src.Each(&Check{links: new(balance), parents: c.parents}) })
		if err == nil {
			err = invalid("the name of directory %d is not in its parent", ino)
		}
		return ino, err
	}
	if !c.up {
		return 0, nil
	}
	return 0, reachable(src, c.dirs)
}

// wrongLinks finds an inode whose names differ from its link count.
func (c *Check) wrongLinks(src Source) (uint64, error) {
	ino, err := c.links.find(func() error { return src.Each(&Check{links: c.links, parents: new(balance)}) })
	if err != nil {
		return 0, err
	}
	n, found, err := src.Inode(ino)
	switch {
	case err != nil:
		return ino, err
	case !found:
		return ino, invalid("a name belongs to inode %d, which does not exist", ino)
	}
	return ino, invalid("inode %d of mode %#o has a link count of %d, but its names do not match", ino, n.Mode, n.Nlink)
}
