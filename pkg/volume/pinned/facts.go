package pinned

import (
	"bytes"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// userFlags are the flags that users set, and their bits in a stored inode.
var userFlags = [...]struct{ fact, inode uint32 }{
	{vfs.FlagImmutable, layout.InodeImmutable},
	{vfs.FlagAppend, layout.InodeAppend},
	{vfs.FlagNodump, layout.InodeNodump},
	{vfs.FlagNoatime, layout.InodeNoatime},
}

// inodeFact returns what is a fact of an inode that has a name.
func inodeFact(ino uint64, n *layout.Inode) (f logical.Inode, err error) {
	f = logical.Inode{Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size, Parent: n.Parent, NameSub: n.NameSub,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	for _, x := range userFlags {
		if n.Flags&x.inode != 0 {
			f.Flags |= x.fact
		}
	}
	if err := f.Validate(); err != nil {
		return f, fmt.Errorf("%w: inode %d: %w", layout.ErrCorrupt, ino, err)
	}
	return f, nil
}

// contentType is the type of the fact that the content of an inode is, 0 if it has none. n may be
// nil.
func contentType(n *layout.Inode) logical.Type {
	switch {
	case n == nil:
	case n.Mode&items.ModeType == items.ModeLink:
		return logical.InlineType
	case n.Mode&items.ModeType == items.ModeReg && n.Size > logical.MaxInline:
		return logical.DataType
	case n.Mode&items.ModeType == items.ModeReg:
		return logical.InlineType
	}
	return 0
}

// inlineFact returns the content of a symlink or a small file; nil if it is not a fact.
func (s *State) inlineFact(ino uint64, n *layout.Inode) ([]byte, error) {
	if contentType(n) != logical.InlineType || n.Size == 0 {
		return nil, nil
	}
	if n.Mode&items.ModeType == items.ModeLink {
		b, ok, err := s.tree.Get(items.InlineKey(ino), nil)
		if err == nil && (!ok || uint64(len(b)) != n.Size) {
			err = fmt.Errorf("%w: a symlink of %d bytes has a target of %d", layout.ErrCorrupt, n.Size, len(b))
		}
		if err != nil {
			return nil, fmt.Errorf("inode %d: %w", ino, err)
		}
		return b, nil
	}
	f, err := s.file(ino, n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n.Size)
	if err := f.window(b, 0); err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	if len(bytes.TrimLeft(b, "\x00")) == 0 {
		return nil, nil
	}
	return b, nil
}

// pieces are the low bits of an attribute's sub that number its pieces.
const pieces = 0xff

// xattrFact returns the attribute whose first piece has a sub; nil if there is none.
func (s *State) xattrFact(ino, sub uint64) (*logical.Xattr, error) {
	var x *logical.Xattr
	var derr error
	total := 0
	err := s.tree.Scan(items.XattrKey(ino, sub), items.XattrKey(ino, sub|pieces), func(k layout.Key, val []byte) bool {
		i := int(k.Sub & pieces)
		p, err := layout.DecodeXattr(val, i)
		switch {
		case err != nil:
			derr = err
		case i == 0:
			x, total = &logical.Xattr{Name: p.Name, Value: make([]byte, 0, p.Total)}, int(p.Total)
		case x == nil || len(x.Value) != i*layout.XattrPieceBytes:
			derr = fmt.Errorf("%w: piece %d of an attribute is at the wrong place", layout.ErrCorrupt, i)
		}
		if derr != nil {
			return false
		}
		x.Value = append(x.Value, p.Data...)
		return true
	})
	if err == nil {
		err = derr
	}
	if err == nil && x != nil && len(x.Value) != total {
		err = fmt.Errorf("%w: an attribute of %d bytes has %d", layout.ErrCorrupt, total, len(x.Value))
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: attribute %#x: %w", ino, sub, err)
	}
	return x, nil
}

// sameXattr reports whether two attributes, each of which may be nil, are the same fact.
func sameXattr(a, b *logical.Xattr) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Name == b.Name && bytes.Equal(a.Value, b.Value)
}
