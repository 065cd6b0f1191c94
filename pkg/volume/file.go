package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// contents owns what files hold: extents in the tree, and blocks in memory that are newer, or
// as on the device and kept for a while. The locks are those of each inode.
type contents struct {
	v *Volume
}

// block returns a block in memory, made if needed. The caller holds bmu and a
// reference to the inode.
func (c *contents) block(in *inode, idx uint64) *block {
	v := c.v
	b := in.blocks[idx]
	if b == nil {
		if len(in.blocks) == 0 {
			v.table.hold(in) // until the last block goes
		}
		b = &block{}
		in.blocks[idx] = b
	}
	return b
}

// dropBlock removes a block that is empty. The caller holds bmu.
func (c *contents) dropBlock(in *inode, idx uint64, b *block) {
	v := c.v
	if in.blocks[idx] != b {
		return
	}
	delete(in.blocks, idx)
	if len(in.blocks) == 0 {
		v.table.put(in)
	}
}

// unpackInline sets the size that the operation leaves, before any page changes,
// and makes an inline content dirty, so that the next flush decides anew where
// it goes: by that size. No flusher is putting it into the tree by the old one
// when it returns. Inside the gate, in.mu held; page 0 is in memory (loadSmall).
func (c *contents) unpackInline(in *inode, size uint64) {
	in.bmu.Lock()
	for in.inlining {
		in.settled.Wait() // flushers need no lock that we hold
	}
	in.setSize(size)
	b := in.blocks[0]
	need := in.inlined.Load() && b != nil && b.pages[0] != nil && b.dirty&1 == 0
	in.bmu.Unlock()
	if need {
		c.markDirty(in, 0)
	}
}

// markDirty makes a page that is in memory dirty.
func (c *contents) markDirty(in *inode, sector uint64) {
	v := c.v
	in.bmu.Lock()
	idx := sector / blockPages
	b := c.block(in, idx)
	before, newBlock := b.tracked(), 0
	if b.dirty == 0 {
		newBlock = 1
	}
	b.dirty |= 1 << (sector % blockPages)
	b.src = 0
	v.adm.dirtyPages(b.tracked()-before, newBlock)
	queue := !b.queued
	b.queued = true
	in.bmu.Unlock()
	if queue {
		v.flush.pushItem(flushItem{in, idx}, false)
	}
}

// cutBlocks forgets the pages of [from, to) sectors. Inside the gate, in.mu
// held: no flusher is between copy and tree when it returns, and none begins.
// With sector 0 an inline content goes as well: it must not be seen again where
// the page was.
func (c *contents) cutBlocks(in *inode, from, to uint64) error {
	v := c.v
	c.forgetBlocks(in, from, to)
	if from > 0 || !in.inlined.Swap(false) {
		return nil
	}
	return v.fs.Update(func(w *tree.Writer) error {
		_, err := w.Delete(items.InlineKey(in.ino))
		return err
	})
}

func (c *contents) forgetBlocks(in *inode, from, to uint64) {
	v := c.v
	in.bmu.Lock()
	defer in.bmu.Unlock()
	for in.inserting > 0 {
		in.settled.Wait() // flushers need no lock that we hold
	}
	for idx, b := range in.blocks {
		lo, hi := idx*blockPages, (idx+1)*blockPages
		if hi <= from || lo >= to {
			continue
		}
		before, had := b.tracked(), b.dirty
		for i := range blockPages {
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
			c.dropBlock(in, idx, b)
		}
	}
}
