package volume

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/logical/whole"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// loadInode is the inode whose facts are being given. Its items are stored together: an inode with
// many attributes in several steps.
type loadInode struct {
	ino    uint64
	attr   layout.Inode // without the flags of attributes that are not in items
	stored bool         // the inode is in the tree, and may be in the table
	inline []byte       // to be stored; nil: nothing
	xattrs []loadXattr  // to be stored
	bytes  int          // of these

	names uint64   // bytes of the attributes' names so far, as listxattr(2) counts them
	hash  uint64   // of the attributes in same
	same  []string // attributes of this run with the same hash
}

// loadXattr is an attribute that is to be stored.
type loadXattr struct {
	sub   uint64
	name  string
	value []byte
}

// maxLoadBytes is how much of one inode is kept before it is stored.
const maxLoadBytes = 64 << 10

// fact takes one fact. After an error, the loader takes no more: what is in memory may be half of an
// inode.
func (l *Loader) fact(k logical.Key, take func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	next := l.v.com.inos.next // loading makes no new numbers
	var err error
	switch {
	case k.Ino == 0 || k.Ino >= next:
		err = invalidFact("inode %d, but the next inode number is %d", k.Ino, next)
	case k.Compare(l.last) <= 0:
		err = invalidFact("fact %d of type %d, %#x follows %d of type %d, %#x", k.Ino, k.Type, k.Sub, l.last.Ino, l.last.Type, l.last.Sub)
	default:
		err = take()
	}
	l.last, l.broken = k, l.explain(err)
	return l.broken
}

// Inode loads the attributes of an inode.
func (l *Loader) Inode(ino uint64, n *logical.Inode) error {
	return l.fact(logical.Key{Ino: ino, Type: logical.InodeType}, func() error { return l.inode(ino, n) })
}

func (l *Loader) inode(ino uint64, n *logical.Inode) error {
	attr, err := l.checkInode(ino, n)
	if err != nil {
		return err
	}
	if err := l.settle(); err != nil {
		return err
	}
	if attr.Flags&layout.InodeUserFlags != 0 {
		if err := l.v.keys.requireFeature(layout.FeatureFlags); err != nil {
			return err
		}
	}
	old, err := l.v.table.readInode(ino)
	switch {
	case isStale(err):
		l.cur = &loadInode{ino: ino, attr: attr}
		l.pending.Store(ino)
		return nil
	case err != nil:
		return err
	}
	// It was loaded before an interruption.
	want := old
	want.Flags &= layout.InodeUserFlags
	want.Blocks = 0
	if want != attr {
		return invalidFact("inode %d differs from what the interrupted restore left", ino)
	}
	return l.take(ino)
}

