package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// ErrPosition means that a scrub cannot go on from there.
var ErrPosition = errors.New("invalid scrub position")

// ScrubOptions for Scrub. The zero value reads all of a volume as fast as it goes
// and mends what it can.
type ScrubOptions struct {
	BytesPerSecond int64
	From           string // ScrubReport.Position of one that did not end; "": from the start
	ReadOnly       bool   // mend nothing
	// Progress is told now and then how many bytes of how many are done. What
	// changes meanwhile is not counted twice, so done may end below total.
	Progress func(done, total uint64)
	// At is told after each step; position is where another scrub would go on.
	At func(position func() string)
	// Damage is told of each damage when it is found; the names come with the report.
	Damage func(d Damage)
}

// maxDamages bounds the damages that a report lists.
const maxDamages = 1000

// Damage is something on the device that does not verify.
type Damage struct {
	Where  string // "header copy B", "tree 1, level 2, node at 7340032", "data at 8388608"
	What   string
	Mended bool // rewritten from its second copy, and read back

	// Snapshot is the oldest snapshot that holds it; "" if none does. Head says that
	// the present state holds it, too, and that Path and Files are names there; else
	// they are names in the snapshot.
	Snapshot string
	Head     bool

	// Of a damage of a file's content:
	Ino    uint64
	Path   string // one of its names; "" if it has none
	Offset uint64
	Length uint64

	// Of a damage of metadata that cannot be mended, some of the files of which
	// something cannot be read, and how many more there are.
	Files []string
	More  int

	lost items.InodeRange
	at   damagePlace
}

// ScrubReport is what a scrub found.
type ScrubReport struct {
	Done     bool     // it came to the end
	Position string   // else where another one goes on, also after a remount
	Bytes    uint64   // read
	Damages  []Damage // at most maxDamages
	Total    int      // those not listed included
	Mended   int
}

// Scrub reads and verifies all that the volume refers to, while it is in use:
// header, roots, all pages in both copies, free lists and data, those that only
// snapshots hold included, but not the log.
// It mends what has a second copy. ctx stops it; the report then tells where
// another one goes on, and comes with ctx's error. One scrub at a time: ErrBusy.
//
// It works in steps of about a MiB, each on the newest root: what is written
// behind it while it runs is not read, as it was never on the device for long.
func (v *Volume) Scrub(ctx context.Context, opts ScrubOptions) (*ScrubReport, error) {
	ctx, end, err := v.background.begin(ctx, "scrub")
	if err != nil {
		return nil, err
	}
	defer end()
	s := &scrub{v: v, opts: opts, rep: &ScrubReport{}, pace: pacer{bytesPerSecond: opts.BytesPerSecond},
		write: !opts.ReadOnly && v.writable() == nil, told: map[damageKey]struct{}{}}
	if err := s.start(); err != nil {
		return nil, err
	}
	err = s.run(ctx)
	s.rep.Done = err == nil
	if err == nil {
		err = s.findNames(ctx)
	} else {
		s.rep.Position = s.pos.String()
	}
	return s.rep, txn.Wrap(err)
}

// scrub is the state of one Scrub.
type scrub struct {
	v     *Volume
	opts  ScrubOptions
	rep   *ScrubReport
	pace  pacer
	write bool // mend

	pos   scrubPosition
	w     *pageWalk
	snap  *scrubbedSnap // whose tree is being walked; nil: trees of the root
	root  *layout.Root  // of this step, pinned
	total uint64

	batch []scrubRun
	bytes int
	buf   []byte

	told map[damageKey]struct{} // damages of the report
}

// scrubRun is an extent to be read.
type scrubRun struct {
	ino uint64
	items.Placed
}

// scrubPosition is where a scrub has to go on. First it walks the snapshots'
// trees, from the oldest to the newest (tree is 0), then those of the root, and
// then the trees of snapshots that were made meanwhile (tree is layout.Trees).
type scrubPosition struct {
	tree  uint64
	since uint64 // what a snapshot of that generation holds has been read; 0: none
	snap  uint64 // generation of the snapshot that is read, or at least of the next one
	torn  uint64 // 1: not all of that snapshot could be read
	key   layout.Key
	done  uint64 // bytes read so far, for the progress
}

