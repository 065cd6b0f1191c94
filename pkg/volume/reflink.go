package volume

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Limits of one step of a copy: extents shared, extents dropped, and blocks examined. They bound
// the time for which it holds locks.
const (
	copyExtents = 32
	copyBlocks  = 16 << 20 / pageBytes
)

// maxLogCopies is the number of shared blocks without a durable root above which a sync commits
// instead of logging. A read-only mount replays the log in memory, where each copy takes its own
// memory.
const maxLogCopies = 16 << 20 / pageBytes

// CopyRange implements vfs.FS. Whole blocks are shared, which takes no data and no space for it.
// The last block of the source is shared, too, if the copy ends with it. The rest is copied: ranges
// with different alignment, the edges, and inline files. It proceeds in ordered steps: after a
// crash, the copy exists up to some place.
func (v *Volume) CopyRange(req *vfs.Req, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, length uint64) (uint64, error) {
	for _, ino := range []vfs.Ino{src, dst} {
		if err := v.isFile(ino); err != nil {
			return 0, err
		}
	}
	a, err := v.GetAttr(src)
	if err != nil || srcOff >= a.Size {
		return 0, err
	}
	length = min(length, a.Size-srcOff)
	if dstOff > layout.MaxFileBytes || length > layout.MaxFileBytes-dstOff {
		return 0, vfs.ErrFileTooBig
	}
	if src == dst && srcOff < dstOff+length && dstOff < srcOff+length {
		return 0, fmt.Errorf("source and target range overlap: %w", vfs.ErrInvalid)
	}
	c := copier{v: v, req: req, src: src, dst: dst}
	done := uint64(0)
	for done < length {
		n, err := c.step(srcOff+done, dstOff+done, length-done)
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil || n == 0 { // nothing is left: the source was truncated meanwhile
			break
		}
		done += n
	}
	return done, nil //nolint:nilerr // as copy_file_range(2): it reports what was copied; the next call meets the error
}

// copier is the state of one copy.
type copier struct {
	v        *Volume
	req      *vfs.Req
	src, dst vfs.Ino
	buf      []byte
}

// step copies up to n bytes, and at least one unless the source ends.
func (c *copier) step(from, to, n uint64) (uint64, error) {
	switch in := from % pageBytes; {
	case in != to%pageBytes:
		return c.bytes(from, to, n)
	case in != 0:
		return c.bytes(from, to, min(n, pageBytes-in))
	}
	done, err := c.share(from, to, n)
	if done > 0 || err != nil {
		return done, err
	}
	return c.bytes(from, to, n)
}

