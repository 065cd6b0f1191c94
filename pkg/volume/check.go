package volume

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// CheckOptions for Check.
type CheckOptions struct {
	Credential crypto.Credential
	Data       bool // also open every segment of data
	// Anchor, if not nil, is to be that of the root that is checked, or of one that
	// it follows from.
	Anchor *Anchor
	// Progress is told now and then how many bytes of how many are done.
	Progress func(done, total uint64)
}

// maxProblems bounds the problems that a report lists.
const maxProblems = 1000

// Problem is one thing that is wrong with a volume.
type Problem struct {
	Where string // "root slot 3", `inode 42 "/a/b" at 65536+4096`, "region 7"
	What  string
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// CheckReport is what Check found. Everything is as of the newest committed
// root; what the log holds beyond it is only read.
type CheckReport struct {
	ID          crypto.UUID
	Clean       bool // no problem
	NeedsReplay bool // the log holds operations, which the next mount applies; no problem
	Generation  uint64
	Problems    []Problem // at most maxProblems
	Total       int       // problems, those not listed included
	Notes       []Problem // not wrong, but worth knowing
	Counts      CheckCounts
}

// CheckCounts is what a volume holds.
type CheckCounts struct {
	Inodes      uint64
	Names       uint64
	Extents     uint64
	Nodes       uint64 // of all trees, second copies not counted
	UsedSectors uint64 // that the root refers to, system area included, but for FreedSectors
	FreeSectors uint64 // clear bits of the bitmaps
	// FreedSectors are in the free lists: set in the bitmaps, and free for all but
	// the next commit or two.
	FreedSectors uint64
	// ReservedSectors are free, and kept for ranges that are reserved.
	ReservedSectors uint64
}

// Check reads all of a volume and reports what is wrong with it. It writes
// nothing. An error says that nothing could be checked (wrong key, not a
// volume, a newer format); damage is never an error.
//
// Memory: about two bytes for each inode, 4 KiB for each region of 128 MiB that
// is used in part, 32 KiB for each one with shared sectors, and a bounded number
// of pages. With snapshots also what snapCheck says.
func Check(dev device.Device, opts CheckOptions) (*CheckReport, error) {
	c := &checker{dev: dev, opts: opts, rep: &CheckReport{}, use: map[uint64]*regionUse{}, refused: map[uint64]bool{},
		inodes: map[uint64]*[inodesPerChunk]uint8{}, links: map[uint64]int64{}, shares: shareCheck{regions: map[uint64]*sharedRegion{}}}
	u, keys, err := header.Unlock(dev, opts.Credential, opts.Anchor)
	switch {
	case err == nil:
	case errors.Is(err, layout.ErrHeaderDamaged) || errors.Is(err, layout.ErrHeaderForged) || errors.Is(err, layout.ErrHeaderConflict):
		c.problem("header", "no copy can be used: %v", err)
		return c.finish(), nil
	default:
		return nil, err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	c.store = &txn.Store{Dev: dev, Keys: keys}
	c.rep.ID = u.ID
	ok, err := c.checkRoots(u)
	if err != nil {
		return nil, err
	}
	c.checkSecondHeader(u)
	if !ok {
		return c.finish(), nil
	}
	c.checkLog()
	c.checkTrees()
	c.progress(c.total)
	return c.finish(), nil
}

// checker is the state of one Check.
type checker struct {
	dev   device.Device
	opts  CheckOptions
	store *txn.Store
	root  *layout.Root
	rep   *CheckReport

	mu    sync.Mutex // guards found, done and rep.Total: data is checked by several goroutines
	found []problem
	done  uint64 // bytes
	total uint64
	data  dataCheck

	use     map[uint64]*regionUse
	shares  shareCheck
	sharing bool            // the header says that files may share sectors
	flags   bool            // it says that inodes may have flags that users set
	refused map[uint64]bool // addresses of pages that were not followed

	hash    items.Hasher
	inodes  map[uint64]*[inodesPerChunk]uint8 // see the inode bits below
	links   map[uint64]int64                  // names less link count, where it does not fit there
	orphans []uint64
	pending []uint64 // directories whose parent was not known to be reachable
	parents uint64   // sum over all names of directories less sum over all Parents: 0
	in      inodeCheck

	snap *snapCheck // nil: the volume never had a snapshot
	res  reserveCheck

	// Parts could not be read: what follows from them can not be told.
	lostFS, lostSpace, lostLists, lostSnaps bool
}

// problem is a Problem whose path is not looked up yet.
type problem struct {
	where string
	ino   uint64 // if not 0, where is what follows the inode
	what  string
	lost  items.InodeRange // inodes of which something can not be read
}

func (c *checker) add(p problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rep.Total++; len(c.found) < maxProblems {
		c.found = append(c.found, p)
	}
}

func (c *checker) problem(where, format string, args ...any) {
	c.add(problem{where: where, what: fmt.Sprintf(format, args...)})
}

func (c *checker) inodeProblem(ino uint64, at, format string, args ...any) {
	c.add(problem{where: at, ino: ino, what: fmt.Sprintf(format, args...)})
}

func (c *checker) note(where, format string, args ...any) {
	c.rep.Notes = append(c.rep.Notes, Problem{where, fmt.Sprintf(format, args...)})
}

func (c *checker) progress(bytes uint64) {
	if c.opts.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = min(c.done+bytes, c.total)
	c.opts.Progress(c.done, c.total)
}

func (c *checker) finish() *CheckReport {
	names := c.findNames()
	for _, p := range c.found {
		where := p.where
		if p.ino != 0 {
			where = fmt.Sprintf("inode %d%s%s", p.ino, items.QuotedPath(names.Path(p.ino)), p.where)
		}
		c.rep.Problems = append(c.rep.Problems, Problem{where, p.what + names.Listed(p.lost)})
	}
	c.rep.Clean = c.rep.Total == 0
	return c.rep
}

// checkRoots chooses the root to check and judges the slots. ok is false if
// there is none.
func (c *checker) checkRoots(u *layout.Unlocked) (ok bool, err error) {
	roots, bad, err := c.store.ReadRoots()
	if errors.Is(err, txn.ErrNoRoot) {
		c.problem("root slots", "none of the slots verifies (%d hold something): the volume can not be opened", len(bad))
		return false, nil
	}
	if errors.Is(err, txn.ErrTwoRoots) {
		c.problem("root slots", "%v; it can not be opened", err)
		return false, nil
	}
	if err != nil {
		return false, txn.Wrap(err)
	}
	r := roots[0].Root
	if a := c.opts.Anchor; a != nil {
		if _, err := header.MatchAnchor(a, c.store.Keys, r, roots[0].R, header.AnchorTree(c.store, r)); err != nil {
			c.problem("anchor", "%v", err)
		}
	}
	c.root, c.rep.Generation = r, r.Generation
	if c.sharing = u.Incompat&layout.FeatureShares != 0; !c.sharing && !r.Trees[layout.TreeShares].IsZero() {
		c.problem("header", "it does not name the feature that the share tree needs")
	}
	c.flags = u.Incompat&layout.FeatureFlags != 0
	if !r.Trees[layout.TreeSnapshots].IsZero() {
		c.snap = newSnapCheck(c)
		if u.Incompat&layout.FeatureSnapshots == 0 {
			c.problem("header", "it does not name the feature of snapshots, which the volume uses")
		}
	} else if r.NewestSnapshot != 0 {
		c.problem("root", "it says that the newest snapshot is of generation %d, there is none", r.NewestSnapshot)
	}
	c.res.named = u.Incompat&layout.FeatureReserved != 0
	c.hash = items.NewHasher(r.HashSeed)
	c.total = (r.DeviceSectors - r.DataStart() - min(r.FreeSectors, r.DeviceSectors-r.DataStart())) * layout.SectorBytes
	for _, slot := range bad {
		where := fmt.Sprintf("root slot %d", slot)
		if what, damage := header.JudgeSlot(roots, slot); damage {
			c.problem(where, "%s", what)
		} else {
			c.note(where, "%s", what)
		}
	}
	for i := range roots {
		c.checkCopies(&roots[i], i == 0)
	}
	for i := 1; i < len(roots); i++ {
		if a, b := &roots[i-1], &roots[i]; a.Root.Generation == b.Root.Generation+1 && a.Root.PrevR != b.R {
			c.problem(fmt.Sprintf("root slot %d", b.Slot), "root %d is not the one that root %d follows: an old copy was put in its place", b.Root.Generation, a.Root.Generation)
		}
	}
	if u.Sequence < r.HeaderSeq {
		c.problem("header", "its sequence number is %d, the volume accepts %d and above: an old copy was put back", u.Sequence, r.HeaderSeq)
	}
	size, err := c.dev.Size()
	if err != nil {
		return false, fmt.Errorf("%w: size of the device: %w", vfs.ErrIO, err)
	}
	if uint64(size)/layout.SectorBytes < r.DeviceSectors {
		c.problem("device", "it has %d bytes, the volume %d", size, r.DeviceSectors*layout.SectorBytes)
	}
	return true, nil
}

// checkCopies judges the two copies of a root. Of the newest one, which a commit
// that was cut may have left half written, a torn copy is no damage.
func (c *checker) checkCopies(f *txn.FoundRoot, newest bool) {
	for n, state := range f.Copies {
		where := fmt.Sprintf("root slot %d, copy %d", f.Slot, n+1)
		switch {
		case state == txn.CopyGood:
		case state == txn.CopyForked:
			c.problem(where, "it holds another root %d: the device was put together from two", f.Root.Generation)
		case header.OrdinaryCopy(state, newest):
			c.note(where, "%s, root %d is in the other copy: a read-write mount writes it again", header.CopyText(state), f.Root.Generation)
		default:
			c.problem(where, "%s, root %d is in the other copy: a read-write mount repairs it", header.CopyText(state), f.Root.Generation)
		}
	}
}

// checkLog reads what the log holds beyond the root.
func (c *checker) checkLog() {
	if c.root.Clean {
		return
	}
	rp, err := c.store.ReadLog(c.root)
	if err != nil {
		c.problem("log", "%v: the volume can not be mounted", err)
		return
	}
	scratch := make([]byte, txn.ReadBytes)
	err = c.store.EachOp(c.root, rp, len(rp.Ends), func(record int, op *layout.Op) error {
		if op.Seq < c.root.OpSeq {
			return nil
		}
		c.rep.NeedsReplay = true
		okay, err := c.store.DataArrived(op, scratch)
		if err == nil && !okay && record < rp.Certain {
			c.inodeProblem(op.Ino, fmt.Sprintf(" at %d+%d", op.Off, op.Len), "data that the log refers to does not verify")
		}
		return err
	})
	if err != nil {
		c.problem("log", "%v: the volume can not be mounted", err)
	}
}

// checkTrees checks all that the root refers to, and then the maps of free space.
func (c *checker) checkTrees() {
	c.data.slots = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	var low layout.Key
	// What is shared must be known before references are counted.
	for _, id := range [layout.Trees]int{layout.TreeShares, 0, layout.TreeFS, layout.TreeSpace, layout.TreeSnapshots, layout.TreeAnchors, 6, 7} {
		p := &c.root.Trees[id]
		if p.IsZero() {
			if id == layout.TreeFS || id == layout.TreeSpace {
				c.problem("root", "it names no tree %d", id)
				c.lose(uint64(id))
			}
			continue
		}
		w := walk{c: c, id: uint64(id), mark: true}
		switch id {
		case layout.TreeFS:
			w.item = c.fsItem
		case layout.TreeShares:
			w.item = c.shareItem
		case layout.TreeSnapshots:
			w.item = c.snap.item
		case layout.TreeAnchors:
			w.item = c.anchorItem
		}
		w.node(p, p.Level, c.root.Generation, low, nil)
	}
	c.endInode()
	c.checkReserved()
	if c.snap != nil {
		c.snap.finish()
	}
	c.data.flush(c)
	c.data.wg.Wait()
	c.nameShared()
	if !c.lostFS {
		c.checkLinks()
	}
	for i := range c.root.FreeLists {
		c.checkFreeList(i)
	}
	c.checkShares()
	c.checkSpace()
}

// lose notes that a part of a tree could not be read.
func (w *walk) lose() {
	if w.snap != nil || w.left != nil || w.id == layout.TreeSnapshots {
		w.c.lostSnaps = true
	} else {
		w.c.lose(w.id)
	}
}

// anchorItem checks an item of the tree of anchors.
func (c *checker) anchorItem(_ uint64, k layout.Key, v []byte) {
	err := fmt.Errorf("%w: key %v", layout.ErrCorrupt, k)
	switch {
	case k.Obj == 0 && k.Type == layout.KeyAnchor:
		_, err = layout.DecodeAnchored(v)
	case k.Obj == 0 && k.Type == layout.KeyNextSlot && k.Sub < crypto.Slots:
		_, err = layout.DecodeNextSlot(v)
	}
	if err != nil {
		c.problem("tree of anchors", "%v", err)
	}
}

func (c *checker) lose(tree uint64) {
	if tree == layout.TreeFS {
		c.lostFS = true
		return
	}
	c.lostSpace = true
	c.shares.lost = c.shares.lost || tree == layout.TreeShares
}

// walk visits a tree in order of its keys.
type walk struct {
	c    *checker
	id   uint64
	mark bool              // the first visit: report what is wrong, count the sectors
	snap *snapWalk         // the tree is a snapshot's: what newer ones share is passed over
	left *layout.Abandoned // the tree is what a rollback left: only what is still to be freed is visited
	item func(birth uint64, k layout.Key, v []byte)
}

// fetched is a page, or why it can not be had.
type fetched struct {
	page   []byte
	first  error // of the first copy
	second error
}

func (w *walk) fetch(p *layout.Pointer) (f fetched) {
	if w.mark {
		f.page, f.first, f.second = w.c.store.NodeCopies(p)
		return f
	}
	f.page, f.first = w.c.store.ReadNode(p)
	return f
}

// prefetch is how many pages are read at once.
const prefetch = 16

// node visits the page behind p, whose keys must lie in [lo, hi) (hi nil: no
// bound), and all below it.
func (w *walk) node(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key) {
	if w.enter(p, level, birth, lo, hi) {
		w.below(p, w.fetch(p), lo, hi)
	}
}

func (w *walk) where(p *layout.Pointer) string {
	if w.left != nil {
		return fmt.Sprintf("abandoned head, level %d, node at %d", p.Level, p.Addr)
	}
	if w.snap != nil {
		return fmt.Sprintf("snapshot %q, tree %d, level %d, node at %d", w.snap.t.name, w.id, p.Level, p.Addr)
	}
	return fmt.Sprintf("tree %d, level %d, node at %d", w.id, p.Level, p.Addr)
}

// enter checks a pointer before it is followed. A page that something refers
// to already is not followed again, so the visit ends.
func (w *walk) enter(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key) bool {
	c := w.c
	if !w.mark {
		return p.Level == level && !c.refused[p.Addr]
	}
	if p.Level != level || p.Birth > birth {
		w.lostPage(p, lo, hi, "its pointer says level %d, generation %d; expected are level %d and at most generation %d", p.Level, p.Birth, level, birth)
		w.lose()
		c.refused[p.Addr] = true
		return false
	}
	if w.left != nil && (p.Birth <= w.left.Generation || hi != nil && !w.left.Next.Less(*hi)) {
		return false
	}
	if c.snap != nil && w.id == layout.TreeFS && w.left == nil && c.snap.see(p, w.where(p)) && w.snap != nil {
		return false
	}
	c.rep.Counts.Nodes++
	ok := true
	items.EachCopy(p, func(r layout.Run) {
		if w.snap != nil {
			ok = w.snap.holds(r, p.Birth, w.where(p)) && ok
		} else {
			ok = c.refer(r, w.where(p), 0) && ok
		}
	})
	if !ok {
		w.lose()
		c.refused[p.Addr] = true
	}
	return ok
}

// lostPage reports a page that can not be used, and what can not be read for want of it.
func (w *walk) lostPage(p *layout.Pointer, lo layout.Key, hi *layout.Key, format string, args ...any) {
	x := problem{where: w.where(p), what: fmt.Sprintf(format, args...)}
	switch w.id {
	case layout.TreeSpace:
		x.what += "; maps of free space are lost"
	case layout.TreeShares:
		x.what += "; how many files share sectors is lost"
	case layout.TreeFS:
		lost := items.RangeOf(lo, hi)
		x.what += "; " + lost.String()
		if w.snap == nil && w.left == nil { // else the head's names say nothing
			x.lost = lost
		}
	}
	w.c.add(x)
}

func (w *walk) below(p *layout.Pointer, f fetched, lo layout.Key, hi *layout.Key) {
	c := w.c
	if w.mark {
		c.progress(layout.NodeBytes)
		switch {
		case f.page == nil:
			w.lostPage(p, lo, hi, "%v", f.first)
		case f.first != nil:
			c.problem(w.where(p), "the first copy: %v; the second, at %d, is used", f.first, p.Addr2)
		case f.second != nil:
			c.problem(w.where(p), "the second copy, at %d: %v; the first is used", p.Addr2, f.second)
		}
	}
	if f.page == nil {
		w.lose()
		return
	}
	n, err := layout.DecodeNode(f.page, w.id, p.Level)
	if err == nil {
		err = tree.CheckKeys(&n, lo, hi)
	}
	if err != nil {
		if w.mark {
			w.lostPage(p, lo, hi, "%v", err)
		}
		w.lose()
		return
	}
	if n.Level() == 0 {
		for i := range n.Count() {
			if w.item != nil {
				w.item(p.Birth, n.Key(i), n.Value(i))
			}
		}
		return
	}
	for i := 0; i < n.Count(); i += prefetch {
		w.children(p, &n, i, min(i+prefetch, n.Count()), lo, hi)
	}
}

// children visits children [from, to) of a page: they are read together.
func (w *walk) children(p *layout.Pointer, n *layout.Node, from, to int, lo layout.Key, hi *layout.Key) {
	type child struct {
		p      layout.Pointer
		lo     layout.Key
		hi     *layout.Key
		f      fetched
		follow bool
	}
	kids := make([]child, to-from)
	var wg sync.WaitGroup
	for i := from; i < to; i++ {
		k := &kids[i-from]
		k.lo, k.hi = lo, hi
		if i > 0 {
			k.lo = n.Key(i)
		}
		if i+1 < n.Count() {
			next := n.Key(i + 1)
			k.hi = &next
		}
		var err error
		if k.p, err = layout.GetPointer(n.PointerBytesAt(i), w.id); err == nil && k.p.IsZero() {
			err = fmt.Errorf("%w: no pointer", layout.ErrCorrupt)
		}
		if err != nil {
			if w.mark {
				w.lostPage(p, k.lo, k.hi, "child %d: %v", i, err)
			}
			w.lose()
			continue
		}
		if k.follow = w.enter(&k.p, p.Level-1, p.Birth, k.lo, k.hi); k.follow {
			wg.Add(1)
			go func() {
				defer wg.Done()
				k.f = w.fetch(&k.p)
			}()
		}
	}
	wg.Wait()
	for i := range kids {
		if k := &kids[i]; k.follow {
			w.below(&k.p, k.f, k.lo, k.hi)
			k.f = fetched{}
		}
	}
}

// The state of an inode in checker.inodes: its type (0: neither seen nor named),
// whether it was seen, whether the root directory is known to be above it, and
// names less link count (or more) as far as it fits.
const (
	inodesPerChunk = 64
	inoType        = 0x0f
	inoSeen        = 0x10
	inoRooted      = 0x20
	inoLinks       = 0xc0 // 0, 1, 2 is -1, 3 is in checker.links
	inoLinksShift  = 6
)

func (c *checker) state(ino uint64) *uint8 {
	chunk := c.inodes[ino/inodesPerChunk]
	if chunk == nil {
		chunk = new([inodesPerChunk]uint8)
		c.inodes[ino/inodesPerChunk] = chunk
	}
	return &chunk[ino%inodesPerChunk]
}

func (c *checker) rooted(ino uint64) bool {
	chunk := c.inodes[ino/inodesPerChunk]
	return chunk != nil && chunk[ino%inodesPerChunk]&inoRooted != 0
}

func (c *checker) linkDelta(ino uint64, s uint8) int64 {
	switch s >> inoLinksShift {
	case 3:
		return c.links[ino]
	case 2:
		return -1
	}
	return int64(s >> inoLinksShift)
}

func (c *checker) addLinks(ino uint64, s *uint8, n int64) {
	sum := c.linkDelta(ino, *s) + n
	bits := uint8(3)
	switch sum {
	case 0, 1:
		bits = uint8(sum)
	case -1:
		bits = 2
	}
	if bits == 3 {
		c.links[ino] = sum
	} else if *s>>inoLinksShift == 3 {
		delete(c.links, ino)
	}
	*s = *s&^inoLinks | bits<<inoLinksShift
}

// setType notes what an inode is, or what a name says that it is.
func (c *checker) setType(ino uint64, s *uint8, typ uint32) {
	t := uint8(typ >> 12)
	switch *s & inoType {
	case 0:
		*s |= t & inoType
	case t:
	default:
		c.inodeProblem(ino, "", "the inode and its names, or two names, do not agree on its type: %s and %s", typeName(uint32(*s&inoType)<<12), typeName(typ))
	}
}

func typeName(typ uint32) string {
	switch typ {
	case items.ModeDir:
		return "directory"
	case items.ModeReg:
		return "file"
	case items.ModeLink:
		return "symlink"
	}
	return fmt.Sprintf("type %#o", typ)
}

// parentMark is a keyed hash of a directory and its parent: the sums over all
// names and over all Parents are equal only if the sets are.
func (c *checker) parentMark(parent, ino uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], parent)
	binary.LittleEndian.PutUint64(b[8:], ino)
	return c.hash.Sum(b[:])
}

