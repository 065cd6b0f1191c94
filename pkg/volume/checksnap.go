package volume

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// snapCheck checks snapshots and dead lists. The tree of snapshots is read
// first: what its dead lists name is noted. Then the snapshots' trees are read,
// from the newest to the oldest, each as far as the next newer one does not
// share it: what is met there must be in a dead list, under the right labels,
// and be nobody else's. What remains of the lists belongs to nobody.
//
// Memory: a few hundred bytes for each snapshot, 24 bytes for each page of the
// head and of snapshots, 4 KiB for each region that dead lists name, and 32 KiB
// for each one in which they name shared sectors several times.
type snapCheck struct {
	c     *checker
	state *layout.SnapState
	live  []checkedSnap // ascending
	dying []checkedSnap
	left  *layout.Abandoned
	point uint64 // of left

	pages map[uint64]uint64 // address of each page of tree 1 that was read → hash of its pointer
	dead  map[uint64]*[layout.RegionSector / 64]uint64
	again map[uint64]*sharedRegion // how often dead lists name a sector beyond the first time
	marks map[[2]uint32]uint64     // oldest and newest holder → sum of hashes: of lists, less of trees

	list  uint64 // object whose items are read
	log   layout.DeadLog
	sums  map[uint32]*layout.DeadSum
	total uint64 // sectors
	lost  bool   // a part could not be read
}

type checkedSnap struct {
	id   uint32
	gen  uint64
	tree layout.Pointer
	name string

	promised, ranges uint64
}

func newSnapCheck(c *checker) *snapCheck {
	return &snapCheck{c: c, pages: map[uint64]uint64{}, dead: map[uint64]*[layout.RegionSector / 64]uint64{},
		again: map[uint64]*sharedRegion{}, marks: map[[2]uint32]uint64{}, sums: map[uint32]*layout.DeadSum{}}
}

// item checks an item of tree 3.
func (s *snapCheck) item(_ uint64, k layout.Key, v []byte) {
	if err := s.read(k, v); err != nil {
		s.c.problem(fmt.Sprintf("snapshot item %v", k), "%v", err)
		s.lost = true
	}
}

func (s *snapCheck) read(k layout.Key, v []byte) error {
	if k.Obj != 0 {
		return s.readDead(k, v)
	}
	switch k.Type {
	case layout.KeySnapState:
		x, err := layout.DecodeSnapState(v)
		if err != nil || k.Sub != 0 {
			return cmp.Or(err, fmt.Errorf("state under a number"))
		}
		s.state = &x
		return nil
	case layout.KeySnapshot:
		x, err := layout.DecodeSnapshot(v)
		if err != nil {
			return err
		}
		if s.state == nil || k.Sub == 0 || k.Sub >= uint64(s.state.NextID) {
			return fmt.Errorf("snapshot %q has a number that was not given out", x.Name)
		}
		t := checkedSnap{uint32(k.Sub), x.Generation, x.Tree, x.Name, x.Promised, x.Ranges}
		for _, l := range [][]checkedSnap{s.live, s.dying} {
			if n := len(l); n > 0 && l[n-1].gen >= t.gen {
				return fmt.Errorf("snapshot %q is of generation %d, the one before of %d", t.name, t.gen, l[n-1].gen)
			}
		}
		if t.gen >= s.c.root.Generation {
			return fmt.Errorf("snapshot %q is of generation %d, the root of %d", t.name, t.gen, s.c.root.Generation)
		}
		if x.Deleting {
			s.dying = append(s.dying, t)
			return nil
		}
		if slices.ContainsFunc(s.live, func(o checkedSnap) bool { return o.name == t.name }) {
			return fmt.Errorf("two snapshots are called %q", t.name)
		}
		s.live = append(s.live, t)
		return nil
	case layout.KeyAbandoned:
		x, err := layout.DecodeAbandoned(v)
		if err == nil && s.left != nil {
			err = fmt.Errorf("a second abandoned head")
		}
		s.left, s.point = &x, k.Sub
		return err
	}
	return fmt.Errorf("it is of no kind that belongs there")
}

