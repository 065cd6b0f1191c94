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

// maxWrite is the most that one operation of the ring carries.
const maxWrite = 1 << 20

// Read implements vfs.FS.
func (v *Volume) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	in, err := v.inode(ino)
	if err != nil {
		return 0, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	if err := v.regular(in); err != nil {
		in.mu.RUnlock()
		return 0, err
	}
	size := in.attr.Size
	if off >= size {
		in.mu.RUnlock()
		return 0, nil
	}
	dst = dst[:min(uint64(len(dst)), size-off)]
	// What is found now stays readable until the pin goes (I3), so the device
	// is read without the lock.
	pin := v.space.Pin()
	defer v.space.Unpin(pin)
	plan, err := v.planRead(in, off, dst)
	in.mu.RUnlock()
	if err != nil {
		return 0, txn.Wrap(err)
	}
	if err := plan.run(v.store); err != nil {
		return 0, txn.Wrap(fmt.Errorf("inode %d at %d: %w", ino, off, err))
	}
	return len(dst), nil
}

// readPlan is what a read has to fetch from the device.
type readPlan struct {
	runs  []txn.RunRead
	parts []partRead // first or last sector of a read that does not begin or end on one
}

type partRead struct {
	page *page
	from int
	dst  []byte
}

// planRead fills dst with what is in memory and plans the rest. The caller
// holds in.mu and a pin.
func (v *Volume) planRead(in *inode, off uint64, dst []byte) (*readPlan, error) {
	p := &readPlan{}
	end := off + uint64(len(dst))
	first, last := off/pageBytes, (end-1)/pageBytes
	var missing [][2]uint64 // runs of sectors
	in.bmu.RLock()
	for s := first; s <= last; s++ {
		b := in.blocks[s/blockPages]
		if b == nil {
			to := min(last, s|(blockPages-1))
			if n := len(missing); n > 0 && missing[n-1][1] == s {
				missing[n-1][1] = to + 1
			} else {
				missing = append(missing, [2]uint64{s, to + 1})
			}
			s = to
			continue
		}
		if pg := b.pages[s%blockPages]; pg != nil {
			from := max(off, s*pageBytes)
			copy(dst[from-off:min(end, (s+1)*pageBytes)-off], pg[from%pageBytes:])
			continue
		}
		if n := len(missing); n > 0 && missing[n-1][1] == s {
			missing[n-1][1] = s + 1
		} else {
			missing = append(missing, [2]uint64{s, s + 1})
		}
	}
	in.bmu.RUnlock()
	if len(missing) == 0 {
		return p, nil
	}
	for _, m := range missing {
		clear(dst[max(off, m[0]*pageBytes)-off : min(end, m[1]*pageBytes)-off])
	}
	if in.inlined.Load() {
		if missing[0][0] > 0 {
			return p, nil // what the tree has is older than page 0
		}
		val, ok, err := v.fs.Get(items.InlineKey(in.ino), nil)
		if err != nil {
			return nil, fmt.Errorf("inode %d: %w", in.ino, err)
		}
		if ok && first == 0 && off < uint64(len(val)) {
			copy(dst, val[off:])
		}
		return p, nil
	}
	for _, m := range missing {
		es, err := v.extents(in.ino, m[0], m[1], 0)
		if err != nil {
			return nil, err
		}
		for i := range es {
			p.add(&es[i], max(m[0], es[i].Sector), min(m[1], es[i].End()), off, dst)
		}
	}
	return p, nil
}

// add plans sectors [a, b) of an extent; dst begins at byte off of the file.
func (p *readPlan) add(e *items.Placed, a, b, off uint64, dst []byte) {
	end := off + uint64(len(dst))
	if a*pageBytes < off || a*pageBytes+pageBytes > end {
		p.addPart(e, a, off, dst)
		if a++; a >= b {
			return
		}
	}
	if b*pageBytes > end {
		defer p.addPart(e, b-1, off, dst)
		if b--; a >= b {
			return
		}
	}
	p.runs = append(p.runs, txn.RunRead{Record: &e.Record, From: int(a - e.Sector), Count: int(b - a), Dst: dst[a*pageBytes-off : b*pageBytes-off]})
}

