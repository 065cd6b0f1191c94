package volume

import (
	"math/bits"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

const (
	pageBytes  = layout.SectorBytes
	blockPages = 16
	blockBytes = blockPages * pageBytes
)

type page = [pageBytes]byte

var pagePool = sync.Pool{New: func() any { return new(page) }}

// block is 64 KiB of a file, aligned, as far as it is in memory. All fields are
// guarded by inode.bmu.
type block struct {
	pages  [blockPages]*page
	dirty  uint16             // newer than any extent
	held   uint16             // loaded for an operation that has not used them yet: flushers keep them
	flight [blockPages]uint64 // flush that is writing the page, 0: none
	src    uint64             // the write that set the whole block and was not touched since
	queued bool               // waits for a flusher
	full   bool               // queued as full
	busy   bool               // a flusher is between copy and tree
}

func (b *block) empty() bool { return b.pages == [blockPages]*page{} }

// drop forgets page i.
func (b *block) drop(i int) {
	pagePool.Put(b.pages[i])
	b.pages[i] = nil
	b.flight[i] = 0
	b.dirty &^= 1 << i
}

// tracked are the pages that admission counts: dirty, or on their way.
func (b *block) tracked() int {
	m := b.dirty
	for i, f := range b.flight {
		if f != 0 {
			m |= 1 << i
		}
	}
	return bits.OnesCount16(m)
}

// clean tells whether page i is in memory, the same as on the device, and
// nobody relies on it.
func (b *block) clean(i int) bool {
	return b.pages[i] != nil && b.flight[i] == 0 && (b.dirty|b.held)>>i&1 == 0
}

// keptBlocks is how many blocks whose pages reached the device stay in memory:
// the tail of what was written last is often written again (a log whose records
// do not end with a page), and would have to be read back.
const keptBlocks = 256

// kept is the queue of those blocks, each with a reference to its inode. What
// they hold beyond that is bounded: 16 MiB.
type kept struct {
	mu    sync.Mutex
	queue []flushItem
}

// keep adds a block and forgets the clean pages of the oldest. No lock is held.
func (f *flusher) keep(it flushItem) {
	v := f.v
	k := &f.kept
	v.table.hold(it.in)
	k.mu.Lock()
	if n := len(k.queue); n > 0 && k.queue[n-1] == it { // the usual case: an appender
		k.mu.Unlock()
		v.table.put(it.in)
		return
	}
	k.queue = append(k.queue, it)
	var old flushItem
	if len(k.queue) > keptBlocks {
		old, k.queue = k.queue[0], k.queue[1:]
	}
	k.mu.Unlock()
	if old.in == nil {
		return
	}
	old.in.bmu.Lock()
	if b := old.in.blocks[old.idx]; b != nil {
		f.dropClean(old.in, old.idx, b)
	}
	old.in.bmu.Unlock()
	v.table.put(old.in)
}