// inodeCheck collects the items of one inode: they follow one another.
type inodeCheck struct {
	ino    uint64 // 0: none
	seen   bool
	attr   layout.Inode
	inline int // bytes, -1: none

	names, dirs uint64
	hash        uint64   // of the names below
	same        []string // names of one hash

	next    uint64 // sector after the last extent
	sectors uint64

	xattr      uint64 // sub of piece 0 of the attribute that is read
	xattrName  string
	xattrNext  int // piece
	xattrLeft  int // bytes still to come
	xattrNames []string
	flags      uint32 // that the attributes call for
}

// fsItem checks an item of the filesystem's tree.
func (c *checker) fsItem(birth uint64, k layout.Key, v []byte) {
	if k.Obj != c.in.ino {
		c.endInode()
		c.in = inodeCheck{ino: k.Obj, inline: -1}
	}
	if k.Obj == 0 {
		switch {
		case k.Type == layout.KeyOrphan && len(v) == 0:
			c.orphans = append(c.orphans, k.Sub)
		case k.Type == layout.KeyReserver && len(v) == 0:
			c.res.reservers = append(c.res.reservers, k.Sub)
		default:
			c.problem(fmt.Sprintf("item %v", k), "it is of no kind that belongs there")
		}
		return
	}
	in := &c.in
	var err error
	switch k.Type {
	case layout.KeyInode:
		if k.Sub != 0 {
			err = fmt.Errorf("inode item %v", k)
		} else if in.attr, err = layout.DecodeInode(v); err == nil {
			in.seen = true
		}
	case layout.KeyInline:
		if k.Sub != 0 {
			err = fmt.Errorf("inline item %v", k)
		}
		in.inline = len(v)
	case layout.KeyReserved:
		err = c.res.item(k.Sub, v)
	case layout.KeyXattr:
		err = c.xattrItem(k.Sub, v)
	case layout.KeyName:
		err = c.nameItem(k.Sub, v)
	case layout.KeyExtent:
		err = c.extentItem(birth, k.Sub, v)
	default:
		err = fmt.Errorf("item of unknown type %#x", k.Type)
	}
	if err != nil {
		c.inodeProblem(k.Obj, "", "%v", err)
	}
}

