package doublecrypt

import (
	"container/list"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// DefaultMemory bounds dirty data and extent maps in memory, in bytes.
const DefaultMemory = 64 << 20

// Options for Open and Format. The zero value is a volume for reading and
// writing that commits only when asked to, or when its memory is full.
type Options struct {
	ReadOnly bool
	Memory   int // bytes; DefaultMemory if 0
	// CommitInterval is the longest that a change waits for a commit; 0: until asked.
	CommitInterval time.Duration
	// Sparse leaves holes where files grow. Releases of the reference before 0.1.11
	// read such files wrongly.
	Sparse   bool
	UID, GID uint32       // owner of everything; the format has none
	Log      *slog.Logger // what the operator should know; nil: nothing

	ancestorTimes bool             // a change sets the time of all directories above, as the reference does
	random        io.Reader        // of tests: nonces and padding
	now           func() time.Time // of tests
}

// Volume is an open volume. It implements vfs.FS.
type Volume struct {
	opts  Options
	key   *crypto.DoublecryptKey // the caller's
	blk   *blocks
	plain int // bytes that fit into an object
	chunk uint64
	ref   int // longest reference to a block, in bytes
	total uint64

	commitMu sync.Mutex // held by the one commit at a time, across its I/O; before mu

	// mu guards everything below, and is never held across I/O.
	mu       sync.Mutex
	unpinned sync.Cond
	nodes    map[vfs.Ino]*node
	root     *node
	nextIno  uint64
	depths   []int // number of directories at each depth
	alloc    *allocator
	dirty    map[*node]struct{}
	need     uint64   // blocks that the next commit takes
	drops    []uint64 // durable blocks that nothing refers to any more
	// quarantine is what only the older root refers to: it stays until another
	// root has taken that one's slot (I3).
	quarantine []uint64
	lent       uint64         // free blocks that a scrub holds; commits and scrubs exclude each other
	epoch      uint64         // of pins
	pins       map[uint64]int // readers of the device, by the epoch they began in
	retired    []retired      // free, but for readers that may still read there
	maps       mapCache
	dirtyBytes int // in chunks and flushing

	state   rootState // newest durable
	failed  error
	closed  bool
	timer   *time.Timer
	timers  sync.WaitGroup
	armed   bool
	commits uint64

	opened OpenReport
}

type rootState struct {
	pointer rootPointer
	slot    uint64 // block that holds it
	maxSeen uint64 // highest generation in any slot
}

type retired struct {
	epoch  uint64
	blocks []uint64
}

// OpenReport says what Open found.
type OpenReport struct {
	Generation           uint64
	SuperblockGeneration uint64 // differs only if the reference formatted twice, or the pointer is forged
	Slot                 string // "A" or "B"
	// Fallback is why the newer root is not used; nil if it is.
	Fallback error
	// Damage lists what could not be read. A volume with any is opened for reading only.
	Damage      []Problem
	DamageCount int
	// Checksum is that of the superblock: it stands for the state of everything.
	Checksum [32]byte
	// Hidden counts entries named "." and "..", which the reference allows and
	// only Core shows.
	Hidden int
}

// Opened says what Open found.
func (v *Volume) Opened() OpenReport { return v.opened }

// node is an inode. All that have names, or are in use without, are in memory;
// maps and data are not.
type node struct {
	ino      vfs.Ino
	dir      bool
	parent   *node // nil: the root, and those without a name
	entry    *dirent
	orphan   bool // has no name
	block    uint64
	body     uint64 // directory page or extent map; null: none
	size     uint64
	created  uint64
	modified uint64
	damage   error // why it cannot be read

	dirty     bool // this inode is to be written
	bodyDirty bool // and its body

	// Of a directory.
	names   map[string]*dirent
	order   []*dirent // by cookie
	cookie  uint64    // the last one
	bytes   int       // of encoded entries, at most
	subdirs uint32

	// Of a file.
	write    sync.Mutex // one change at a time; before Volume.mu
	loaded   bool
	extents  []extent // as of the last commit begun, if loaded
	mapBytes int      // of encoded extents with those of chunks, at most; if loaded
	used     uint64   // chunks that exist anywhere
	chunks   map[uint64][]byte
	flushing map[uint64][]byte // of the commit that is running, or has failed
	inFlight bool              // so its map is not on the device
	lru      *list.Element     // in Volume.maps, if its map may be dropped
}

// dirent is a name in a directory.
type dirent struct {
	name   string
	cookie uint64
	node   *node
}

func (n *node) mode() uint32 {
	if n.dir {
		return dirMode
	}
	return fileMode
}

// cost is the number of blocks that the next commit takes for n.
func (n *node) cost() uint64 {
	c := uint64(len(n.chunks))
	if n.dirty && !n.orphan {
		c++
		if n.bodyDirty {
			c++
		}
	}
	return c
}

// recost runs f, which may change what n costs.
func (v *Volume) recost(n *node, f func()) {
	before := n.cost()
	f()
	v.need += n.cost() - before
}

// mark makes n dirty, and all directories above, whose pages refer to what is
// rewritten. plan has seen to it that there is room in them.
func (v *Volume) mark(n *node, body bool) {
	if body && !n.dir {
		v.hold(n)
	}
	for {
		v.recost(n, func() {
			if !n.dirty && n.parent != nil {
				n.parent.bytes += v.ref - varintLen(n.block)
			}
			n.dirty = true
			n.bodyDirty = n.bodyDirty || body || n.dir
		})
		v.dirty[n] = struct{}{}
		if n.parent == nil || n.parent.dirty {
			break
		}
		n = n.parent
	}
	v.arm()
}

// growth is what marking n would take: blocks, at most; or an error where a page
// above has no room for longer references, and slack bytes for other changes of
// the same plan.
func (v *Volume) growth(n *node, slack int) (uint64, error) {
	blocks := uint64(0)
	for ; n != nil; n = n.parent {
		if n.orphan || n.dirty && (n.dir || n.bodyDirty) {
			break
		}
		blocks += 2
		if p := n.parent; p != nil && !n.dirty && v.pageBytes(p, v.ref-varintLen(n.block)+slack, 0) > v.plain {
			return 0, &Error{Variant: DataTooLarge, Value: uint64(v.plain), err: vfs.ErrNoSpace}
		}
	}
	return blocks, nil
}

// pageBytes is the length of a directory's page with more entries.
func (v *Volume) pageBytes(d *node, moreBytes, moreEntries int) int {
	return varintLen(uint64(len(d.order)+moreEntries)) + d.bytes + moreBytes
}

// plan is what a change wants.
type plan struct {
	blocks uint64 // for the next commit, besides what it takes already
	// urgent changes give space back, so they may use the reserve.
	urgent bool
	load   *node // its map has to be loaded first
	apply  func()
}

// change calls make under the lock, until what it plans has room, and then
// applies it.
func (v *Volume) change(make func() (plan, error)) error {
	for attempt := 0; ; {
		v.mu.Lock()
		if err := v.writable(); err != nil {
			v.mu.Unlock()
			return err
		}
		p, err := make()
		switch {
		case err != nil:
			v.mu.Unlock()
			return err
		case p.load != nil:
			err = v.load(p.load)
			damaged := p.load.damage != nil // what the plan makes of it, it says itself
			v.mu.Unlock()
			if err != nil && !damaged {
				return err
			}
			continue
		case v.fits(p):
			if p.apply != nil {
				p.apply()
			}
			v.mu.Unlock()
			return nil
		}
		v.mu.Unlock()
		if attempt == 2 {
			return &Error{Variant: NoFreeBlocks, err: vfs.ErrNoSpace}
		}
		if err := v.makeRoom(attempt); err != nil {
			return err
		}
		attempt++
	}
}

// fits tells whether the next commit could still be made, and after it, if the
// plan is not urgent, a removal.
func (v *Volume) fits(p plan) bool {
	want := v.need + p.blocks + 1 // the superblock
	if !p.urgent {
		want += v.reserve()
	}
	return want <= v.alloc.free+v.lent
}

// reserve is what the removal of the deepest file takes.
func (v *Volume) reserve() uint64 { return 2*uint64(len(v.depths)) + 1 }

// makeRoom gives back blocks that wait: those that the last changes dropped, and
// those of the older root, which takes the slots one step closer together.
func (v *Volume) makeRoom(attempt int) error {
	if attempt == 0 {
		return v.commit()
	}
	return v.releaseOlder()
}

// writable tells whether changes are possible.
func (v *Volume) writable() error {
	if v.closed {
		return vfs.ErrClosed
	}
	if v.failed != nil {
		return fmt.Errorf("%w: %w", vfs.ErrReadOnly, v.failed)
	}
	if v.opts.ReadOnly {
		return vfs.ErrReadOnly
	}
	return nil
}

// fail stops the volume for changes; what it holds stays readable. v.mu is held.
func (v *Volume) fail(err error) {
	if v.failed != nil {
		return
	}
	v.failed = err
	if v.opts.Log != nil {
		v.opts.Log.Error("volume failed and is read-only now; unmount, check the device, run fsck", "error", err)
	}
}

// Failed returns the error that stopped the volume, nil while it works.
func (v *Volume) Failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}