const scrubFormat = "2-%x-%x-%x-%x-%x-%x-%x-%x"

func (p scrubPosition) String() string {
	return fmt.Sprintf(scrubFormat, p.tree, p.since, p.snap, p.torn, p.key.Obj, p.key.Type, p.key.Sub, p.done)
}

func parseScrubPosition(s string) (p scrubPosition, err error) {
	n, err := fmt.Sscanf(s, scrubFormat, &p.tree, &p.since, &p.snap, &p.torn, &p.key.Obj, &p.key.Type, &p.key.Sub, &p.done)
	if n != 8 || err != nil || p.tree > layout.Trees || p.torn > 1 || p.since > 0 && p.since >= p.snap || p.String() != s {
		return p, fmt.Errorf("%.200q: %w", s, ErrPosition)
	}
	return p, nil
}

func (s *scrub) start() error {
	s.v.durable.mu.Lock()
	r := s.v.durable.root
	s.v.durable.mu.Unlock()
	data := r.DeviceBlocks - r.DataStart()
	s.total = (data - min(r.FreeBlocks, data)) * layout.BlockBytes
	if s.opts.From == "" {
		return nil
	}
	p, err := parseScrubPosition(s.opts.From)
	if err == nil && p.snap > r.Generation+1 {
		err = fmt.Errorf("%q: the volume has no generation %d yet: %w", s.opts.From, p.snap-1, ErrPosition)
	}
	s.pos = p
	return err
}

// run goes from one step to the next.
func (s *scrub) run(ctx context.Context) error {
	if err := s.fixed(ctx); err != nil {
		return err
	}
	if s.pos.tree == 0 {
		if err := s.snapshots(ctx); err != nil {
			return err
		}
		s.pos.tree = 1
	}
	for s.pos.tree < layout.Trees {
		since := uint64(0)
		if s.pos.tree == layout.TreeFS {
			since = s.pos.since
		}
		if err := s.walk(ctx, s.pos.tree, since); err != nil {
			return err
		}
	}
	// What the head dropped before it was read there.
	return s.snapshots(ctx)
}

