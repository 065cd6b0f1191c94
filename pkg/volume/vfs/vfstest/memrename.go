package vfstest

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Rename is vfs.FS.Rename.
func (m *MemFS) Rename(req *vfs.Req, parent vfs.Ino, name string, newParent vfs.Ino, newName string, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	exchange := flags&vfs.RenameExchange != 0
	if flags&^(vfs.RenameNoreplace|vfs.RenameExchange|vfs.RenameWhiteout) != 0 ||
		exchange && flags != vfs.RenameExchange {
		return fmt.Errorf("rename flags %#x: %w", flags, vfs.ErrInvalid)
	}
	from, err := m.dirNode(parent)
	if err != nil {
		return err
	}
	to, err := m.dirNode(newParent)
	if err != nil {
		return err
	}
	src, err := m.lookup(from, name)
	if err != nil {
		return err
	}
	dst, err := m.lookup(to, newName)
	if err != nil && !errors.Is(err, vfs.ErrNotExist) || err != nil && exchange {
		return err
	}
	if to.dir.parent == 0 {
		return fmt.Errorf("inode %d is removed: %w", newParent, vfs.ErrNotExist)
	}
	if dst != nil && flags&vfs.RenameNoreplace != 0 {
		return fmt.Errorf("rename: %w", vfs.ErrExist)
	}
	if src.isDir() && m.within(to, src) {
		return fmt.Errorf("rename of a directory into itself: %w", vfs.ErrInvalid)
	}
	if dst != nil && dst.isDir() && m.within(from, dst) {
		if exchange {
			return fmt.Errorf("exchange of a directory with one of its entries: %w", vfs.ErrInvalid)
		}
		return fmt.Errorf("rename over a parent directory: %w", vfs.ErrNotEmpty)
	}
	if src == dst {
		return nil // two names of one inode: POSIX requires that both remain
	}
	if dst != nil && !exchange {
		switch {
		case src.isDir() && !dst.isDir():
			return fmt.Errorf("rename of a directory over a file: %w", vfs.ErrNotDir)
		case !src.isDir() && dst.isDir():
			return fmt.Errorf("rename of a file over a directory: %w", vfs.ErrIsDir)
		case dst.isDir() && len(dst.dir.names) > 0:
			return fmt.Errorf("rename: %w", vfs.ErrNotEmpty)
		}
	}
	if exchange {
		m.exchange(from, name, src, to, newName, dst)
	} else {
		m.replace(from, name, src, to, newName, dst)
		if flags&vfs.RenameWhiteout != 0 {
			w := m.create(req, from, syscall.S_IFCHR, 0)
			from.dir.add(name, w.attr.Ino)
		}
	}
	from.modified()
	to.modified()
	src.changed()
	return nil
}

// within reports whether dir is top or is below it.
func (m *MemFS) within(dir, top *node) bool {
	for {
		if dir == top {
			return true
		}
		if dir.attr.Ino == vfs.RootIno || dir.dir.parent == 0 {
			return false
		}
		dir = m.nodes[dir.dir.parent]
	}
}

func (m *MemFS) exchange(from *node, name string, src *node, to *node, newName string, dst *node) {
	from.dir.names[name].ino = dst.attr.Ino
	to.dir.names[newName].ino = src.attr.Ino
	m.moved(src, from, to)
	m.moved(dst, to, from)
	dst.changed()
}

func (m *MemFS) replace(from *node, name string, src *node, to *node, newName string, dst *node) {
	if dst == nil {
		to.dir.add(newName, src.attr.Ino)
	} else {
		to.dir.names[newName].ino = src.attr.Ino
		if dst.isDir() {
			dst.removedDir()
			to.attr.Nlink--
		} else {
			dst.attr.Nlink--
			dst.changed()
		}
	}
	from.dir.remove(name)
	m.moved(src, from, to)
}

// moved updates the parent and the link counts after directory n moved to another directory.
func (m *MemFS) moved(n, from, to *node) {
	if n.isDir() {
		from.attr.Nlink--
		to.attr.Nlink++
		n.dir.parent = to.attr.Ino
	}
}
