package txn

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ErrNoSpace means that no run of the wanted kind is free.
var ErrNoSpace = errors.New("no free sectors")

const (
	regionWords = layout.RegionSector / 64
	goodRun     = WriteBytes / layout.SectorBytes // runs worth starting a 256 KiB write in
)

type bitmap = [regionWords]uint64

// SpaceLoader reads values of the space tree as of the last commit; ok is
// false for one that is not there (nothing was ever allocated there).
type SpaceLoader func(k layout.Key) (v []byte, ok bool, err error)

// Space knows which sectors are free. Regions are read when something is
// allocated or freed in them and written by the commit that follows; what it
// keeps in memory is bounded by what one generation touches.
//
// Summaries of 512 regions (group) and of groups (top) lead to free runs
// without a scan: a search looks at one group's summary, and at the top when
// the group has nothing.
type Space struct {
	load SpaceLoader

	mu        sync.Mutex
	cond      sync.Cond // pins
	dataStart uint64    // first allocatable sector
	end       uint64    // sectors of the device
	regions   map[uint64]*region
	groups    map[uint64]*group
	tops      map[uint64][]byte

	free  int64 // sectors that can be allocated now
	quads int64 // free aligned groups of four

	cur, curEnd uint64 // run that is being filled
	hint        uint64 // region to look at next
	broken      uint64 // region in which AllocBroken found something last

	gen     uint64 // open generation
	lists   map[uint64][]layout.Run
	waiting int64 // sectors in lists
	pins    map[uint64]int

	held                map[uint64]held // by region, see hold.go
	heldFree, heldQuads int64
	claims              map[uint64]*claimed // by region, see claim.go
	claimedFree         int64
	bad                 error // the first run that was freed and lies outside
	reused              func(layout.Run)
}

type region struct {
	used  bitmap
	snap  *bitmap // as of the freeze, while a commit is under way
	free  uint32
	quads uint32
	dirty bool // changed since the last freeze

	shared     uint32 // sectors with further references; see Share
	snapShared uint32 // as of the freeze
}

type group struct {
	v     []byte
	dirty bool
}

// NewSpace opens the free space of a root; gen is the generation that follows.
func NewSpace(root *layout.Root, gen uint64, load SpaceLoader) (*Space, error) {
	s := &Space{load: load, dataStart: root.DataStart(), end: root.DeviceSectors, regions: map[uint64]*region{}, groups: map[uint64]*group{},
		tops: map[uint64][]byte{}, free: int64(root.FreeSectors), hint: root.AllocHint, gen: gen,
		lists: map[uint64][]layout.Run{}, pins: map[uint64]int{}, held: map[uint64]held{}, claims: map[uint64]*claimed{}}
	s.cond.L = &s.mu
	groups := (s.regionCount() + layout.GroupRegions - 1) / layout.GroupRegions
	for g := range groups {
		t, err := s.top(g / layout.TopGroups)
		if err != nil {
			return nil, err
		}
		s.quads += int64(layout.GetTop(t, int(g%layout.TopGroups)).Quads)
	}
	if s.hint >= s.regionCount() {
		s.hint = 0
	}
	return s, nil
}

func (s *Space) regionCount() uint64 {
	return (s.end + layout.RegionSector - 1) / layout.RegionSector
}

// fresh is the bitmap of a region that nothing was ever allocated in.
func (s *Space) fresh(idx uint64) *bitmap {
	b := new(bitmap)
	base := idx * layout.RegionSector
	set := func(from, to uint64) { // sectors, absolute
		for x := max(from, base); x < min(to, base+layout.RegionSector); x++ {
			b[(x-base)/64] |= 1 << ((x - base) % 64)
		}
	}
	if base < s.dataStart {
		set(0, s.dataStart)
	}
	if base+layout.RegionSector > s.end {
		set(s.end, base+layout.RegionSector)
	}
	return b
}

// quadMask has the lowest bit of each nibble set where all four bits of free are.
func quadMask(free uint64) uint64 {
	return free & (free >> 1) & (free >> 2) & (free >> 3) & 0x1111111111111111
}

