package doublecrypt

import (
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Attributes that the format does not store are the same for all inodes.
const (
	fileMode = unix.S_IFREG | 0o644
	dirMode  = unix.S_IFDIR | 0o755
)

var _ vfs.FS = (*Volume)(nil)

// attr returns the attributes of n. v.mu is held.
func (v *Volume) attr(n *node) vfs.Attr {
	modified := vfs.Timespec{Sec: int64(min(n.modified, 1<<62))}
	a := vfs.Attr{Ino: n.ino, Mode: n.mode(), Nlink: 1, UID: v.opts.UID, GID: v.opts.GID, Size: n.size,
		Atime: modified, Mtime: modified, Ctime: modified, Btime: vfs.Timespec{Sec: int64(min(n.created, 1<<62))}}
	each := uint64(v.blk.size) / 512
	a.Blocks = (n.used + 2) * each
	if n.dir {
		a.Nlink, a.Size, a.Blocks = 2+n.subdirs, uint64(v.blk.size), 2*each
	}
	if n.orphan {
		a.Nlink = 0
	}
	return a
}

// StatFS implements vfs.FS.
func (v *Volume) StatFS() vfs.StatFS {
	v.mu.Lock()
	defer v.mu.Unlock()
	free := v.freeBlocks()
	s := vfs.StatFS{BlockSize: uint32(v.blk.size), Blocks: v.total - firstObject, BlocksFree: free, NameMax: vfs.MaxNameBytes}
	s.BlocksAvail = free - min(free, v.reserve()+1)
	s.InodesFree = s.BlocksAvail / 2
	s.Inodes = uint64(len(v.nodes)) + s.InodesFree
	return s
}

// freeBlocks counts the blocks that will be free after the next commits. v.mu is held.
func (v *Volume) freeBlocks() uint64 {
	free := v.alloc.free + v.lent + uint64(len(v.quarantine)+len(v.drops))
	for _, r := range v.retired {
		free += uint64(len(r.blocks))
	}
	return min(free-min(free, v.need), v.total-firstObject)
}

// hidden tells whether a name is "." or "..", which the reference implementation allows.
func hidden(name string) bool { return name == "." || name == ".." }

// Lookup implements vfs.FS.
func (v *Volume) Lookup(parent vfs.Ino, name string) (vfs.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.lookup(parent, name)
	if err == nil && hidden(name) {
		err = vfs.ErrNotExist
	}
	if err == nil {
		err = n.damage
	}
	if err != nil {
		return vfs.Attr{}, err
	}
	return v.attr(n), nil
}

// GetAttr implements vfs.FS.
func (v *Volume) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.get(ino)
	if err == nil {
		err = n.damage
	}
	if err != nil {
		return vfs.Attr{}, err
	}
	return v.attr(n), nil
}

// ReusesInos tells fusefs that file handles do not outlive a mount. The format does not store the
// next inode number. So if the newest file is deleted, a later mount reuses its number.
func (v *Volume) ReusesInos() bool { return true }

