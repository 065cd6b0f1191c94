package volume

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

const batchBlocks = txn.WriteBytes / layout.BlockBytes

// batch is up to 256 KiB of sealed extents that are being written to the device.
type batch struct {
	buf   *[]byte
	gen   uint64
	id    uint64
	runs  []layout.Run // places on the device, in the order of buf
	parts []part
	refs  []ref // what the log may refer to once the batch is written
}

// part is a run of pages of one buffer in a batch.
type part struct {
	in    *inode
	idx   uint64
	b     *buffer
	first int // index of the first page
	count int
	at    int    // block in batch.buf
	src   uint64 // see buffer.src
	last  bool   // the last part of its inode in the batch

	inline []byte // content for the tree, which takes no blocks
}

// sealBatches seals all items. On an error, it queues the remaining items again. The caller is in
// the gate.
func (f *flusher) sealBatches(items []flushItem) (done []*batch, err error) {
	v := f.v
	for len(items) > 0 && err == nil {
		var b *batch
		if b, items, err = f.sealBatch(items); err == nil {
			done = append(done, b)
		}
	}
	for _, it := range items {
		v.table.put(it.in)
	}
	return done, err
}

// writeBatches writes all batches, even after an error, because all flights must end.
func (f *flusher) writeBatches(list []*batch) (err error) {
	for _, b := range list {
		err = errors.Join(err, f.writeBatch(b))
	}
	return err
}

// sealBatch copies dirty pages of the items until batch.buf is full, seals them and stores their
// records in the tree. It returns the items that did not fit. The caller is in the gate. An error
// makes the volume fail before anybody else enters the gate: the pages then count as clean, and
// their records may be in the tree, so the next commit would write a root without the data.
func (f *flusher) sealBatch(items []flushItem) (bt *batch, rest []flushItem, err error) {
	v := f.v
	f.mu.Lock()
	f.lastID++
	f.flying[f.lastID] = struct{}{}
	bt = &batch{buf: txn.GetBuffer(), gen: v.gen, id: f.lastID}
	f.writes[bt.gen]++
	f.mu.Unlock()
	fill := 0
	for len(items) > 0 && f.copyBuffer(bt, items[0], &fill) {
		defer v.table.put(items[0].in)
		items = items[1:]
	}
	if err = f.insertBatch(bt, fill); err != nil {
		v.fail(err)
	}
	// Truncation waits until the records are in the tree.
	for i := range bt.parts {
		p := &bt.parts[i]
		p.in.bmu.Lock()
		p.b.busy = false
		if p.last {
			p.in.inlining = false
			if p.in.inserting--; p.in.inserting == 0 {
				p.in.settled.Broadcast()
			}
		}
		p.in.bmu.Unlock()
	}
	if err != nil {
		for i := range bt.parts {
			v.table.put(bt.parts[i].in)
		}
		f.endWrites(bt)
		txn.PutBuffer(bt.buf)
		return nil, items, err
	}
	return bt, items, nil
}

// copyBuffer copies the dirty pages of a buffer to the batch. It returns false if there is no room.
// The content of a small file goes into the tree instead.
func (f *flusher) copyBuffer(bt *batch, it flushItem, fill *int) bool {
	v := f.v
	in := it.in
	in.bmu.Lock()
	defer in.bmu.Unlock()
	b := in.buffers[it.idx]
	if b == nil {
		return true
	}
	n := bits.OnesCount16(b.dirty)
	if *fill+n > batchBlocks {
		return false
	}
	inline := it.idx == 0 && in.blocks == 0 && !in.reserved.Load() && len(in.buffers) == 1 && b.dirty == 1 && in.size.Load() <= layout.MaxInline
	if n > 0 && (b.busy || in.inlining || inline && in.inserting > 0) {
		f.pushItem(it, false) // another flusher has this buffer: pages that are dirty now come after it
		return true
	}
	b.queued, b.full = false, false
	if n == 0 {
		f.dropClean(in, it.idx, b)
		return true
	}
	b.busy, in.inlining = true, inline
	// in.inserting counts each batch once: the last part of an inode ends it.
	first := true
	for i := range bt.parts {
		if p := &bt.parts[i]; p.in == in && p.last {
			p.last, first = false, false
		}
	}
	if first {
		in.inserting++
	}
	for i := 0; i < bufferPages; i++ {
		if b.dirty>>i&1 == 0 {
			continue
		}
		p := part{in: in, idx: it.idx, b: b, first: i, at: *fill}
		for ; i < bufferPages && b.dirty>>i&1 == 1; i++ {
			b.flight[i] = bt.id
			p.count++
			if inline {
				p.inline = slices.Clone(b.pages[i][:in.size.Load()])
				continue
			}
			copy((*bt.buf)[*fill*pageBytes:], b.pages[i][:])
			*fill++
		}
		if p.count == bufferPages {
			p.src = b.src
		}
		v.table.hold(in)
		bt.parts = append(bt.parts, p)
	}
	bt.parts[len(bt.parts)-1].last = true
	b.dirty = 0
	v.adm.dirtyPages(0, -1)
	return true
}

// dropClean drops the pages that equal the device.
func (f *flusher) dropClean(in *inode, idx uint64, b *buffer) {
	v := f.v
	for i := range bufferPages {
		if b.clean(i) {
			b.drop(i)
		}
	}
	if b.empty() {
		v.data.dropBuffer(in, idx, b)
	}
}