func countBitmap(b *bitmap) (sum layout.Summary) {
	run := uint32(0)
	for _, w := range b {
		f := ^w
		sum.Free += uint32(bits.OnesCount64(f))
		sum.Quads += uint32(bits.OnesCount64(quadMask(f)))
		switch f {
		case 0:
			run = 0
		case ^uint64(0):
			run += 64
		default:
			for i := 0; i < 64; {
				if f>>i&1 == 0 {
					run = 0
					i += bits.TrailingZeros64(f>>i | 1<<63)
					if f>>i&1 == 0 {
						i = 64
					}
					continue
				}
				n := bits.TrailingZeros64(^(f >> i))
				if i+n > 64 {
					n = 64 - i
				}
				run += uint32(n)
				sum.Largest = max(sum.Largest, run)
				i += n
			}
		}
		sum.Largest = max(sum.Largest, run)
	}
	return sum
}

func (s *Space) freshSummary(idx uint64) layout.Summary {
	base := idx * layout.RegionSector
	if base >= s.dataStart && base+layout.RegionSector <= s.end {
		return layout.Summary{Free: layout.RegionSector, Largest: layout.RegionSector, Quads: layout.RegionQuads}
	}
	return countBitmap(s.fresh(idx))
}

// region returns a region; caller holds mu.
func (s *Space) region(idx uint64) (*region, error) {
	if r := s.regions[idx]; r != nil {
		return r, nil
	}
	v, ok, err := s.load(layout.Key{Type: layout.KeyRegion, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("region %d: %w", idx, err)
	}
	r := &region{}
	if ok {
		_, shared, b, err := layout.GetRegion(v)
		if err != nil {
			return nil, fmt.Errorf("region %d: %w", idx, err)
		}
		r.used, r.shared = *b, shared
	}
	f := s.fresh(idx)
	for i := range r.used {
		r.used[i] |= f[i]
	}
	sum := countBitmap(&r.used)
	r.free, r.quads = sum.Free, sum.Quads
	s.regions[idx] = r
	return r, nil
}

func (s *Space) group(idx uint64) (*group, error) {
	if g := s.groups[idx]; g != nil {
		return g, nil
	}
	v, ok, err := s.load(layout.Key{Type: layout.KeyGroup, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", idx, err)
	}
	g := &group{v: v}
	switch {
	case !ok:
		g.v = make([]byte, layout.GroupValue)
		for i := range layout.GroupRegions {
			r := idx*layout.GroupRegions + uint64(i)
			if r < s.regionCount() {
				s.freshSummary(r).Put(g.v, i)
			}
		}
	case len(v) != layout.GroupValue:
		return nil, fmt.Errorf("%w: group %d of %d bytes", layout.ErrCorrupt, idx, len(v))
	}
	s.groups[idx] = g
	return g, nil
}

// freshGroup is the summary of a group that nothing was ever allocated in.
func (s *Space) freshGroup(g uint64) (sum layout.Summary) {
	first, last := g*layout.GroupRegions, min((g+1)*layout.GroupRegions, s.regionCount())
	if first >= last {
		return sum
	}
	// Only the first and the last region of a device differ from a whole one.
	sum = s.freshSummary(first)
	if last-first > 1 {
		sum = sum.Add(s.freshSummary(last - 1))
	}
	if n := uint32(last - first); n > 2 {
		sum = sum.Add(layout.Summary{Free: (n - 2) * layout.RegionSector, Largest: layout.RegionSector, Quads: (n - 2) * layout.RegionQuads})
	}
	return sum
}

func (s *Space) top(idx uint64) ([]byte, error) {
	if t := s.tops[idx]; t != nil {
		return t, nil
	}
	t, ok, err := s.load(layout.Key{Type: layout.KeyTop, Sub: idx})
	if err != nil {
		return nil, fmt.Errorf("space summary: %w", err)
	}
	switch {
	case !ok:
		t = make([]byte, layout.TopValue)
		for i := range layout.TopGroups {
			s.freshGroup(idx*layout.TopGroups+uint64(i)).PutTop(t, i)
		}
	case len(t) != layout.TopValue:
		return nil, fmt.Errorf("%w: space summary of %d bytes", layout.ErrCorrupt, len(t))
	}
	s.tops[idx] = t
	return t, nil
}

// summarize brings the summaries above a region up to date.
func (s *Space) summarize(idx uint64, r *region) error {
	g, err := s.group(idx / layout.GroupRegions)
	if err != nil {
		return err
	}
	countBitmap(s.stored(idx, r)).Put(g.v, int(idx%layout.GroupRegions))
	g.dirty = true
	t, err := s.top(idx / layout.GroupRegions / layout.TopGroups)
	if err != nil {
		return err
	}
	s.sumGroup(g.v).PutTop(t, int(idx/layout.GroupRegions%layout.TopGroups))
	return nil
}

func (s *Space) sumGroup(v []byte) (sum layout.Summary) {
	for i := range layout.GroupRegions {
		sum = sum.Add(layout.GetSummary(v, i))
	}
	return sum
}

// find calls try for the regions from a given one on, and round, whose summary
// is wanted, until it returns true. Groups that hold nothing wanted are passed
// over by their summary; want must hold for a sum where it holds for a part.
// Summaries may promise too much (allocations reach them late), never too little.
func (s *Space) find(from uint64, want func(layout.Summary) bool, try func(idx uint64) (bool, error)) error {
	groups := (s.regionCount() + layout.GroupRegions - 1) / layout.GroupRegions
	for i := range groups + 1 {
		gi := (from/layout.GroupRegions + i) % groups
		t, err := s.top(gi / layout.TopGroups)
		if err != nil {
			return err
		}
		if !want(layout.GetTop(t, int(gi%layout.TopGroups))) {
			continue
		}
		g, err := s.group(gi)
		if err != nil {
			return err
		}
		first := uint64(0)
		if i == 0 {
			first = from % layout.GroupRegions
		}
		for j := first; j < layout.GroupRegions; j++ {
			if !want(layout.GetSummary(g.v, int(j))) {
				continue
			}
			idx := gi*layout.GroupRegions + j
			if ok, err := try(idx); ok || err != nil {
				return err
			}
			if err := s.summarize(idx, s.regions[idx]); err != nil {
				return err
			}
		}
	}
	return ErrNoSpace
}

// mark sets or clears the bits of a run inside one region; caller holds mu.
func (s *Space) mark(r *region, bit, n uint64, used bool, inSnap bool) {
	for n > 0 {
		w, o := bit/64, bit%64
		c := min(64-o, n)
		m := ^uint64(0) >> (64 - c) << o
		old := r.used[w]
		q := bits.OnesCount64(quadMask(^old))
		if used {
			r.used[w] |= m
		} else {
			r.used[w] &^= m
		}
		df := int64(bits.OnesCount64(^r.used[w])) - int64(bits.OnesCount64(^old))
		dq := int64(bits.OnesCount64(quadMask(^r.used[w])) - q)
		r.free = uint32(int64(r.free) + df)
		r.quads = uint32(int64(r.quads) + dq)
		s.free += df
		s.quads += dq
		if inSnap && r.snap != nil {
			if used {
				r.snap[w] |= m
			} else {
				r.snap[w] &^= m
			}
		}
		bit += c
		n -= c
	}
	r.dirty = true
}

// nextRun finds the first free run at or after bit in a region, up to max long.
func nextRun(b *bitmap, bit, maxLen uint64) (start, n uint64) {
	for bit < layout.RegionSector {
		w, o := bit/64, bit%64
		f := ^b[w] >> o
		if f == 0 {
			bit = (w + 1) * 64
			continue
		}
		bit += uint64(bits.TrailingZeros64(f))
		start = bit
		for bit < layout.RegionSector && n < maxLen {
			w, o := bit/64, bit%64
			c := uint64(bits.TrailingZeros64(^(^b[w] >> o)))
			c = min(c, 64-o)
			if c == 0 {
				break
			}
			n += c
			bit += c
		}
		return start, min(n, maxLen)
	}
	return 0, 0
}

// openRun chooses the run to fill next: one of at least goodRun in this region
// or the next that has such, else the largest there is.
func (s *Space) openRun() error {
	if s.curEnd > 0 {
		if ok, err := s.openIn(s.hint, s.curEnd%layout.RegionSector, goodRun); ok || err != nil {
			return err
		}
	}
	want := uint32(goodRun)
	for want > 0 {
		err := s.find(s.hint, func(x layout.Summary) bool { return x.Largest >= want },
			func(idx uint64) (bool, error) { return s.openIn(idx, 0, uint64(want)) })
		if !errors.Is(err, ErrNoSpace) {
			return err
		}
		want /= 2
	}
	return ErrNoSpace
}

// openIn looks in one region from a bit on for a run of at least want.
func (s *Space) openIn(idx, bit, want uint64) (bool, error) {
	r, err := s.region(idx)
	if err != nil {
		return false, err
	}
	for r.free >= uint32(want) {
		start, n := nextRun(&r.used, bit, layout.RegionSector)
		if n == 0 {
			break
		}
		if n >= want {
			s.cur = idx*layout.RegionSector + start
			s.curEnd = s.cur + n
			s.hint = idx
			return true, nil
		}
		bit = start + n
	}
	return false, nil
}

// Alloc takes a run of 1 to n sectors.
func (s *Space) Alloc(n uint32) (layout.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var run layout.Run
	err := s.orHeld(func() (err error) {
		run, err = s.alloc(n)
		return err
	})
	return run, err
}

func (s *Space) alloc(n uint32) (layout.Run, error) {
	if s.cur == s.curEnd {
		if err := s.leaveRegion(); err != nil {
			return layout.Run{}, err
		}
		if err := s.openRun(); err != nil {
			return layout.Run{}, err
		}
	}
	c := min(uint64(n), s.curEnd-s.cur)
	run := layout.Run{Start: s.cur, Count: uint32(c)}
	r, err := s.region(s.cur / layout.RegionSector)
	if err != nil {
		return layout.Run{}, err
	}
	s.mark(r, s.cur%layout.RegionSector, c, true, false)
	s.cur += c
	return run, nil
}

// leaveRegion corrects the summary of the region that was being filled.
func (s *Space) leaveRegion() error {
	if r := s.regions[s.hint]; r != nil {
		return s.summarize(s.hint, r)
	}
	return nil
}

// Rewind has the next allocations begin at the start of the device, for tests.
func (s *Space) Rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur, s.curEnd, s.hint = 0, 0, 0
}

// AllocBroken takes a run of 1 to n sectors out of groups of four that are
// not wholly free: what data may have once only the reserve is left.
func (s *Space) AllocBroken(n uint32) (layout.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free+s.heldFree <= 4*(s.quads+s.heldQuads) {
		return layout.Run{}, ErrNoSpace
	}
	run, err := s.findBroken(n)
	if errors.Is(err, ErrNoSpace) {
		// What alloc takes reaches the summary of its region late; until then
		// that may look unbroken.
		if err = s.leaveRegion(); err == nil {
			run, err = s.findBroken(n)
		}
	}
	return run, err
}

func (s *Space) findBroken(n uint32) (run layout.Run, err error) {
	err = s.find(s.broken, func(x layout.Summary) bool { return x.Free > 4*x.Quads }, func(idx uint64) (bool, error) {
		r, err := s.region(idx)
		if err != nil {
			return false, err
		}
		stored := s.stored(idx, r) // what is held does not break a group
		for w, u := range r.used {
			f := ^u &^ (quadMask(^stored[w]) * 15)
			if f == 0 {
				continue
			}
			o := uint64(bits.TrailingZeros64(f))
			c := min(uint64(bits.TrailingZeros64(^(f >> o))), uint64(n), 64-o)
			run = layout.Run{Start: idx*layout.RegionSector + uint64(w)*64 + o, Count: uint32(c)}
			if run.Start < s.curEnd && run.Start+c > s.cur {
				s.cur, s.curEnd = 0, 0 // the open run is not whole any more
			}
			s.broken = idx
			s.mark(r, uint64(w)*64+o, c, true, false)
			return true, nil
		}
		return false, nil
	})
	return run, err
}

// AllocQuads takes n aligned groups of four sectors, in as few runs as there are.
func (s *Space) AllocQuads(n int) (runs []layout.Run, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.orHeld(func() (err error) {
		runs, err = s.allocQuads(n)
		return err
	})
	return runs, err
}

func (s *Space) allocQuads(n int) ([]layout.Run, error) {
	if int64(n) > s.quads {
		return nil, ErrNoSpace
	}
	var runs []layout.Run
	for n > 0 {
		start := (s.cur + 3) &^ 3
		if start+4 > s.curEnd {
			if err := s.openQuad(); err != nil {
				return nil, errors.Join(err, s.unalloc(runs))
			}
			continue
		}
		c := min(uint64(n), (s.curEnd-start)/4) * 4
		r, err := s.region(start / layout.RegionSector)
		if err != nil {
			return nil, errors.Join(err, s.unalloc(runs))
		}
		s.mark(r, start%layout.RegionSector, c, true, false)
		s.cur = start + c
		runs = append(runs, layout.Run{Start: start, Count: uint32(c)})
		n -= int(c / 4)
	}
	return runs, nil
}

// openQuad opens a run that holds an aligned group of four.
func (s *Space) openQuad() error {
	if err := s.leaveRegion(); err != nil {
		return err
	}
	err := s.openRun()
	if err == nil && (s.cur+3)&^3+4 <= s.curEnd || err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	return s.find(s.hint, func(x layout.Summary) bool { return x.Quads > 0 }, func(idx uint64) (bool, error) {
		r, err := s.region(idx)
		if err != nil {
			return false, err
		}
		for w, u := range r.used {
			if q := quadMask(^u); q != 0 {
				s.cur = idx*layout.RegionSector + uint64(w)*64 + uint64(bits.TrailingZeros64(q))
				s.curEnd = s.cur + 4
				s.hint = idx
				return true, nil
			}
		}
		return false, nil
	})
}

func (s *Space) unalloc(runs []layout.Run) error {
	for _, r := range runs {
		idx := r.Start / layout.RegionSector
		s.mark(s.regions[idx], r.Start%layout.RegionSector, uint64(r.Count), false, true)
		if err := s.summarize(idx, s.regions[idx]); err != nil {
			return err
		}
	}
	return nil
}

// inside tells whether a run lies where sectors can be allocated.
func (s *Space) inside(r layout.Run) bool { return Area{s.dataStart, s.end}.Holds(r) }

// each calls fn for the part of the run in each region.
func (s *Space) each(run layout.Run, fn func(idx uint64, r *region, bit, n uint64) error) error {
	for at, n := run.Start, uint64(run.Count); n > 0; {
		r, err := s.region(at / layout.RegionSector)
		if err != nil {
			return err
		}
		c := min(n, layout.RegionSector-at%layout.RegionSector)
		if err := fn(at/layout.RegionSector, r, at%layout.RegionSector, c); err != nil {
			return err
		}
		at += c
		n -= c
	}
	return nil
}

// Free hands over a run that the open generation does not reach any more (I3). Of one
// outside the area of data, which only a forged structure names, the next Freeze says so.
func (s *Space) Free(run layout.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside(run) {
		if s.bad == nil {
			s.bad = fmt.Errorf("%w: sectors %d+%d, outside the data area, were to be freed", layout.ErrCorrupt, run.Start, run.Count)
		}
		return
	}
	l := s.lists[s.gen]
	s.waiting += int64(run.Count)
	if n := len(l); n > 0 && l[n-1].Start+uint64(l[n-1].Count) == run.Start && uint64(l[n-1].Count)+uint64(run.Count) < 1<<31 {
		l[n-1].Count += run.Count
		return
	}
	s.lists[s.gen] = append(l, run)
}

// Share counts sectors of a region to which further references came, or of which
// (n negative) the last one went. It only keeps the count.
func (s *Space) Share(idx uint64, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.regionInside(idx)
	if err != nil {
		return err
	}
	sum := int64(r.shared) + int64(n)
	if sum < 0 || sum > layout.RegionSector {
		return fmt.Errorf("%w: region %d with %d shared sectors", layout.ErrCorrupt, idx, sum)
	}
	r.shared, r.dirty = uint32(sum), true
	return nil
}

// Shared is how many sectors of a region have further references.
func (s *Space) Shared(idx uint64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.regionInside(idx)
	if err != nil {
		return 0, err
	}
	return int(r.shared), nil
}

func (s *Space) regionInside(idx uint64) (*region, error) {
	if idx >= s.regionCount() {
		return nil, fmt.Errorf("%w: region %d of %d", layout.ErrCorrupt, idx, s.regionCount())
	}
	return s.region(idx)
}

// AddList installs the list that generation gen freed, read from a root.
func (s *Space) AddList(gen uint64, runs []layout.Run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		if !s.inside(r) {
			return fmt.Errorf("%w: free list: run %d+%d lies outside the device", layout.ErrCorrupt, r.Start, r.Count)
		}
		s.waiting += int64(r.Count)
	}
	s.lists[gen] = append(s.lists[gen], runs...)
	return nil
}