func (v *Volume) seconds() uint64 { return uint64(max(v.opts.now().Unix(), 0)) }

// arm starts the time that a change may wait. v.mu is held.
func (v *Volume) arm() {
	if v.opts.CommitInterval <= 0 || v.armed || v.closed {
		return
	}
	v.armed = true
	v.timers.Add(1)
	v.timer = time.AfterFunc(v.opts.CommitInterval, func() {
		defer v.timers.Done()
		v.mu.Lock()
		v.armed = false
		v.mu.Unlock()
		_ = v.commit() // a failure stops the volume, and is told
	})
}

// Close commits and ends the use of the volume, but neither closes the device
// nor erases the key. It may be called again.
func (v *Volume) Close() error {
	var err error
	if !v.opts.ReadOnly {
		err = v.commit()
	}
	v.mu.Lock()
	was := v.closed
	v.closed = true
	if v.armed && v.timer.Stop() {
		v.timers.Done()
	}
	v.mu.Unlock()
	v.timers.Wait()
	v.commitMu.Lock()
	defer v.commitMu.Unlock() // a commit that another began has ended
	if was || errors.Is(err, vfs.ErrClosed) {
		return nil
	}
	return err
}

var systemRandom = rand.Reader

func (o *Options) defaults() {
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.random == nil {
		o.random = systemRandom
	}
	if o.now == nil {
		o.now = time.Now
	}
}

