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

// ErrPosition means that a scrub cannot continue from the given position.
var ErrPosition = errors.New("invalid scrub position")

// ScrubOptions configures Scrub. The zero value reads the whole volume without a rate limit, and
// repairs what it can.
type ScrubOptions struct {
	BytesPerSecond int64
	From           string // ScrubReport.Position of an unfinished scrub; "": from the start
	ReadOnly       bool   // repair nothing
	// Progress is called now and then with the bytes read and the total. Data that changes
	// meanwhile is not counted twice, so done may end below total.
	Progress func(done, total uint64)
	// At is called after each step. position returns where another scrub would continue.
	At func(position func() string)
	// Damage is called for each damage when it is found. Names are only in the report.
	Damage func(d Damage)
}

// maxDamages is the most damages that a report lists.
const maxDamages = 1000

// Damage is something on the device that does not verify.
type Damage struct {
	Where  string // "header copy B", "tree 1, level 2, node at 7340032", "data at 8388608"
	What   string
	Mended bool // rewritten from its second copy, and read back

	// Snapshot is the oldest snapshot that contains it; "" if none does. Head means that the
	// current state contains it, too. Then Path and Files are names in the head, otherwise in the
	// snapshot.
	Snapshot string
	Head     bool

	// For damage of a file's content:
	Ino    uint64
	Path   string // one of its names; "" if it has none
	Offset uint64
	Length uint64

	// For damage of metadata that cannot be repaired: some of the files that cannot be read
	// completely, and the number of others.
	Files []string
	More  int

	lost items.InodeRange
	at   damagePlace
}

// ScrubReport is the result of Scrub.
type ScrubReport struct {
	Done     bool     // it reached the end
	Position string   // otherwise where another scrub continues, even after a remount
	Bytes    uint64   // read
	Damages  []Damage // at most maxDamages
	Total    int      // including those not listed
	Mended   int
}

// Scrub reads and verifies everything that the volume refers to, while it is in use: header, roots,
// all pages in both copies, free lists and data, including data that only snapshots hold, but not
// the log. It repairs what has a second copy. ctx stops it. The report then says where another
// scrub continues, and is returned with ctx's error. Only one may run at a time: ErrBusy.
//
// It works in steps of about one MiB, each on the newest root. What is written behind it while it
// runs is not read, because it was recently written.
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
	write bool // repair

	pos   scrubPosition
	w     *pageWalk
	snap  *scrubbedSnap // whose tree is being walked; nil: a tree of the root
	root  *layout.Root  // root of this step, pinned
	total uint64

	batch []scrubRun
	bytes int
	buf   []byte

	told map[damageKey]struct{} // damages that are in the report
}

// scrubRun is an extent to be read.
type scrubRun struct {
	ino uint64
	items.Placed
}

// scrubPosition is where a scrub continues. It first walks the snapshots' trees from the oldest to
// the newest (tree is 0), then the trees of the root, and then the trees of snapshots made
// meanwhile (tree is layout.Trees).
type scrubPosition struct {
	tree  uint64
	since uint64 // everything in snapshots up to this generation has been read; 0: nothing
	snap  uint64 // generation of the current snapshot, or a lower bound for the next one
	torn  uint64 // 1: a part of that snapshot could not be read
	key   layout.Key
	done  uint64 // bytes read so far, for Progress
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

// run runs all steps.
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
	// The head may have dropped data before the walk reached it, while a new snapshot holds it.
	return s.snapshots(ctx)
}

// walk reads the parts of a tree that are younger than since, from the position on.
func (s *scrub) walk(ctx context.Context, tree, since uint64) error {
	s.w = &pageWalk{store: s.v.store, tree: tree, since: since, next: s.pos.key, page: s.page, item: s.item}
	for !s.w.end {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enter begins work that may repair something. A freeze waits for its end, and it waits for the end
// of a freeze.
func (s *scrub) enter(ctx context.Context) (leave func(), err error) {
	if err := context.Cause(ctx); err != nil || !s.write {
		return func() {}, err
	}
	return s.v.frozen.leave, s.v.frozen.enter(ctx)
}

// scrubStep is the number of bytes read under one pin. Commits may wait for it.
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

// stepPinned reads a part of the tree, and advances the position.
func (s *scrub) stepPinned() {
	if t := s.snap; t != nil {
		// What the snapshot holds now is freed by a later generation than the root's.
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

// pinned calls fn with a root whose blocks are not reused meanwhile.
func (s *scrub) pinned(fn func()) {
	var release func()
	s.root, release = s.v.pinRoot()
	defer release()
	fn()
}

// read counts bytes, and waits to keep the rate.
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
		return // parts of a snapshot that could not be read completely are read again
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

// mending repairs a damage that has a second copy, and reports the result.
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

// fixed checks structures at fixed places, and the free lists.
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
			continue // the next read-write mount rewrites it
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

// checkHeader compares both copies of the header with their expected content. In a read-only mount,
// an interrupted change waits for the next read-write mount; it is not damage.
func (v *Volume) checkHeader(damage func(where, what string, mend func() error)) {
	v.keys.mu.Lock() // a repair must not restore the header from before a change of keys
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

// page is called for each page that the walk reads.
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

// item is called for each item that the walk passes.
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

// flush reads the collected data. If that fails, it reads one segment at a time.
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