// Touch has the next commit write what it keeps of a region again.
func (s *Space) Touch(idx uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if idx >= s.regionCount() {
		return fmt.Errorf("%w: region %d of %d", layout.ErrCorrupt, idx, s.regionCount())
	}
	r, err := s.region(idx)
	if err == nil {
		r.dirty = true
	}
	return err
}

// Drain waits until no reader is left of those that began before the call and
// before what they look at was committed anew.
func (s *Space) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for gen := s.gen - 1; s.pinned(gen); {
		s.cond.Wait()
	}
}

// Pin keeps what a reader may be looking at from being reused until Unpin.
func (s *Space) Pin() (gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[s.gen]++
	return s.gen
}

// PinAt keeps what generation gen and later ones free from being reused until
// Unpin: all that root gen-1 reaches, if root gen+1 is not durable yet, which the
// caller has to look at once the pin is set.
func (s *Space) PinAt(gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[gen]++
}

// Unpin ends a Pin.
func (s *Space) Unpin(gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[gen]--; s.pins[gen] == 0 {
		delete(s.pins, gen)
		s.cond.Broadcast()
	}
}

// Reuse makes free what generations up to gen have freed; generation gen+1 is
// durable. It waits for readers that started before.
func (s *Space) Reuse(gen uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pinned(gen) {
		s.cond.Wait()
	}
	touched := map[uint64]struct{}{}
	for g, l := range s.lists {
		if g > gen {
			continue
		}
		for _, run := range l {
			for idx := run.Start / layout.RegionSector; idx <= (run.Start+uint64(run.Count)-1)/layout.RegionSector; idx++ {
				touched[idx] = struct{}{}
			}
			err := s.each(run, func(_ uint64, r *region, bit, n uint64) error {
				for i := range n {
					if r.used[(bit+i)/64]>>((bit+i)%64)&1 == 0 {
						return fmt.Errorf("%w: run %d+%d is freed twice", layout.ErrCorrupt, run.Start, run.Count)
					}
				}
				s.mark(r, bit, n, false, false)
				return nil
			})
			if err != nil {
				return err
			}
			if s.reused != nil {
				s.reused(run)
			}
			s.waiting -= int64(run.Count)
		}
		delete(s.lists, g)
	}
	for idx := range touched {
		if err := s.summarize(idx, s.regions[idx]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Space) pinned(gen uint64) bool {
	for g := range s.pins {
		if g <= gen {
			return true
		}
	}
	return false
}

// Counts are the sectors free now, the free groups of four, and the sectors
// that wait for I3.
func (s *Space) Counts() (free, quads, waiting int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free + s.heldFree, s.quads + s.heldQuads, s.waiting
}

// FreedRuns is how many runs the open generation has freed so far.
func (s *Space) FreedRuns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lists[s.gen])
}

