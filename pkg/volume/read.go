package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Read implements vfs.FS.
func (v *Volume) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	in, err := v.table.inode(ino)
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
	// The pin keeps everything that planRead finds readable (I3), so the device is read without the
	// lock.
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

// readPlan is what a read must fetch from the device.
type readPlan struct {
	runs  []txn.RunRead
	parts []partRead // first or last block of a read that covers it only partly
}

type partRead struct {
	page *page
	from int
	dst  []byte
}

// planRead copies what is in memory to dst and plans the rest. The caller holds in.mu and a pin.
func (v *Volume) planRead(in *inode, off uint64, dst []byte) (*readPlan, error) {
	p := &readPlan{}
	end := off + uint64(len(dst))
	first, last := off/pageBytes, (end-1)/pageBytes
	var missing [][2]uint64 // runs of blocks
	in.bmu.RLock()
	for s := first; s <= last; s++ {
		b := in.buffers[s/bufferPages]
		if b == nil {
			to := min(last, s|(bufferPages-1))
			if n := len(missing); n > 0 && missing[n-1][1] == s {
				missing[n-1][1] = to + 1
			} else {
				missing = append(missing, [2]uint64{s, to + 1})
			}
			s = to
			continue
		}
		if pg := b.pages[s%bufferPages]; pg != nil {
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
			return p, nil // the tree's content is older than page 0
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
		es, err := v.data.extents(in.ino, m[0], m[1], 0)
		if err != nil {
			return nil, err
		}
		for i := range es {
			p.add(&es[i], max(m[0], es[i].Block), min(m[1], es[i].End()), off, dst)
		}
	}
	return p, nil
}

// add plans to read blocks [a, b) of an extent. dst begins at byte off of the file.
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
	p.runs = append(p.runs, txn.RunRead{Record: &e.Record, From: int(a - e.Block), Count: int(b - a), Dst: dst[a*pageBytes-off : b*pageBytes-off]})
}

func (p *readPlan) addPart(e *items.Placed, s, off uint64, dst []byte) {
	end := off + uint64(len(dst))
	pg := pagePool.Get().(*page)
	from := max(off, s*pageBytes)
	p.runs = append(p.runs, txn.RunRead{Record: &e.Record, From: int(s - e.Block), Count: 1, Dst: pg[:]})
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

// loadPage brings a block of the file into memory, and keeps it there until unload. The caller
// holds in.mu exclusively.
func (c *contents) loadPage(in *inode, block uint64) error {
	v := c.v
	idx, i := block/bufferPages, block%bufferPages
	in.bmu.Lock()
	b := in.buffers[idx]
	have := b != nil && b.pages[i] != nil
	if have {
		b.held |= 1 << i
		in.loaded = append(in.loaded, block)
	}
	in.bmu.Unlock()
	if have {
		return nil
	}
	pg := pagePool.Get().(*page)
	clear(pg[:])
	pin := v.space.Pin()
	defer v.space.Unpin(pin)
	if off := block * pageBytes; off < in.attr.Size {
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
	b = c.buffer(in, idx)
	b.pages[i] = pg
	b.held |= 1 << i
	in.loaded = append(in.loaded, block)
	return nil
}

// unload ends loadPage: pages that the operation did not change are dropped.
func (c *contents) unload(in *inode) {
	for _, block := range in.loaded {
		idx, i := block/bufferPages, int(block%bufferPages)
		in.bmu.Lock()
		if b := in.buffers[idx]; b != nil && b.held>>i&1 == 1 {
			b.held &^= 1 << i
			if b.pages[i] != nil && b.dirty>>i&1 == 0 && b.flight[i] == 0 {
				b.drop(i)
			}
			if b.empty() {
				c.dropBuffer(in, idx, b)
			}
		}
		in.bmu.Unlock()
	}
	in.loaded = in.loaded[:0]
}
