package volume

import (
	"container/list"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// inode is an inode in memory. The table has at most one for each number.
type inode struct {
	ino uint64
	typ uint32 // S_IFMT bits; never changes

	mu   sync.RWMutex // see the package comment
	attr layout.Inode // guarded by mu; changed inside the gate only; Blocks is not used
	dead bool         // guarded by mu; freed: no operation may use it

	gone    bool     // changed inside the gate; freed and removed from the tree
	cutting bool     // guarded by mu; extents beyond the size are still to be removed
	loaded  []uint64 // guarded by mu; blocks that loadPage keeps in memory for this operation

	// Copies from attr for flushers, which do not hold mu. Both change inside the gate.
	size    atomic.Uint64
	inlined atomic.Bool // content is in the tree, as its KeyInline item
	// It has reserved ranges, and so no inline content. Changed inside Volume.fs.Update.
	reserved atomic.Bool

	bmu       sync.RWMutex
	buffers   map[uint64]*buffer // by buffer number
	blocks    uint64             // of its extents in the tree
	vacant    uint64             // reserved blocks without an extent
	inserting int                // flushers between copying a buffer and storing its record
	inlining  bool               // one of them stores inline content
	settled   *sync.Cond         // on bmu; signalled when inserting becomes 0

	refs  int           // guarded by table.mu
	elem  *list.Element // in table.idle when refs is 0
	dirty bool          // guarded by inodeTable.dirtyMu: newer than the tree
}

func newInode(ino uint64, attr layout.Inode) *inode {
	in := &inode{ino: ino, typ: attr.Mode & items.ModeType, attr: attr, blocks: attr.Blocks, vacant: attr.Vacant, buffers: map[uint64]*buffer{}}
	in.settled = sync.NewCond(&in.bmu)
	in.size.Store(attr.Size)
	in.inlined.Store(attr.Flags&layout.InodeInline != 0)
	in.reserved.Store(attr.Flags&layout.InodeReserved != 0)
	return in
}

func (in *inode) isDir() bool { return in.typ == items.ModeDir }
func (in *inode) isReg() bool { return in.typ == items.ModeReg }

// setSize changes the size. The caller is in the gate and holds mu.
func (in *inode) setSize(n uint64) {
	in.attr.Size = n
	in.size.Store(n)
}

// vacate counts reserved blocks that lost or got an extent.
func (in *inode) vacate(gone, filled uint64) {
	in.bmu.Lock()
	defer in.bmu.Unlock()
	in.vacant += gone
	in.vacant -= min(in.vacant, filled)
}

// stored is the inode as stored in the tree. Nothing changes meanwhile, because the committer holds
// the gate.
func (in *inode) stored() layout.Inode {
	n := in.attr
	n.Blocks, n.Vacant = in.blocks, in.vacant
	n.Flags &^= layout.InodeInline | layout.InodeReserved
	if in.inlined.Load() {
		n.Flags |= layout.InodeInline
	}
	if in.reserved.Load() {
		n.Flags |= layout.InodeReserved
	}
	return n
}

// vfsAttr is the inode as stat returns it. The caller holds mu.
func (in *inode) vfsAttr() vfs.Attr {
	in.bmu.RLock()
	blocks, vacant, pages := in.blocks, in.vacant, uint64(0)
	for _, b := range in.buffers {
		pages += uint64(b.tracked())
	}
	in.bmu.RUnlock()
	return vfsAttr(in.ino, &in.attr, in.inlined.Load(), blocks, vacant, pages)
}

// vfsAttr converts an inode. Pages in memory may or may not have blocks on the device already. The
// block count must not be too small, because programs consider a file without blocks to be a hole.
// Vacant blocks are reserved, so they count regardless of pages in memory.
func vfsAttr(ino uint64, n *layout.Inode, inlined bool, blocks, vacant, pages uint64) vfs.Attr {
	a := vfs.Attr{Ino: vfs.Ino(ino), Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	if n.Mode&items.ModeType == items.ModeDir {
		a.Size = 4096 + n.Size*32
		a.Blocks = (a.Size + 4095) / 4096 * 8
		return a
	}
	whole := (n.Size + layout.BlockBytes - 1) / layout.BlockBytes
	reserved := blocks + vacant
	if blocks < whole {
		blocks = min(blocks+pages, whole)
	}
	blocks = max(blocks, reserved)
	if inlined && n.Size > 0 && blocks == 0 {
		blocks = 1
	}
	a.Blocks = blocks * 8
	return a
}

// maxIdle is the most unused, clean inodes that stay in memory.
const maxIdle = 16384

type inodeTable struct {
	v *Volume

	mu    sync.Mutex
	m     map[uint64]*inode
	idle  list.List // clean and unused, most recent first
	loads [64]sync.Mutex

	dirtyMu sync.Mutex
	dirty   []*inode // newer than the tree, each with a reference
}

// grab returns the inode with a new reference if it is in memory, otherwise nil.
func (t *inodeTable) grab(ino uint64) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := t.m[ino]
	if in != nil {
		t.ref(in)
	}
	return in
}

func (t *inodeTable) ref(in *inode) {
	if in.refs++; in.elem != nil {
		t.idle.Remove(in.elem)
		in.elem = nil
	}
}

// hold adds a reference to an inode. The caller already holds one.
func (t *inodeTable) hold(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ref(in)
}

// add puts a new inode into the table, with a reference.
func (t *inodeTable) add(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[in.ino] = in
	t.ref(in)
}

// put releases a reference.
func (t *inodeTable) put(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in.refs--; in.refs > 0 {
		return
	}
	in.elem = t.idle.PushFront(in)
	for t.idle.Len() > t.most() {
		e := t.idle.Back()
		t.idle.Remove(e)
		delete(t.m, e.Value.(*inode).ino)
	}
}

// most is the most idle inodes. A load comes back to none of them soon.
func (t *inodeTable) most() int {
	if t.v.opts.load {
		return maxIdle / 16
	}
	return maxIdle
}

// forget removes a freed inode from the table, so that nobody finds it again.
func (t *inodeTable) forget(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, in.ino)
}

