package volume

import (
	"cmp"
	"fmt"
	"math"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// The share tree counts references to sectors beyond the first: what no item
// covers has one, or is free. Runs end where their region does and join
// neighbours of the same count, so that one state has one form. Space knows how
// many sectors of each region the tree covers; where none are, nobody looks.
//
// Its lock comes after those of the trees whose items refer. A reference is added
// where there is one that stays meanwhile, so what has no further reference can
// not get one while its last goes.

// maxExtra is the count beyond which data is copied instead of shared. What is
// under way at once does not bring a counter of 32 bits from there to its end.
const maxExtra = math.MaxUint32 / 2

// sharing is a run of the share tree.
type sharing struct {
	start, end uint64 // sectors
	extra      uint32
}

func shareKey(sector uint64) layout.Key { return layout.Key{Type: layout.KeyShare, Sub: sector} }

func getSharing(k layout.Key, val []byte) (sharing, error) {
	s, err := layout.DecodeShare(k.Sub, val)
	if err == nil && (k.Obj != 0 || k.Type != layout.KeyShare) {
		err = fmt.Errorf("%w: shared run under key %v", layout.ErrCorrupt, k)
	}
	return sharing{k.Sub, k.Sub + uint64(s.Count), s.Extra}, err
}

// eachRegion calls fn for the part of a run in each region.
func eachRegion(run layout.Run, fn func(region, from, to uint64) error) error {
	for at, end := run.Start, run.Start+uint64(run.Count); at < end; {
		idx := at / layout.RegionSector
		to := min(end, (idx+1)*layout.RegionSector)
		if err := fn(idx, at, to); err != nil {
			return err
		}
		at = to
	}
	return nil
}

// addReference counts one more reference to data that has one. Inside a change of
// the tree that gets it.
func (v *Volume) addReference(run layout.Run) error { return v.addReferences(run, 1) }

// addReferences counts n more.
func (v *Volume) addReferences(run layout.Run, n int) error {
	if n == 0 {
		return nil
	}
	return eachRegion(run, func(idx, from, to uint64) error {
		_, err := v.changeShares(idx, from, to, n)
		return err
	})
}

// dropReference takes one reference from data and frees what has none left. Inside
// a change of the tree that had it.
func (v *Volume) dropReference(run layout.Run) error {
	if v.shareHeight.Load() == 0 {
		v.space.Free(run)
		return nil
	}
	return eachRegion(run, func(idx, from, to uint64) error {
		bare := []layout.Run{{Start: from, Count: uint32(to - from)}}
		shared, err := v.space.Shared(idx)
		if err == nil && shared > 0 {
			bare, err = v.changeShares(idx, from, to, -1)
		}
		if err != nil {
			return err
		}
		for _, r := range bare {
			v.space.Free(r)
		}
		return nil
	})
}

// mostShared is the largest number of further references that a sector of a run
// has: 0 if none is shared. It is as of now, and exact inside v.fs.Update only.
func (v *Volume) mostShared(run layout.Run) (most uint32, err error) {
	if v.shareHeight.Load() == 0 {
		return 0, nil
	}
	err = eachRegion(run, func(idx, from, to uint64) error {
		if n, err := v.space.Shared(idx); err != nil || n == 0 {
			return err
		}
		var derr error
		err := v.shares.ScanFloor(shareKey(idx*layout.RegionSector), shareKey(from), shareKey(to-1), func(k layout.Key, val []byte) bool {
			s, err := getSharing(k, val)
			if derr = err; err == nil && s.end > from {
				most = max(most, s.extra)
			}
			return err == nil
		})
		return cmp.Or(err, derr)
	})
	return most, err
}

// changeShares adds d, -1 or more than 0, to the counts of sectors [from, to) of a region.
// It returns the runs that had no further reference to take away.
func (v *Volume) changeShares(region, from, to uint64, d int) (bare []layout.Run, err error) {
	err = v.shares.Update(func(w *tree.Writer) error {
		old, err := sharesAround(w, region, from, to)
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
		v.shareHeight.Store(int32(w.Height()))
		if d < 0 {
			v.res.stale.Store(true) // one that is left may be a file's own now
		}
		if c.delta == 0 {
			return nil
		}
		return v.space.Share(region, c.delta)
	})
	if err != nil {
		return nil, fmt.Errorf("shares of sectors %d to %d: %w", from, to, err)
	}
	return bare, nil
}

// sharesAround returns the runs that overlap [from, to) or touch it.
func sharesAround(w *tree.Writer, region, from, to uint64) (runs []sharing, err error) {
	first, last := region*layout.RegionSector, (region+1)*layout.RegionSector-1
	var derr error
	err = w.ScanFloor(shareKey(first), shareKey(max(from, first+1)-1), shareKey(min(to, last)), func(k layout.Key, val []byte) bool {
		var s sharing
		if s, derr = getSharing(k, val); derr != nil {
			return false
		}
		if n := len(runs); n > 0 && s.start < runs[n-1].end {
			derr = fmt.Errorf("%w: shared run from sector %d overlaps the one before", layout.ErrCorrupt, s.start)
			return false
		}
		if s.end >= from {
			runs = append(runs, s)
		}
		return true
	})
	return runs, cmp.Or(err, derr)
}

// shareChange is what becomes of some runs.
type shareChange struct {
	d     int
	runs  []sharing    // what replaces them
	bare  []layout.Run // what had no count and was to lose one
	delta int          // sectors with a count, more or fewer
}

func (c *shareChange) apply(old []sharing, from, to uint64) error {
	at := from
	for _, s := range old {
		c.keep(s.start, min(s.end, from), s.extra)
		c.unshared(at, min(s.start, to))
		if lo, hi := max(s.start, from), min(s.end, to); lo < hi {
			if c.d > 0 && uint64(s.extra)+uint64(c.d) > math.MaxUint32 {
				return fmt.Errorf("%w: sector %d has %d references", layout.ErrCorrupt, lo, uint64(s.extra)+1)
			}
			if n := uint32(int64(s.extra) + int64(c.d)); n > 0 {
				c.keep(lo, hi, n)
			} else {
				c.delta -= int(hi - lo)
			}
			at = hi
		} else {
			at = max(at, min(s.start, to))
		}
		c.keep(max(s.start, to), s.end, s.extra)
	}
	c.unshared(at, to)
	return nil
}

// keep appends a run, and joins it with the one before if the counts are equal.
func (c *shareChange) keep(start, end uint64, extra uint32) {
	if start >= end {
		return
	}
	if n := len(c.runs); n > 0 && c.runs[n-1].end == start && c.runs[n-1].extra == extra {
		c.runs[n-1].end = end
		return
	}
	c.runs = append(c.runs, sharing{start, end, extra})
}

// unshared is told of a part of the range that had no count.
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

// store brings the tree from the old runs to the new ones.
func (c *shareChange) store(w *tree.Writer, old []sharing) error {
	i := 0
	for _, s := range old { // both are in order
		for i < len(c.runs) && c.runs[i].start < s.start {
			i++
		}
		if i < len(c.runs) && c.runs[i].start == s.start {
			continue
		}
		if _, err := w.Delete(shareKey(s.start)); err != nil {
			return err
		}
	}
	i = 0
	for _, s := range c.runs {
		for i < len(old) && old[i].start < s.start {
			i++
		}
		if i < len(old) && old[i] == s {
			continue
		}
		val := layout.Share{Count: uint32(s.end - s.start), Extra: s.extra}.Append(nil)
		if err := w.Put(shareKey(s.start), val); err != nil {
			return err
		}
	}
	return nil
}

// shareFanout bounds the children of an inner page.
const shareFanout = layout.NodeBytes / layout.PointerBytes

// overwritePages bounds the pages of the share tree that become dirty when that
// many sectors lose a reference, each in another place. It takes no lock.
func (v *Volume) overwritePages(sectors int) (pages int) {
	width := 1
	for range v.shareHeight.Load() {
		pages += 2 * min(sectors, width) // each may be split
		width = min(width*shareFanout, math.MaxInt32)
	}
	return pages
}

// shareStep is how many extents an operation may drop at a time once data is
// shared: each may lie elsewhere, and so its counts.
const shareStep = 32

// dropStep is how many extents are dropped at a time, and the pages of the share
// tree that this may make dirty.
func (v *Volume) dropStep() (extents, pages int) {
	if v.shareHeight.Load() == 0 {
		return cutStep, 0
	}
	return shareStep, v.overwritePages(shareStep)
}