func newVolume(b *blocks, total uint64, key *crypto.DoublecryptKey, opts Options) *Volume {
	opts.defaults()
	v := &Volume{opts: opts, key: key, blk: b, plain: maxPlain(b.size), ref: varintLen(b.count - 1), total: total,
		nodes: map[vfs.Ino]*node{}, dirty: map[*node]struct{}{}, pins: map[uint64]int{}}
	v.unpinned.L = &v.mu
	if b.size > chunkLess {
		v.chunk = uint64(b.size - chunkLess)
	}
	v.maps.limit = opts.Memory / 2
	return v
}

// Format makes an empty volume. It overwrites both root slots first, so that
// nothing that was there can win. blockSize is a power of two from 512 to 1 MiB;
// totalBlocks 0 is all of the device.
func Format(dev device.Device, key *crypto.DoublecryptKey, blockSize int, totalBlocks uint64, opts Options) error {
	if blockSize < 512 || blockSize > 1<<20 || blockSize&(blockSize-1) != 0 {
		return &Error{Variant: BlockSizeMismatch, Value: uint64(blockSize), Max: DefaultBlock, err: vfs.ErrInvalid}
	}
	return format(dev, key, blockSize, totalBlocks, opts)
}

// DefaultBlock is the reference's block size, in bytes.
const DefaultBlock = 65536

// minBlocks is what the first commit leaves room in: three of it, one file's worth, and the reserve.
const minBlocks = 16

func format(dev device.Device, key *crypto.DoublecryptKey, blockSize int, totalBlocks uint64, opts Options) error {
	b, err := newBlocks(dev, blockSize)
	if err != nil {
		return err
	}
	if totalBlocks == 0 {
		totalBlocks = b.count
	}
	if totalBlocks > b.count {
		return &Error{Variant: BlockOutOfRange, Value: totalBlocks, err: vfs.ErrInvalid}
	}
	if totalBlocks < minBlocks {
		return &Error{Variant: NoFreeBlocks, err: vfs.ErrNoSpace}
	}
	v := newVolume(b, totalBlocks, key, opts)
	for _, slot := range []uint64{headerBlock, slotBlockA, slotBlockB} {
		buf, err := b.plainBlock(nil, v.opts.random) // of length 0: no header, no pointer
		if err != nil {
			return err
		}
		if err := b.write(slot, buf); err != nil {
			return err
		}
	}
	if err := b.sync(); err != nil {
		return err
	}
	v.alloc = newAllocator(totalBlocks, newWalker(b, key).used, nil)
	now := v.seconds()
	v.root = &node{ino: vfs.RootIno, dir: true, block: null, body: null, created: now, modified: now, names: map[string]*dirent{}}
	v.nodes[vfs.RootIno], v.nextIno, v.depths = v.root, uint64(vfs.RootIno)+1, []int{1}
	v.state.slot = slotBlockB // so the first commit goes to A
	v.mark(v.root, true)
	if err := v.commit(); err != nil {
		return err
	}
	// The header last: until then there is no volume.
	buf, err := b.plainBlock(header{uint32(blockSize), totalBlocks}.encode(), v.opts.random)
	if err != nil {
		return err
	}
	if err := b.write(headerBlock, buf); err != nil {
		return err
	}
	if err := b.sync(); err != nil {
		return err
	}
	return v.Close()
}
