package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// roomToShare withholds the blocks that become owed when n bytes are shared: blocks of reserved
// ranges that belonged to one file alone until then. end gives them back. The caller must not wait
// for space before that. It holds the locks of both files and is not in the gate.
func (r *reservedRanges) roomToShare(src, dst *inode, from, to, n uint64) (end func(), err error) {
	v := r.v
	if !src.reserved.Load() && !dst.reserved.Load() {
		return func() {}, nil
	}
	a, d, blocks := from/pageBytes, to/pageBytes, (n+pageBytes-1)/pageBytes
	count := func() (int64, error) {
		// Whole extents of the source are marked; in the destination, blocks are replaced.
		sum, err := r.ownReserved(src, a, a+blocks, 0, 1<<62)
		if err != nil {
			return 0, err
		}
		more, err := r.ownReserved(dst, d, d+blocks, d, d+blocks)
		return sum + more, err
	}
	for {
		c := reservation{nested: true}
		if c.hold, err = count(); err != nil {
			return nil, err
		}
		done := func() {}
		if c.hold > 0 {
			if err := v.adm.reserve(c); err != nil {
				return nil, err
			}
			done = func() { v.adm.done(c) }
		}
		// reserve may have waited for restamp, or caused it: then more becomes owed.
		r.steady.RLock()
		end = func() {
			r.steady.RUnlock()
			done()
		}
		now, err := count()
		if err == nil && now <= c.hold {
			return end, nil
		}
		end()
		if err != nil {
			return nil, err
		}
	}
}

// ownReserved counts reserved blocks in [low, high) that are not owed, of the extents that overlap
// [from, to).
func (r *reservedRanges) ownReserved(in *inode, from, to, low, high uint64) (n int64, err error) {
	v := r.v
	if !in.reserved.Load() {
		return 0, nil
	}
	es, err := v.data.extents(in.ino, from, to, 0)
	if err != nil {
		return 0, txn.Wrap(err)
	}
	for i := range es {
		e := &es[i]
		if r.owes(&e.FileExtent) {
			continue
		}
		a, b := max(low, e.Block), min(high, e.End())
		spans, err := items.ScanReserved(v.fs.ScanFloor, in.ino, a, b, 0)
		if err != nil {
			return 0, txn.Wrap(err)
		}
		n += int64(items.Overlap(spans, a, b))
	}
	return n, nil
}