func (c *checker) xattrItem(sub uint64, v []byte) error {
	in := &c.in
	i := int(sub & 0xff)
	x, err := layout.DecodeXattr(v, i)
	if err != nil {
		return err
	}
	if i == 0 {
		err = c.endXattr()
		if sub&layout.XattrHashMask != in.xattr&layout.XattrHashMask {
			in.xattrNames = in.xattrNames[:0]
		}
		in.xattr, in.xattrName, in.xattrLeft = sub, x.Name, int(x.Total)
		if h := c.hash.Xattr(x.Name); h != sub&layout.XattrHashMask {
			err = cmp.Or(err, fmt.Errorf("attribute %q lies under the hash of another name", x.Name))
		}
		if slices.Contains(in.xattrNames, x.Name) {
			err = cmp.Or(err, fmt.Errorf("attribute %q exists twice", x.Name))
		}
		in.xattrNames = append(in.xattrNames, x.Name)
		in.flags |= items.XattrFlags(x.Name)
	} else if sub != in.xattr+uint64(i) || i != in.xattrNext || in.xattrLeft == 0 {
		return fmt.Errorf("piece %d of an attribute follows nothing", i)
	}
	// All pieces are full but the last; each further one continues its predecessor.
	if want := min(in.xattrLeft, layout.XattrPieceBytes); len(x.Data) != want {
		in.xattrLeft = 0
		return cmp.Or(err, fmt.Errorf("attribute %q: piece %d has %d bytes instead of %d", in.xattrName, i, len(x.Data), want))
	}
	in.xattrLeft -= len(x.Data)
	in.xattrNext = i + 1
	return err
}

