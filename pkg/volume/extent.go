package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// extents returns the extents of an inode that overlap [from, to), at most limit (0: all).
func (c *contents) extents(ino, from, to uint64, limit int) ([]items.Placed, error) {
	v := c.v
	return items.ScanExtents(v.fs.ScanFloor, ino, from, to, limit)
}

// dropped is the result of drop.
type dropped struct {
	blocks  uint64 // released
	vacated uint64 // of these, in reserved ranges
	owed    uint64 // of these, not owed before: they are owed now
	done    bool   // nothing is left in the range
}

// drop removes the extents in [from, to) of a file, at most limit (0: all). It splits extents that
// reach beyond. The caller must call countDropped.
func (c *contents) drop(w *tree.Writer, in *inode, from, to uint64, limit int) (d dropped, err error) {
	v := c.v
	if from >= to {
		return dropped{done: true}, nil
	}
	ino := in.ino
	hit, err := items.ScanExtents(w.ScanFloor, ino, from, to, limit)
	if err != nil {
		return d, err
	}
	for i := range hit {
		p := &hit[i]
		a, b := max(from, p.Block), min(to, p.End())
		if p.Block < a {
			left := layout.FileExtent{Record: p.Slice(0, int(a-p.Block)), RefBirth: p.RefBirth, Owed: p.Owed}
			if err := w.Put(items.ExtentKey(ino, p.Block), left.Append(nil)); err != nil {
				return d, err
			}
		} else if _, err := w.Delete(items.ExtentKey(ino, p.Block)); err != nil {
			return d, err
		}
		if b < p.End() {
			right := layout.FileExtent{Record: p.Slice(int(b-p.Block), int(p.End()-b)), RefBirth: p.RefBirth, Owed: p.Owed}
			if err := w.Put(items.ExtentKey(ino, b), right.Append(nil)); err != nil {
				return d, err
			}
		}
		run := layout.Run{Start: p.Addr/layout.BlockBytes + (a - p.Block), Count: uint32(b - a)}
		if err := c.release(run, p.RefBirth); err != nil {
			return d, err
		}
		d.blocks += b - a
		n, err := promisedIn(w, in, a, b)
		if err != nil {
			return d, err
		}
		d.vacated += n
		if !v.ranges.owes(&p.FileExtent) {
			d.owed += n
		}
	}
	d.done = limit == 0 || len(hit) < limit
	return d, nil
}

// countDropped updates counters after drop. The caller is inside v.fs.Update.
func (c *contents) countDropped(in *inode, d dropped) {
	v := c.v
	in.bmu.Lock()
	in.blocks -= min(in.blocks, d.blocks)
	in.bmu.Unlock()
	in.vacate(d.vacated, 0)
	v.ranges.owed.Add(int64(d.owed))
}

// put replaces the data under a new extent. Nothing else refers to the new extent.
func (c *contents) put(w *tree.Writer, in *inode, block uint64, e *layout.FileExtent) error {
	v := c.v
	n := e.Blocks()
	d, err := c.drop(w, in, block, block+n, 0)
	if err != nil {
		return err
	}
	filled, err := promisedIn(w, in, block, block+n)
	if err != nil {
		return err
	}
	v.rot.met(e.Epoch)
	in.bmu.Lock()
	in.blocks += n - d.blocks
	in.bmu.Unlock()
	in.vacate(d.vacated, filled)
	v.ranges.owed.Add(int64(d.owed) - int64(filled))
	return w.Put(items.ExtentKey(in.ino, block), e.Append(nil))
}

// release drops the head's reference to data that was written in generation birth. If the newest
// snapshot holds it, it goes to a dead list (deadlist.go). The caller is inside v.fs.Update.
func (c *contents) release(r layout.Run, birth uint64) error {
	v := c.v
	if v.snap.keep(r, birth) {
		return nil
	}
	return v.shares.Drop(r)
}

// dropStep returns how many extents are dropped at a time, and how many pages of the
// reference-count tree that may make dirty.
func (c *contents) dropStep() (extents, pages int) {
	v := c.v
	if v.shares.Height() == 0 {
		return cutStep, 0
	}
	return shares.Step, v.shares.OverwritePages(shares.Step)
}
