package vfstest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const capabilityXattr = "security.capability"

// MemFS is a vfs.FS in memory: correct to the letter and simple, so that others
// can be compared with it. It holds 8 GiB.
type MemFS struct {
	mu      sync.RWMutex
	nodes   map[vfs.Ino]*node // guarded by mu, with all they hold
	lastIno vfs.Ino
	blocks  int64 // allocated, of blockBytes
}

var _ vfs.FS = (*MemFS)(nil)

type node struct {
	attr   vfs.Attr // but for Blocks
	data   data     // regular files
	target string   // symlinks
	xattrs map[string][]byte
	dir    *directory // directories
}

// directory keeps its entries in the order of their cookies, which only grow.
// Removed ones stay as nil until half are nil.
type directory struct {
	parent vfs.Ino // 0 once removed
	names  map[string]*entry
	order  []*slot
	last   uint64 // the newest cookie
}

type slot struct {
	cookie uint64
	entry  *entry // nil: removed
}

type entry struct {
	name string
	ino  vfs.Ino
	slot *slot
}

// NewMemFS makes an empty file system whose root belongs to root.
func NewMemFS() *MemFS {
	m := &MemFS{nodes: make(map[vfs.Ino]*node)}
	root := m.newNode(vfs.Attr{Mode: syscall.S_IFDIR | 0o755, Nlink: 2})
	root.dir.parent = root.attr.Ino
	return m
}

func (m *MemFS) newNode(a vfs.Attr) *node {
	m.lastIno++
	now := vfs.Now()
	a.Ino, a.Atime, a.Mtime, a.Ctime, a.Btime = m.lastIno, now, now, now, now
	n := &node{attr: a}
	if n.isDir() {
		n.dir = &directory{names: make(map[string]*entry)}
	}
	m.nodes[a.Ino] = n
	return n
}

func (n *node) kind() uint32 { return n.attr.Mode & syscall.S_IFMT }
func (n *node) isDir() bool  { return n.kind() == syscall.S_IFDIR }

func (n *node) stat() vfs.Attr {
	a := n.attr
	a.Blocks = uint64(n.data.blocks) * (blockBytes / 512)
	return a
}

func (n *node) changed() { n.attr.Ctime = vfs.Now() }

func (n *node) modified() {
	now := vfs.Now()
	n.attr.Mtime, n.attr.Ctime = now, now
}

func (m *MemFS) node(ino vfs.Ino) (*node, error) {
	n, ok := m.nodes[ino]
	if !ok {
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	return n, nil
}

func (m *MemFS) dirNode(ino vfs.Ino) (*node, error) {
	n, err := m.node(ino)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrNotDir)
	}
	return n, nil
}

// fileNode returns a regular file.
func (m *MemFS) fileNode(ino vfs.Ino) (*node, error) {
	n, err := m.node(ino)
	if err != nil {
		return nil, err
	}
	switch n.kind() {
	case syscall.S_IFREG:
		return n, nil
	case syscall.S_IFDIR:
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrIsDir)
	}
	return nil, fmt.Errorf("inode %d is no regular file: %w", ino, vfs.ErrInvalid)
}

func checkName(name string) error {
	if len(name) > vfs.MaxNameBytes {
		return fmt.Errorf("name of %d bytes: %w", len(name), vfs.ErrNameTooLong)
	}
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("reserved name: %w", vfs.ErrInvalid)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Errorf("name with a slash or NUL: %w", vfs.ErrInvalid)
		}
	}
	return nil
}

// lookup finds name in dir.
func (m *MemFS) lookup(dir *node, name string) (*node, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	e, ok := dir.dir.names[name]
	if !ok {
		return nil, fmt.Errorf("in inode %d: %w", dir.attr.Ino, vfs.ErrNotExist)
	}
	return m.nodes[e.ino], nil
}

func (d *directory) add(name string, ino vfs.Ino) {
	d.last++
	e := &entry{name: name, ino: ino, slot: &slot{cookie: d.last}}
	e.slot.entry = e
	d.names[name] = e
	d.order = append(d.order, e.slot)
}

func (d *directory) remove(name string) {
	d.names[name].slot.entry = nil
	delete(d.names, name)
	if len(d.order) > 16 && len(d.names) < len(d.order)/2 {
		d.order = slices.DeleteFunc(d.order, func(s *slot) bool { return s.entry == nil })
	}
}

// StatFS is vfs.FS.StatFS.
func (m *MemFS) StatFS() vfs.StatFS {
	m.mu.RLock()
	defer m.mu.RUnlock()
	const blocks, inodes = capacityBlocks, 1 << 32
	used := uint64(m.blocks)
	return vfs.StatFS{
		BlockSize: blockBytes, Blocks: blocks, BlocksFree: blocks - used, BlocksAvail: blocks - used,
		Inodes: inodes, InodesFree: inodes - uint64(len(m.nodes)), NameMax: vfs.MaxNameBytes,
	}
}

