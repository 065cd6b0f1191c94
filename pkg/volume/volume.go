package volume

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// DefaultMemory is the default limit on a mounted volume's memory, in bytes: ring, dirty data, tree
// pages.
const DefaultMemory = 256 << 20

// minMemory leaves a ring that is several times as large as the largest write.
const minMemory = 32 << 20

// CommitInterval is the longest time until a change is committed.
const CommitInterval = 5 * time.Second

// Options configures Open. The zero value is a read-write mount with defaults.
type Options struct {
	Credential crypto.Credential
	ReadOnly   bool
	Memory     int // bytes; DefaultMemory if 0
	// CommitInterval overrides the package's; negative: commit only when needed.
	CommitInterval time.Duration
	Log            *slog.Logger // for messages to the operator; nil: none
	// Discard discards freed space in batches. Anybody with the device can then see which blocks
	// are free, even if it was filled with random bytes before.
	Discard bool
	// Anchor, if not nil, makes Open refuse a device that holds neither the anchored state nor one
	// that follows from it: ErrRolledBack, ErrForked, ErrOtherVolume.
	Anchor *Anchor
	// Instance, unless zero, becomes the device's instance in the newest root. A copy of a device
	// needs an instance, and anchors, of its own. It has no effect on a read-only mount, which
	// writes nothing.
	Instance crypto.UUID
	// Own refuses (ErrCopy) a device that has another instance than Instance: it is a copy that
	// nobody announced. A device without an instance, as Format leaves it, becomes Instance; but
	// not with an Anchor, which belongs to the previous instance.
	Own bool

	idle bool // for tests: the space of deleted snapshots and rollbacks is not freed automatically
	load bool // the volume is being restored
}

// Volume is an open volume. It implements vfs.FS. Its state and methods belong to its owners. Each
// owner has a pointer to the Volume (own), and observes the order of locks in the package comment.
type Volume struct {
	opts Options
	id   crypto.UUID
	life lifecycle

	storage
	forest
	timeline

	table inodeTable
	names namespace
	data  contents

	adm    admission
	flush  flusher
	com    committer
	sync   syncer
	frozen freezer

	keys       keyring
	anc        anchors
	rot        rotator
	snap       snapshots
	ranges     reservedRanges
	background background
}

// storage owns the device and everything on it that has no other owner.
type storage struct {
	store     *txn.Store
	space     *txn.Space
	log       *txn.Log
	ring      *txn.Ring     // nil: read-only
	dataStart uint64        // first block after the log
	growMu    sync.Mutex    // one Grow at a time
	blocks    atomic.Uint64 // part of the device in use
	durable   durableRoot
}

// forest owns the trees of the open generation. The trees of snapshots, anchors and free space
// belong to snapshots, anchors and committer.
type forest struct {
	cache  *tree.Cache
	fs     *tree.Tree
	shares *shares.Table // extra references
	trees  []*tree.Tree  // all but the space tree, in ascending order
}

// timeline orders changes, and commits between them.
type timeline struct {
	gate   sync.RWMutex // see the package comment
	gen    uint64       // open generation; changed with the gate held exclusively
	nextOp uint64       // guarded by the ring's lock; the committer reads it with the gate held exclusively
}

// lifecycle is the state of a volume between Open and Close.
type lifecycle struct {
	replayed bool // when it was opened, the log had operations that the root did not cover
	failed   atomic.Pointer[failure]
	closing  atomic.Bool
	closed   atomic.Bool
}

type failure struct{ err error }

// durableRoot owns the newest durable root.
type durableRoot struct {
	mu   sync.Mutex
	root *layout.Root // replaced, never changed
	r    [32]byte     // its hash
}

// generation is that of the newest durable root.
func (d *durableRoot) generation() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.root.Generation
}

// counters own the counts of inodes in the next root.
type counters struct {
	mu     sync.Mutex
	next   uint64 // number of the next inode
	inodes uint64
}

// take returns the number for a new inode.
func (n *counters) take() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	ino := n.next
	n.next++
	return ino
}

// fail stops the volume: the state in memory is never committed. The first error is kept and
// logged.
func (v *Volume) fail(err error) {
	if err == nil || !v.life.failed.CompareAndSwap(nil, &failure{err}) {
		return
	}
	if v.opts.Log != nil {
		v.opts.Log.Error("volume failed and is now read-only; unmount it, check the device, and run fsck", "volume", v.id.String(), "error", err)
	}
	v.adm.wake()
	v.com.wake()
	v.sync.wake()
	v.snap.wake()
}

