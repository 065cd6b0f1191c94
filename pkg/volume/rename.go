package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Rename implements vfs.FS.
func (v *Volume) Rename(req *vfs.Req, parent vfs.Ino, name string, newParent vfs.Ino, newName string, flags uint32) error {
	const known = vfs.RenameNoreplace | vfs.RenameExchange | vfs.RenameWhiteout
	if flags&^known != 0 || flags&vfs.RenameExchange != 0 && flags != vfs.RenameExchange {
		return vfs.ErrInvalid
	}
	if len(name) > vfs.MaxNameBytes {
		return vfs.ErrNameTooLong
	}
	c := cost{ring: 512 + len(name) + len(newName), quads: 2 * opQuads}
	if err := v.admit(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	p, err := v.dir(parent)
	if err != nil {
		return err
	}
	defer v.table.put(p)
	q, err := v.dir(newParent)
	if err != nil {
		return err
	}
	defer v.table.put(q)
	v.ns.Lock()
	defer v.ns.Unlock()
	src, err := v.lookup(p.ino, name)
	if err != nil {
		return err
	}
	if src.Ino == 0 {
		return vfs.ErrNotExist
	}
	if err := checkName(newName); err != nil {
		return err
	}
	dst, err := v.lookup(q.ino, newName)
	if err != nil {
		return err
	}
	moved, err := v.inode(vfs.Ino(src.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(moved)
	var target *inode
	if dst.Ino != 0 {
		if target, err = v.inode(vfs.Ino(dst.Ino)); err != nil {
			return err
		}
		defer v.table.put(target)
	}
	exchange := flags&vfs.RenameExchange != 0
	if target == nil && exchange {
		return vfs.ErrNotExist
	}
	if target != nil && flags&vfs.RenameNoreplace != 0 {
		return vfs.ErrExist
	}
	// Only names change parents, and we hold ns: what this finds stays true.
	if moved.isDir() && p != q {
		if inside, err := v.isInside(q, moved.ino); err != nil || inside {
			return orInvalid(err)
		}
	}
	if target != nil && target.isDir() && p != q {
		switch inside, err := v.isInside(p, target.ino); {
		case err != nil:
			return err
		case inside && exchange:
			return vfs.ErrInvalid
		case inside:
			return vfs.ErrNotEmpty
		}
	}
	defer lockInodes(p, q, moved, target)()
	if err := liveDir(q); err != nil {
		return err
	}
	switch {
	case target == moved:
		return nil // two names of one file: nothing happens
	case target == nil || exchange:
	case moved.isDir() && !target.isDir():
		return vfs.ErrNotDir
	case !moved.isDir() && target.isDir():
		return vfs.ErrIsDir
	case target.isDir() && target.attr.Size != 0:
		return vfs.ErrNotEmpty
	}
	if err := mayRename(p, q, moved, target); err != nil {
		return err
	}
	if moved.isDir() && p != q && q.attr.Nlink >= vfs.MaxLinks {
		return vfs.ErrTooManyLinks
	}
	op := &layout.Op{Type: layout.OpRename, Unique: req.Unique, Time: vfs.Now(), Ino: moved.ino, Parent: p.ino, Name: name,
		Parent2: q.ino, Name2: newName, Flags: flags, UID: req.UID, GID: req.GID}
	if flags&vfs.RenameWhiteout != 0 {
		op.Ino2 = v.newIno()
	}
	return v.perform(op)
}

func orInvalid(err error) error {
	if err == nil {
		return vfs.ErrInvalid
	}
	return err
}

// isInside tells whether a directory is ino or lies below it. The caller holds ns.
func (v *Volume) isInside(d *inode, ino uint64) (bool, error) {
	at, parent := d.ino, d.attr.Parent
	for depth := 0; ; depth++ {
		if at == ino {
			return true, nil
		}
		if at == uint64(vfs.RootIno) {
			return false, nil
		}
		if parent == at || parent == 0 || depth > 1<<20 {
			return false, txn.Wrap(fmt.Errorf("%w: directory %d has no way to the root", layout.ErrCorrupt, d.ino))
		}
		p, err := v.inode(vfs.Ino(parent))
		if err != nil {
			return false, err
		}
		at, parent = p.ino, p.attr.Parent
		v.table.put(p)
	}
}