// Lookup is vfs.FS.Lookup.
func (m *MemFS) Lookup(parent vfs.Ino, name string) (vfs.Attr, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	dir, err := m.dirNode(parent)
	if err != nil {
		return vfs.Attr{}, err
	}
	n, err := m.lookup(dir, name)
	if err != nil {
		return vfs.Attr{}, err
	}
	return n.stat(), nil
}

// GetAttr is vfs.FS.GetAttr.
func (m *MemFS) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.node(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	return n.stat(), nil
}

// SetAttr is vfs.FS.SetAttr.
func (m *MemFS) SetAttr(_ *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	if set.Size != nil {
		if _, err := m.fileNode(ino); err != nil {
			return vfs.Attr{}, err
		}
		if *set.Size > vfs.MaxFileBytes {
			return vfs.Attr{}, fmt.Errorf("size %d: %w", *set.Size, vfs.ErrFileTooBig)
		}
	}
	if *set == (vfs.SetAttr{}) {
		return n.stat(), nil
	}
	now := vfs.Now()
	a := &n.attr
	if set.Mode != nil {
		m.setMode(n, *set.Mode)
	}
	if set.UID != nil {
		a.UID = *set.UID
	}
	if set.GID != nil {
		a.GID = *set.GID
	}
	if set.KillSuidgid {
		n.kill()
	}
	if set.Size != nil {
		m.account(n, func() { n.data.truncate(*set.Size) })
		a.Size = *set.Size
		a.Mtime = now
	}
	if set.Atime != nil {
		a.Atime = *set.Atime
	}
	if set.Mtime != nil {
		a.Mtime = *set.Mtime
	}
	a.Ctime = now
	if set.Ctime != nil {
		a.Ctime = *set.Ctime
	}
	return n.stat(), nil
}

// setMode is chmod: the access ACL follows.
func (m *MemFS) setMode(n *node, mode uint32) {
	n.attr.Mode = n.kind() | mode&0o7777
	if value, ok := n.xattrs[posixacl.AccessName]; ok {
		if acl, err := posixacl.Parse(value); err == nil {
			n.xattrs[posixacl.AccessName] = acl.Chmod(mode).Encode()
		}
	}
}

// kill takes the privileges of a file whose data or owner changes.
func (n *node) kill() {
	if n.isDir() {
		return
	}
	n.attr.Mode &^= syscall.S_ISUID
	if n.attr.Mode&syscall.S_IXGRP != 0 {
		n.attr.Mode &^= syscall.S_ISGID
	}
	delete(n.xattrs, capabilityXattr)
}

// Readlink is vfs.FS.Readlink.
func (m *MemFS) Readlink(ino vfs.Ino) (string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.node(ino)
	if err != nil {
		return "", err
	}
	if n.kind() != syscall.S_IFLNK {
		return "", fmt.Errorf("inode %d is no symlink: %w", ino, vfs.ErrInvalid)
	}
	return n.target, nil
}

// place finds the directory for a new name.
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

// create makes an inode as a child of dir, without a name yet: owner, setgid
// directory, umask and default ACL.
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
			return fmt.Errorf("exchange of a directory with its own: %w", vfs.ErrInvalid)
		}
		return fmt.Errorf("rename over a directory above: %w", vfs.ErrNotEmpty)
	}
	if src == dst {
		return nil // two names of one inode: POSIX wants both to stay
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

// within reports whether dir is top or lies beneath it.
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

// moved keeps parents and link counts right for a directory n that went from one
// directory to another.
func (m *MemFS) moved(n, from, to *node) {
	if n.isDir() {
		from.attr.Nlink--
		to.attr.Nlink++
		n.dir.parent = to.attr.Ino
	}
}

// ReadDir is vfs.FS.ReadDir.
func (m *MemFS) ReadDir(ino vfs.Ino, cookie uint64, plus bool, fn func(d vfs.Dirent, attr *vfs.Attr) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	dir, err := m.dirNode(ino)
	if err != nil {
		return err
	}
	order := dir.dir.order
	i := sort.Search(len(order), func(i int) bool { return order[i].cookie > cookie })
	for _, s := range order[i:] {
		if s.entry == nil {
			continue
		}
		n := m.nodes[s.entry.ino]
		d := vfs.Dirent{Name: s.entry.name, Ino: s.entry.ino, Type: n.kind(), Cookie: s.cookie}
		var attr *vfs.Attr
		if plus {
			a := n.stat()
			attr = &a
		}
		if !fn(d, attr) {
			break
		}
	}
	return nil
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

// Sync is vfs.FS.Sync.
func (m *MemFS) Sync(ino vfs.Ino) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, err := m.node(ino)
	return err
}

// Forget is vfs.FS.Forget.
func (m *MemFS) Forget(ino vfs.Ino) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[ino]; ok && n.attr.Nlink == 0 {
		m.blocks -= n.data.blocks
		delete(m.nodes, ino)
	}
}

// Inodes is how many inodes exist, to see whether orphans are freed.
func (m *MemFS) Inodes() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.nodes)
}