func (p *readPlan) addPart(e *items.Placed, s, off uint64, dst []byte) {
	end := off + uint64(len(dst))
	pg := pagePool.Get().(*page)
	from := max(off, s*pageBytes)
	p.runs = append(p.runs, txn.RunRead{Record: &e.Record, From: int(s - e.Sector), Count: 1, Dst: pg[:]})
	p.parts = append(p.parts, partRead{page: pg, from: int(from % pageBytes), dst: dst[from-off : min(end, (s+1)*pageBytes)-off]})
}

func (p *readPlan) run(s *txn.Store) error {
	err := s.ReadRuns(p.runs)
	for _, x := range p.parts {
		if err == nil {
			copy(x.dst, x.page[x.from:])
		}
		pagePool.Put(x.page)
	}
	return err
}

// loadPage brings a sector of the file into memory, unless it is, and keeps it
// there until unload. The caller holds in.mu exclusively.
func (v *Volume) loadPage(in *inode, sector uint64) error {
	idx, i := sector/blockPages, sector%blockPages
	in.bmu.Lock()
	b := in.blocks[idx]
	have := b != nil && b.pages[i] != nil
	if have {
		b.held |= 1 << i
		in.loaded = append(in.loaded, sector)
	}
	in.bmu.Unlock()
	if have {
		return nil
	}
	pg := pagePool.Get().(*page)
	clear(pg[:])
	pin := v.space.Pin()
	defer v.space.Unpin(pin)
	if off := sector * pageBytes; off < in.attr.Size {
		n := min(pageBytes, in.attr.Size-off)
		plan, err := v.planRead(in, off, pg[:n])
		if err == nil {
			err = plan.run(v.store)
		}
		if err != nil {
			pagePool.Put(pg)
			return txn.Wrap(fmt.Errorf("inode %d at %d: %w", in.ino, off, err))
		}
	}
	in.bmu.Lock()
	defer in.bmu.Unlock()
	b = v.block(in, idx)
	b.pages[i] = pg
	b.held |= 1 << i
	in.loaded = append(in.loaded, sector)
	return nil
}

// unload ends what loadPage began: pages that the operation did not change go.
func (v *Volume) unload(in *inode) {
	for _, sector := range in.loaded {
		idx, i := sector/blockPages, int(sector%blockPages)
		in.bmu.Lock()
		if b := in.blocks[idx]; b != nil && b.held>>i&1 == 1 {
			b.held &^= 1 << i
			if b.pages[i] != nil && b.dirty>>i&1 == 0 && b.flight[i] == 0 {
				b.drop(i)
			}
			if b.empty() {
				v.dropBlock(in, idx, b)
			}
		}
		in.bmu.Unlock()
	}
	in.loaded = in.loaded[:0]
}

// prepareWrite loads what a write of [off, end) does not set of its first and
// last sector, and a small content.
func (v *Volume) prepareWrite(in *inode, off, end uint64) error {
	if err := v.loadSmall(in); err != nil {
		return err
	}
	if off%pageBytes != 0 {
		if err := v.loadPage(in, off/pageBytes); err != nil {
			return err
		}
	}
	if end%pageBytes != 0 && end < in.attr.Size {
		return v.loadPage(in, end/pageBytes)
	}
	return nil
}

// loadSmall holds a content that is in the tree, or that a flusher may put
// there before the operation comes to its change: unpackInline needs it.
func (v *Volume) loadSmall(in *inode) error {
	if in.inlined.Load() || in.attr.Size > 0 && in.attr.Size <= layout.MaxInline {
		return v.loadPage(in, 0)
	}
	return nil
}

// block returns a block in memory, made if needed. The caller holds bmu and a
// reference to the inode.
func (v *Volume) block(in *inode, idx uint64) *block {
	b := in.blocks[idx]
	if b == nil {
		if len(in.blocks) == 0 {
			v.table.hold(in) // until the last block goes
		}
		b = &block{}
		in.blocks[idx] = b
	}
	return b
}

