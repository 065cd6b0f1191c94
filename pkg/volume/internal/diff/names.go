package diff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// name compares the item of a name.
func (d *differ) name(k layout.Key, a, b []byte) error {
	var x, y layout.Name
	var err error
	if a != nil {
		if x, err = layout.DecodeName(a); err != nil {
			return err
		}
	}
	if b != nil {
		if y, err = layout.DecodeName(b); err != nil {
			return err
		}
	}
	if x == y {
		return nil
	}
	if x.Ino != 0 {
		if err := d.nameGone(k, x); err != nil {
			return err
		}
	}
	if y.Ino != 0 {
		return d.nameNew(k, y)
	}
	return nil
}

// isRename reports whether an inode moved: the name that it recorded belongs to another inode now,
// or to none. Both sides of a move get the same result.
func (d *differ) isRename(a, b *layout.Inode, ino uint64) bool {
	if a == nil || b == nil || a.NameSub == 0 || b.NameSub == 0 {
		return false
	}
	return d.a.names(a.Parent, a.NameSub, ino) && d.b.names(b.Parent, b.NameSub, ino) &&
		!d.b.sameName(d.a, a.Parent, a.NameSub) && !d.a.sameName(d.b, b.Parent, b.NameSub)
}

func (d *differ) nameGone(k layout.Key, n layout.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	kind := Unlinked
	if b == nil || b.Nlink == 0 {
		kind = Removed
	} else if d.isRename(a, b, n.Ino) && a.Parent == k.Obj && a.NameSub == k.Sub {
		return nil // reported under the new name
	}
	path, err := d.a.join(k.Obj, n.Name)
	if err != nil {
		return err
	}
	return d.fn(Change{Kind: kind, Ino: vfs.Ino(n.Ino), Type: n.Type, Path: path})
}

func (d *differ) nameNew(k layout.Key, n layout.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	c := Change{Kind: Linked, Ino: vfs.Ino(n.Ino), Type: n.Type}
	switch {
	case a == nil || a.Nlink == 0:
		c.Kind = Created
	case d.isRename(a, b, n.Ino) && b.Parent == k.Obj && b.NameSub == k.Sub:
		c.Kind = Renamed
		old, _, err := d.a.nameAt(a.Parent, a.NameSub)
		if err == nil {
			c.OldPath, err = d.a.join(a.Parent, old.Name)
		}
		if err != nil {
			return err
		}
	}
	if c.Path, err = d.b.join(k.Obj, n.Name); err != nil {
		return err
	}
	return d.fn(c)
}

// search finds the names of inodes that record none, all in one pass.
func (d *differ) search() error {
	if len(d.lost) == 0 {
		return nil
	}
	type at struct {
		dir  uint64
		name string
	}
	places := map[uint64]at{}
	for _, c := range d.lost {
		places[uint64(c.Ino)] = at{}
	}
	var derr error
	left := len(places)
	err := d.b.Tree.Scan(layout.Key{Obj: 1}, layout.Key{Obj: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		if k.Type != layout.KeyName {
			return true
		}
		var n layout.Name
		if n, derr = layout.DecodeName(val); derr != nil {
			return false
		}
		if p, ok := places[n.Ino]; ok && p.dir == 0 {
			places[n.Ino] = at{k.Obj, n.Name}
			left--
		}
		return left > 0
	})
	if err = cmp.Or(err, derr); err != nil {
		return err
	}
	paths := map[uint64]string{}
	for _, ino := range slices.Sorted(maps.Keys(places)) {
		p := places[ino]
		if p.dir == 0 {
			return fmt.Errorf("%w: inode %d has no name", layout.ErrCorrupt, ino)
		}
		if paths[ino], err = d.b.join(p.dir, p.name); err != nil {
			return err
		}
	}
	for _, c := range d.lost {
		c.Path = paths[uint64(c.Ino)]
		if err := d.fn(c); err != nil {
			return err
		}
	}
	d.lost = d.lost[:0]
	return nil
}