// readDead checks an item of a dead list. The sums come first.
func (s *snapCheck) readDead(k layout.Key, v []byte) error {
	if k.Obj != s.list {
		s.endList()
		s.list = k.Obj
	}
	if s.state == nil || k.Obj >= uint64(s.state.NextID) {
		return fmt.Errorf("a dead list of a number that was not given out")
	}
	switch k.Type {
	case layout.KeyDeadLog:
		l, err := layout.DecodeDeadLog(v)
		s.log = l
		return err
	case layout.KeyDeadSum:
		x, err := layout.DecodeDeadSum(v)
		if err != nil {
			return err
		}
		if k.Sub >= k.Obj {
			return fmt.Errorf("a bound that is not below its point")
		}
		s.sums[uint32(k.Sub)] = &x
		return nil
	case layout.KeyDeadItem:
		runs, err := layout.DecodeDeadItem(v)
		if err != nil {
			return err
		}
		if k.Sub != uint64(s.log.First) || s.log.First == s.log.Next {
			return fmt.Errorf("the list should go on with item %d, and end before %d", s.log.First, s.log.Next)
		}
		s.log.First++
		for _, r := range runs {
			if err := s.deadRun(r); err != nil {
				return err
			}
		}
		return nil
	case layout.KeyDeadPiece:
		runs, err := layout.DecodeDeadPiece(v)
		if err != nil {
			return err
		}
		bound := uint32(k.Sub >> 32)
		if x := s.sums[bound]; x == nil || x.First == x.Next || uint64(x.First) != k.Sub&(1<<32-1) {
			return fmt.Errorf("its bound has no such piece")
		}
		s.sums[bound].First++
		for _, r := range runs {
			if err := s.deadRun(layout.DeadRun{Run: r, Bound: bound}); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("it is of no kind that belongs there")
}

// endList checks the list that ends: all that its sums name was there.
func (s *snapCheck) endList() {
	where := fmt.Sprintf("dead list %d", s.list)
	if s.log.First != s.log.Next {
		s.c.problem(where, "items %d to %d are missing", s.log.First, s.log.Next)
	}
	for bound, x := range s.sums {
		if x.Sectors != 0 || x.First != x.Next {
			s.c.problem(where, "of bound %d, %d sectors and %d pieces are missing", bound, x.Sectors, x.Next-x.First)
		}
	}
	s.log = layout.DeadLog{}
	clear(s.sums)
}

// deadRun notes an entry of a dead list.
func (s *snapCheck) deadRun(r layout.DeadRun) error {
	x := s.sums[r.Bound]
	if x == nil || x.Sectors < uint64(r.Count) {
		return fmt.Errorf("run %d+%d of bound %d exceeds the sum of its list", r.Start, r.Count, r.Bound)
	}
	x.Sectors -= uint64(r.Count)
	s.total += uint64(r.Count)
	where := fmt.Sprintf("dead list %d", s.list)
	if end := r.Start + uint64(r.Count); r.Start < s.c.root.DataStart() || end > s.c.root.DeviceSectors {
		return fmt.Errorf("run %d+%d lies outside the volume's data area", r.Start, r.Count)
	}
	if a := s.left; a != nil && !a.Lists && s.list >= uint64(a.Snapshot) && s.list < s.point {
		if r.Bound >= a.Snapshot { // made and dropped after the snapshot: to be freed
			s.c.mark(r.Run, where, 0, true)
		}
		return nil // else it came back to life
	}
	oldest := sort.Search(len(s.live), func(i int) bool { return s.live[i].id > r.Bound })
	newest := sort.Search(len(s.live), func(i int) bool { return uint64(s.live[i].id) > s.list }) - 1
	if oldest > newest {
		if !s.lost && !slices.ContainsFunc(s.dying, func(d checkedSnap) bool { return d.id > r.Bound && uint64(d.id) <= s.list }) {
			s.c.problem(where, "sectors %d+%d are held by no snapshot, and none that held them is being deleted", r.Start, r.Count)
		}
		s.c.mark(r.Run, where, 0, true)
		return nil
	}
	twice := s.toggle(r.Run, true, [2]uint32{s.live[oldest].id, s.live[newest].id})
	if twice > 0 {
		s.c.problem(where, "%d of sectors %d+%d are in the dead lists twice", twice, r.Start, r.Count)
	}
	return nil
}

// toggle notes that a dead list names a run, or that a snapshot holds it. It
// returns how many sectors that was true of already, or not true of.
func (s *snapCheck) toggle(r layout.Run, list bool, who [2]uint32) (wrong int) {
	for x := r.Start; x < r.Start+uint64(r.Count); x++ {
		b := s.dead[x/layout.RegionSector]
		if b == nil {
			b = new([layout.RegionSector / 64]uint64)
			s.dead[x/layout.RegionSector] = b
		}
		i := x % layout.RegionSector
		named := b[i/64]>>(i%64)&1 == 1
		switch again := s.again[x/layout.RegionSector]; {
		case named && list && s.c.sharing:
			if again == nil {
				again = &sharedRegion{}
				s.again[x/layout.RegionSector] = again
			}
			again.set(uint32(i), again.get(uint32(i))+1)
		case named && !list && again != nil && again.get(uint32(i)) > 0:
			again.set(uint32(i), again.get(uint32(i))-1)
		case named == list:
			wrong++
			continue
		default:
			b[i/64] ^= 1 << (i % 64)
		}
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], x)
		h := s.c.hash.Sum(n[:])
		if !list {
			h = -h
		}
		s.marks[who] += h
	}
	return wrong
}

