package diff

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// name compares a name.
func (d *differ) name(x *merkle.Difference) error {
	if x.Old != nil {
		n, err := fact.DecodeName(x.Old)
		if err == nil {
			err = d.nameGone(x.Key, &n)
		}
		if err != nil {
			return err
		}
	}
	if x.New == nil {
		return nil
	}
	n, err := fact.DecodeName(x.New)
	if err != nil {
		return err
	}
	return d.nameNew(x.Key, &n)
}

// isRename reports whether an inode moved: the name that it recorded belongs to another inode now, or
// to none. Both sides of a move get the same result.
func (d *differ) isRename(a, b *logical.Inode, ino uint64) (bool, error) {
	if a == nil || b == nil || a.NameSub == 0 || b.NameSub == 0 {
		return false, nil
	}
	var names [4]logical.Name // the old name then and now, the new name then and now
	for i, s := range []*side{d.a, d.b} {
		for j, n := range []*logical.Inode{a, b} {
			var err error
			if names[2*j+i], err = s.nameAt(d.ctx, n.Parent, n.NameSub); err != nil {
				return false, err
			}
		}
	}
	return names[0].Ino == ino && names[3].Ino == ino && names[0] != names[1] && names[3] != names[2], nil
}

func (d *differ) nameGone(k logical.Key, n *logical.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	kind := volume.Unlinked
	if b == nil {
		kind = volume.Removed
	} else if a.Parent == k.Ino && a.NameSub == k.Sub {
		is, err := d.isRename(a, b, n.Ino)
		if err != nil || is {
			return err // reported under the new name
		}
	}
	path, err := d.a.join(d.ctx, k.Ino, n.Name)
	if err != nil {
		return err
	}
	return d.fn(volume.Change{Kind: kind, Ino: vfs.Ino(n.Ino), Type: n.Type, Path: path})
}

func (d *differ) nameNew(k logical.Key, n *logical.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	if b == nil {
		return fmt.Errorf("%w: inode %d has a name, but does not exist", logical.ErrInvalid, n.Ino)
	}
	c := volume.Change{Kind: volume.Linked, Ino: vfs.Ino(n.Ino), Type: n.Type}
	if a == nil {
		c.Kind = volume.Created
	} else if b.Parent == k.Ino && b.NameSub == k.Sub {
		is, err := d.isRename(a, b, n.Ino)
		if err == nil && is {
			c.Kind = volume.Renamed
			var old logical.Name
			if old, err = d.a.nameAt(d.ctx, a.Parent, a.NameSub); err == nil {
				c.OldPath, err = d.a.join(d.ctx, a.Parent, old.Name)
			}
		}
		if err != nil {
			return err
		}
	}
	if c.Path, err = d.b.join(d.ctx, k.Ino, n.Name); err != nil {
		return err
	}
	return d.fn(c)
}

// search finds the names of inodes that record none, all in one pass.
func (d *differ) search() error {
	if len(d.lost) == 0 {
		return nil
	}
	paths, left := map[uint64]string{}, map[uint64]bool{}
	for _, c := range d.lost {
		left[uint64(c.Ino)] = true
	}
	for x, err := range d.b.Map.Scan(d.ctx, logical.Key{}, merkle.LastKey) {
		if err != nil {
			return err
		}
		if x.Key.Type != logical.NameType {
			continue
		}
		n, err := fact.DecodeName(x.Value)
		if err == nil && left[n.Ino] {
			paths[n.Ino], err = d.b.join(d.ctx, x.Key.Ino, n.Name)
			delete(left, n.Ino)
		}
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
	}
	for _, c := range d.lost {
		path, ok := paths[uint64(c.Ino)]
		if !ok {
			return fmt.Errorf("%w: inode %d has no name", logical.ErrInvalid, c.Ino)
		}
		c.Path = path
		if err := d.fn(c); err != nil {
			return err
		}
	}
	d.lost = d.lost[:0]
	return nil
}
