package volume

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// When all facts are there, loadCheck looks at those that concern several inodes. What concerns one
// fact was checked when it was loaded. It reads the newest root, which has all of them, once, in the
// order of keys. Its memory does not depend on the number of inodes: instead of counting the names
// of each inode, it compares two sums, in which each inode has a weight that nobody could know
// before. If the sums differ, balance.find reads the tree again, a few times, and finds an inode.
type loadCheck struct {
	l *Loader

	root bool
	dirs uint64 // without the root
	up   bool   // a directory has a lower number than its parent: only then there can be a cycle

	links   *balance // names of inodes, and link counts
	parents *balance // names of directories, and parents

	in    layout.Inode // the inode whose items are being read
	ino   uint64
	size  int // of its inline content
	names uint64
	subs  uint64 // names of directories
}

// checkFacts checks that the facts make a whole volume.
func (l *Loader) checkFacts() error {
	c := &loadCheck{l: l, links: newBalance(l.v.com.inos.next), parents: newBalance(l.v.com.inos.next)}
	if err := c.read(); err != nil {
		return err
	}
	if !c.root {
		return invalidFact("there is no root directory")
	}
	if !c.links.even() {
		return c.wrongLinks()
	}
	if !c.parents.even() {
		ino, err := c.parents.find(func(b *balance) error { return (&loadCheck{l: l, links: new(balance), parents: b}).read() })
		if err == nil {
			err = invalidFact("the name of directory %d is not in its parent", ino)
		}
		return err
	}
	if !c.up {
		return nil
	}
	return l.checkReachable(c.dirs)
}

// read reads all facts of the tree.
func (c *loadCheck) read() error {
	err := c.l.eachFact(func(k layout.Key, val []byte) error {
		if k.Obj != c.ino {
			if err := c.endInode(); err != nil {
				return err
			}
			c.ino, c.size, c.names, c.subs = k.Obj, 0, 0, 0
		}
		return c.fact(k, val)
	})
	if err == nil {
		err = c.endInode()
	}
	return err
}

// loadAhead is how many pages eachFact reads ahead.
const loadAhead = 16

// eachFact reads the inodes, inline contents and names of the newest durable root. Pages that hold
// only extents of a file are not read.
func (l *Loader) eachFact(fn func(k layout.Key, val []byte) error) error {
	root, release := l.v.pinRoot()
	defer release()
	d := tree.NewDiffer(l.v.cache, layout.Pointer{}, root.Trees[layout.TreeFS], loadAhead)
	defer d.Close()
	d.SkipTo(items.InodeKey(uint64(vfs.RootIno)))
	for {
		x, more, err := d.Next()
		if err != nil || !more {
			return err
		}
		switch x.Key.Type {
		case layout.KeyInode, layout.KeyInline, layout.KeyName:
			err = fn(x.Key, x.B)
		case layout.KeyExtent:
			d.SkipTo(layout.Key{Obj: x.Key.Obj + 1})
		}
		if err != nil {
			return err
		}
	}
}

func (c *loadCheck) fact(k layout.Key, val []byte) (err error) {
	switch k.Type {
	case layout.KeyInode:
		if c.in, err = layout.DecodeInode(val); err != nil {
			return err
		}
		c.inode(&c.in)
	case layout.KeyInline:
		c.size = len(val)
	case layout.KeyName:
		n, err := layout.DecodeName(val)
		if err != nil {
			return err
		}
		c.names++
		c.links.add(n.Ino, uint64(n.Type), 1)
		if n.Type == items.ModeDir {
			c.subs++
			c.parents.add(n.Ino, k.Obj, 1)
		}
	}
	return nil
}

// inode counts what an inode says of its names.
func (c *loadCheck) inode(n *layout.Inode) {
	typ := n.Mode & items.ModeType
	root := c.ino == uint64(vfs.RootIno)
	c.root = c.root || root
	switch {
	case root:
	case typ == items.ModeDir:
		c.dirs++
		c.up = c.up || n.Parent > c.ino
		c.links.add(c.ino, uint64(typ), -1)
		c.parents.add(c.ino, n.Parent, -1)
	default:
		c.links.add(c.ino, uint64(typ), -int64(n.Nlink))
	}
}

// endInode checks an inode after its last fact.
func (c *loadCheck) endInode() error {
	if c.ino == 0 {
		return nil
	}
	n := &c.in
	switch typ := n.Mode & items.ModeType; {
	case typ == items.ModeDir && (n.Size != c.names || uint64(n.Nlink) != 2+c.subs):
		return invalidFact("directory %d has %d names, %d of them of directories, instead of %d and %d", c.ino, c.names, c.subs, n.Size, n.Nlink-2)
	case typ == items.ModeLink && c.size == 0:
		return invalidFact("symlink %d has no target", c.ino)
	}
	return nil
}

// wrongLinks finds an inode whose names differ from its link count.
func (c *loadCheck) wrongLinks() error {
	ino, err := c.links.find(func(b *balance) error { return (&loadCheck{l: c.l, links: b, parents: new(balance)}).read() })
	if err != nil {
		return err
	}
	n, err := c.l.v.table.readInode(ino)
	switch {
	case isStale(err):
		return invalidFact("a name belongs to inode %d, which does not exist", ino)
	case err != nil:
		return err
	}
	return invalidFact("inode %d of mode %#o has a link count of %d, but its names do not match", ino, n.Mode, n.Nlink)
}

// balance compares two multisets of (inode, value): add adds to one of them, or, with a negative
// count, to the other. Both are equal if all sums are zero, with near certainty: the weights are
// hashes under two keys that are newer than the facts.
type balance struct {
	hash [2]items.Hasher
	// The inodes from low on are divided into ranges of 1 << shift inodes, each with its own sum.
	low   uint64
	shift int
	sums  [balanceSums][2]uint64
}

const (
	balanceBits = 10
	balanceSums = 1 << balanceBits
)

// newBalance returns a balance of inodes below next.
func newBalance(next uint64) *balance {
	return &balance{hash: [2]items.Hasher{items.NewHasher(randomBytes[[16]byte]()), items.NewHasher(randomBytes[[16]byte]())},
		shift: max(bits.Len64(next)-balanceBits, 0)}
}

// add adds n times (ino, value).
func (b *balance) add(ino, value uint64, n int64) {
	i := (ino - b.low) >> b.shift
	if ino < b.low || i >= balanceSums {
		return
	}
	var x [16]byte
	binary.LittleEndian.PutUint64(x[:], ino)
	binary.LittleEndian.PutUint64(x[8:], value)
	for j := range b.hash {
		b.sums[i][j] += uint64(n) * b.hash[j].Sum(x[:])
	}
}

// even reports whether all sums are zero.
func (b *balance) even() bool { return b.sums == [balanceSums][2]uint64{} }

// find returns the first inode that is not balanced. There must be one. It reads everything again,
// with read, as long as it knows only a range of inodes.
func (b *balance) find(read func(b *balance) error) (ino uint64, err error) {
	for !b.even() {
		i := 0
		for b.sums[i] == [2]uint64{} {
			i++
		}
		b.low += uint64(i) << b.shift
		if b.shift == 0 {
			return b.low, nil
		}
		b.shift = max(b.shift-balanceBits, 0)
		b.sums = [balanceSums][2]uint64{}
		if err := read(b); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: the tree changes while it is read", layout.ErrCorrupt)
}
