package check

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// reserveCheck is the state of the check of reserved ranges. It holds the ranges of one inode at a
// time.
type reserveCheck struct {
	named     bool     // the header has the feature bit
	reservers []uint64 // inodes with an item 0x02, in ascending order

	spans  []items.Interval // of the inode, without those before the current extent
	total  uint64           // blocks of all of them
	filled uint64           // reserved blocks that have an extent
	own    uint64           // filled blocks that are not owed

	sum layout.Reservations // of all inodes read so far
}

// item checks a reserved range of the current inode.
func (r *reserveCheck) item(first uint64, v []byte) error {
	n, err := layout.DecodeReserved(first, v)
	if err != nil {
		return err
	}
	if k := len(r.spans); k > 0 && first <= r.spans[k-1].To {
		return fmt.Errorf("the reserved range of %d blocks from block %d overlaps or touches its predecessor", n, first)
	}
	r.spans = append(r.spans, items.Interval{From: first, To: first + n})
	r.total += n
	r.sum.Promised += n
	r.sum.Ranges++
	return nil
}

// reservedExtent counts the blocks of an extent that lie in reserved ranges. It is called before
// these blocks are marked as used.
func (c *checker) reservedExtent(block uint64, e *layout.FileExtent) error {
	r := &c.res
	for len(r.spans) > 0 && r.spans[0].To <= block { // extents are in ascending order
		r.spans = r.spans[1:]
	}
	n := uint64(0)
	for _, s := range r.spans {
		if s.From >= block+e.Blocks() {
			break
		}
		n += items.Overlap([]items.Interval{s}, block, block+e.Blocks())
	}
	r.filled += n
	if e.Owed || e.RefBirth <= c.root.Reserved.Mark {
		return nil
	}
	r.own += n
	if run := (&items.Placed{Block: block, FileExtent: *e}).Run(); n > 0 && !c.shares.lost && c.sharedAnew(run) {
		return fmt.Errorf("the extent at block %d is reserved and shared, but lacks the owed bit: overwriting it may fail with no space", block)
	}
	return nil
}

// sharedAnew reports whether something else refers to a block of a run. The run is not marked for
// the current reference yet.
func (c *checker) sharedAnew(run layout.Run) bool {
	for s := run.Start; s < run.Start+uint64(run.Count); s++ {
		idx, i := s/layout.RegionBlocks, s%layout.RegionBlocks
		if u := c.use[idx]; u != nil && u.bits[i/64]>>(i%64)&1 != 0 {
			return true
		}
		if r := c.shares.regions[idx]; r != nil && r.get(uint32(i)) > 0 {
			return true
		}
	}
	return false
}

// endReserved compares the fields of an inode with its reserved ranges.
func (c *checker) endReserved() {
	r, in := &c.res, &c.in
	total := r.total
	vacant := total - r.filled
	r.sum.Owed += total - r.own
	listed := false
	for len(r.reservers) > 0 && r.reservers[0] <= in.ino {
		listed = r.reservers[0] == in.ino
		if !listed && !c.lostFS {
			c.inodeProblem(r.reservers[0], "", "it is listed as having reserved ranges, but does not exist")
		}
		r.reservers = r.reservers[1:]
	}
	if in.seen && !c.lostFS {
		switch {
		case in.attr.Mode&items.ModeType != items.ModeReg && total > 0:
			c.inodeProblem(in.ino, "", "a %s must not have reserved ranges", typeName(in.attr.Mode&items.ModeType))
		case (in.attr.Flags&layout.InodeReserved != 0) != (total > 0) || listed != (total > 0):
			c.inodeProblem(in.ino, "", "%d blocks are reserved, but its flag is %t and it is listed: %t", total, in.attr.Flags&layout.InodeReserved != 0, listed)
		case in.attr.Vacant != vacant:
			c.inodeProblem(in.ino, "", "vacant count is %d, but %d reserved blocks have no extent", in.attr.Vacant, vacant)
		case total > 0 && in.inline >= 0:
			c.inodeProblem(in.ino, "", "a file with inline content must not have reserved ranges")
		}
	}
	r.spans, r.total, r.filled, r.own = nil, 0, 0, 0
}

// checkReserved compares the root's fields of reserved ranges with the tree.
func (c *checker) checkReserved() {
	r, x := &c.res, &c.root.Reserved
	c.rep.Counts.ReservedBlocks = x.Owed
	if !r.named && *x != (layout.Reservations{}) {
		c.problem("header", "it lacks the feature bit of reserved ranges, which the volume uses")
	}
	if c.lostFS {
		return
	}
	for _, ino := range r.reservers {
		c.inodeProblem(ino, "", "it is listed as having reserved ranges, but does not exist")
	}
	if r.sum.Mark = x.Mark; r.sum != *x {
		c.problem("root", "it counts %d reserved blocks in %d ranges, %d of them owed, but the tree has %d in %d, %d owed",
			x.Promised, x.Ranges, x.Owed, r.sum.Promised, r.sum.Ranges, r.sum.Owed)
	}
	if x.Promised > 0 && x.Mark < c.root.NewestSnapshot {
		c.problem("root", "the mark of reserved ranges is %d, below the newest snapshot's generation %d", x.Mark, c.root.NewestSnapshot)
	}
}

// checkSnapReserved compares a snapshot's fields of reserved ranges with its tree, which was
// checked before.
func (c *checker) checkSnapReserved(name string, promised, ranges uint64, l *items.Lookup) {
	var sum layout.Reservations
	for ino := uint64(0); ; ino++ {
		found := false
		err := l.Tree.Scan(items.ReserverKey(ino), items.ReserverKey(^uint64(0)), func(k layout.Key, _ []byte) bool {
			ino, found = k.Sub, true
			return false
		})
		if err != nil {
			return // reported where that tree is read
		}
		if !found {
			break
		}
		spans, err := items.ScanReserved(l.Tree.ScanFloor, ino, 0, 1<<62, 0)
		if err != nil {
			c.problem(fmt.Sprintf("snapshot %q, inode %d", name, ino), "%v", err)
			return
		}
		sum.Promised += items.Overlap(spans, 0, 1<<62)
		sum.Ranges += uint64(len(spans))
	}
	if sum.Promised != promised || sum.Ranges != ranges {
		c.problem(fmt.Sprintf("snapshot %q", name), "it counts %d reserved blocks in %d ranges, but its tree has %d in %d", promised, ranges, sum.Promised, sum.Ranges)
	}
}
