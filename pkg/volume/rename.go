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
	r := renaming{v: v, name: name, newName: newName, flags: flags}
	return v.operate(reservation{ring: 512 + len(name) + len(newName), nodes: 2 * opNodes}, func(l *locks) error {
		if err := r.find(l, parent, newParent); err != nil {
			return err
		}
		if err := r.checkInside(); err != nil {
			return err
		}
		l.lock(r.p, r.q, r.moved, r.target)
		if err := liveDir(r.q); err != nil {
			return err
		}
		if r.target == r.moved {
			return nil // both names belong to one file: nothing happens
		}
		if err := r.may(); err != nil {
			return err
		}
		op := &layout.Op{Type: layout.OpRename, Unique: req.Unique, Time: vfs.Now(), Ino: r.moved.ino, Parent: r.p.ino, Name: name,
			Parent2: r.q.ino, Name2: newName, Flags: flags, UID: req.UID, GID: req.GID}
		if flags&vfs.RenameWhiteout != 0 {
			op.Ino2 = v.com.inos.take()
		}
		return v.perform(op)
	})
}

// renaming is the state of one rename of a name from p to q.
type renaming struct {
	v             *Volume
	name, newName string
	flags         uint32
	p, q          *inode
	moved         *inode
	target        *inode // inode that has the new name; nil: none
}

func (r *renaming) exchange() bool { return r.flags&vfs.RenameExchange != 0 }

// find looks up both names, and prevents changes of names from then on.
func (r *renaming) find(l *locks, parent, newParent vfs.Ino) (err error) {
	if r.p, err = l.dir(parent); err != nil {
		return err
	}
	if r.q, err = l.dir(newParent); err != nil {
		return err
	}
	l.names()
	src, err := r.v.names.lookup(r.p.ino, r.name)
	if err != nil {
		return err
	}
	if src.Ino == 0 {
		return vfs.ErrNotExist
	}
	if err := checkName(r.newName); err != nil {
		return err
	}
	dst, err := r.v.names.lookup(r.q.ino, r.newName)
	if err != nil {
		return err
	}
	if r.moved, err = l.inode(vfs.Ino(src.Ino)); err != nil {
		return err
	}
	if dst.Ino != 0 {
		if r.target, err = l.inode(vfs.Ino(dst.Ino)); err != nil {
			return err
		}
	}
	switch {
	case r.target == nil && r.exchange():
		return vfs.ErrNotExist
	case r.target != nil && r.flags&vfs.RenameNoreplace != 0:
		return vfs.ErrExist
	}
	return nil
}

// checkInside refuses to move a directory into itself. Only changes of names change parents, and the
// caller holds namespace.mu, so the result stays true.
func (r *renaming) checkInside() error {
	v, p, q := r.v, r.p, r.q
	if r.moved.isDir() && p != q {
		if inside, err := v.names.isInside(q, r.moved.ino); err != nil || inside {
			return orInvalid(err)
		}
	}
	if r.target != nil && r.target.isDir() && p != q {
		switch inside, err := v.names.isInside(p, r.target.ino); {
		case err != nil:
			return err
		case inside && r.exchange():
			return vfs.ErrInvalid
		case inside:
			return vfs.ErrNotEmpty
		}
	}
	return nil
}

// may checks whether the existing inodes allow the rename. All four inodes are locked.
func (r *renaming) may() error {
	moved, target := r.moved, r.target
	switch {
	case target == nil || r.exchange():
	case moved.isDir() && !target.isDir():
		return vfs.ErrNotDir
	case !moved.isDir() && target.isDir():
		return vfs.ErrIsDir
	case target.isDir() && target.attr.Size != 0:
		return vfs.ErrNotEmpty
	}
	if err := mayRename(r.p, r.q, moved, target); err != nil {
		return err
	}
	if moved.isDir() && r.p != r.q && r.q.attr.Nlink >= vfs.MaxLinks {
		return vfs.ErrTooManyLinks
	}
	return nil
}

func orInvalid(err error) error {
	if err == nil {
		return vfs.ErrInvalid
	}
	return err
}

// isInside reports whether a directory is ino or lies below it. The caller holds namespace.mu.
func (ns *namespace) isInside(d *inode, ino uint64) (bool, error) {
	v := ns.v
	at, parent := d.ino, d.attr.Parent
	for depth := 0; ; depth++ {
		if at == ino {
			return true, nil
		}
		if at == uint64(vfs.RootIno) {
			return false, nil
		}
		if parent == at || parent == 0 || depth > 1<<20 {
			return false, txn.Wrap(fmt.Errorf("%w: directory %d is not reachable from the root directory", layout.ErrCorrupt, d.ino))
		}
		p, err := v.table.inode(vfs.Ino(parent))
		if err != nil {
			return false, err
		}
		at, parent = p.ino, p.attr.Parent
		v.table.put(p)
	}
}