// finish reads the snapshots' trees, once all items of tree 3 are known.
func (s *snapCheck) finish() {
	c := s.c
	s.endList()
	if s.state != nil && s.state.DeadSectors != s.total && !s.lost {
		c.problem("snapshots", "the dead lists should hold %d sectors, they hold %d", s.state.DeadSectors, s.total)
	}
	newest := uint64(0)
	if n := len(s.live); n > 0 {
		newest = s.live[n-1].gen
	}
	if newest != c.root.NewestSnapshot {
		c.problem("root", "it says that the newest snapshot is of generation %d, it is %d", c.root.NewestSnapshot, newest)
	}
	newer := c.lookup()
	for i := len(s.live) - 1; i >= 0; i-- {
		t := &s.live[i]
		w := snapWalk{s: s, t: t, newer: newer}
		w.walk(c.root.Generation)
		newer = c.lookupAt(t.tree, t.gen)
		c.checkSnapReserved(t.name, t.promised, t.ranges, newer)
	}
	if s.left != nil {
		s.walkAbandoned()
	}
	if s.lost || c.lostFS || c.lostSnaps {
		return
	}
	// Labels that differ show as two sums that are not 0.
	for who, sum := range s.marks {
		if sum != 0 {
			c.problem("dead lists", "what snapshots %s to %s alone hold is not what the lists say", s.name(who[0]), s.name(who[1]))
		}
	}
	regions := make([]uint64, 0, len(s.dead))
	for idx := range s.dead {
		regions = append(regions, idx)
	}
	slices.Sort(regions)
	for _, idx := range regions {
		first, count := uint64(0), 0
		for i, b := range s.dead[idx] {
			for j := range uint64(64) {
				if b>>j&1 == 1 {
					if count++; count == 1 {
						first = idx*layout.RegionSector + uint64(i)*64 + j
					}
				}
			}
		}
		if count > 0 {
			c.problem(fmt.Sprintf("region %d", idx), "%d sectors, from %d on, are in a dead list, and no snapshot holds them, or the head does", count, first)
		}
	}
}

func (s *snapCheck) name(id uint32) string {
	for i := range s.live {
		if s.live[i].id == id {
			return fmt.Sprintf("%q", s.live[i].name)
		}
	}
	return fmt.Sprint(id)
}

// see notes a page of the head's tree or a snapshot's; seen says that it was
// read before.
func (s *snapCheck) see(p *layout.Pointer, where string) (seen bool) {
	b := make([]byte, layout.PointerBytes)
	p.Put(b)
	h := s.c.hash.Sum(b)
	old, seen := s.pages[p.Addr]
	if seen && old != h {
		s.c.problem(where, "two trees have different pages there")
	}
	s.pages[p.Addr] = h
	return seen
}

// snapWalk reads what a snapshot does not share with the next newer one.
type snapWalk struct {
	s     *snapCheck
	t     *checkedSnap
	newer *items.Lookup
}

func (w *snapWalk) walk(uint64) {
	x := walk{c: w.s.c, id: layout.TreeFS, mark: true, snap: w, item: w.item}
	x.node(&w.t.tree, w.t.tree.Level, w.t.gen, layout.Key{}, nil)
}

// holds notes that the snapshot, and no newer one, refers to a run born then.
func (w *snapWalk) holds(r layout.Run, birth uint64, where string) bool {
	s := w.s
	if _, ok := s.c.mark(r, where, 0, true); !ok {
		return false
	}
	i := sort.Search(len(s.live), func(i int) bool { return s.live[i].gen >= birth })
	if wrong := s.toggle(r, false, [2]uint32{s.live[min(i, len(s.live)-1)].id, w.t.id}); wrong > 0 && !s.lost {
		s.c.problem(where, "%d of sectors %d+%d are held by snapshots only and in no dead list", wrong, r.Start, r.Count)
	}
	return true
}