// checkInode checks an inode and converts it.
func (l *Loader) checkInode(ino uint64, n *logical.Inode) (attr layout.Inode, err error) {
	if err := n.Validate(); err != nil {
		return attr, fmt.Errorf("inode %d: %w", ino, err)
	}
	attr = layout.Inode{Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size, Parent: n.Parent, NameSub: n.NameSub,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	for _, f := range userFlags {
		if n.Flags&f.fs != 0 {
			attr.Flags |= f.inode
		}
	}
	if err := whole.CheckInode(ino, n); err != nil {
		return attr, err
	}
	if n.IsDir() && n.Parent >= l.v.com.inos.next { // that of a file may be gone
		return attr, invalidFact("inode %d has parent %d, but the next inode number is %d", ino, n.Parent, l.v.com.inos.next)
	}
	return attr, nil
}

// current makes an inode the one whose facts are given. The caller holds mu.
func (l *Loader) current(ino uint64) error {
	if l.cur != nil && l.cur.ino == ino {
		return nil
	}
	if err := l.settle(); err != nil {
		return err
	}
	return l.take(ino)
}

// take makes an inode of the tree the current one: the load was interrupted after it.
func (l *Loader) take(ino uint64) error {
	attr, err := l.v.table.readInode(ino)
	if err == nil {
		l.cur = &loadInode{ino: ino, attr: attr, stored: true}
		err = l.countNames(l.cur)
	}
	if isStale(err) {
		return invalidFact("facts of inode %d, which does not exist", ino)
	}
	return err
}

// countNames counts the names of attributes that are in the tree.
func (l *Loader) countNames(c *loadInode) error {
	if c.attr.Flags&layout.InodeXattrs == 0 {
		return nil
	}
	names, err := l.v.listXattr(c.ino)
	for _, n := range names {
		if !isACL(n) {
			c.names += uint64(len(n)) + 1
		}
	}
	return err
}

// isACL reports whether an attribute is an ACL. Those do not count in the length of the list.
func isACL(name string) bool { return name == posixacl.AccessName || name == posixacl.DefaultName }

// Inline loads the whole content of a small file, or the target of a symlink.
func (l *Loader) Inline(ino uint64, b []byte) error {
	return l.fact(logical.Key{Ino: ino, Type: logical.InlineType}, func() error { return l.inline(ino, b) })
}

func (l *Loader) inline(ino uint64, b []byte) error {
	if err := l.current(ino); err != nil {
		return err
	}
	c := l.cur
	typ := c.attr.Mode & items.ModeType
	switch {
	case typ != items.ModeReg && typ != items.ModeLink, uint64(len(b)) != c.attr.Size, typ == items.ModeReg && len(b) > layout.MaxInline:
		return invalidFact("inode %d of mode %#o and %d bytes has %d bytes of inline content", ino, c.attr.Mode, c.attr.Size, len(b))
	case typ == items.ModeReg && isZero(b):
		return nil // a hole
	case c.stored && typ == items.ModeReg: // it may have become data meanwhile
		return l.write(ino, b, 0)
	case c.stored:
		old, found, err := l.v.fs.Get(items.InlineKey(ino), nil)
		if err == nil && found && !bytes.Equal(old, b) {
			err = invalidFact("the target of symlink %d differs from what the interrupted restore left", ino)
		}
		if err != nil || found {
			return err
		}
	}
	c.inline, c.bytes = slices.Clone(b), c.bytes+len(b)
	l.pending.Store(ino)
	return nil
}

// Xattr loads an extended attribute. sub is the sub of its first piece.
func (l *Loader) Xattr(ino, sub uint64, x *logical.Xattr) error {
	return l.fact(logical.Key{Ino: ino, Type: logical.XattrType, Sub: sub}, func() error { return l.xattr(ino, sub, x) })
}

func (l *Loader) xattr(ino, sub uint64, x *logical.Xattr) error {
	if err := l.current(ino); err != nil {
		return err
	}
	c := l.cur
	if err := l.checkXattr(c, sub, x); err != nil {
		return err
	}
	if c.stored {
		there, err := l.loadedXattr(ino, sub, x)
		if err != nil || there {
			return err
		}
	}
	if !isACL(x.Name) {
		c.names += uint64(len(x.Name)) + 1
	}
	c.xattrs = append(c.xattrs, loadXattr{sub, x.Name, slices.Clone(x.Value)})
	c.bytes += len(x.Value) + 512
	l.pending.Store(ino)
	if c.bytes > maxLoadBytes {
		return l.settle()
	}
	return nil
}

// checkXattr checks what can be checked of an attribute without those in the tree.
func (l *Loader) checkXattr(c *loadInode, sub uint64, x *logical.Xattr) error {
	hash := sub & layout.XattrHashMask
	if hash != c.hash {
		c.hash, c.same = hash, c.same[:0]
	}
	switch {
	case sub&0xff != 0 || hash != l.v.names.hash.Xattr(x.Name):
		return invalidFact("attribute %q of inode %d has the number %#x", x.Name, c.ino, sub)
	case slices.Contains(c.same, x.Name):
		return invalidFact("inode %d has attribute %q twice", c.ino, x.Name)
	}
	c.same = append(c.same, x.Name)
	names := c.names
	return whole.CheckXattr(c.ino, c.attr.Mode, x, &names)
}

// loadedXattr reports whether an attribute was loaded before an interruption.
func (l *Loader) loadedXattr(ino, sub uint64, x *logical.Xattr) (there bool, err error) {
	f, err := l.v.names.hash.FindXattr(l.v.fs.Scan, ino, x.Name)
	switch {
	case errors.Is(err, vfs.ErrNoSpace): // more attributes with one hash than there are numbers
		return false, invalidFact("%v", err)
	case err != nil:
		return false, err
	case f.Exists && f.Sub == sub && bytes.Equal(f.Value, x.Value):
		return true, nil
	case !f.Exists:
		if _, f.Exists, err = l.v.fs.Get(items.XattrKey(ino, sub), nil); err != nil {
			return false, err
		}
	}
	if f.Exists {
		return false, invalidFact("attribute %q of inode %d differs from what the interrupted restore left", x.Name, ino)
	}
	return false, nil
}

// settle stores the facts of the current inode that are not in the tree. The caller holds mu.
func (l *Loader) settle() error {
	c := l.cur
	if c == nil || c.stored && c.inline == nil && len(c.xattrs) == 0 {
		return nil
	}
	res := reservation{nodes: opNodes + 2*len(c.xattrs) + 2*c.bytes/layout.NodeBytes}
	err := l.v.operate(res, func(k *locks) error {
		if !c.stored {
			return l.v.inGate(func() error { return l.v.loadNew(c) })
		}
		in, err := k.inode(vfs.Ino(c.ino))
		if err != nil {
			return err
		}
		k.lock(in)
		return l.v.inGate(func() error { return l.v.loadMore(in, c) })
	})
	if err != nil {
		return err
	}
	c.stored, c.inline, c.xattrs, c.bytes = true, nil, nil, 0
	l.pending.Store(0)
	return nil
}

// loadNew stores an inode that does not exist yet. Nobody else can have it in memory.
func (v *Volume) loadNew(c *loadInode) error {
	if c.inline != nil && c.attr.Mode&items.ModeType == items.ModeReg {
		c.attr.Flags |= layout.InodeInline
	}
	for i := range c.xattrs {
		c.attr.Flags |= items.XattrFlags(c.xattrs[i].name)
	}
	err := v.fs.Update(func(w *tree.Writer) error {
		if err := w.Put(items.InodeKey(c.ino), c.attr.Append(nil)); err != nil {
			return err
		}
		return c.put(w)
	})
	if err == nil {
		v.com.inos.mu.Lock()
		v.com.inos.inodes++
		v.com.inos.mu.Unlock()
	}
	return err
}

// loadMore stores further facts of an inode. The caller holds in.mu. Inline content is the target
// of a symlink.
func (v *Volume) loadMore(in *inode, c *loadInode) error {
	for i := range c.xattrs {
		in.attr.Flags |= items.XattrFlags(c.xattrs[i].name)
	}
	v.table.touch(in)
	return v.fs.Update(c.put)
}

// put stores everything but the inode itself.
func (c *loadInode) put(w *tree.Writer) error {
	if c.inline != nil {
		if err := w.Put(items.InlineKey(c.ino), c.inline); err != nil {
			return err
		}
	}
	for i := range c.xattrs {
		x := &c.xattrs[i]
		if err := putXattr(w, c.ino, x.sub, x.name, x.value); err != nil {
			return err
		}
	}
	return nil
}

// Name loads a name in a directory.
func (l *Loader) Name(dir, sub uint64, n *logical.Name) error {
	return l.fact(logical.Key{Ino: dir, Type: logical.NameType, Sub: sub}, func() error { return l.name(dir, sub, n) })
}

func (l *Loader) name(dir, sub uint64, n *logical.Name) error {
	if err := l.current(dir); err != nil {
		return err
	}
	if l.cur.attr.Mode&items.ModeType != items.ModeDir {
		return invalidFact("inode %d of mode %#o has the name %q", dir, l.cur.attr.Mode, n.Name)
	}
	if err := n.Validate(); err != nil {
		return fmt.Errorf("directory %d: %w", dir, err)
	}
	switch hash := l.v.names.hash; {
	case sub&^(layout.NameCollisions-1) != hash.Name(n.Name):
		return invalidFact("name %q in directory %d has the number %#x", n.Name, dir, sub)
	case n.Ino <= uint64(vfs.RootIno) || n.Ino >= l.v.com.inos.next || n.Ino == dir:
		return invalidFact("name %q in directory %d belongs to inode %d of type %#o", n.Name, dir, n.Ino, n.Type)
	}
	if err := l.settle(); err != nil {
		return err
	}
	var bad error
	err := l.v.operate(reservation{nodes: opNodes}, func(*locks) error {
		return l.v.inGate(func() error {
			return l.v.fs.Update(func(w *tree.Writer) (err error) {
				bad, err = l.putName(w, dir, sub, layout.Name{Ino: n.Ino, Type: n.Type, Name: n.Name})
				return err
			})
		})
	})
	if err == nil {
		err = bad
	}
	return err
}

// putName stores a name unless it is there. If the facts are invalid, it changes nothing and
// returns why.
func (l *Loader) putName(w *tree.Writer, dir, sub uint64, n layout.Name) (bad, err error) {
	k, found, err := l.v.names.hash.FindName(w.Scan, dir, n.Name)
	switch {
	case errors.Is(err, vfs.ErrNoSpace): // the numbers are used up, so this one is, too
	case err != nil:
		return nil, err
	case found == n && k.Sub == sub:
		return nil, nil // loaded before an interruption
	case found.Ino != 0:
		return invalidFact("directory %d has the name %q twice", dir, n.Name), nil
	}
	k = items.NameKey(dir, sub)
	if _, taken, err := w.Get(k); err != nil || taken {
		return invalidFact("directory %d has two names with the number %#x", dir, sub), err
	}
	return nil, w.Put(k, n.Append(nil))
}