// SetAttr implements vfs.FS. It can set sizes, and modification times in whole seconds. Access and
// change times equal the modification time.
func (v *Volume) SetAttr(_ *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (vfs.Attr, error) {
	v.mu.Lock()
	n, err := v.get(ino)
	if err == nil {
		err = v.writable()
	}
	if err == nil {
		err = v.settable(n, set)
	}
	v.mu.Unlock()
	if err != nil {
		return vfs.Attr{}, err
	}
	if set.Size != nil {
		n.write.Lock()
		defer n.write.Unlock()
		if err := v.truncate(n, *set.Size); err != nil {
			return vfs.Attr{}, err
		}
	}
	if set.Mtime != nil {
		err = v.change(func() (plan, error) {
			if err := v.alive(n); err != nil {
				return plan{}, err
			}
			blocks, err := v.growth(n, 0)
			return plan{blocks: blocks, apply: func() {
				n.modified = uint64(set.Mtime.Sec)
				v.mark(n, false)
			}}, err
		})
		if err != nil {
			return vfs.Attr{}, err
		}
	}
	return v.GetAttr(ino)
}

// settable refuses attributes that the format does not support, before anything is changed.
func (v *Volume) settable(n *node, set *vfs.SetAttr) error {
	switch {
	case n.damage != nil:
		return n.damage
	case set.Size != nil && n.dir:
		return vfs.ErrIsDir
	case set.Mode != nil && *set.Mode&0o7777 != n.mode()&0o7777,
		set.UID != nil && *set.UID != v.opts.UID,
		set.GID != nil && *set.GID != v.opts.GID,
		set.Mtime != nil && set.Mtime.Sec < 0:
		return vfs.ErrNotSupported
	}
	return nil
}

// Readlink implements vfs.FS. The format has no symbolic links.
func (v *Volume) Readlink(ino vfs.Ino) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.get(ino); err != nil {
		return "", err
	}
	return "", vfs.ErrInvalid
}

// Mknod implements vfs.FS for regular files. All files have the same mode.
func (v *Volume) Mknod(_ *vfs.Req, parent vfs.Ino, name string, mode, _ uint32) (vfs.Attr, error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, 0:
		return v.create(parent, name, false)
	case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFBLK, unix.S_IFCHR:
		return vfs.Attr{}, v.unsupported(parent, name)
	}
	return vfs.Attr{}, vfs.ErrInvalid
}

// Mkdir implements vfs.FS.
func (v *Volume) Mkdir(_ *vfs.Req, parent vfs.Ino, name string, _ uint32) (vfs.Attr, error) {
	return v.create(parent, name, true)
}

// Symlink implements vfs.FS. The format has no symbolic links.
func (v *Volume) Symlink(_ *vfs.Req, parent vfs.Ino, name, _ string) (vfs.Attr, error) {
	return vfs.Attr{}, v.unsupported(parent, name)
}

// unsupported is the error of creating inodes that the format does not support.
func (v *Volume) unsupported(parent vfs.Ino, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.dirNode(parent)
	if err == nil {
		err = checkName(name)
	}
	if err == nil && d.names[name] != nil {
		err = vfs.ErrExist
	}
	if err == nil {
		err = vfs.ErrNotSupported
	}
	return err
}

// Tmpfile implements vfs.FS.
func (v *Volume) Tmpfile(_ *vfs.Req, parent vfs.Ino, _ uint32) (a vfs.Attr, err error) {
	err = v.change(func() (plan, error) {
		_, err := v.dirNode(parent)
		return plan{apply: func() { a = v.attr(v.newNode(false)) }}, err
	})
	return a, err
}

// Link implements vfs.FS for files without a name. The format has no hard links.
func (v *Volume) Link(_ *vfs.Req, ino, newParent vfs.Ino, newName string) (a vfs.Attr, err error) {
	err = v.change(func() (plan, error) {
		n, err := v.get(ino)
		if err != nil {
			return plan{}, err
		}
		d, err := v.dirNode(newParent)
		if err != nil {
			return plan{}, err
		}
		if err := checkName(newName); err != nil {
			return plan{}, err
		}
		switch {
		case n.dir:
			return plan{}, vfs.ErrNotPermitted
		case !n.orphan:
			return plan{}, vfs.ErrNotSupported
		case d.orphan:
			return plan{}, vfs.ErrNotExist
		case d.names[newName] != nil:
			return plan{}, vfs.ErrExist
		case varintLen(n.used)+n.mapBytes > v.plain: // without a name, it needed no map
			return plan{}, &Error{Variant: DataTooLarge, Value: n.size, err: vfs.ErrFileTooBig}
		}
		p, err := v.room(d, newName, uint64(n.ino))
		p.blocks += 2
		p.apply = func() {
			// No tree refers to parts of it that earlier commits stored. So make all of it dirty.
			v.recost(n, func() { n.dirty, n.bodyDirty = false, false })
			v.attach(d, newName, n)
			d.modified = v.seconds()
			v.mark(d, true)
			v.mark(n, true)
			a = v.attr(n)
		}
		return p, err
	})
	return a, err
}

