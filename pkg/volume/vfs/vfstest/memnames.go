package vfstest

import (
	"fmt"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// place checks the directory for a new name.
func (m *MemFS) place(parent vfs.Ino, name string) (*node, error) {
	dir, err := m.dirNode(parent)
	if err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if dir.dir.parent == 0 {
		return nil, fmt.Errorf("inode %d is removed: %w", parent, vfs.ErrNotExist)
	}
	if _, ok := dir.dir.names[name]; ok {
		return nil, fmt.Errorf("in inode %d: %w", parent, vfs.ErrExist)
	}
	return dir, nil
}

// create creates an inode as a child of dir, still without a name. It applies owner, the
// set-group-ID bit of the directory, umask and default ACL.
func (m *MemFS) create(req *vfs.Req, dir *node, mode, rdev uint32) *node {
	a := vfs.Attr{Mode: mode, UID: req.UID, GID: req.GID, Rdev: rdev, Nlink: 1}
	isDir := mode&syscall.S_IFMT == syscall.S_IFDIR
	if isDir {
		a.Nlink = 2
	}
	var access, deflt posixacl.ACL
	if mode&syscall.S_IFMT != syscall.S_IFLNK {
		if value, ok := dir.xattrs[posixacl.DefaultName]; ok {
			if def, err := posixacl.Parse(value); err == nil {
				a.Mode, access, deflt = posixacl.Inherit(def, mode, isDir)
			}
		} else {
			a.Mode &^= req.Umask & 0o777
		}
	}
	if dir.attr.Mode&syscall.S_ISGID != 0 {
		a.GID = dir.attr.GID
		if isDir {
			a.Mode |= syscall.S_ISGID
		}
	}
	n := m.newNode(a)
	if access != nil {
		n.setXattr(posixacl.AccessName, access.Encode())
	}
	if deflt != nil {
		n.setXattr(posixacl.DefaultName, deflt.Encode())
	}
	return n
}

// Mknod is vfs.FS.Mknod.
func (m *MemFS) Mknod(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
		rdev = 0
	case syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		return vfs.Attr{}, fmt.Errorf("mknod of type %#o: %w", mode&syscall.S_IFMT, vfs.ErrInvalid)
	}
	return m.make(req, parent, name, mode&(syscall.S_IFMT|0o7777), rdev, "")
}

func (m *MemFS) make(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32, target string) (vfs.Attr, error) {
	dir, err := m.place(parent, name)
	if err != nil {
		return vfs.Attr{}, err
	}
	n := m.create(req, dir, mode, rdev)
	if target != "" {
		n.target, n.attr.Size = target, uint64(len(target))
	}
	if n.isDir() {
		n.dir.parent = parent
		dir.attr.Nlink++
	}
	dir.dir.add(name, n.attr.Ino)
	dir.modified()
	return n.stat(), nil
}

// Mkdir is vfs.FS.Mkdir.
func (m *MemFS) Mkdir(req *vfs.Req, parent vfs.Ino, name string, mode uint32) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.make(req, parent, name, syscall.S_IFDIR|mode&0o1777, 0, "")
}

// Symlink is vfs.FS.Symlink.
func (m *MemFS) Symlink(req *vfs.Req, parent vfs.Ino, name, target string) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if target == "" {
		return vfs.Attr{}, fmt.Errorf("empty symlink: %w", vfs.ErrInvalid)
	}
	if len(target) > vfs.MaxSymlinkBytes {
		return vfs.Attr{}, fmt.Errorf("symlink of %d bytes: %w", len(target), vfs.ErrNameTooLong)
	}
	return m.make(req, parent, name, syscall.S_IFLNK|0o777, 0, target)
}

// Tmpfile is vfs.FS.Tmpfile.
func (m *MemFS) Tmpfile(req *vfs.Req, parent vfs.Ino, mode uint32) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.dirNode(parent)
	if err != nil {
		return vfs.Attr{}, err
	}
	if dir.dir.parent == 0 {
		return vfs.Attr{}, fmt.Errorf("inode %d is removed: %w", parent, vfs.ErrNotExist)
	}
	n := m.create(req, dir, syscall.S_IFREG|mode&0o7777, 0)
	n.attr.Nlink = 0
	return n.stat(), nil
}

// Link is vfs.FS.Link.
func (m *MemFS) Link(_ *vfs.Req, ino, newParent vfs.Ino, newName string) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	dir, err := m.place(newParent, newName)
	if err != nil {
		return vfs.Attr{}, err
	}
	if n.isDir() {
		return vfs.Attr{}, fmt.Errorf("link to a directory: %w", vfs.ErrNotPermitted)
	}
	if n.attr.Nlink >= vfs.MaxLinks {
		return vfs.Attr{}, fmt.Errorf("inode %d: %w", ino, vfs.ErrTooManyLinks)
	}
	n.attr.Nlink++
	n.changed()
	dir.dir.add(newName, ino)
	dir.modified()
	return n.stat(), nil
}

// Unlink is vfs.FS.Unlink.
func (m *MemFS) Unlink(_ *vfs.Req, parent vfs.Ino, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.dirNode(parent)
	if err != nil {
		return err
	}
	n, err := m.lookup(dir, name)
	if err != nil {
		return err
	}
	if n.isDir() {
		return fmt.Errorf("unlink: %w", vfs.ErrIsDir)
	}
	dir.dir.remove(name)
	dir.modified()
	n.attr.Nlink--
	n.changed()
	return nil
}

// Rmdir is vfs.FS.Rmdir.
func (m *MemFS) Rmdir(_ *vfs.Req, parent vfs.Ino, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.dirNode(parent)
	if err != nil {
		return err
	}
	n, err := m.lookup(dir, name)
	if err != nil {
		return err
	}
	if !n.isDir() {
		return fmt.Errorf("rmdir: %w", vfs.ErrNotDir)
	}
	if len(n.dir.names) > 0 {
		return fmt.Errorf("rmdir: %w", vfs.ErrNotEmpty)
	}
	dir.dir.remove(name)
	dir.attr.Nlink--
	dir.modified()
	n.removedDir()
	return nil
}

func (n *node) removedDir() {
	n.attr.Nlink = 0
	n.dir.parent = 0
	n.changed()
}

// Parent is vfs.FS.Parent.
func (m *MemFS) Parent(ino vfs.Ino) (vfs.Ino, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	dir, err := m.dirNode(ino)
	if err != nil {
		return 0, err
	}
	if dir.dir.parent == 0 {
		return 0, fmt.Errorf("inode %d is removed: %w", ino, vfs.ErrNotExist)
	}
	return dir.dir.parent, nil
}