// endXattr is called when no further piece can follow.
func (c *checker) endXattr() error {
	in := &c.in
	if in.xattrLeft > 0 {
		left := in.xattrLeft
		in.xattrLeft = 0
		return fmt.Errorf("attribute %q: the last %d bytes are missing", in.xattrName, left)
	}
	return nil
}

func (c *checker) nameItem(sub uint64, v []byte) error {
	in := &c.in
	n, err := layout.DecodeName(v)
	if err != nil {
		return err
	}
	in.names++
	c.rep.Counts.Names++
	h := c.hash.Name(n.Name)
	if sub&^(layout.NameCollisions-1) != h {
		return fmt.Errorf("name %q lies under the hash of another name", n.Name)
	}
	if h != in.hash {
		in.hash, in.same = h, in.same[:0]
	}
	if slices.Contains(in.same, n.Name) {
		return fmt.Errorf("name %q exists twice", n.Name)
	}
	in.same = append(in.same, n.Name)
	if n.Ino >= c.root.NextIno {
		return fmt.Errorf("name %q is that of inode %d, the next inode is %d", n.Name, n.Ino, c.root.NextIno)
	}
	switch n.Type {
	case items.ModeDir, items.ModeReg, items.ModeLink, 0o010000, 0o020000, 0o060000, 0o140000:
	default:
		return fmt.Errorf("name %q has type %#o", n.Name, n.Type)
	}
	s := c.state(n.Ino)
	c.setType(n.Ino, s, n.Type)
	c.addLinks(n.Ino, s, 1)
	if n.Type == items.ModeDir {
		in.dirs++
		c.parents += c.parentMark(in.ino, n.Ino)
	}
	return nil
}