// Grow adds sectors at the end; the next commit must record the new size.
func (s *Space) Grow(end uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end <= s.end {
		return nil
	}
	// Bring the old last region, and the group and top entry it is in, into
	// memory first: what they say of the space beyond the end changes now.
	last := (s.end - 1) / layout.RegionSector
	if _, err := s.region(last); err != nil {
		return err
	}
	g0 := last / layout.GroupRegions
	if _, err := s.group(g0); err != nil {
		return err
	}
	if _, err := s.top(g0 / layout.TopGroups); err != nil {
		return err
	}
	old := s.end
	s.end = end
	r := s.regions[last]
	if to := min(end, (last+1)*layout.RegionSector); to > old {
		s.mark(r, old%layout.RegionSector, to-old, false, false)
	}
	r.dirty = true
	if err := s.summarize(last, r); err != nil {
		return err
	}
	for idx := last + 1; idx < s.regionCount(); idx++ {
		sum := s.freshSummary(idx)
		s.free += int64(sum.Free)
		s.quads += int64(sum.Quads)
		gi := idx / layout.GroupRegions
		g := s.groups[gi]
		if g == nil && gi == g0 {
			panic("txn: group of the last region is in memory")
		}
		if g == nil {
			continue // made fresh when needed; its top entry follows
		}
		sum.Put(g.v, int(idx%layout.GroupRegions))
		g.dirty = true
	}
	for gi := g0; gi <= (s.regionCount()-1)/layout.GroupRegions; gi++ {
		g, err := s.group(gi)
		if err != nil {
			return err
		}
		g.dirty = true
		t, err := s.top(gi / layout.TopGroups)
		if err != nil {
			return err
		}
		s.sumGroup(g.v).PutTop(t, int(gi%layout.TopGroups))
	}
	return nil
}

