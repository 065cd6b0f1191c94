package items

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Lookup reads single items.
type Lookup struct{ Tree *tree.Tree }

// Inode reads an inode. It returns ErrStale if the inode does not exist.
func (l *Lookup) Inode(ino uint64) (layout.Inode, error) {
	v, ok, err := l.Tree.Get(InodeKey(ino), nil)
	if err == nil && !ok {
		err = vfs.ErrStale
	}
	if err != nil {
		return layout.Inode{}, err
	}
	return layout.DecodeInode(v)
}

// Place finds the name of a directory in its parent.
func (l *Lookup) Place(ino uint64) (dir uint64, name string, ok bool) {
	n, err := l.Inode(ino)
	if err != nil || n.Mode&ModeType != ModeDir {
		return 0, "", false
	}
	err = l.Tree.Scan(NameKey(n.Parent, 0), NameKey(n.Parent, ^uint64(0)), func(_ layout.Key, v []byte) bool {
		x, err := layout.DecodeName(v)
		if err == nil && x.Ino == ino {
			name, ok = x.Name, true
		}
		return !ok
	})
	return n.Parent, name, ok && err == nil
}

// Extents returns the extents of an inode that overlap [from, to).
func (l *Lookup) Extents(ino, from, to uint64) (out []Placed, err error) {
	return ScanExtents(l.Tree.ScanFloor, ino, from, to, 0)
}