// item checks an item of a leaf that the next newer tree does not share; the
// item itself may be the same there.
func (w *snapWalk) item(birth uint64, k layout.Key, v []byte) {
	if err := w.check(birth, k, v); err != nil {
		w.s.c.problem(fmt.Sprintf("snapshot %q, inode %d", w.t.name, k.Obj), "%v", err)
	}
}

func (w *snapWalk) check(birth uint64, k layout.Key, v []byte) (err error) {
	switch k.Type {
	case layout.KeyInode:
		_, err = layout.DecodeInode(v)
	case layout.KeyName:
		_, err = layout.DecodeName(v)
	case layout.KeyXattr:
		_, err = layout.DecodeXattr(v, int(k.Sub&0xff))
	case layout.KeyOrphan, layout.KeyReserver, layout.KeyInline:
	case layout.KeyReserved:
		_, err = layout.DecodeReserved(k.Sub, v)
	case layout.KeyExtent:
		var e layout.FileExtent
		if e, err = layout.DecodeFileExtent(v); err == nil {
			err = w.extent(birth, k.Obj, items.Placed{Sector: k.Sub, FileExtent: e})
		}
	default:
		err = fmt.Errorf("item of unknown type %#x", k.Type)
	}
	return err
}

func (w *snapWalk) extent(birth, ino uint64, p items.Placed) error {
	if p.Birth > birth || p.RefBirth > birth {
		return fmt.Errorf("the extent at sector %d is of generation %d (referred to since %d), the page that names it of %d", p.Sector, p.Birth, p.RefBirth, birth)
	}
	same, err := w.newer.Extents(ino, p.Sector, p.End())
	if err != nil {
		w.s.c.lostSnaps = true // it is reported where that tree is read
		return nil             //nolint:nilerr // see above
	}
	at := p.Sector
	for i := range same {
		q := &same[i]
		if q.Nonce != p.Nonce || q.RefBirth != p.RefBirth || q.Addr-q.Sector*layout.SectorBytes != p.Addr-p.Sector*layout.SectorBytes {
			continue
		}
		w.part(ino, p, at, max(at, min(q.Sector, p.End())))
		at = max(at, min(q.End(), p.End()))
	}
	w.part(ino, p, at, p.End())
	return nil
}

// part checks sectors [a, b) of an extent that only this snapshot and older ones hold.
func (w *snapWalk) part(ino uint64, p items.Placed, a, b uint64) {
	if a >= b {
		return
	}
	where := fmt.Sprintf("snapshot %q, inode %d at %d+%d", w.t.name, ino, a*layout.SectorBytes, (b-a)*layout.SectorBytes)
	r := layout.Run{Start: p.Addr/layout.SectorBytes + a - p.Sector, Count: uint32(b - a)}
	if w.holds(r, p.RefBirth, where) && w.s.c.opts.Data {
		x := items.Placed{Sector: a, FileExtent: layout.FileExtent{Record: p.Slice(int(a-p.Sector), int(b-a)), RefBirth: p.RefBirth}}
		w.s.c.data.add(w.s.c, ino, x, w.t.name)
	}
}

// walkAbandoned reads what is left of the head that a rollback left: what is
// younger than the snapshot, and not freed yet.
func (s *snapCheck) walkAbandoned() {
	a := s.left
	w := walk{c: s.c, id: layout.TreeFS, mark: true, left: a}
	w.item = func(_ uint64, k layout.Key, v []byte) {
		if k.Type != layout.KeyExtent || k.Less(a.Next) {
			return
		}
		where := fmt.Sprintf("abandoned head, inode %d at %d", k.Obj, k.Sub*layout.SectorBytes)
		switch e, err := layout.DecodeFileExtent(v); {
		case err != nil:
			s.c.problem(where, "%v", err)
		case e.RefBirth > a.Generation:
			s.c.mark(layout.Run{Start: e.Addr / layout.SectorBytes, Count: uint32(e.Sectors())}, where, 0, true)
		}
	}
	w.node(&a.Tree, a.Tree.Level, s.c.root.Generation, layout.Key{}, nil)
}