func (c *checker) extentItem(birth, sector uint64, v []byte) error {
	in := &c.in
	e, err := layout.DecodeFileExtent(v)
	if err != nil {
		return fmt.Errorf("extent at sector %d: %w", sector, err)
	}
	c.rep.Counts.Extents++
	n := e.Sectors()
	at := fmt.Sprintf(" at %d+%d", sector*layout.SectorBytes, n*layout.SectorBytes)
	if sector < in.next {
		c.inodeProblem(in.ino, at, "the extent overlaps the one before")
	}
	in.next = max(in.next, sector+n)
	in.sectors += n
	if e.Birth > birth || e.RefBirth > birth {
		c.inodeProblem(in.ino, at, "the extent is of generation %d (referred to since %d), the page that names it of %d", e.Birth, e.RefBirth, birth)
	}
	// Without reflinks an extent belongs to the place where it was written.
	if !c.sharing && (e.Object != in.ino || e.Index+uint64(e.First) != sector) {
		c.inodeProblem(in.ino, at, "the extent was written for inode %d, sector %d", e.Object, e.Index+uint64(e.First))
	}
	if err := c.reservedExtent(sector, &e); err != nil {
		c.inodeProblem(in.ino, at, "%v", err)
	}
	// What is shared is read once; nameShared finds who else has what is damaged.
	first, ok := c.mark(layout.Run{Start: e.Addr / layout.SectorBytes, Count: uint32(n)}, at, in.ino, true)
	if ok && first > 0 && c.opts.Data {
		c.data.add(c, in.ino, items.Placed{Sector: sector, FileExtent: e}, "")
	}
	return nil
}

// endInode checks the inode whose items have been seen.
func (c *checker) endInode() {
	in := &c.in
	if in.ino == 0 {
		return
	}
	c.endReserved()
	if err := c.endXattr(); err != nil {
		c.inodeProblem(in.ino, "", "%v", err)
	}
	if !in.seen {
		if !c.lostFS { // else it may lie in what is lost
			c.inodeProblem(in.ino, "", "there are items of it, but no inode")
		}
		return
	}
	c.rep.Counts.Inodes++
	a := &in.attr
	typ := a.Mode & items.ModeType
	if in.ino >= c.root.NextIno {
		c.inodeProblem(in.ino, "", "the next inode to be made is %d", c.root.NextIno)
	}
	orphan := c.takeOrphan(in.ino)
	switch {
	case a.Nlink == 0 && !orphan:
		c.inodeProblem(in.ino, "", "it has no name and no orphan item")
	case a.Nlink > 0 && orphan && typ != items.ModeReg:
		c.inodeProblem(in.ino, "", "it has names and an orphan item")
	case a.Nlink > vfs.MaxLinks:
		c.inodeProblem(in.ino, "", "link count %d", a.Nlink)
	}
	s := c.state(in.ino)
	c.setType(in.ino, s, typ)
	*s |= inoSeen
	names := int64(a.Nlink)
	if typ == items.ModeDir {
		names = c.endDir(s)
	}
	c.addLinks(in.ino, s, -names)
	c.endContent(typ, orphan)
	c.checkFlags()
	known := layout.InodeAccessACL | layout.InodeDefaultACL | layout.InodeCapability
	if in.flags&layout.InodeXattrs != 0 && a.Flags&layout.InodeXattrs == 0 || (in.flags^a.Flags)&known != 0 {
		c.inodeProblem(in.ino, "", "its flags are %#x, its attributes call for %#x", a.Flags&^layout.InodeInline, in.flags)
	}
}

// takeOrphan tells whether there is an orphan item of an inode. It is called in
// ascending order; what it passes over has no inode.
func (c *checker) takeOrphan(ino uint64) bool {
	for len(c.orphans) > 0 && c.orphans[0] <= ino {
		o := c.orphans[0]
		c.orphans = c.orphans[1:]
		if o == ino {
			return true
		}
		if !c.lostFS {
			c.inodeProblem(o, "", "there is an orphan item, but no inode")
		}
	}
	return false
}

// endDir checks a directory and returns how many names it should have.
func (c *checker) endDir(s *uint8) int64 {
	in := &c.in
	a := &in.attr
	if a.Size != in.names && !c.lostFS {
		c.inodeProblem(in.ino, "", "the directory says that it has %d names, there are %d", a.Size, in.names)
	}
	if a.Nlink == 0 {
		return 0
	}
	if uint64(a.Nlink) != 2+in.dirs && !c.lostFS {
		c.inodeProblem(in.ino, "", "the directory's link count is %d, it has %d directories", a.Nlink, in.dirs)
	}
	if in.ino == uint64(vfs.RootIno) {
		if a.Parent != in.ino {
			c.inodeProblem(in.ino, "", "the root directory has parent %d", a.Parent)
		}
		*s |= inoRooted
		return 0
	}
	c.parents -= c.parentMark(a.Parent, in.ino)
	if c.rooted(a.Parent) {
		*s |= inoRooted
	} else {
		c.pending = append(c.pending, in.ino)
	}
	return 1
}