// oweSource marks extents in reserved ranges of a file as owed, because they are about to be
// shared. The caller is inside v.fs.Update.
func (r *reservedRanges) oweSource(w *tree.Writer, src *inode, es []items.Placed) error {
	for i := range es {
		e := &es[i]
		n, err := promisedIn(w, src, e.Block, e.End())
		if err != nil {
			return err
		}
		if n == 0 || e.Owed {
			continue
		}
		if !r.owes(&e.FileExtent) {
			r.owed.Add(int64(n))
		}
		owed := e.FileExtent
		owed.Owed = true
		if err := w.Put(items.ExtentKey(src.ino, e.Block), owed.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// whyNoSnapshot explains why a snapshot needs space.
func (r *reservedRanges) whyNoSnapshot(err error) error {
	if n := r.promised.Load(); n > 0 && errors.Is(err, vfs.ErrNoSpace) {
		owed := r.owed.Load()
		return fmt.Errorf("a snapshot needs another %d free bytes, so that files with reserved space (fallocate) can still be overwritten: "+
			"delete files or snapshots, or grow the volume: %w", (n-owed)*layout.BlockBytes, err)
	}
	return err
}

// restampStep bounds the extents that one step examines. They are in a few leaves.
const restampStep = 128

// restamper looks for owed extents of reserved ranges that nothing else holds any more, because a
// snapshot was deleted or the other references were overwritten.
type restamper struct {
	ino, block uint64 // where the next step continues
	made, mark uint64 // values when the pass began
	kept       uint64 // the newest snapshot that a step knew: what it holds was skipped
	changed    bool   // the step changed something
}

// mayRestamp reports whether a pass may find something. The caller need not hold locks.
func (r *reservedRanges) mayRestamp() bool {
	return r.owed.Load() > 0 && (r.notExamined() || r.stale.Load() && r.wanted.Load())
}

// notExamined reports whether the snapshot that set mark is gone, and no pass has run with the current
// mark and snapshots.
func (r *reservedRanges) notExamined() bool {
	newest, mark := r.v.snap.newest.Load(), r.mark.Load()
	return mark > newest && (r.passed.Load() != mark || r.seen.Load() != newest)
}

// wantRestamp requests a pass, because somebody found no space.
func (r *reservedRanges) wantRestamp() {
	v := r.v
	r.wanted.Store(true)
	if r.mayRestamp() {
		v.snap.wake()
	}
}

// restamping reports whether a requested pass has not ended.
func (r *reservedRanges) restamping() bool {
	v := r.v
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done != nil && !s.stop && s.stalled == nil && (s.passing || !s.restampFailed && r.mayRestamp())
}

// restamp runs one pass, in steps, until stop returns true.
func (r *reservedRanges) restamp(stop func() bool) error {
	v := r.v
	r.stale.Store(false)
	r.wanted.Store(false)
	p := restamper{made: r.made.Load(), mark: r.mark.Load(), kept: v.snap.newest.Load()}
	for {
		if stop() {
			r.stale.Store(true)
			r.wanted.Store(true)
			return nil
		}
		done, err := r.restampStep(&p)
		if err != nil || done {
			return err
		}
	}
}

// restampStep is one step of a pass.
func (r *reservedRanges) restampStep(p *restamper) (done bool, err error) {
	v := r.v
	c := reservation{nodes: opNodes, urgent: true, snaps: true}
	if err := v.adm.reserve(c); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	r.steady.Lock()
	defer r.steady.Unlock()
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return false, err
	}
	p.changed = false
	err = v.fs.Update(func(w *tree.Writer) error {
		done, err = p.step(v, w)
		return err
	})
	if err != nil {
		if err = txn.Wrap(err); p.changed { // half a step must not be committed
			v.fail(err)
		}
		return false, err
	}
	if p.changed {
		v.adm.changed()
	}
	return done, nil
}

// step examines some extents of one inode, or finds the next inode.
func (p *restamper) step(v *Volume, w *tree.Writer) (done bool, err error) {
	if p.block == 0 {
		found := false
		err := w.Scan(items.ReserverKey(p.ino), items.ReserverKey(^uint64(0)), func(k layout.Key, _ []byte) bool {
			p.ino, found = k.Sub, true
			return false
		})
		if err != nil {
			return false, err
		}
		if !found {
			p.end(v)
			return true, nil
		}
	}
	spans, err := items.ScanReserved(w.ScanFloor, p.ino, p.block, 1<<62, 1)
	if err != nil {
		return false, err
	}
	if len(spans) == 0 {
		p.ino, p.block = p.ino+1, 0
		return false, nil
	}
	from, to := max(p.block, spans[0].From), spans[0].To
	es, err := items.ScanExtents(w.ScanFloor, p.ino, from, to, restampStep)
	if err != nil {
		return false, err
	}
	if p.block = to; len(es) == restampStep {
		p.block = min(to, es[len(es)-1].End())
	}
	return false, p.extents(v, w, es)
}

// extents sets the refbirth of extents that no snapshot and no other file holds to the current
// generation.
func (p *restamper) extents(v *Volume, w *tree.Writer, es []items.Placed) error {
	newest := v.snap.newest.Load()
	p.kept = max(p.kept, newest)
	for i := range es {
		e := &es[i]
		if !v.ranges.owes(&e.FileExtent) || e.RefBirth <= newest {
			continue
		}
		shared, err := v.shares.Most(e.Run())
		if err != nil {
			return err
		}
		now := e.FileExtent
		if now.Owed = shared > 0; !now.Owed {
			spans, err := items.ScanReserved(w.ScanFloor, p.ino, e.Block, e.End(), 0)
			if err != nil {
				return err
			}
			p.changed = true
			now.RefBirth = v.gen
			v.ranges.owed.Add(-int64(items.Overlap(spans, e.Block, e.End())))
		}
		if now.Owed == e.Owed && now.RefBirth == e.RefBirth {
			continue
		}
		p.changed = true
		if err := w.Put(items.ExtentKey(p.ino, e.Block), now.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// end ends a pass. If no range was made and no snapshot taken meanwhile, mark is lowered: it no
// longer makes anything owed alone, except what snapshots hold, or held when the pass examined it.
// A snapshot deleted meanwhile is left to the next pass.
func (p *restamper) end(v *Volume) {
	r := &v.ranges
	kept := max(p.kept, v.snap.newest.Load())
	r.passed.Store(p.mark)
	r.seen.Store(kept)
	if r.made.Load() == p.made && r.mark.Load() == p.mark && kept < p.mark {
		p.changed = true
		r.mark.Store(kept)
		r.passed.Store(kept)
	}
}

// restampAll is a pass run by the snapshot reaper.
func (r *reservedRanges) restampAll() {
	v := r.v
	s := &v.snap
	stopped := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.stop || s.stalled == nil && (len(s.dying) > 0 || s.abandoned != nil) || v.Failed() != nil
	}
	err := r.restamp(stopped)
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restampFailed = true
	if v.opts.Log != nil && v.Failed() == nil && !s.stop {
		v.opts.Log.Warn("recount of reserved space failed: more space than needed stays reserved until the next mount", "volume", v.id.String(), "error", err)
	}
}

// freeing reports whether space of deleted snapshots or rollbacks is being freed.
func (r *reservedRanges) freeing() bool {
	v := r.v
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done != nil && !s.stop && s.stalled == nil && (len(s.dying) > 0 || s.abandoned != nil)
}
