package shares

import (
	"cmp"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// MaxExtra is the count above which data is copied instead of shared. Concurrent operations cannot
// raise a 32-bit counter from there to overflow.
const MaxExtra = math.MaxUint32 / 2

// Table is the reference-count tree of an open volume, and what must be known of it without its
// lock.
type Table struct {
	// Tree is for code that walks or commits all trees of a volume. Only Table changes its items.
	Tree *tree.Tree

	space   *txn.Space
	height  atomic.Int32 // of the tree, 0: nothing is shared; changed under its lock
	dropped func()
}

// New returns the table of a tree of the given height. dropped is called inside changes of the tree
// that dropped references: the remaining reference to a block may be the only one.
func New(t *tree.Tree, space *txn.Space, height int, dropped func()) *Table {
	s := &Table{Tree: t, space: space, dropped: dropped}
	s.height.Store(int32(height))
	return s
}

// Height is the height of the tree: 0 if nothing is shared. It takes no lock.
func (t *Table) Height() int { return int(t.height.Load()) }

// Add counts one more reference to blocks that have one. The caller is inside a change of the tree
// that gets it.
func (t *Table) Add(run layout.Run) error { return t.AddN(run, 1) }

// AddN adds n references.
func (t *Table) AddN(run layout.Run, n int) error {
	if n == 0 {
		return nil
	}
	return items.EachRegion(run, func(idx, from, to uint64) error {
		_, err := t.change(idx, from, to, n)
		return err
	})
}

// Drop removes one reference from blocks, and frees those without any left. The caller is inside a
// change of the tree that had it.
func (t *Table) Drop(run layout.Run) error {
	if t.Height() == 0 {
		t.space.Free(run)
		return nil
	}
	return items.EachRegion(run, func(idx, from, to uint64) error {
		bare := []layout.Run{{Start: from, Count: uint32(to - from)}}
		shared, err := t.space.Shared(idx)
		if err == nil && shared > 0 {
			bare, err = t.change(idx, from, to, -1)
		}
		if err != nil {
			return err
		}
		for _, r := range bare {
			t.space.Free(r)
		}
		return nil
	})
}

// Most is the highest number of further references of the blocks in a run: 0 if none is shared. It
// may change at once. It is exact only inside a change of the tree whose items refer to the blocks.
func (t *Table) Most(run layout.Run) (most uint32, err error) {
	if t.Height() == 0 {
		return 0, nil
	}
	err = items.EachRegion(run, func(idx, from, to uint64) error {
		if n, err := t.space.Shared(idx); err != nil || n == 0 {
			return err
		}
		var derr error
		err := t.Tree.ScanFloor(items.ShareKey(idx*layout.RegionBlocks), items.ShareKey(from), items.ShareKey(to-1), func(k layout.Key, val []byte) bool {
			s, err := items.GetSharing(k, val)
			if derr = err; err == nil && s.End > from {
				most = max(most, s.Extra)
			}
			return err == nil
		})
		return cmp.Or(err, derr)
	})
	return most, err
}

// change adds d (-1 or more than 0) to the counts of blocks [from, to) of a region. It returns the
// runs that had no further reference to remove.
func (t *Table) change(region, from, to uint64, d int) (bare []layout.Run, err error) {
	err = t.Tree.Update(func(w *tree.Writer) error {
		old, err := around(w, region, from, to)
		if err != nil {
			return err
		}
		c := shareChange{d: d}
		if err := c.apply(old, from, to); err != nil {
			return err
		}
		bare = c.bare
		if err := c.store(w, old); err != nil {
			return err
		}
		t.height.Store(int32(w.Height()))
		if d < 0 {
			t.dropped()
		}
		if c.delta == 0 {
			return nil
		}
		return t.space.Share(region, c.delta)
	})
	if err != nil {
		return nil, fmt.Errorf("reference counts of blocks %d to %d: %w", from, to, err)
	}
	return bare, nil
}

// around returns the runs that overlap or touch [from, to).
func around(w *tree.Writer, region, from, to uint64) (runs []items.Sharing, err error) {
	first, last := region*layout.RegionBlocks, (region+1)*layout.RegionBlocks-1
	var derr error
	err = w.ScanFloor(items.ShareKey(first), items.ShareKey(max(from, first+1)-1), items.ShareKey(min(to, last)), func(k layout.Key, val []byte) bool {
		var s items.Sharing
		if s, derr = items.GetSharing(k, val); derr != nil {
			return false
		}
		if n := len(runs); n > 0 && s.Start < runs[n-1].End {
			derr = fmt.Errorf("%w: shared run from block %d overlaps its predecessor", layout.ErrCorrupt, s.Start)
			return false
		}
		if s.End >= from {
			runs = append(runs, s)
		}
		return true
	})
	return runs, cmp.Or(err, derr)
}

// shareChange is a change of some runs.
type shareChange struct {
	d     int
	runs  []items.Sharing // the new runs
	bare  []layout.Run    // blocks without a count that were to lose one
	delta int             // change of the number of blocks with a count
}

func (c *shareChange) apply(old []items.Sharing, from, to uint64) error {
	at := from
	for _, s := range old {
		c.keep(s.Start, min(s.End, from), s.Extra)
		c.unshared(at, min(s.Start, to))
		if lo, hi := max(s.Start, from), min(s.End, to); lo < hi {
			if c.d > 0 && uint64(s.Extra)+uint64(c.d) > math.MaxUint32 {
				return fmt.Errorf("%w: block %d has %d references", layout.ErrCorrupt, lo, uint64(s.Extra)+1)
			}
			if n := uint32(int64(s.Extra) + int64(c.d)); n > 0 {
				c.keep(lo, hi, n)
			} else {
				c.delta -= int(hi - lo)
			}
			at = hi
		} else {
			at = max(at, min(s.Start, to))
		}
		c.keep(max(s.Start, to), s.End, s.Extra)
	}
	c.unshared(at, to)
	return nil
}

// keep appends a run, and joins it with the previous one if the counts are equal.
func (c *shareChange) keep(start, end uint64, extra uint32) {
	if start >= end {
		return
	}
	if n := len(c.runs); n > 0 && c.runs[n-1].End == start && c.runs[n-1].Extra == extra {
		c.runs[n-1].End = end
		return
	}
	c.runs = append(c.runs, items.Sharing{Start: start, End: end, Extra: extra})
}

// unshared handles a part of the range that had no count.
func (c *shareChange) unshared(start, end uint64) {
	switch {
	case start >= end:
	case c.d > 0:
		c.keep(start, end, uint32(c.d))
		c.delta += int(end - start)
	default:
		c.bare = append(c.bare, layout.Run{Start: start, Count: uint32(end - start)})
	}
}

// store replaces the old runs in the tree by the new ones.
func (c *shareChange) store(w *tree.Writer, old []items.Sharing) error {
	i := 0
	for _, s := range old { // both are sorted
		for i < len(c.runs) && c.runs[i].Start < s.Start {
			i++
		}
		if i < len(c.runs) && c.runs[i].Start == s.Start {
			continue
		}
		if _, err := w.Delete(items.ShareKey(s.Start)); err != nil {
			return err
		}
	}
	i = 0
	for _, s := range c.runs {
		for i < len(old) && old[i].Start < s.Start {
			i++
		}
		if i < len(old) && old[i] == s {
			continue
		}
		val := layout.Share{Count: uint32(s.End - s.Start), Extra: s.Extra}.Append(nil)
		if err := w.Put(items.ShareKey(s.Start), val); err != nil {
			return err
		}
	}
	return nil
}

// fanout is the most children of an inner page.
const fanout = layout.NodeBytes / layout.PointerBytes

// OverwritePages bounds the pages of the reference-count tree that become dirty when so many blocks
// lose a reference, each in a different place. It takes no lock.
func (t *Table) OverwritePages(blocks int) (pages int) {
	width := 1
	for range t.Height() {
		pages += 2 * min(blocks, width) // each may be split
		width = min(width*fanout, math.MaxInt32)
	}
	return pages
}

// Step is the most extents that an operation may drop at a time once data is shared, because the
// counts of each may be in a different page.
const Step = 32
