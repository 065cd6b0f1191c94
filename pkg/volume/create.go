package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// create makes an inode, and its name unless that is empty. The name was checked.
func (v *Volume) create(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32, target string) (a vfs.Attr, err error) {
	c := reservation{ring: 256 + len(name) + len(target) + 2*4096, nodes: opNodes}
	err = v.operate(c, func(l *locks) error {
		p, err := l.dir(parent)
		if err != nil {
			return err
		}
		l.names()
		l.lock(p)
		if err := v.names.mayCreate(p, name, mode); err != nil {
			return err
		}
		op := &layout.Op{Type: layout.OpCreate, Unique: req.Unique, Time: vfs.Now(), Parent: p.ino, Name: name, Name2: target,
			UID: req.UID, GID: req.GID, Rdev: rdev}
		if op.Mode, op.Data, op.Data2, err = v.names.inherit(p, req, mode); err != nil {
			return err
		}
		if p.attr.Mode&items.ModeSgid != 0 {
			op.GID = p.attr.GID
			if mode&items.ModeType == items.ModeDir {
				op.Mode |= items.ModeSgid
			}
		}
		op.Ino = v.com.inos.take()
		if err := v.perform(op); err != nil {
			return err
		}
		a, err = v.GetAttr(vfs.Ino(op.Ino)) // while nobody can remove it
		return err
	})
	return a, err
}

// mayCreate checks whether an inode may be created in a directory. The directory is locked against
// changes of names.
func (ns *namespace) mayCreate(p *inode, name string, mode uint32) error {
	if err := liveDir(p); err != nil {
		return err
	}
	if name != "" {
		n, err := ns.lookup(p.ino, name)
		if err != nil {
			return err
		}
		if n.Ino != 0 {
			return vfs.ErrExist
		}
	}
	if err := mayAdd(p); err != nil {
		return err
	}
	if mode&items.ModeType == items.ModeDir && p.attr.Nlink >= vfs.MaxLinks {
		return vfs.ErrTooManyLinks
	}
	return nil
}

// inherit applies umask or default ACL. It returns the mode, and the default and access ACL of the
// new inode.
func (ns *namespace) inherit(p *inode, req *vfs.Req, mode uint32) (m uint32, deflt, access []byte, err error) {
	v := ns.v
	if mode&items.ModeType == items.ModeLink {
		return items.ModeLink | 0o777, nil, nil, nil
	}
	if p.attr.Flags&layout.InodeDefaultACL == 0 {
		return mode &^ (req.Umask & 0o777), nil, nil, nil
	}
	val, err := v.readXattr(p.ino, posixacl.DefaultName)
	if err != nil {
		return 0, nil, nil, err
	}
	acl, err := posixacl.Parse(val)
	if err != nil {
		return 0, nil, nil, txn.Wrap(fmt.Errorf("%w: default ACL of inode %d", layout.ErrCorrupt, p.ino))
	}
	m, a, d := posixacl.Inherit(acl, mode, mode&items.ModeType == items.ModeDir)
	if a != nil {
		access = a.Encode()
	}
	if d != nil {
		deflt = d.Encode()
	}
	return m, deflt, access, nil
}

// Mknod implements vfs.FS.
func (v *Volume) Mknod(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32) (vfs.Attr, error) {
	switch mode & items.ModeType {
	case 0:
		mode |= items.ModeReg
	case items.ModeReg, 0o010000, 0o020000, 0o060000, 0o140000:
	default:
		return vfs.Attr{}, vfs.ErrInvalid
	}
	if mode&items.ModeType != 0o020000 && mode&items.ModeType != 0o060000 {
		rdev = 0
	}
	if err := v.names.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	return v.create(req, parent, name, mode&0o177777, rdev, "")
}

// Mkdir implements vfs.FS.
func (v *Volume) Mkdir(req *vfs.Req, parent vfs.Ino, name string, mode uint32) (vfs.Attr, error) {
	if err := v.names.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	return v.create(req, parent, name, items.ModeDir|mode&0o7777, 0, "")
}

// Symlink implements vfs.FS.
func (v *Volume) Symlink(req *vfs.Req, parent vfs.Ino, name, target string) (vfs.Attr, error) {
	if err := v.names.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	switch {
	case target == "":
		return vfs.Attr{}, vfs.ErrNotExist
	case len(target) > vfs.MaxSymlinkBytes:
		return vfs.Attr{}, vfs.ErrNameTooLong
	}
	return v.create(req, parent, name, items.ModeLink|0o777, 0, target)
}

// Tmpfile implements vfs.FS.
func (v *Volume) Tmpfile(req *vfs.Req, parent vfs.Ino, mode uint32) (vfs.Attr, error) {
	return v.create(req, parent, "", items.ModeReg|mode&0o7777, 0, "")
}

// Readlink implements vfs.FS.
func (v *Volume) Readlink(ino vfs.Ino) (string, error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return "", err
	}
	defer v.table.put(in)
	if in.typ != items.ModeLink {
		return "", fmt.Errorf("inode %d: %w", ino, vfs.ErrInvalid)
	}
	val, ok, err := v.fs.Get(items.InlineKey(uint64(ino)), nil)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the symlink has no target", layout.ErrCorrupt)
	}
	if err != nil {
		return "", txn.Wrap(fmt.Errorf("inode %d: %w", ino, err))
	}
	return string(val), nil
}

// Link implements vfs.FS.
func (v *Volume) Link(req *vfs.Req, ino, newParent vfs.Ino, newName string) (vfs.Attr, error) {
	err := v.operate(reservation{ring: 256 + len(newName), nodes: opNodes}, func(l *locks) error {
		in, err := l.inode(ino)
		if err != nil {
			return err
		}
		p, err := l.dir(newParent)
		if err != nil {
			return err
		}
		if err := checkName(newName); err != nil {
			return err
		}
		l.names()
		l.lock(in, p)
		if in.dead {
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
		}
		if err := liveDir(p); err != nil {
			return err
		}
		n, err := v.names.lookup(p.ino, newName)
		switch {
		case err != nil:
			return err
		case n.Ino != 0:
			return vfs.ErrExist
		case in.isDir():
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrNotPermitted)
		case in.attr.Nlink >= vfs.MaxLinks:
			return vfs.ErrTooManyLinks
		}
		if err := errors.Join(mayAdd(p), fixed(in)); err != nil {
			return err
		}
		return v.perform(&layout.Op{Type: layout.OpLink, Unique: req.Unique, Time: vfs.Now(), Ino: in.ino, Parent: p.ino, Name: newName})
	})
	if err != nil {
		return vfs.Attr{}, err
	}
	return v.GetAttr(ino)
}