// endContent checks what an inode says of its content.
func (c *checker) endContent(typ uint32, orphan bool) {
	in := &c.in
	a := &in.attr
	if c.lostFS {
		return // items may be missing
	}
	if a.Sectors != in.sectors {
		c.inodeProblem(in.ino, "", "it says that it has %d sectors, there are %d", a.Sectors, in.sectors)
	}
	if typ != items.ModeDir && (in.names > 0 || in.dirs > 0) {
		c.inodeProblem(in.ino, "", "it is a %s and has names", typeName(typ))
	}
	if typ != items.ModeReg && in.sectors > 0 {
		c.inodeProblem(in.ino, "", "it is a %s and has extents", typeName(typ))
	}
	inline := a.Flags&layout.InodeInline != 0
	switch typ {
	case items.ModeReg:
		if inline != (in.inline >= 0) {
			c.inodeProblem(in.ino, "", "its flags say that the content is in the tree: %t; there it is: %t", inline, in.inline >= 0)
		} else if inline && (uint64(in.inline) != a.Size || in.inline > layout.MaxInline || in.sectors > 0) {
			c.inodeProblem(in.ino, "", "it has %d bytes, %d of them in the tree and %d sectors", a.Size, in.inline, in.sectors)
		}
		if end := (a.Size + layout.SectorBytes - 1) / layout.SectorBytes; in.next > end && !orphan {
			c.inodeProblem(in.ino, "", "it has %d bytes, its extents reach to %d", a.Size, in.next*layout.SectorBytes)
		}
	case items.ModeLink:
		if in.inline < 1 || uint64(in.inline) != a.Size || in.inline > vfs.MaxSymlinkBytes {
			c.inodeProblem(in.ino, "", "the symlink's size is %d, its target has %d bytes", a.Size, max(in.inline, 0))
		}
	default:
		if inline || in.inline >= 0 || typ != items.ModeDir && a.Size != 0 {
			c.inodeProblem(in.ino, "", "it is a %s and has content", typeName(typ))
		}
	}
}

// checkLinks checks what is known once all items of the tree have been seen.
func (c *checker) checkLinks() {
	c.takeOrphan(^uint64(0))
	if c.rep.Counts.Inodes != c.root.Inodes {
		c.problem("root", "it says that there are %d inodes, there are %d", c.root.Inodes, c.rep.Counts.Inodes)
	}
	fs := c.lookup()
	if s := *c.state(uint64(vfs.RootIno)); s&inoSeen == 0 || s&inoType != items.ModeDir>>12 {
		c.inodeProblem(uint64(vfs.RootIno), "", "the volume has no root directory")
	}
	chunks := make([]uint64, 0, len(c.inodes))
	for i := range c.inodes {
		chunks = append(chunks, i)
	}
	slices.Sort(chunks)
	for _, i := range chunks {
		for j, s := range c.inodes[i] {
			ino := i*inodesPerChunk + uint64(j)
			d := c.linkDelta(ino, s)
			switch {
			case s&inoSeen == 0 && s&inoType != 0:
				c.inodeProblem(ino, "", "it has %d names, but does not exist", d)
			case d != 0:
				want := int64(1)
				if n, err := fs.Inode(ino); err == nil && n.Mode&items.ModeType != items.ModeDir {
					want = int64(n.Nlink)
				} else if err == nil && (n.Nlink == 0 || ino == uint64(vfs.RootIno)) {
					want = 0
				}
				c.inodeProblem(ino, "", "it should have %d names, there are %d", want, want+d)
			}
		}
	}
	c.checkReachable(fs)
	if c.parents != 0 {
		c.checkParents(fs)
	}
}

// checkReachable follows the parents of directories to the root.
func (c *checker) checkReachable(fs *items.Lookup) {
	lost := map[uint64]bool{}
	for _, ino := range c.pending {
		var path []uint64
		at, ok := ino, true
		for !c.rooted(at) && ok {
			if ok = !lost[at]; !ok {
				break
			}
			lost[at] = true // until the root is found
			path = append(path, at)
			n, err := fs.Inode(at)
			if ok = err == nil && n.Mode&items.ModeType == items.ModeDir && n.Nlink > 0; ok {
				at = n.Parent
			}
		}
		if !ok {
			c.inodeProblem(ino, "", "the directory can not be reached from the root")
			continue
		}
		for _, i := range path {
			delete(lost, i)
			*c.state(i) |= inoRooted
		}
	}
}

// checkParents finds the directories whose parent is not where their name is.
func (c *checker) checkParents(fs *items.Lookup) {
	w := walk{c: c, id: layout.TreeFS, item: func(_ uint64, k layout.Key, v []byte) {
		if k.Type != layout.KeyName {
			return
		}
		n, err := layout.DecodeName(v)
		if err != nil || n.Type != items.ModeDir {
			return
		}
		if in, err := fs.Inode(n.Ino); err == nil && in.Parent != k.Obj {
			c.inodeProblem(n.Ino, "", "the directory's name is in inode %d, its parent is %d", k.Obj, in.Parent)
		}
	}}
	p := &c.root.Trees[layout.TreeFS]
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
}

func (c *checker) lookup() *items.Lookup {
	return c.lookupAt(c.root.Trees[layout.TreeFS], c.root.Generation)
}

// lookupAt reads the head's tree as of a generation.
func (c *checker) lookupAt(p layout.Pointer, gen uint64) *items.Lookup {
	cache := tree.NewCache(4<<20, c.store.ReadNode)
	return &items.Lookup{Tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: cache}, p, gen+1)}
}

// findNames looks for the files of all problems: one more pass over the names,
// and then the way up.
func (c *checker) findNames() *items.NameFinder {
	f := items.NewNameFinder()
	for _, p := range c.found {
		f.Add(p.ino)
		f.AddRange(p.lost)
	}
	if f.Empty() || c.root == nil || c.root.Trees[layout.TreeFS].IsZero() {
		return f
	}
	w := walk{c: c, id: layout.TreeFS, item: func(_ uint64, k layout.Key, v []byte) { f.See(k, v) }}
	p := &c.root.Trees[layout.TreeFS]
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
	f.Resolve(c.lookup())
	return f
}