// dropBlock removes a block that is empty. The caller holds bmu.
func (v *Volume) dropBlock(in *inode, idx uint64, b *block) {
	if in.blocks[idx] != b {
		return
	}
	delete(in.blocks, idx)
	if len(in.blocks) == 0 {
		v.table.put(in)
	}
}

// Write implements vfs.FS.
func (v *Volume) Write(req *vfs.Req, ino vfs.Ino, off uint64, data []byte, kill bool) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	data = data[:min(len(data), maxWrite)]
	end := off + uint64(len(data))
	if off > layout.MaxFileBytes || end > layout.MaxFileBytes {
		return 0, fmt.Errorf("write at %d: %w", off, vfs.ErrFileTooBig)
	}
	if len(data) > blockBytes {
		v.sync.letPass()
	}
	in, err := v.inode(ino)
	if err != nil {
		return 0, err
	}
	defer v.table.put(in)
	op := &layout.Op{Type: layout.OpWrite, Unique: req.Unique, Ino: uint64(ino), Off: off, Data: data, Len: uint64(len(data)), Time: vfs.Now()}
	if kill {
		op.Flags = layout.OpKill
	}
	if err := v.write(in, op, req.Append); err != nil {
		return 0, err
	}
	return len(data), nil
}

// write makes a write. What is reserved has room, if need be a block at a time: so
// much the reserve lends at once.
func (v *Volume) write(in *inode, op *layout.Op, appending bool) error {
	promised := false
	err := v.inReserved(in, func() []items.Interval { return []items.Interval{{From: op.Off, To: op.Off + op.Len}} }, func(p bool) (bool, error) {
		promised = p
		return v.writeOnce(in, op, appending, p)
	})
	if !promised || op.Len <= blockBytes || !errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	for at := op.Off; at < op.Off+op.Len; {
		n := min(op.Off+op.Len, (at/blockBytes+1)*blockBytes) - at
		part := *op
		part.Off, part.Len, part.Data = at, n, op.Data[at-op.Off:][:n]
		if err := v.write(in, &part, appending); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// writeOnce makes a write that is one operation; promised says that all of it is
// reserved. If that is not so any more it does nothing: again.
func (v *Volume) writeOnce(in *inode, op *layout.Op, appending, promised bool) (again bool, err error) {
	off, end := op.Off, op.Off+op.Len
	c := cost{pages: int((end+pageBytes-1)/pageBytes - off/pageBytes + 1), ring: len(op.Data) + 128, quads: opQuads, promised: promised}
	if err := v.admit(c); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := v.regular(in); err != nil {
		return false, err
	}
	if err := mayWrite(in, off, appending); err != nil {
		return false, err
	}
	if promised {
		if ok, err := v.covers(in, off, end); err != nil || !ok {
			return true, err
		}
	}
	if err := v.cutRest(in); err != nil {
		return false, err
	}
	if op.Flags&layout.OpKill != 0 && !killsBits(&in.attr) {
		op.Flags &^= layout.OpKill
	}
	defer v.unload(in)
	if err := v.prepareWrite(in, off, end); err != nil {
		return false, err
	}
	return false, v.perform(op)
}

// regular tells whether an inode has data; the caller holds mu.
func (v *Volume) regular(in *inode) error {
	switch {
	case in.dead:
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrStale)
	case in.isDir():
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrIsDir)
	case !in.isReg():
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrInvalid)
	}
	return nil
}

