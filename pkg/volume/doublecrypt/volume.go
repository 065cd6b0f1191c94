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

// DefaultMemory is the default limit of dirty data and extent maps in memory, in bytes.
const DefaultMemory = 64 << 20

// Options are the options of Open and Format. With the zero value, the volume is read-write, and
// commits only on request or when its memory is full.
type Options struct {
	ReadOnly bool
	Memory   int // in bytes; 0 means DefaultMemory
	// CommitInterval is the maximum time until a change is committed. 0 means only on request.
	CommitInterval time.Duration
	// Sparse creates holes when files grow. The reference implementation before 0.1.11 reads such
	// files incorrectly.
	Sparse   bool
	UID, GID uint32       // the owner of all files; the format stores no owners
	Log      *slog.Logger // for warnings and errors; nil means none

	ancestorTimes bool             // a change also sets the time of all directories above, as in the reference implementation
	random        io.Reader        // for tests: nonces and padding
	now           func() time.Time // for tests
}

// Volume is an open volume. It implements vfs.FS.
type Volume struct {
	opts  Options
	key   *crypto.DoublecryptKey // owned by the caller
	blk   *blocks
	plain int // maximum plaintext of an object
	chunk uint64
	ref   int // maximum length of a reference to a block, in bytes
	total uint64

	commitMu sync.Mutex // held by a commit, also during its I/O; locked before mu

	// mu guards everything below, and is never held during I/O.
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
	// quarantine contains the blocks that only the older root refers to. They stay until a new root
	// has overwritten the slot of the older one (I3).
	quarantine []uint64
	lent       uint64         // free blocks that a scrub holds; commits and scrubs exclude each other
	epoch      uint64         // of pins
	pins       map[uint64]int // readers of the device, by the epoch they began in
	retired    []retired      // free, except that readers may still read them
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

// OpenReport is the report of Open.
type OpenReport struct {
	Generation           uint64
	SuperblockGeneration uint64 // differs only if the reference implementation formatted twice, or if the pointer is forged
	Slot                 string // "A" or "B"
	// Fallback is the reason why the newer root is not used. It is nil if it is used.
	Fallback error
	// Damage lists unreadable structures. A volume with damage can be opened only for reading.
	Damage      []Problem
	DamageCount int
	// Checksum is the checksum of the superblock. It identifies the state of the whole volume.
	Checksum [32]byte
	// Hidden is the number of entries named "." and "..", which the reference implementation allows
	// and only Core shows.
	Hidden int
}

// Opened returns the report of Open.
func (v *Volume) Opened() OpenReport { return v.opened }

// node is an inode. All inodes that have names, or are in use without a name, are in memory. Maps
// and data are not.
type node struct {
	ino      vfs.Ino
	dir      bool
	parent   *node // nil for the root and for inodes without a name
	entry    *dirent
	orphan   bool // has no name
	block    uint64
	body     uint64 // directory page or extent map; null if there is none
	size     uint64
	created  uint64
	modified uint64
	damage   error // the reason why it cannot be read

	dirty     bool // this inode is to be written
	bodyDirty bool // and its body

	// Fields of a directory.
	names   map[string]*dirent
	order   []*dirent // by cookie
	cookie  uint64    // the last one
	bytes   int       // of encoded entries, at most
	subdirs uint32

	// Fields of a file.
	write    sync.Mutex // held during a change; locked before Volume.mu
	loaded   bool
	extents  []extent // as of the last commit begun, if loaded
	mapBytes int      // of encoded extents with those of chunks, at most; if loaded
	used     uint64   // chunks that exist anywhere
	chunks   map[uint64][]byte
	flushing map[uint64][]byte // chunks of the running or failed commit
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

// cost returns the number of blocks that the next commit needs for n.
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

// recost runs f, which may change the cost of n.
func (v *Volume) recost(n *node, f func()) {
	before := n.cost()
	f()
	v.need += n.cost() - before
}

// mark makes n dirty, and all directories above, because their pages refer to rewritten blocks.
// plan has reserved the space in the pages.
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

// growth returns the maximum number of blocks that marking n would need. It returns an error if a
// page above has no space for longer references and for slack bytes of other changes in the same
// plan.
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

// pageBytes returns the length of a directory's page with additional entries.
func (v *Volume) pageBytes(d *node, moreBytes, moreEntries int) int {
	return varintLen(uint64(len(d.order)+moreEntries)) + d.bytes + moreBytes
}

// plan contains the requirements of a change.
type plan struct {
	blocks uint64 // additional blocks for the next commit
	// urgent changes free space, so they may use the reserve.
	urgent bool
	load   *node // the file whose map must be loaded first
	apply  func()
}

// change calls make under the lock until there is space for the plan, and then applies the plan.
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

// fits tells whether there is space for the next commit and, if the plan is not urgent, for a
// removal after it.
func (v *Volume) fits(p plan) bool {
	want := v.need + p.blocks + 1 // the superblock
	if !p.urgent {
		want += v.reserve()
	}
	return want <= v.alloc.free+v.lent
}

// reserve returns the number of blocks that the removal of the deepest file needs.
func (v *Volume) reserve() uint64 { return 2*uint64(len(v.depths)) + 1 }

// makeRoom frees blocks that the last changes dropped, and blocks that only the older root uses.
// For the latter, it writes the newest root into both slots.
func (v *Volume) makeRoom(attempt int) error {
	if attempt == 0 {
		return v.commit()
	}
	return v.releaseOlder()
}

// writable returns an error if changes are not possible.
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

// fail makes the volume refuse changes. Its content stays readable. v.mu is held.
func (v *Volume) fail(err error) {
	if v.failed != nil {
		return
	}
	v.failed = err
	if v.opts.Log != nil {
		v.opts.Log.Error("volume failed and is read-only now; unmount, check the device, run fsck", "error", err)
	}
}

// Failed returns the error that stopped the volume, or nil.
func (v *Volume) Failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}

func (v *Volume) seconds() uint64 { return uint64(max(v.opts.now().Unix(), 0)) }

// arm starts the timer of CommitInterval. v.mu is held.
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
		_ = v.commit() // a failure stops the volume and is logged
	})
}

// Close commits and closes the volume. It neither closes the device nor erases the key. It may be
// called again.
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
	defer v.commitMu.Unlock() // wait for a commit that another goroutine started
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

// Format creates an empty volume. It overwrites both root slots first, so that an old volume cannot
// be opened. blockSize is a power of two from 512 to 1 MiB. totalBlocks 0 means the whole device.
func Format(dev device.Device, key *crypto.DoublecryptKey, blockSize int, totalBlocks uint64, opts Options) error {
	if blockSize < 512 || blockSize > 1<<20 || blockSize&(blockSize-1) != 0 {
		return &Error{Variant: BlockSizeMismatch, Value: uint64(blockSize), Max: DefaultBlock, err: vfs.ErrInvalid}
	}
	return format(dev, key, blockSize, totalBlocks, opts)
}

// DefaultBlock is the block size of the reference implementation, in bytes.
const DefaultBlock = 65536

// minBlocks is the minimum number of blocks: three for the first commit, those of one file, and the
// reserve.
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
		buf, err := b.plainBlock(nil, v.opts.random) // length 0: neither a header nor a pointer
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
	v.state.slot = slotBlockB // so that the first commit uses slot A
	v.mark(v.root, true)
	if err := v.commit(); err != nil {
		return err
	}
	// The header is written last. Until then, there is no volume.
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