// dataCheck opens extents, several at a time.
type dataCheck struct {
	batch []dataRun
	bytes int
	slots chan struct{}
	wg    sync.WaitGroup
}

type dataRun struct {
	ino  uint64
	snap string // name of the snapshot whose data it is; "": the head's
	items.Placed
}

func (d *dataCheck) add(c *checker, ino uint64, p items.Placed, snap string) {
	if n := p.RunBytes(); d.bytes+n > txn.ReadBytes {
		d.flush(c)
	}
	d.batch = append(d.batch, dataRun{ino, snap, p})
	d.bytes += p.RunBytes()
}

func (d *dataCheck) flush(c *checker) {
	batch, bytes := d.batch, d.bytes
	d.batch, d.bytes = nil, 0
	if len(batch) == 0 {
		return
	}
	d.slots <- struct{}{}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		c.openData(batch, bytes)
		<-d.slots
	}()
}

// openData opens a batch of extents; if that fails, segment by segment.
func (c *checker) openData(batch []dataRun, bytes int) {
	buf := make([]byte, bytes)
	reads := make([]txn.RunRead, len(batch))
	for i, at := 0, 0; i < len(batch); i++ {
		n := batch[i].RunBytes()
		reads[i] = txn.RunRead{Record: &batch[i].Record, Count: batch[i].Count(), Dst: buf[at : at+n]}
		at += n
	}
	if c.store.ReadRuns(reads) != nil {
		for i := range batch {
			r := &batch[i]
			c.store.BadSegments(&r.Record, buf, func(from, n int, err error) {
				run := layout.Run{Start: r.Addr/layout.SectorBytes + uint64(from), Count: uint32(n)}
				switch {
				case r.snap != "":
					at := fmt.Sprintf(" at %d+%d", (r.Sector+uint64(from))*layout.SectorBytes, n*layout.SectorBytes)
					c.problem(fmt.Sprintf("snapshot %q, inode %d%s", r.snap, r.ino, at), "data can not be read: %v", err)
				case !c.sharing || !c.keepBad(run, err):
					c.badData(r.ino, r.Sector+uint64(from), n, err)
				}
			})
		}
	}
	c.progress(uint64(bytes))
}

// regionUse is which sectors of a region something refers to.
type regionUse struct {
	bits  *[layout.RegionSector / 64]uint64
	count int
}

// allUsed is shared by all regions that are full.
var allUsed = func() *[layout.RegionSector / 64]uint64 {
	b := new([layout.RegionSector / 64]uint64)
	for i := range b {
		b[i] = ^uint64(0)
	}
	return b
}()

// refer notes that something refers to a run. It reports a run outside the
// device or one that something refers to already, and returns false then.
func (c *checker) refer(run layout.Run, where string, ino uint64) bool {
	_, ok := c.mark(run, where, ino, false)
	return ok
}

// mark is refer; data may be shared. It also returns how many sectors nothing
// referred to before.
func (c *checker) mark(run layout.Run, where string, ino uint64, data bool) (first int, ok bool) {
	report := func(format string, args ...any) {
		c.add(problem{where: where, ino: ino, what: fmt.Sprintf(format, args...)})
	}
	end := run.Start + uint64(run.Count)
	if run.Start < c.root.DataStart() || end > c.root.DeviceSectors || end < run.Start {
		report("sectors %d+%d lie outside the volume's data area, %d to %d", run.Start, run.Count, c.root.DataStart(), c.root.DeviceSectors)
		return 0, false
	}
	twice, count, shared := uint64(0), 0, 0
	for s := run.Start; s < end; {
		idx := s / layout.RegionSector
		r := c.use[idx]
		if r == nil {
			r = &regionUse{bits: new([layout.RegionSector / 64]uint64)}
			c.use[idx] = r
		}
		for stop := min(end, (idx+1)*layout.RegionSector); s < stop; s++ {
			i := s % layout.RegionSector
			if r.bits[i/64]>>(i%64)&1 != 0 {
				if data && (c.shares.lost || c.shares.take(s)) {
					shared++
				} else if count++; count == 1 {
					twice = s
				}
				continue
			}
			r.bits[i/64] |= 1 << (i % 64)
			if r.count++; r.count == layout.RegionSector {
				r.bits = allUsed
			}
		}
	}
	first = int(run.Count) - count - shared
	c.rep.Counts.UsedSectors += uint64(first)
	if count > 0 {
		why := ""
		if data && c.sharing {
			why = ", more often than the share tree says"
		}
		report("%d of sectors %d+%d, from %d on, belong to something else as well%s", count, run.Start, run.Count, twice, why)
	}
	return first, count == 0
}

// checkFreeList follows one of the lists of freed sectors.
func (c *checker) checkFreeList(i int) {
	at := c.root.FreeLists[i]
	total, sum := at.Sectors, uint64(0)
	birth := c.root.Generation
	for n := 0; !at.IsZero(); n++ {
		where := fmt.Sprintf("free list %d, piece %d at %d", i, n, at.Addr)
		if at.Birth > birth {
			c.problem(where, "it is of generation %d, what refers to it of %d", at.Birth, birth)
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
			c.rep.Counts.UsedSectors -= uint64(first)
			c.rep.Counts.FreedSectors += uint64(first)
		}
		at = next
	}
	if sum != total {
		c.problem(fmt.Sprintf("free list %d", i), "it should hold %d sectors, it holds %d", total, sum)
	}
}

// fixed is the bitmap of a region in which only what lies outside the data
// area is used.
func (c *checker) fixed(idx uint64) *[layout.RegionSector / 64]uint64 {
	b := new([layout.RegionSector / 64]uint64)
	base := idx * layout.RegionSector
	for i := range uint64(layout.RegionSector) {
		if s := base + i; s < c.root.DataStart() || s >= c.root.DeviceSectors {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

func (c *checker) regions() uint64 {
	return (c.root.DeviceSectors + layout.RegionSector - 1) / layout.RegionSector
}

// summarizeBits counts a bitmap, one bit after another where a word is mixed.
func summarizeBits(b *[layout.RegionSector / 64]uint64) (s layout.Summary) {
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
				s.Quads++
			}
		}
	}
	return s
}