// applyWrite copies the data of a write into the inode's blocks. Inside the
// gate, in.mu held, prepareWrite done.
func (v *Volume) applyWrite(in *inode, op *layout.Op) error {
	off, data := op.Off, op.Data
	if op.Flags&layout.OpKill != 0 {
		if err := v.applyKill(in); err != nil {
			return err
		}
	}
	v.unpackInline(in, max(in.attr.Size, off+uint64(len(data))))
	for len(data) > 0 {
		idx, in0 := off/blockBytes, off%blockBytes
		n := min(blockBytes-in0, uint64(len(data)))
		v.writeBlock(in, idx, int(in0), data[:n], op.Seq)
		off += n
		data = data[n:]
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.touch(in)
	return nil
}

// writeBlock copies data to a block from a byte on.
func (v *Volume) writeBlock(in *inode, idx uint64, from int, data []byte, seq uint64) {
	in.bmu.Lock()
	b := v.block(in, idx)
	before, had := b.tracked(), b.dirty
	b.src = 0
	if len(data) == blockBytes {
		b.src = seq
	}
	for n := 0; n < len(data); {
		i, o := (from+n)/pageBytes, (from+n)%pageBytes
		if b.pages[i] == nil {
			b.pages[i] = pagePool.Get().(*page)
			if o != 0 || len(data)-n < pageBytes {
				clear(b.pages[i][:]) // beyond the end of the file: prepareWrite loads all else
			}
		}
		n += copy(b.pages[i][o:], data[n:])
		b.dirty |= 1 << i
	}
	newBlock := 0
	if had == 0 {
		newBlock = 1
	}
	v.adm.dirtyPages(b.tracked()-before, newBlock)
	// Full, and nobody in the middle of its last page: what is appended next
	// would have to read that page back.
	full := b.dirty == 1<<blockPages-1 && from+len(data) == blockBytes
	queue := !b.queued || full && !b.full
	b.queued, b.full = true, full
	in.bmu.Unlock()
	if queue {
		v.pushItem(flushItem{in, idx}, full)
	}
}

// unpackInline sets the size that the operation leaves, before any page changes,
// and makes an inline content dirty, so that the next flush decides anew where
// it goes: by that size. No flusher is putting it into the tree by the old one
// when it returns. Inside the gate, in.mu held; page 0 is in memory (loadSmall).
func (v *Volume) unpackInline(in *inode, size uint64) {
	in.bmu.Lock()
	for in.inlining {
		in.settled.Wait() // flushers need no lock that we hold
	}
	in.setSize(size)
	b := in.blocks[0]
	need := in.inlined.Load() && b != nil && b.pages[0] != nil && b.dirty&1 == 0
	in.bmu.Unlock()
	if need {
		v.markDirty(in, 0)
	}
}

// markDirty makes a page that is in memory dirty.
func (v *Volume) markDirty(in *inode, sector uint64) {
	in.bmu.Lock()
	idx := sector / blockPages
	b := v.block(in, idx)
	before, newBlock := b.tracked(), 0
	if b.dirty == 0 {
		newBlock = 1
	}
	b.dirty |= 1 << (sector % blockPages)
	b.src = 0
	v.adm.dirtyPages(b.tracked()-before, newBlock)
	queue := !b.queued
	b.queued = true
	in.bmu.Unlock()
	if queue {
		v.pushItem(flushItem{in, idx}, false)
	}
}

// cutBlocks forgets the pages of [from, to) sectors. Inside the gate, in.mu
// held: no flusher is between copy and tree when it returns, and none begins.
// With sector 0 an inline content goes as well: it must not be seen again where
// the page was.
func (v *Volume) cutBlocks(in *inode, from, to uint64) error {
	v.forgetBlocks(in, from, to)
	if from > 0 || !in.inlined.Swap(false) {
		return nil
	}
	return v.fs.Update(func(w *tree.Writer) error {
		_, err := w.Delete(items.InlineKey(in.ino))
		return err
	})
}

func (v *Volume) forgetBlocks(in *inode, from, to uint64) {
	in.bmu.Lock()
	defer in.bmu.Unlock()
	for in.inserting > 0 {
		in.settled.Wait() // flushers need no lock that we hold
	}
	for idx, b := range in.blocks {
		lo, hi := idx*blockPages, (idx+1)*blockPages
		if hi <= from || lo >= to {
			continue
		}
		before, had := b.tracked(), b.dirty
		for i := range blockPages {
			if s := lo + uint64(i); s >= from && s < to && b.pages[i] != nil {
				b.held &^= 1 << i
				b.drop(i)
			}
		}
		b.src = 0
		gone := 0
		if had != 0 && b.dirty == 0 {
			gone = -1
		}
		v.adm.dirtyPages(b.tracked()-before, gone)
		if b.empty() {
			v.dropBlock(in, idx, b)
		}
	}
}