// insertBatch allocates and seals the extents of a batch, and stores their records.
func (f *flusher) insertBatch(bt *batch, fill int) error {
	v := f.v
	if len(bt.parts) == 0 {
		return nil
	}
	// The device may have no free run of this length.
	for n := uint32(fill); n > 0; {
		r, err := f.allocData(n)
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		bt.runs = append(bt.runs, r)
		n -= r.Count
	}
	out, err := f.sealParts(bt)
	if err != nil {
		return err
	}
	err = v.fs.Update(func(w *tree.Writer) error {
		for i := range out {
			s := &out[i]
			if err := v.data.put(w, s.p.in, s.block, &s.e); err != nil {
				return err
			}
		}
		for i := range bt.parts {
			p := &bt.parts[i]
			key := items.InlineKey(p.in.ino)
			if p.inline != nil {
				if err := w.Put(key, p.inline); err != nil {
					return err
				}
				p.in.inlined.Store(true)
			} else if p.in.inlined.Swap(false) {
				if _, err := w.Delete(key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range bt.parts {
		if p := &bt.parts[i]; p.inline != nil {
			v.table.touch(p.in)
		}
	}
	for i := range out {
		s := &out[i]
		v.table.touch(s.p.in) // because of its count of blocks
		if s.p.src != 0 {
			bt.refs = append(bt.refs, ref{s.p.src, items.Placed{Block: s.block, FileExtent: s.e}})
		}
	}
	return nil
}

// sealedPart is an extent made from a part of a batch.
type sealedPart struct {
	p     *part
	block uint64
	e     layout.FileExtent
}

// sealParts seals the data of a batch in place, for the runs that it has.
func (f *flusher) sealParts(bt *batch) ([]sealedPart, error) {
	v := f.v
	out := make([]sealedPart, 0, len(bt.parts))
	ri, used := 0, 0
	for i := range bt.parts {
		p := &bt.parts[i]
		for done := 0; done < p.count && p.inline == nil; {
			r := bt.runs[ri]
			n := min(p.count-done, int(r.Count)-used)
			block := p.idx*bufferPages + uint64(p.first+done)
			b := (*bt.buf)[(p.at+done)*pageBytes : (p.at+done+n)*pageBytes]
			rec, err := v.store.SealData(p.in.ino, block, bt.gen, b, b)
			if err != nil {
				return nil, fmt.Errorf("seal: %w", err)
			}
			rec.Addr = (r.Start + uint64(used)) * layout.BlockBytes
			out = append(out, sealedPart{p, block, layout.FileExtent{Record: rec, RefBirth: bt.gen}})
			done += n
			if used += n; used == int(r.Count) {
				ri, used = ri+1, 0
			}
		}
	}
	return out, nil
}

// allocData prefers whole runs. It leaves the node slots that a commit needs, and the reserve, to
// metadata: deletes must be able to use free space.
func (f *flusher) allocData(n uint32) (layout.Run, error) {
	v := f.v
	v.adm.mu.Lock()
	_, held := v.ranges.held(v.adm.granted.pins > 0)
	meta := v.adm.meta(reservation{}) + v.adm.reserveSlots + held/layout.NodeBlocks
	v.adm.mu.Unlock()
	if _, nodeSlots, _ := v.space.Counts(); nodeSlots <= meta+int64(n) {
		if r, err := v.space.AllocBroken(n); !errors.Is(err, txn.ErrNoSpace) {
			return r, err
		}
	}
	return v.space.Alloc(n)
}

// writeBatch writes a sealed batch and ends its flight. An error makes the volume fail before the
// flight ends: those that wait for the flight, such as a commit before it writes its root, then
// check for failure. Pages that were not written stay in memory and in flight, so that reads return
// what was written.
func (f *flusher) writeBatch(bt *batch) error {
	v := f.v
	var err error
	at := 0
	for _, r := range bt.runs {
		n := int(r.Count) * pageBytes
		if err = v.store.Write((*bt.buf)[at:at+n], r.Start*layout.BlockBytes); err != nil {
			break
		}
		at += n
	}
	txn.PutBuffer(bt.buf)
	if err == nil {
		f.refs.add(bt.refs)
	} else {
		v.fail(err)
	}
	for i := range bt.parts {
		if p := &bt.parts[i]; err == nil {
			f.landed(p, bt.id)
		} else {
			v.table.put(p.in)
		}
	}
	f.endWrites(bt)
	return err
}

// landed ends the flight of a part: its pages equal the device, unless they changed meanwhile.
func (f *flusher) landed(p *part, id uint64) {
	v := f.v
	p.in.bmu.Lock()
	mine := p.in.buffers[p.idx] == p.b
	if mine {
		before := p.b.tracked()
		for i := p.first; i < p.first+p.count; i++ {
			if p.b.flight[i] == id {
				p.b.flight[i] = 0
			}
		}
		v.adm.dirtyPages(p.b.tracked()-before, 0)
	}
	p.in.bmu.Unlock()
	if mine {
		f.keep(flushItem{p.in, p.idx})
	}
	v.table.put(p.in)
}

func (f *flusher) endWrites(bt *batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes[bt.gen]--; f.writes[bt.gen] == 0 {
		delete(f.writes, bt.gen)
	}
	delete(f.flying, bt.id)
	f.done.Broadcast()
}
