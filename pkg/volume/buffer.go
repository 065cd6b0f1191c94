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

// buffer is an aligned range of 64 KiB of a file, as far as it is in memory. inode.bmu guards all
// fields.
type buffer struct {
	pages  [bufferPages]*page
	dirty  uint16              // newer than any extent
	held   uint16              // loaded for an operation that still needs them: flushers keep them
	flight [bufferPages]uint64 // ID of the flush that is writing the page, 0: none
	src    uint64              // number of the write that set the whole buffer, 0 if anything has changed it since
	queued bool                // in a queue of the flusher
	full   bool                // in the queue of full buffers
	busy   bool                // a flusher has copied pages, but their records are not in the tree yet
}

func (b *buffer) empty() bool { return b.pages == [bufferPages]*page{} }

// drop removes page i from memory.
func (b *buffer) drop(i int) {
	pagePool.Put(b.pages[i])
	b.pages[i] = nil
	b.flight[i] = 0
	b.dirty &^= 1 << i
}

// tracked is the number of pages that admission counts: dirty or being written.
func (b *buffer) tracked() int {
	m := b.dirty
	for i, f := range b.flight {
		if f != 0 {
			m |= 1 << i
		}
	}
	return bits.OnesCount16(m)
}

// clean reports whether page i is in memory, equals the device's copy, and is not held.
func (b *buffer) clean(i int) bool {
	return b.pages[i] != nil && b.flight[i] == 0 && (b.dirty|b.held)>>i&1 == 0
}

// keptBuffers is the number of buffers that stay in memory after their pages reached the device.
// The last data written is often written again, such as by a log whose records do not end at a
// page. Without this, it would have to be read back.
const keptBuffers = 256

// kept is the queue of those buffers, each with a reference to its inode. It bounds the clean pages
// in memory to 16 MiB.
type kept struct {
	mu    sync.Mutex
	queue []flushItem
}

// keep adds a buffer and drops the clean pages of the oldest one. The caller holds no lock.
func (f *flusher) keep(it flushItem) {
	v := f.v
	k := &f.kept
	v.table.hold(it.in)
	k.mu.Lock()
	if n := len(k.queue); n > 0 && k.queue[n-1] == it { // usual case: appending to a file
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