// bytes copies by reading and writing.
func (c *copier) bytes(from, to, n uint64) (uint64, error) {
	n = min(n, maxWrite)
	if uint64(len(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	got, err := c.v.Read(c.src, from, c.buf[:n])
	if err != nil || got == 0 {
		return 0, err
	}
	got, err = c.v.Write(c.req, c.dst, to, c.buf[:got], false)
	return uint64(got), err
}

// share makes the destination refer to the source's extents. Both offsets are at block boundaries.
// It returns 0 if nothing at the beginning can be shared.
func (c *copier) share(from, to, n uint64) (uint64, error) {
	v := c.v
	if a, err := v.GetAttr(c.src); err != nil || a.Size <= layout.MaxInline {
		return 0, err
	}
	if err := v.keys.requireFeature(layout.FeatureShares); err != nil {
		return 0, err
	}
	// References are added and dropped: each may change another place of the reference-count tree.
	want := reservation{ring: 256, nodes: 2*opNodes + 2*v.shares.OverwritePages(copyExtents) + 4, pages: 2}
	if err := v.adm.reserve(want); err != nil {
		return 0, err
	}
	defer v.adm.done(want)
	src, dst, unlock, err := v.lockPair(c.src, c.dst)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if err := fixed(dst); err != nil {
		return 0, err
	}
	if err := v.data.cutRest(dst); err != nil {
		return 0, err
	}
	if n, err = v.planShare(src, dst, from, to, n); n == 0 || err != nil {
		return 0, err
	}
	giveBack, err := v.ranges.roomToShare(src, dst, from, to, n)
	if err != nil {
		return 0, err
	}
	defer giveBack()
	defer v.data.unload(dst)
	if err := v.data.prepareWrite(dst, to, to+n); err != nil {
		return 0, err
	}
	op := &layout.Op{Type: layout.OpCopyRange, Unique: c.req.Unique, Ino: dst.ino, Off: to, Parent2: src.ino, Off2: from, Len: n, Time: vfs.Now()}
	if err := v.perform(op); err != nil {
		return 0, err
	}
	return n, nil
}

// lockPair locks the source of a copy against changes, and the destination exclusively. unlock also
// releases the references.
func (v *Volume) lockPair(from, to vfs.Ino) (src, dst *inode, unlock func(), err error) {
	if src, err = v.table.inode(from); err != nil {
		return nil, nil, nil, err
	}
	if dst, err = v.table.inode(to); err != nil {
		v.table.put(src)
		return nil, nil, nil, err
	}
	if src.ino < dst.ino {
		src.mu.RLock()
	}
	dst.mu.Lock()
	if src.ino > dst.ino {
		src.mu.RLock()
	}
	unlock = func() {
		if src != dst {
			src.mu.RUnlock()
		}
		dst.mu.Unlock()
		v.table.put(src)
		v.table.put(dst)
	}
	if err = cmp.Or(v.regular(src), v.regular(dst)); err != nil {
		unlock()
	}
	return src, dst, unlock, err
}

// planShare returns how many of n bytes one step can share, after flushing them to the device. The
// caller holds both locks and is not in the gate.
func (v *Volume) planShare(src, dst *inode, from, to, n uint64) (uint64, error) {
	size := src.attr.Size
	if from >= size || size <= layout.MaxInline {
		return 0, nil // a flush may store it inline
	}
	n = min(n, size-from)
	if !copyEnds(src, dst, from, to, n) {
		n -= n % pageBytes
	}
	if n == 0 {
		return 0, nil
	}
	a, b := from/pageBytes, (from+n+pageBytes-1)/pageBytes
	// Holes take no space: one at the beginning is included, however long it is.
	data, _, err := v.data.nextData(src, a, b)
	if err != nil {
		return 0, txn.Wrap(err)
	}
	b = min(b, data+copyBlocks)
	if err := v.flushRange(src, data, b); err != nil {
		return 0, err
	}
	if data < b {
		es, err := v.data.extents(src.ino, data, b, copyExtents)
		if err != nil {
			return 0, txn.Wrap(err)
		}
		if len(es) == copyExtents {
			b = min(b, es[len(es)-1].End())
		}
		for i := range es {
			run := layout.Run{Start: es[i].Addr / layout.BlockBytes, Count: uint32(es[i].Blocks())}
			if most, err := v.shares.Most(run); err != nil || most > shares.MaxExtra {
				return 0, txn.Wrap(err)
			}
		}
	}
	d := to / pageBytes
	es, err := v.data.extents(dst.ino, d, d+b-a, copyExtents)
	if err != nil {
		return 0, txn.Wrap(err)
	}
	if len(es) == copyExtents {
		b = min(b, a+es[len(es)-1].End()-d)
	}
	return min(n, b*pageBytes-from), nil
}

// copyEnds reports whether the last block of a copy may be shared as a whole: all of it is copied,
// or both files end in it.
func copyEnds(src, dst *inode, from, to, n uint64) bool {
	return n%pageBytes == 0 || from+n == src.attr.Size && to+n >= dst.attr.Size
}

// flushRange flushes blocks [from, to) of a file to the device. The caller holds in.mu, so that
// nothing becomes dirty, or runs in replay. It is not in the gate.
func (v *Volume) flushRange(in *inode, from, to uint64) error {
	for {
		items, flying := v.dirtyItems(in, from, to)
		if len(items) == 0 && !flying {
			return nil
		}
		if err := v.flushItems(items); err != nil {
			return err
		}
		in.bmu.Lock()
		for in.inserting > 0 { // another flusher may have one of the buffers
			in.settled.Wait()
		}
		in.bmu.Unlock()
		v.flush.mu.Lock()
		v.flush.waitFlights()
		v.flush.mu.Unlock()
		if err := v.Failed(); err != nil {
			return v.writable()
		}
	}
}

// dirtyItems lists the buffers that hold pages in [from, to) newer than their extents, each with a
// reference. flying reports whether any page is in flight.
func (v *Volume) dirtyItems(in *inode, from, to uint64) (items []flushItem, flying bool) {
	in.bmu.Lock()
	defer in.bmu.Unlock()
	for idx, b := range in.buffers {
		dirty := false
		for i := range bufferPages {
			if s := idx*bufferPages + uint64(i); s >= from && s < to {
				dirty = dirty || b.dirty>>i&1 == 1
				flying = flying || b.flight[i] != 0
			}
		}
		if dirty {
			v.table.hold(in)
			items = append(items, flushItem{in, idx})
		}
	}
	return items, flying
}

// flushItems seals buffers and writes them, as a flusher does. They may still be in its queue. It
// takes over the references.
func (v *Volume) flushItems(items []flushItem) error {
	if len(items) == 0 {
		return nil
	}
	done, err := v.sealWritable(items)
	return txn.Wrap(errors.Join(err, v.flush.writeBatches(done)))
}

// sealWritable is sealBatches on a volume that is writable.
func (v *Volume) sealWritable(items []flushItem) ([]*batch, error) {
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		for _, it := range items {
			v.table.put(it.in)
		}
		return nil, err
	}
	return v.flush.sealBatches(items)
}

// copy prepares the replay of a copy. It flushes the source, so that space is shared as it was. In
// a read-only mount, applyCopyRange copies what is newer.
func (r *replayer) copy(dst *inode, op *layout.Op) error {
	v := r.v
	src, err := v.table.inode(vfs.Ino(op.Parent2))
	if err != nil {
		return err
	}
	defer v.table.put(src)
	if err := checkCopy(src, dst, op); err != nil {
		return err
	}
	if !v.opts.ReadOnly {
		from := op.Off2 / pageBytes
		if err := v.flushRange(src, from, from+(op.Len+pageBytes-1)/pageBytes); err != nil {
			return err
		}
	}
	return v.data.prepareWrite(dst, op.Off, op.Off+op.Len)
}

// checkCopy checks whether a copy is one that share could have made.
func checkCopy(src, dst *inode, op *layout.Op) error {
	same := src == dst && op.Off2 < op.Off+op.Len && op.Off < op.Off2+op.Len
	switch {
	case !src.isReg() || !dst.isReg(), op.Len == 0 || op.Off%pageBytes != 0 || op.Off2%pageBytes != 0 || same,
		op.Off > layout.MaxFileBytes-op.Len, op.Off2+op.Len > src.attr.Size || src.attr.Size <= layout.MaxInline,
		!copyEnds(src, dst, op.Off2, op.Off, op.Len):
		return fmt.Errorf("%w: invalid copy of %d bytes from inode %d at %d of %d, to %d", layout.ErrCorrupt, op.Len, src.ino, op.Off2, src.attr.Size, op.Off)
	}
	return nil
}

// applyCopyRange makes one file share the extents of another. The caller is in the gate and holds
// the destination's lock. The source does not change.
func (v *Volume) applyCopyRange(in *inode, op *layout.Op) error {
	src, err := v.table.inode(vfs.Ino(op.Parent2))
	if err != nil {
		return err
	}
	defer v.table.put(src)
	if err := checkCopy(src, in, op); err != nil {
		return err
	}
	from, to, n := op.Off2/pageBytes, op.Off/pageBytes, (op.Len+pageBytes-1)/pageBytes
	newer := newerPages(src, from, from+n)
	v.data.unpackInline(in, max(in.attr.Size, op.Off+op.Len))
	if err := v.data.cutBuffers(in, to, to+n); err != nil {
		return err
	}
	err = v.fs.Update(func(w *tree.Writer) error {
		if in.inlined.Swap(false) { // page 0 is in memory, and dirty
			if _, err := w.Delete(items.InlineKey(in.ino)); err != nil {
				return err
			}
		}
		return v.shareExtents(w, src, from, in, to, n)
	})
	if err != nil {
		return err
	}
	for _, p := range newer {
		at := to + p.block - from
		v.data.writeBuffer(in, at/bufferPages, int(at%bufferPages*pageBytes), p.page[:], op.Seq)
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.table.touch(in)
	return nil
}

// newerPage is a page that is newer than any extent.
type newerPage struct {
	block uint64
	page  *page
}

// newerPages copies the pages of [from, to) that are newer than the extents.
func newerPages(in *inode, from, to uint64) (list []newerPage) {
	in.bmu.RLock()
	defer in.bmu.RUnlock()
	for idx, b := range in.buffers {
		for i, p := range b.pages {
			if s := idx*bufferPages + uint64(i); s >= from && s < to && p != nil && (b.dirty>>i&1 == 1 || b.flight[i] != 0) {
				c := *p
				list = append(list, newerPage{s, &c})
			}
		}
	}
	return list
}

// shareExtents replaces n blocks of dst by references to the blocks of src.
func (v *Volume) shareExtents(w *tree.Writer, src *inode, from uint64, dst *inode, to, n uint64) error {
	es, err := items.ScanExtents(w.ScanFloor, src.ino, from, from+n, 0)
	if err == nil {
		err = v.ranges.oweSource(w, src, es)
	}
	if err != nil {
		return err
	}
	d, err := v.data.drop(w, dst, to, to+n, 0)
	if err != nil {
		return err
	}
	added, filled, fresh := uint64(0), uint64(0), uint64(0)
	durable := v.durable.generation()
	var run layout.Run // adjacent runs on the device are counted together
	for i := range es {
		e := &es[i]
		a, b := max(from, e.Block), min(from+n, e.End())
		ref := layout.FileExtent{Record: e.Slice(int(a-e.Block), int(b-a)), RefBirth: v.gen}
		promised, err := promisedIn(w, dst, to+a-from, to+b-from)
		if err != nil {
			return err
		}
		ref.Owed = promised > 0
		filled += promised
		if err := w.Put(items.ExtentKey(dst.ino, to+a-from), ref.Append(nil)); err != nil {
			return err
		}
		v.rot.met(ref.Epoch)
		added += b - a
		if e.RefBirth > durable {
			fresh += b - a
		}
		start := ref.Addr / layout.BlockBytes
		if run.Count >= 1<<30 || run.Count > 0 && run.Start+uint64(run.Count) != start {
			if err := v.shares.Add(run); err != nil {
				return err
			}
			run.Count = 0
		}
		if run.Count == 0 {
			run.Start = start
		}
		run.Count += uint32(b - a)
	}
	if err := v.shares.Add(run); err != nil {
		return err
	}
	v.com.copied.Add(fresh)
	dst.bmu.Lock()
	dst.blocks += added - d.blocks
	dst.bmu.Unlock()
	dst.vacate(d.vacated, filled)
	v.ranges.owed.Add(int64(d.owed)) // the destination's blocks are shared, so all of them are owed
	return nil
}
