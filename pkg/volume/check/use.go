package check

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// regionUse records which blocks of a region something refers to.
type regionUse struct {
	bits  *[layout.RegionBlocks / 64]uint64
	count int
}

// allUsed is the bitmap of every full region.
var allUsed = func() *[layout.RegionBlocks / 64]uint64 {
	b := new([layout.RegionBlocks / 64]uint64)
	for i := range b {
		b[i] = ^uint64(0)
	}
	return b
}()

// refer records a reference to a run. If the run is outside the device or already in use, it
// reports a problem and returns false.
func (c *checker) refer(run layout.Run, where string, ino uint64) bool {
	_, ok := c.mark(run, where, ino, false)
	return ok
}

// mark is refer for runs that may be shared (data). It also returns how many blocks nothing
// referred to before.
func (c *checker) mark(run layout.Run, where string, ino uint64, data bool) (first int, ok bool) {
	report := func(format string, args ...any) {
		c.add(problem{where: where, ino: ino, what: fmt.Sprintf(format, args...)})
	}
	end := run.Start + uint64(run.Count)
	if run.Start < c.root.DataStart() || end > c.root.DeviceBlocks || end < run.Start {
		report("blocks %d+%d are outside the data area, %d to %d", run.Start, run.Count, c.root.DataStart(), c.root.DeviceBlocks)
		return 0, false
	}
	twice, count, shared := uint64(0), 0, 0
	for s := run.Start; s < end; {
		idx := s / layout.RegionBlocks
		r := c.use[idx]
		if r == nil {
			r = &regionUse{bits: new([layout.RegionBlocks / 64]uint64)}
			c.use[idx] = r
		}
		for stop := min(end, (idx+1)*layout.RegionBlocks); s < stop; s++ {
			i := s % layout.RegionBlocks
			if r.bits[i/64]>>(i%64)&1 != 0 {
				if data && (c.shares.lost || c.shares.take(s)) {
					shared++
				} else if count++; count == 1 {
					twice = s
				}
				continue
			}
			r.bits[i/64] |= 1 << (i % 64)
			if r.count++; r.count == layout.RegionBlocks {
				r.bits = allUsed
			}
		}
	}
	first = int(run.Count) - count - shared
	c.rep.Counts.UsedBlocks += uint64(first)
	if count > 0 {
		why := ""
		if data && c.sharing {
			why = ", more often than the reference-count tree counts"
		}
		report("%d of blocks %d+%d, from block %d, belong to something else as well%s", count, run.Start, run.Count, twice, why)
	}
	return first, count == 0
}

// checkFreeList reads one of the lists of freed blocks.
func (c *checker) checkFreeList(i int) {
	at := c.root.FreeLists[i]
	total, sum := at.Blocks, uint64(0)
	birth := c.root.Generation
	for n := 0; !at.IsZero(); n++ {
		where := fmt.Sprintf("free list %d, piece %d at %d", i, n, at.Addr)
		if at.Birth > birth {
			c.problem(where, "generation is %d, but its reference has generation %d", at.Birth, birth)
		}
		birth = at.Birth
		if !c.refer(txn.ListPiece(&at), where, 0) {
			c.lostLists = true
			return
		}
		b := device.AlignedBytes(at.PaddedBytes())
		err := c.store.ReadRun(&at.Record, 0, 1, b)
		var runs []layout.Run
		var next layout.Pointer2
		if err == nil {
			runs, next, err = layout.DecodeFreeList(b[:at.PLen])
		}
		if err != nil {
			c.problem(where, "%v", err)
			c.lostLists = true
			return
		}
		c.progress(uint64(len(b)))
		for _, r := range runs {
			sum += uint64(r.Count)
			first, _ := c.mark(r, where, 0, false)
			c.rep.Counts.UsedBlocks -= uint64(first)
			c.rep.Counts.FreedBlocks += uint64(first)
		}
		at = next
	}
	if sum != total {
		c.problem(fmt.Sprintf("free list %d", i), "the root counts %d blocks, but the list holds %d", total, sum)
	}
}

// fixed is the bitmap of a region where only blocks outside the data area are used.
func (c *checker) fixed(idx uint64) *[layout.RegionBlocks / 64]uint64 {
	b := new([layout.RegionBlocks / 64]uint64)
	base := idx * layout.RegionBlocks
	for i := range uint64(layout.RegionBlocks) {
		if s := base + i; s < c.root.DataStart() || s >= c.root.DeviceBlocks {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

func (c *checker) regions() uint64 {
	return (c.root.DeviceBlocks + layout.RegionBlocks - 1) / layout.RegionBlocks
}

// summarizeBits summarizes a bitmap, bit by bit where a word is mixed.
func summarizeBits(b *[layout.RegionBlocks / 64]uint64) (s layout.Summary) {
	run, four := uint32(0), 0
	for _, w := range b {
		if w == ^uint64(0) {
			run = 0
			continue
		}
		for j := range 64 {
			if j%4 == 0 {
				four = 0
			}
			if w>>j&1 != 0 {
				run = 0
				continue
			}
			s.Free++
			run++
			s.Largest = max(s.Largest, run)
			if four++; four == 4 {
				s.NodeSlots++
			}
		}
	}
	return s
}

// fixedSummary is the summary of a region that was never used.
func (c *checker) fixedSummary(idx uint64) layout.Summary {
	switch base := idx * layout.RegionBlocks; {
	case idx >= c.regions():
		return layout.Summary{}
	case base >= c.root.DataStart() && base+layout.RegionBlocks <= c.root.DeviceBlocks:
		return layout.Summary{Free: layout.RegionBlocks, Largest: layout.RegionBlocks, NodeSlots: layout.RegionNodeSlots}
	}
	return summarizeBits(c.fixed(idx))
}
