package vfstest

import (
	"fmt"
	"slices"
	"sort"
	"sync"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// MemFS is a vfs.FS in memory. It is simple and exactly correct, so that other implementations can
// be compared with it. Its capacity is 8 GiB.
type MemFS struct {
	mu      sync.RWMutex
	nodes   map[vfs.Ino]*node // guarded by mu, including their contents
	lastIno vfs.Ino
	blocks  int64 // allocated, of blockBytes
}

var _ vfs.FS = (*MemFS)(nil)

type node struct {
	attr   vfs.Attr // without Blocks
	data   data     // regular files
	target string   // symlinks
	xattrs map[string][]byte
	dir    *directory // directories
}

// directory keeps its entries in the order of their cookies, which only increase. Removed entries
// remain as nil until half of the entries are nil.
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

// NewMemFS returns an empty file system. Its root directory belongs to root.
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
	return nil, fmt.Errorf("inode %d is not a regular file: %w", ino, vfs.ErrInvalid)
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

// setMode implements chmod, which also updates the access ACL.
func (m *MemFS) setMode(n *node, mode uint32) {
	n.attr.Mode = n.kind() | mode&0o7777
	if value, ok := n.xattrs[posixacl.AccessName]; ok {
		if acl, err := posixacl.Parse(value); err == nil {
			n.xattrs[posixacl.AccessName] = acl.Chmod(mode).Encode()
		}
	}
}

// kill clears the privilege bits of a file whose data or owner changes.
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
		return "", fmt.Errorf("inode %d is not a symlink: %w", ino, vfs.ErrInvalid)
	}
	return n.target, nil
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

// Inodes returns the number of inodes. Tests use it to check that orphans are freed.
func (m *MemFS) Inodes() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.nodes)
}
