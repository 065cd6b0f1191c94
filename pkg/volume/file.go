package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// contents owns the data of files: extents in the tree, and buffers in memory that are newer, or
// equal to the device and kept for a while. The locks are those of each inode.
type contents struct {
	v *Volume
}

// buffer returns a buffer in memory, and makes it if needed. The caller holds bmu and a reference
// to the inode.
func (c *contents) buffer(in *inode, idx uint64) *buffer {
	v := c.v
	b := in.buffers[idx]
	if b == nil {
		if len(in.buffers) == 0 {
			v.table.hold(in) // until the last buffer goes
		}
		b = &buffer{}
		in.buffers[idx] = b
	}
	return b
}

// dropBuffer removes a buffer that is empty. The caller holds bmu.
func (c *contents) dropBuffer(in *inode, idx uint64, b *buffer) {
	v := c.v
	if in.buffers[idx] != b {
		return
	}
	delete(in.buffers, idx)
	if len(in.buffers) == 0 {
		v.table.put(in)
	}
}

// unpackInline sets the new size before any page changes, and makes inline content dirty, so that
// the next flush decides by the new size where the content goes. When it returns, no flusher is
// storing the content in the tree by the old size. The caller is in the gate and holds in.mu. Page
// 0 is in memory (loadSmall).
func (c *contents) unpackInline(in *inode, size uint64) {
	in.bmu.Lock()
	for in.inlining {
		in.settled.Wait() // flushers need no lock that we hold
	}
	in.setSize(size)
	b := in.buffers[0]
	need := in.inlined.Load() && b != nil && b.pages[0] != nil && b.dirty&1 == 0
	in.bmu.Unlock()
	if need {
		c.markDirty(in, 0)
	}
}

// markDirty makes a page that is in memory dirty.
func (c *contents) markDirty(in *inode, block uint64) {
	v := c.v
	in.bmu.Lock()
	idx := block / bufferPages
	b := c.buffer(in, idx)
	before, newBuffer := b.tracked(), 0
	if b.dirty == 0 {
		newBuffer = 1
	}
	b.dirty |= 1 << (block % bufferPages)
	b.src = 0
	v.adm.dirtyPages(b.tracked()-before, newBuffer)
	queue := !b.queued
	b.queued = true
	in.bmu.Unlock()
	if queue {
		v.flush.pushItem(flushItem{in, idx}, false)
	}
}

// cutBuffers drops the pages of blocks [from, to). The caller is in the gate and holds in.mu. When
// it returns, no flusher is between copying one of these pages and storing its record, and none
// starts. With block 0, inline content is dropped, too: otherwise it would reappear.
func (c *contents) cutBuffers(in *inode, from, to uint64) error {
	v := c.v
	c.forgetBuffers(in, from, to)
	if from > 0 || !in.inlined.Swap(false) {
		return nil
	}
	return v.fs.Update(func(w *tree.Writer) error {
		_, err := w.Delete(items.InlineKey(in.ino))
		return err
	})
}

func (c *contents) forgetBuffers(in *inode, from, to uint64) {
	v := c.v
	in.bmu.Lock()
	defer in.bmu.Unlock()
	for in.inserting > 0 {
		in.settled.Wait() // flushers need no lock that we hold
	}
	for idx, b := range in.buffers {
		lo, hi := idx*bufferPages, (idx+1)*bufferPages
		if hi <= from || lo >= to {
			continue
		}
		before, had := b.tracked(), b.dirty
		for i := range bufferPages {
			if s := lo + uint64(i); s >= from && s < to && b.pages[i] != nil {
				b.held &^= 1 << i
				b.drop(i)
			}
		}
		b.src = 0
		gone := 0
		if had != 0 && b.dirty == 0 {
			gone = -1
		}
		v.adm.dirtyPages(b.tracked()-before, gone)
		if b.empty() {
			c.dropBuffer(in, idx, b)
		}
	}
}