// walk reads what of a tree is younger than since, from the position on.
func (s *scrub) walk(ctx context.Context, tree, since uint64) error {
	s.w = &pageWalk{store: s.v.store, tree: tree, since: since, next: s.pos.key, page: s.page, item: s.item}
	for !s.w.end {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enter begins something that may mend: a freeze waits for its end, and it for
// the end of a freeze.
func (s *scrub) enter(ctx context.Context) (leave func(), err error) {
	if err := context.Cause(ctx); err != nil || !s.write {
		return func() {}, err
	}
	return s.v.frozen.leave, s.v.frozen.enter(ctx)
}

// scrubStep is how many bytes are read under one pin, for which commits may wait.
const scrubStep = txn.ReadBytes

func (s *scrub) step(ctx context.Context) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	s.pinned(s.stepPinned)
	leave()
	if s.opts.At != nil {
		s.opts.At(s.pos.String)
	}
	return s.read(ctx, s.w.spent)
}

// stepPinned reads a part of the tree, and moves the position behind it.
func (s *scrub) stepPinned() {
	if t := s.snap; t != nil {
		// What is live now is freed by a later generation than the root's.
		if t.gone = !s.v.snap.isListed(t.snapshot); !t.gone {
			s.w.step(&t.tree, t.gen, scrubStep)
			s.flush()
		}
		s.pos.key = s.w.next
		if t.gone || s.w.end {
			s.w.end = true
			s.pos = s.pos.behindSnapshot(t.gone)
		}
		return
	}
	s.w.step(&s.root.Trees[s.pos.tree], s.root.Generation, scrubStep)
	s.flush()
	s.pos.key = s.w.next
	if s.w.end {
		s.pos.tree, s.pos.key = s.pos.tree+1, layout.Key{}
	}
}

// pinned calls fn with a root that stays whole meanwhile.
func (s *scrub) pinned(fn func()) {
	var release func()
	s.root, release = s.v.pinRoot()
	defer release()
	fn()
}

// read counts what was read, and waits as the rate demands.
func (s *scrub) read(ctx context.Context, n int) error {
	s.rep.Bytes += uint64(n)
	s.pos.done += uint64(n)
	if s.opts.Progress != nil {
		s.opts.Progress(min(s.pos.done, s.total), s.total)
	}
	return s.pace.wait(ctx, n)
}

// found reports a damage.
func (s *scrub) found(d Damage) {
	if s.snap != nil {
		d.Snapshot, d.at.snap = s.snap.name, s.snap.snapshot
	}
	key := damageKey{d.Where, d.Ino, d.Offset}
	if _, ok := s.told[key]; ok {
		return // a snapshot that could not be read has parts read again
	}
	s.rep.Total++
	if d.Mended {
		s.rep.Mended++
	}
	if s.opts.Damage != nil {
		s.opts.Damage(d)
	}
	if len(s.rep.Damages) < maxDamages {
		s.told[key] = struct{}{}
		s.rep.Damages = append(s.rep.Damages, d)
	}
}

// mending says what became of a damage that has a second copy.
func (s *scrub) mending(where, what string, mend func() error) {
	s.mendingAt(damagePlace{}, where, what, mend)
}

func (s *scrub) mendingAt(at damagePlace, where, what string, mend func() error) {
	d := Damage{Where: where, What: what, at: at}
	if s.write {
		if err := mend(); err != nil {
			d.What += fmt.Sprintf("; the repair failed: %v", err)
		} else {
			d.Mended = true
		}
	}
	s.found(d)
}

// fixed checks what lies at fixed places, and the free lists.
func (s *scrub) fixed(ctx context.Context) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	s.v.checkHeader(s.mending)
	n := 2*layout.HeaderBytes + s.roots()
	s.pinned(func() { n += s.freeLists() })
	leave()
	s.rep.Bytes += uint64(n)
	return s.pace.wait(ctx, n)
}

func (s *scrub) freeLists() (bytes int) {
	for i := range s.root.FreeLists {
		p := &s.root.FreeLists[i]
		if p.IsZero() {
			continue
		}
		err := s.v.store.WalkFreeList(p, txn.DataArea(s.root), func(place layout.Run, _ []layout.Run) error {
			bytes += int(place.Count) * layout.BlockBytes
			return nil
		})
		if err != nil {
			s.found(Damage{Where: fmt.Sprintf("free list %d", i),
				What: fmt.Sprintf("%v; the volume cannot be opened again until two commits have replaced it", err)})
		}
	}
	return bytes
}

func (s *scrub) roots() (bytes int) {
	rep := s.v.store.MendRoots(s.write)
	for i := range rep.Mended {
		m := &rep.Mended[i]
		if s.v.opts.ReadOnly && header.OrdinaryCopy(m.Was(), m.Root == rep.Roots[0].Root) {
			continue // the next mount for writing writes it again
		}
		s.mending(fmt.Sprintf("root slot %d, copy %d", m.Slot, m.Copy+1), header.CopyText(m.Was()), func() error { return m.Err })
	}
	for _, slot := range rep.Bad {
		if len(rep.Roots) == 0 {
			break
		}
		if what, damage := header.JudgeSlot(rep.Roots, slot); damage {
			s.found(Damage{Where: fmt.Sprintf("root slot %d", slot), What: what + "; a later commit overwrites it"})
		}
	}
	if len(rep.Roots) == 0 {
		s.found(Damage{Where: "root slots", What: "no root slot verifies: the volume cannot be opened again unless a commit succeeds"})
	}
	return rep.Bytes
}