// fixedSummary is the summary of a region in which nothing was ever allocated.
func (c *checker) fixedSummary(idx uint64) layout.Summary {
	switch base := idx * layout.RegionSector; {
	case idx >= c.regions():
		return layout.Summary{}
	case base >= c.root.DataStart() && base+layout.RegionSector <= c.root.DeviceSectors:
		return layout.Summary{Free: layout.RegionSector, Largest: layout.RegionSector, Quads: layout.RegionQuads}
	}
	return summarizeBits(c.fixed(idx))
}

// spaceCheck goes through the space tree once all references are known.
type spaceCheck struct {
	c       *checker
	regions map[uint64]layout.Summary // as stored; others are as nothing was ever allocated there
	groups  map[uint64]layout.Summary // sum of the entries
	tops    map[uint64]bool
	taken   int64 // sectors that stored regions have less than fresh ones
}

func (c *checker) checkSpace() {
	p := &c.root.Trees[layout.TreeSpace]
	if p.IsZero() {
		return
	}
	c.rep.Counts.UsedSectors += c.root.DataStart()
	s := &spaceCheck{c: c, regions: map[uint64]layout.Summary{}, groups: map[uint64]layout.Summary{}, tops: map[uint64]bool{}}
	w := walk{c: c, id: layout.TreeSpace, item: s.item}
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
	if c.lostSpace {
		return
	}
	var missing []uint64
	for idx := range c.use {
		if _, ok := s.regions[idx]; !ok {
			missing = append(missing, idx)
		}
	}
	slices.Sort(missing)
	for _, idx := range missing {
		c.problem(fmt.Sprintf("region %d", idx), "%d sectors are in use, and it has no bitmap", c.use[idx].count)
	}
	for idx := range s.regions {
		if _, ok := s.groups[idx/layout.GroupRegions]; !ok {
			c.problem(fmt.Sprintf("region %d", idx), "its group has no summary")
		}
	}
	for g := range s.groups {
		if !s.tops[g/layout.TopGroups] {
			c.problem(fmt.Sprintf("group %d", g), "it has no top summary")
		}
	}
	free := int64(c.root.DeviceSectors-c.root.DataStart()) - s.taken
	c.rep.Counts.FreeSectors = uint64(max(free, 0))
	if free != int64(c.root.FreeSectors) {
		c.problem("root", "it says that %d sectors are free, the bitmaps say %d", c.root.FreeSectors, free)
	}
}

func (s *spaceCheck) item(_ uint64, k layout.Key, v []byte) {
	c := s.c
	switch {
	case k.Obj == 0 && k.Type == layout.KeyRegion && k.Sub < c.regions():
		s.region(k.Sub, v)
	case k.Obj == 0 && k.Type == layout.KeyGroup && k.Sub*layout.GroupRegions < c.regions():
		s.group(k.Sub, v)
	case k.Obj == 0 && k.Type == layout.KeyTop && k.Sub*layout.GroupRegions*layout.TopGroups < c.regions():
		s.top(k.Sub, v)
	default:
		c.problem(fmt.Sprintf("space item %v", k), "it is of no kind that belongs there, or beyond the end of the device")
	}
}

func (s *spaceCheck) region(idx uint64, v []byte) {
	c := s.c
	where := fmt.Sprintf("region %d", idx)
	stored, shared, bits, err := layout.GetRegion(v)
	if err != nil {
		c.problem(where, "%v", err)
		return
	}
	sum := summarizeBits(bits)
	s.regions[idx] = sum
	s.taken += int64(c.fixedSummary(idx).Free) - int64(sum.Free)
	if stored != sum {
		c.problem(where, "its summary says %+v, its bitmap %+v", stored, sum)
	}
	if n := c.shares.count(idx); shared != n && !c.shares.lost {
		c.problem(where, "it says that %d of its sectors are shared, the share tree has %d", shared, n)
	}
	want := c.fixed(idx)
	if u := c.use[idx]; u != nil {
		for i := range want {
			want[i] |= u.bits[i]
		}
	}
	base := idx * layout.RegionSector
	report := func(what string, differs func(i int) uint64) {
		first, count := uint64(0), 0
		for i := range want {
			for d := differs(i); d != 0; d &= d - 1 {
				if count++; count == 1 {
					first = base + uint64(i)*64
					for j := d; j&1 == 0; j >>= 1 {
						first++
					}
				}
			}
		}
		if count > 0 {
			c.problem(where, "%d sectors, from %d on, %s", count, first, what)
		}
	}
	report("are in use and marked free", func(i int) uint64 { return want[i] &^ bits[i] })
	if !c.lostFS && !c.lostLists && !c.lostSpace && !c.lostSnaps {
		report("are marked used and nothing refers to them", func(i int) uint64 { return bits[i] &^ want[i] })
	}
}

func (s *spaceCheck) group(g uint64, v []byte) {
	where := fmt.Sprintf("group %d", g)
	if len(v) != layout.GroupValue {
		s.c.problem(where, "summary of %d bytes", len(v))
		return
	}
	var sum layout.Summary
	for i := range layout.GroupRegions {
		idx := g*layout.GroupRegions + uint64(i)
		want, ok := s.regions[idx]
		if !ok {
			want = s.c.fixedSummary(idx)
		}
		if got := layout.GetSummary(v, i); got != want && (ok || !s.c.lostSpace) {
			s.c.problem(where, "it says of region %d %+v, the region %+v", idx, got, want)
		}
		sum = sum.Add(layout.GetSummary(v, i))
	}
	s.groups[g] = sum
}

func (s *spaceCheck) top(t uint64, v []byte) {
	where := fmt.Sprintf("top summary %d", t)
	if len(v) != layout.TopValue {
		s.c.problem(where, "%d bytes", len(v))
		return
	}
	s.tops[t] = true
	for i := range layout.TopGroups {
		g := t*layout.TopGroups + uint64(i)
		want, ok := s.groups[g]
		if !ok {
			want = s.fixedGroup(g)
		}
		if got := layout.GetTop(v, i); got != want && (ok || !s.c.lostSpace) {
			s.c.problem(where, "it says of group %d %+v, the group %+v", g, got, want)
		}
	}
}

// fixedGroup is the sum of a group in which nothing was ever allocated.
func (s *spaceCheck) fixedGroup(g uint64) (sum layout.Summary) {
	first, end := g*layout.GroupRegions, min((g+1)*layout.GroupRegions, s.c.regions())
	for idx := first; idx < end; idx++ {
		sum = sum.Add(s.c.fixedSummary(idx))
	}
	return sum
}
