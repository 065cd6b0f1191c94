package check

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// reserveCheck is what a check knows of reserved ranges. It holds those of one inode
// at a time.
type reserveCheck struct {
	named     bool     // by the header
	reservers []uint64 // inodes that say so at the beginning of the tree, in order

	spans  []items.Interval // of the inode, but for those that extents have passed
	total  uint64           // blocks of all of them
	filled uint64           // blocks of these that have an extent
	own    uint64           // and are not owed

	sum layout.Reservations // of what was read
}

// item checks a reserved range of the inode that is read.
func (r *reserveCheck) item(first uint64, v []byte) error {
	n, err := layout.DecodeReserved(first, v)
	if err != nil {
		return err
	}
	if k := len(r.spans); k > 0 && first <= r.spans[k-1].To {
		return fmt.Errorf("the reserved range of %d blocks from %d on overlaps the one before, or goes on with it", n, first)
	}
	r.spans = append(r.spans, items.Interval{From: first, To: first + n})
	r.total += n
	r.sum.Promised += n
	r.sum.Ranges++
	return nil
}

// reservedExtent counts what an extent fills of reserved ranges. It is called before the
// extent's blocks are marked as used.
func (c *checker) reservedExtent(block uint64, e *layout.FileExtent) error {
	r := &c.res
	for len(r.spans) > 0 && r.spans[0].To <= block { // extents are in order
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
		return fmt.Errorf("the extent at block %d is reserved and shared, and does not say so: overwriting it may find no room", block)
	}
	return nil
}

// sharedAnew tells whether something else refers to a block of a run, which is not
// marked for this reference yet.
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

// endReserved checks what an inode says of its reserved ranges.
func (c *checker) endReserved() {
	r, in := &c.res, &c.in
	total := r.total
	vacant := total - r.filled
	r.sum.Owed += total - r.own
	listed := false
	for len(r.reservers) > 0 && r.reservers[0] <= in.ino {
		listed = r.reservers[0] == in.ino
		if !listed && !c.lostFS {
			c.inodeProblem(r.reservers[0], "", "there is an item that says that it has reserved ranges, but no inode")
		}
		r.reservers = r.reservers[1:]
	}
	if in.seen && !c.lostFS {
		switch {
		case in.attr.Mode&items.ModeType != items.ModeReg && total > 0:
			c.inodeProblem(in.ino, "", "it is a %s and has reserved ranges", typeName(in.attr.Mode&items.ModeType))
		case (in.attr.Flags&layout.InodeReserved != 0) != (total > 0) || listed != (total > 0):
			c.inodeProblem(in.ino, "", "%d blocks are reserved; its flags say that there are some: %t; the list of such inodes: %t", total, in.attr.Flags&layout.InodeReserved != 0, listed)
		case in.attr.Vacant != vacant:
			c.inodeProblem(in.ino, "", "it says that %d reserved blocks have no extent, there are %d", in.attr.Vacant, vacant)
		case total > 0 && in.inline >= 0:
			c.inodeProblem(in.ino, "", "it has reserved ranges, and its content is in the tree")
		}
	}
	r.spans, r.total, r.filled, r.own = nil, 0, 0, 0
}

// checkReserved compares what the root says of reserved ranges with the tree.
func (c *checker) checkReserved() {
	r, x := &c.res, &c.root.Reserved
	c.rep.Counts.ReservedBlocks = x.Owed
	if !r.named && *x != (layout.Reservations{}) {
		c.problem("header", "it does not name the feature of reserved ranges, which the volume uses")
	}
	if c.lostFS {
		return
	}
	for _, ino := range r.reservers {
		c.inodeProblem(ino, "", "there is an item that says that it has reserved ranges, but no inode")
	}
	if r.sum.Mark = x.Mark; r.sum != *x {
		c.problem("root", "it says that %d blocks are reserved in %d ranges, %d of them owed; the tree has %d in %d, %d owed",
			x.Promised, x.Ranges, x.Owed, r.sum.Promised, r.sum.Ranges, r.sum.Owed)
	}
	if x.Promised > 0 && x.Mark < c.root.NewestSnapshot {
		c.problem("root", "reserved ranges count as owed up to generation %d, the newest snapshot is of %d", x.Mark, c.root.NewestSnapshot)
	}
}

// checkSnapReserved compares what a snapshot says of reserved ranges with its tree,
// which was checked before.
func (c *checker) checkSnapReserved(name string, promised, ranges uint64, l *items.Lookup) {
	var sum layout.Reservations
	for ino := uint64(0); ; ino++ {
		found := false
		err := l.Tree.Scan(items.ReserverKey(ino), items.ReserverKey(^uint64(0)), func(k layout.Key, _ []byte) bool {
			ino, found = k.Sub, true
			return false
		})
		if err != nil {
			return // it is reported where that tree is read
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
		c.problem(fmt.Sprintf("snapshot %q", name), "it says that %d blocks are reserved in %d ranges, its tree has %d in %d", promised, ranges, sum.Promised, sum.Ranges)
	}
}
