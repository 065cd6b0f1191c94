package volume

import (
	"math/bits"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

const (
	pageBytes   = layout.BlockBytes
	bufferPages = 16
	bufferBytes = bufferPages * pageBytes
)

type page = [pageBytes]byte

var pagePool = sync.Pool{New: func() any { return new(page) }}

// buffer is 64 KiB of a file, aligned, as far as it is in memory. All fields are
// guarded by inode.bmu.
type buffer struct {
	pages  [bufferPages]*page
	dirty  uint16              // newer than any extent
	held   uint16              // loaded for an operation that has not used them yet: flushers keep them
	flight [bufferPages]uint64 // flush that is writing the page, 0: none
	src    uint64              // the write that set the whole buffer and was not touched since
	queued bool                // waits for a flusher
	full   bool                // queued as full
	busy   bool                // a flusher is between copy and tree
}

func (b *buffer) empty() bool { return b.pages == [bufferPages]*page{} }

// drop forgets page i.
func (b *buffer) drop(i int) {
	pagePool.Put(b.pages[i])
	b.pages[i] = nil
	b.flight[i] = 0
	b.dirty &^= 1 << i
}

// tracked are the pages that admission counts: dirty, or on their way.
func (b *buffer) tracked() int {
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
func (b *buffer) clean(i int) bool {
	return b.pages[i] != nil && b.flight[i] == 0 && (b.dirty|b.held)>>i&1 == 0
}

// keptBuffers is how many buffers whose pages reached the device stay in memory:
// the tail of what was written last is often written again (a log whose records
// do not end with a page), and would have to be read back.
const keptBuffers = 256

// kept is the queue of those buffers, each with a reference to its inode. What
// they hold beyond that is bounded: 16 MiB.
type kept struct {
	mu    sync.Mutex
	queue []flushItem
}

// keep adds a buffer and forgets the clean pages of the oldest. No lock is held.
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
	if len(k.queue) > keptBuffers {
		old, k.queue = k.queue[0], k.queue[1:]
	}
	k.mu.Unlock()
	if old.in == nil {
		return
	}
	old.in.bmu.Lock()
	if b := old.in.buffers[old.idx]; b != nil {
		f.dropClean(old.in, old.idx, b)
	}
	old.in.bmu.Unlock()
	v.table.put(old.in)
}