// checkHeader compares both copies of the header with what they should be. Opened
// read-only, a change that was cut waits for the next mount, and is no damage.
func (v *Volume) checkHeader(damage func(where, what string, mend func() error)) {
	v.keys.mu.Lock() // no change of keys meanwhile: mending would bring the header before it back
	defer v.keys.mu.Unlock()
	want, err := layout.EncodeHeader(v.keys.header, v.store.Keys.Newest())
	if err != nil {
		damage("header", err.Error(), func() error { return err })
		return
	}
	if v.opts.ReadOnly {
		hs, err := header.Read(v.store.Dev)
		if err == nil && header.LeftByCut(hs.Copy[0], hs.Copy[1], v.store.Keys, v.keys.floor.Load()) {
			return
		}
	}
	for i, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		b := device.AlignedBytes(layout.HeaderBytes)
		what := "it differs from what was written"
		if _, err := v.store.Dev.ReadAt(b, off); err != nil {
			what = fmt.Sprintf("it cannot be read: %v", err)
		} else if bytes.Equal(b, want) {
			continue
		}
		damage("header copy "+string("AB"[i]), what, func() error { return v.store.Mend(want, uint64(off)) })
	}
}

// page is told of each page that the walk reads.
func (s *scrub) page(r *pageRead) {
	where, at := r.where(s.w.tree), damagePlace{}
	if s.w.tree == layout.TreeFS {
		at = damagePlace{page: r.p, key: r.lo}
	}
	switch {
	case r.err != nil:
		d := Damage{Where: where, What: r.err.Error(), at: at}
		if s.snap != nil {
			s.pos.torn = 1
		}
		switch s.w.tree {
		case layout.TreeSpace:
			d.What += "; maps of free space are lost"
		case layout.TreeFS:
			d.lost = items.RangeOf(r.lo, r.hi)
			d.What += "; " + d.lost.String()
		}
		s.found(d)
	case r.first != nil:
		s.mendingAt(at, where, fmt.Sprintf("first copy: %v", r.first), func() error { return s.v.store.MendNode(r.p, true) })
	case r.second != nil:
		s.mendingAt(at, where, fmt.Sprintf("second copy, at %d: %v", r.p.Addr2, r.second), func() error { return s.v.store.MendNode(r.p, false) })
	}
}

// item is told of each item that the walk passes.
func (s *scrub) item(k layout.Key, v []byte) {
	if s.w.tree != layout.TreeFS || k.Type != layout.KeyExtent {
		return
	}
	e, err := layout.DecodeFileExtent(v)
	if err != nil {
		s.found(Damage{Where: "extent item", What: err.Error(), Ino: k.Obj, Offset: k.Sub * layout.BlockBytes, Length: layout.BlockBytes,
			at: damagePlace{key: k}})
		return
	}
	if e.RefBirth <= s.w.since {
		return
	}
	n := e.RunBytes()
	if s.bytes+n > txn.ReadBytes {
		s.flush()
	}
	s.batch = append(s.batch, scrubRun{k.Obj, items.Placed{Block: k.Sub, FileExtent: e}})
	s.bytes += n
	s.w.spent += n
}

// flush reads the data that was collected; if that fails, segment by segment.
func (s *scrub) flush() {
	batch := s.batch
	s.batch, s.bytes = s.batch[:0], 0
	if s.buf == nil && len(batch) > 0 {
		s.buf = device.AlignedBytes(txn.ReadBytes)
	}
	reads := make([]txn.RunRead, len(batch))
	for i, at := 0, 0; i < len(batch); i++ {
		n := batch[i].RunBytes()
		reads[i] = txn.RunRead{Record: &batch[i].Record, Count: batch[i].Count(), Dst: s.buf[at : at+n]}
		at += n
	}
	if s.v.store.ReadRuns(reads) == nil {
		return
	}
	for i := range batch {
		r := &batch[i]
		s.v.store.BadSegments(&r.Record, s.buf, func(from, n int, err error) {
			at := r.Addr + uint64(from)*layout.BlockBytes
			s.found(Damage{Where: fmt.Sprintf("data at %d", at), What: err.Error(), Ino: r.ino, Length: uint64(n) * layout.BlockBytes,
				Offset: (r.Block + uint64(from)) * layout.BlockBytes, at: damagePlace{data: at}})
		})
	}
}