// Unlink implements vfs.FS.
func (v *Volume) Unlink(_ *vfs.Req, parent vfs.Ino, name string) error {
	_, err := v.remove(parent, name, func(n *node) error {
		if n.dir {
			return vfs.ErrIsDir
		}
		return nil
	})
	return err
}

// Rmdir implements vfs.FS.
func (v *Volume) Rmdir(_ *vfs.Req, parent vfs.Ino, name string) error {
	_, err := v.remove(parent, name, func(n *node) error {
		switch {
		case !n.dir:
			return vfs.ErrNotDir
		case n.damage != nil:
			return n.damage // its entries are unknown
		case len(n.order) > 0:
			return vfs.ErrNotEmpty
		}
		return nil
	})
	return err
}

// Rename implements vfs.FS.
func (v *Volume) Rename(_ *vfs.Req, parent vfs.Ino, name string, newParent vfs.Ino, newName string, flags uint32) error {
	switch flags {
	case 0, vfs.RenameNoreplace:
		return v.rename(parent, name, newParent, newName, flags == 0)
	case vfs.RenameExchange:
		return v.exchange(parent, name, newParent, newName)
	case vfs.RenameWhiteout, vfs.RenameWhiteout | vfs.RenameNoreplace:
		return vfs.ErrNotSupported
	}
	return vfs.ErrInvalid
}

// ReadDir implements vfs.FS.
func (v *Volume) ReadDir(dir vfs.Ino, cookie uint64, plus bool, fn func(d vfs.Dirent, attr *vfs.Attr) bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.dirNode(dir)
	if err != nil {
		return err
	}
	if cookie >= vfs.MaxCookie {
		return nil
	}
	for _, e := range d.order[d.find(cookie+1):] {
		if hidden(e.name) {
			continue
		}
		var attr *vfs.Attr
		if plus {
			a := v.attr(e.node)
			attr = &a
		}
		if !fn(vfs.Dirent{Name: e.name, Ino: e.node.ino, Type: e.node.mode() & unix.S_IFMT, Cookie: e.cookie}, attr) {
			return nil
		}
	}
	return nil
}

// Parent implements vfs.FS.
func (v *Volume) Parent(dir vfs.Ino) (vfs.Ino, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.get(dir)
	switch {
	case err != nil:
		return 0, err
	case !n.dir:
		return 0, vfs.ErrNotDir
	case n.parent == nil:
		return n.ino, nil // the root, or a removed directory
	}
	return n.parent.ino, nil
}

// noXattrs is the result of operations on extended attributes, which the format does not have.
func (v *Volume) noXattrs(ino vfs.Ino) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.get(ino); err != nil {
		return err
	}
	return vfs.ErrNotSupported
}

// GetXattr implements vfs.FS. The format has no extended attributes.
func (v *Volume) GetXattr(ino vfs.Ino, _ string) ([]byte, error) { return nil, v.noXattrs(ino) }

// SetXattr implements vfs.FS. The format has no extended attributes.
func (v *Volume) SetXattr(_ *vfs.Req, ino vfs.Ino, _ string, _ []byte, _ uint32) error {
	return v.noXattrs(ino)
}

// ListXattr implements vfs.FS. The list is empty.
func (v *Volume) ListXattr(ino vfs.Ino) ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := v.get(ino)
	return nil, err
}

// RemoveXattr implements vfs.FS. The format has no extended attributes.
func (v *Volume) RemoveXattr(_ *vfs.Req, ino vfs.Ino, _ string) error { return v.noXattrs(ino) }

// Sync implements vfs.FS. It commits.
func (v *Volume) Sync(vfs.Ino) error {
	if v.opts.ReadOnly {
		return nil
	}
	return v.commit()
}