// Failed returns the error that stopped the volume, nil while it works.
func (v *Volume) Failed() error {
	if f := v.life.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// writable returns an error if changes are not possible.
func (v *Volume) writable() error {
	if err := v.Failed(); err != nil {
		return fmt.Errorf("%w: %w", vfs.ErrReadOnly, err)
	}
	if v.life.closed.Load() {
		return vfs.ErrClosed
	}
	if v.opts.ReadOnly {
		return vfs.ErrReadOnly
	}
	return nil
}

// ID is the volume's UUID.
func (v *Volume) ID() crypto.UUID { return v.id }

// own gives the owners a pointer to their volume.
func (v *Volume) own() {
	for _, owner := range []**Volume{
		&v.table.v, &v.names.v, &v.data.v, &v.adm.v, &v.flush.v, &v.com.v, &v.sync.v, &v.sync.idle.v, &v.frozen.v,
		&v.keys.v, &v.anc.v, &v.rot.v, &v.snap.v, &v.ranges.v, &v.background.v, &v.background.reaper.v, &v.background.discards.v,
	} {
		*owner = v
	}
}

// newVolume does what Open and Format have in common.
func newVolume(dev device.Device, opts Options, header *layout.Unlocked, keys *txn.Keys, root *layout.Root, gen uint64) (*Volume, error) {
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	opts.Memory = max(opts.Memory, minMemory)
	if opts.CommitInterval == 0 {
		opts.CommitInterval = CommitInterval
	}
	v := &Volume{opts: opts, id: header.ID}
	v.own()
	v.store, v.gen, v.nextOp = &txn.Store{Dev: dev, Keys: keys}, gen, root.OpSeq
	v.com.inos.next, v.com.inos.inodes, v.durable.root = root.NextIno, root.Inodes, root
	v.keys.header, v.keys.epochs, v.keys.slot = header.Header, header.Epochs, header.Slot
	v.keys.floor.Store(root.HeaderSeq)
	v.keys.features.Store(header.Incompat)
	v.dataStart = root.DataStart()
	v.blocks.Store(root.DeviceBlocks)
	v.names.hash = items.NewHasher(root.HashSeed)
	v.table.m = map[uint64]*inode{}
	v.flush.refs.m = map[uint64][]items.Placed{}
	v.flush.init()
	v.com.init()
	v.sync.init()
	v.background.reaper.init()
	v.snap.init()
	v.adm.changed, v.adm.parked = func() {}, func(int) {}
	v.rot.init(opts.Memory)
	v.ranges.load(root.Reserved)
	v.adm.initAdmission(opts.Memory, int64(root.DeviceBlocks)*layout.BlockBytes)
	v.cache = tree.NewCache(opts.Memory/4, v.store.ReadNode)
	v.fs = v.newTree(layout.TreeFS)
	v.snap.tree = v.newTree(layout.TreeSnapshots)
	v.anc.tree = v.newTree(layout.TreeAnchors)
	v.com.spaces = tree.New(tree.Config{ID: layout.TreeSpace, Cache: v.cache, Free: v.com.freeSpacePage, Dirtied: func(int) {}},
		root.Trees[layout.TreeSpace], gen)
	var err error
	v.space, err = txn.NewSpace(root, gen, func(k layout.Key) ([]byte, bool, error) { return v.com.spaces.Get(k, nil) })
	if err != nil {
		return nil, txn.Wrap(err)
	}
	v.shares = shares.New(v.newTree(layout.TreeShares), v.space, tree.PointerHeight(&root.Trees[layout.TreeShares]),
		func() { v.ranges.stale.Store(true) })
	v.trees = []*tree.Tree{v.fs, v.snap.tree, v.shares.Tree, v.anc.tree}
	return v, nil
}

// newTree opens a tree of the newest root for changes.
func (v *Volume) newTree(id uint64) *tree.Tree {
	return tree.New(tree.Config{ID: id, Cache: v.cache, Free: v.freePage, Dirtied: v.adm.dirtyNodes}, v.durable.root.Trees[id], v.gen)
}

// freePage frees pages that the open generation replaced. Snapshots hold pages of the head's tree
// only.
func (v *Volume) freePage(p *layout.Pointer) {
	items.EachCopy(p, func(r layout.Run) {
		if p.Object != layout.TreeFS || !v.snap.keep(r, p.Birth) {
			v.space.Free(r)
		}
	})
}

// start begins read-write service.
func (v *Volume) start(mount [16]byte) error {
	size := v.opts.Memory / 4
	if v.opts.load {
		size = loadRing
	}
	ring, err := txn.NewRing(size)
	if err != nil {
		return err
	}
	v.ring = ring
	v.log = txn.NewLog(v.store, mount, v.durable.root.LogBlocks)
	v.flush.start()
	if v.opts.CommitInterval > 0 {
		v.sync.idle.start()
	}
	v.com.start()
	v.background.reaper.start()
	if !v.opts.idle {
		v.snap.startReaper()
	}
	if v.opts.Discard {
		v.background.discards.start()
	}
	return nil
}

// Close commits and closes the volume. Its error is that of the last commit. Data that was synced
// before is safe even then. The device stays open. If a snapshot is in use, Close does nothing but
// return ErrSnapshotInUse.
func (v *Volume) Close() error {
	first, err := v.snap.beginClose(false)
	if err != nil || !first {
		return err
	}
	return v.close(nil)
}

// close closes the volume. It calls last before the last commit, when nothing is running any more.
func (v *Volume) close(last func() error) (err error) {
	v.Thaw()     // otherwise waiting changes do not end
	v.adm.wake() // and a freeze that is beginning gives up
	v.background.stop()
	v.sync.idle.end()
	v.background.discards.end()
	v.rot.end()
	v.keys.mu.Lock() // a running change of keys ends first
	defer v.keys.mu.Unlock()
	if v.ring != nil {
		v.background.reaper.end()
		v.snap.endReaper()
		v.life.closed.Store(true)
		if err = v.Failed(); err == nil {
			err = v.com.commitAll()
		}
		v.com.end()
		if err == nil && last != nil {
			if err = last(); err == nil {
				err = v.anc.commitAnchored()
			}
		}
		if err == nil {
			if err = v.anc.commitLast(); err != nil {
				v.fail(err)
			}
		}
		v.com.endCommits()
		v.adm.wake()
		v.flush.end()
		// A running sync still reads the ring and seals. The last root covers everything that it
		// would log.
		err = errors.Join(err, v.sync.alone(v.ring.Close))
	}
	v.store.Keys.Erase()
	crypto.EraseEpochs(v.keys.epochs)
	return err
}

// StatFS implements vfs.FS.
func (v *Volume) StatFS() vfs.StatFS {
	v.com.inos.mu.Lock()
	inodes := v.com.inos.inodes
	v.com.inos.mu.Unlock()
	total := v.blocks.Load() - v.dataStart
	avail := uint64(max(v.available(), 0))
	free, _, waiting := v.space.Counts()
	all := uint64(max(free+waiting-int64(v.adm.dirtyCount())-v.ranges.owing(), 0))
	// An inode takes at least a few hundred bytes of tree.
	room := avail * layout.BlockBytes / 512
	return vfs.StatFS{BlockSize: layout.BlockBytes, Blocks: total, BlocksFree: max(all, avail), BlocksAvail: avail,
		Inodes: inodes + room, InodesFree: room, NameMax: vfs.MaxNameBytes}
}

// available is the number of blocks that data may use.
func (v *Volume) available() int64 {
	free, _, waiting := v.space.Counts()
	a := &v.adm
	a.mu.Lock()
	defer a.mu.Unlock()
	held, _ := v.ranges.held(a.granted.pins > 0)
	return free + waiting - layout.NodeBlocks*a.reserveSlots - int64(a.pages) - held
}

func randomBytes[T ~[16]byte | ~[32]byte]() (b T) {
	s := make([]byte, len(b))
	rand.Read(s) // never fails (crypto/rand)
	for i := range s {
		b[i] = s[i]
	}
	return b
}

// Grow makes the volume as large as its device, while it is in use. It returns the new size in
// bytes, durably. It is no error if the device did not grow.
func (v *Volume) Grow() (sizeBytes int64, err error) {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	if err := v.writable(); err != nil {
		return 0, err
	}
	size, err := v.store.Dev.Size()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", vfs.ErrIO, err)
	}
	blocks := uint64(size) / layout.BlockBytes
	if blocks > v.blocks.Load() {
		c := reservation{ring: 128, nodes: opNodes, urgent: true}
		if err := v.adm.reserve(c); err != nil {
			return 0, err
		}
		err := v.perform(&layout.Op{Type: layout.OpGrow, Time: vfs.Now(), Len: blocks})
		v.adm.done(c)
		if err == nil {
			err = v.com.commitAll()
		}
		if err != nil {
			return 0, v.sync.syncErr(err)
		}
	}
	return int64(v.blocks.Load()) * layout.BlockBytes, nil
}

// applyGrow adds the blocks up to a new end. Only later operations in the log refer to them, so
// replay knows them in time.
func (v *Volume) applyGrow(blocks uint64) error {
	size, err := v.store.Dev.Size()
	if err != nil {
		return err
	}
	if blocks > uint64(size)/layout.BlockBytes {
		return fmt.Errorf("%w: growth to %d blocks exceeds the device of %d bytes", layout.ErrCorrupt, blocks, size)
	}
	if err := v.space.Grow(blocks); err != nil {
		return err
	}
	v.blocks.Store(max(v.blocks.Load(), blocks))
	v.adm.mu.Lock()
	v.adm.reserveSlots = reserveSlots(int64(v.blocks.Load()) * layout.BlockBytes)
	v.adm.mu.Unlock()
	v.adm.wake()
	return nil
}