// SpaceCommit is the state of Space at a freeze, to be written by its commit.
type SpaceCommit struct {
	s      *Space
	Gen    uint64
	Hint   uint64
	Free   uint64 // free sectors; final after Finish
	idx    []uint64
	groups map[uint64][]byte
	tops   map[uint64][]byte
	pool   []layout.Run

	// Drop is called under the lock of the space tree, and whoever holds
	// Space.mu may wait for that lock to load a region: so it has its own.
	dropMu  sync.Mutex
	dropped []layout.Run
}

// Freeze ends the open generation and takes estimate(n, f) groups of four
// sectors as the commit's pool, where n bounds the number of values that will
// be stored and f is the number of runs freed. Nothing else may allocate meanwhile.
func (s *Space) Freeze(estimate func(values, freedRuns int) int) (*SpaceCommit, error) {
	values, freed := s.pending()
	pool, err := s.AllocQuads(estimate(values, freed))
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	// What the pool takes makes regions dirty, whose values need room as well: a
	// page, or two if it is split. Where space is in fragments that may not be
	// had; then what the estimate has to spare must do.
	for {
		now, _ := s.pending()
		if now <= values {
			break
		}
		more, err := s.AllocQuads(now - values) // pending counts two for a region
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		pool, values = append(pool, more...), now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad != nil {
		return nil, s.bad
	}
	c := &SpaceCommit{s: s, Gen: s.gen, pool: pool, Hint: s.hint, Free: uint64(s.free + s.heldFree + s.claimedFree),
		groups: map[uint64][]byte{}, tops: map[uint64][]byte{}}
	for idx, r := range s.regions {
		r.snap = nil
		if !r.dirty {
			if _, ok := s.held[idx]; !ok && s.claims[idx] == nil {
				delete(s.regions, idx) // the tree has it
			}
			continue
		}
		b := *s.stored(idx, r)
		r.snap, r.snapShared, r.dirty = &b, r.shared, false
		c.idx = append(c.idx, idx)
		if err := s.summarize(idx, r); err != nil {
			return nil, err
		}
	}
	slices.Sort(c.idx)
	for gi, g := range s.groups {
		if g.dirty {
			c.groups[gi] = slices.Clone(g.v)
			g.dirty = false
		}
	}
	for gi := range c.groups {
		ti := gi / layout.TopGroups
		t, err := s.top(ti)
		if err != nil {
			return nil, err
		}
		c.tops[ti] = slices.Clone(t)
	}
	s.gen++
	return c, nil
}

// pending bounds the values that a commit would store now, and counts the runs
// that the open generation has freed.
func (s *Space) pending() (values, freedRuns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.regions {
		if r.dirty {
			values += 2 // its group may be new as well
		}
	}
	for _, g := range s.groups {
		if g.dirty {
			values++
		}
	}
	return values + len(s.tops), len(s.lists[s.gen])
}

// Drop notes that the committed space tree no longer reaches a run: the commit
// itself frees it, in its own generation.
func (c *SpaceCommit) Drop(run layout.Run) {
	c.dropMu.Lock()
	defer c.dropMu.Unlock()
	c.dropped = append(c.dropped, run)
}

// Freed is what the generation freed. Nothing is dropped after that.
func (c *SpaceCommit) Freed() []layout.Run {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.dropMu.Lock()
	defer c.dropMu.Unlock()
	for _, r := range c.dropped {
		if !c.s.inside(r) {
			c.s.bad = fmt.Errorf("%w: sectors %d+%d of the space tree lie outside the data area", layout.ErrCorrupt, r.Start, r.Count)
			continue
		}
		c.s.waiting += int64(r.Count)
		c.s.lists[c.Gen] = append(c.s.lists[c.Gen], r)
	}
	c.dropped = nil
	return c.s.lists[c.Gen]
}

// Take removes n groups of four from the pool, contiguous as far as it goes.
func (c *SpaceCommit) Take(n int) ([]layout.Run, error) {
	var out []layout.Run
	for need := uint32(n * layout.QuadSectors); need > 0; {
		if len(c.pool) == 0 {
			return nil, fmt.Errorf("%w: the commit's pool is used up", ErrNoSpace)
		}
		p := &c.pool[0]
		k := min(need, p.Count)
		out = append(out, layout.Run{Start: p.Start, Count: k})
		p.Start += uint64(k)
		p.Count -= k
		if p.Count == 0 {
			c.pool = c.pool[1:]
		}
		need -= k
	}
	return out, nil
}

// Keys are the items that the commit stores; their sizes are final before
// their values are.
func (c *SpaceCommit) Keys(fn func(k layout.Key, size int) error) error {
	for ti := range c.tops {
		if err := fn(layout.Key{Type: layout.KeyTop, Sub: ti}, layout.TopValue); err != nil {
			return err
		}
	}
	for gi := range c.groups {
		if err := fn(layout.Key{Type: layout.KeyGroup, Sub: gi}, layout.GroupValue); err != nil {
			return err
		}
	}
	for _, idx := range c.idx {
		if err := fn(layout.Key{Type: layout.KeyRegion, Sub: idx}, layout.RegionValue); err != nil {
			return err
		}
	}
	return nil
}

// Finish gives back what is left of the pool: everything is allocated, and the
// values are final. It hands them to put, which may take the lock of the space
// tree; the caller must not hold it.
func (c *SpaceCommit) Finish(put func(k layout.Key, v []byte) error) error {
	values, err := c.values()
	if err != nil {
		return err
	}
	for _, x := range values {
		if err := put(x.k, x.v); err != nil {
			return err
		}
	}
	return nil
}

type spaceValue struct {
	k layout.Key
	v []byte
}

func (c *SpaceCommit) values() (values []spaceValue, err error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range c.pool {
		idx := r.Start / layout.RegionSector
		reg := s.regions[idx]
		dirty := reg.dirty
		s.mark(reg, r.Start%layout.RegionSector, uint64(r.Count), false, true)
		reg.dirty = dirty // the values below have it
		if err := s.summarize(idx, reg); err != nil {
			return nil, err
		}
		c.Free += uint64(r.Count)
	}
	c.pool = nil
	for _, idx := range c.idx {
		b := s.regions[idx].snap
		sum := countBitmap(b)
		gi := idx / layout.GroupRegions
		if c.groups[gi] == nil {
			return nil, fmt.Errorf("%w: group %d was not frozen", layout.ErrCorrupt, gi)
		}
		sum.Put(c.groups[gi], int(idx%layout.GroupRegions))
		values = append(values, spaceValue{layout.Key{Type: layout.KeyRegion, Sub: idx}, layout.PutRegion(sum, s.regions[idx].snapShared, b)})
	}
	for gi, v := range c.groups {
		s.sumGroup(v).PutTop(c.tops[gi/layout.TopGroups], int(gi%layout.TopGroups))
		values = append(values, spaceValue{layout.Key{Type: layout.KeyGroup, Sub: gi}, v})
	}
	for ti, v := range c.tops {
		values = append(values, spaceValue{layout.Key{Type: layout.KeyTop, Sub: ti}, v})
	}
	return values, nil
}
