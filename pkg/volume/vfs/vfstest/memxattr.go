package vfstest

import (
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const capabilityXattr = "security.capability"

func (n *node) setXattr(name string, value []byte) {
	if n.xattrs == nil {
		n.xattrs = make(map[string][]byte)
	}
	n.xattrs[name] = value
}

// GetXattr is vfs.FS.GetXattr.
func (m *MemFS) GetXattr(ino vfs.Ino, name string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.node(ino)
	if err != nil {
		return nil, err
	}
	value, ok := n.xattrs[name]
	if !ok {
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrNoXattr)
	}
	return slices.Clone(value), nil
}

// SetXattr is vfs.FS.SetXattr.
func (m *MemFS) SetXattr(_ *vfs.Req, ino vfs.Ino, name string, value []byte, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(ino)
	if err != nil {
		return err
	}
	if name == "" || len(name) > vfs.MaxXattrName || flags&^(vfs.XattrCreate|vfs.XattrReplace) != 0 {
		return fmt.Errorf("xattr: %w", vfs.ErrInvalid)
	}
	if len(value) > vfs.MaxXattrBytes {
		return fmt.Errorf("xattr of %d bytes: %w", len(value), vfs.ErrXattrTooBig)
	}
	value = slices.Clone(value)
	var acl posixacl.ACL
	if name == posixacl.AccessName || name == posixacl.DefaultName {
		if acl, err = m.parseACL(n, name, value); err != nil {
			return err
		}
		value = acl.Encode()
	}
	_, exists := n.xattrs[name]
	if exists && flags&vfs.XattrCreate != 0 {
		return fmt.Errorf("inode %d: %w", ino, vfs.ErrExist)
	}
	if !exists && flags&vfs.XattrReplace != 0 {
		return fmt.Errorf("inode %d: %w", ino, vfs.ErrNoXattr)
	}
	n.setXattr(name, value)
	if name == posixacl.AccessName {
		perm, equivalent := acl.Mode()
		n.attr.Mode = n.attr.Mode&^0o777 | perm
		if equivalent {
			delete(n.xattrs, name)
		}
	}
	n.changed()
	return nil
}

func (m *MemFS) parseACL(n *node, name string, value []byte) (posixacl.ACL, error) {
	if n.kind() == syscall.S_IFLNK {
		return nil, fmt.Errorf("ACL of a symlink: %w", vfs.ErrNotSupported)
	}
	if name == posixacl.DefaultName && !n.isDir() {
		return nil, fmt.Errorf("default ACL of a file: %w", vfs.ErrInvalid)
	}
	return posixacl.Parse(value)
}

// ListXattr is vfs.FS.ListXattr.
func (m *MemFS) ListXattr(ino vfs.Ino) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.node(ino)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.xattrs)), nil
}

// RemoveXattr is vfs.FS.RemoveXattr.
func (m *MemFS) RemoveXattr(_ *vfs.Req, ino vfs.Ino, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(ino)
	if err != nil {
		return err
	}
	if _, ok := n.xattrs[name]; !ok {
		if name == posixacl.AccessName || name == posixacl.DefaultName {
			return nil
		}
		return fmt.Errorf("inode %d: %w", ino, vfs.ErrNoXattr)
	}
	delete(n.xattrs, name)
	n.changed()
	return nil
}