// inode returns an inode with a reference, which put releases. It returns ErrStale if the inode
// does not exist.
func (t *inodeTable) inode(ino vfs.Ino) (*inode, error) {
	if in := t.grab(uint64(ino)); in != nil {
		return in, nil
	}
	// Only one load at a time: a second one could install old attributes after the first one's
	// inode was changed, committed and dropped.
	l := &t.loads[uint64(ino)%uint64(len(t.loads))]
	l.Lock()
	defer l.Unlock()
	if in := t.grab(uint64(ino)); in != nil {
		return in, nil
	}
	attr, err := t.readInode(uint64(ino))
	if err != nil {
		return nil, err
	}
	in := newInode(uint64(ino), attr)
	t.add(in)
	return in, nil
}

func (t *inodeTable) readInode(ino uint64) (layout.Inode, error) {
	v := t.v
	val, ok, err := v.fs.Get(items.InodeKey(ino), make([]byte, 0, layout.InodeBytes))
	if err != nil {
		return layout.Inode{}, txn.Wrap(fmt.Errorf("inode %d: %w", ino, err))
	}
	if !ok {
		return layout.Inode{}, fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	n, err := layout.DecodeInode(val)
	if err != nil {
		return n, txn.Wrap(fmt.Errorf("inode %d: %w", ino, err))
	}
	return n, nil
}

// touch marks an inode as newer than the tree. The caller is in the gate.
func (t *inodeTable) touch(in *inode) {
	v := t.v
	t.dirtyMu.Lock()
	defer t.dirtyMu.Unlock()
	if in.dirty {
		return
	}
	in.dirty = true
	t.dirty = append(t.dirty, in)
	t.hold(in)
	v.adm.dirtyInodes(1)
}

// dir returns an inode that must be a directory.
func (t *inodeTable) dir(ino vfs.Ino) (*inode, error) {
	in, err := t.inode(ino)
	if err != nil {
		return nil, err
	}
	if !in.isDir() {
		t.put(in)
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrNotDir)
	}
	return in, nil
}
