package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Sealing copies of shared extents, and updating the records that refer to them: the writing part
// of a mover's step (rotateshare.go).

// freshCopy is a copy made in this step, of blocks [first, first+count) of the old extent.
type freshCopy struct {
	layout.Record
	first int
	refs  [bufferPages]int // references to each of its blocks
}

// seal writes copies of blocks that references need and that have no known copy. The blocks were
// read before.
func (m *mover) seal(old []oldRef) (fresh []freshCopy, err error) {
	var owner [maxSegments]*oldRef
	for i := range old {
		for s := old[i].first; s < old[i].first+old[i].count; s++ {
			if owner[s] == nil && !m.copies[s].ok && m.have[s] {
				owner[s] = &old[i]
			}
		}
	}
	for s := 0; s < maxSegments; {
		n := 0
		for n < bufferPages && s+n < maxSegments && owner[s+n] != nil {
			n++
		}
		if n == 0 {
			s++
			continue
		}
		f, err := m.sealRun(owner[s], s, n)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, f)
		s += f.Count()
	}
	return fresh, nil
}

// sealRun seals up to n blocks from s on, as many as fit in one place.
func (m *mover) sealRun(owner *oldRef, s, n int) (f freshCopy, err error) {
	v := m.v
	run, err := v.flush.allocData(uint32(n))
	if err != nil {
		return f, fmt.Errorf("data: %w", err)
	}
	n = int(run.Count)
	buf := txn.GetBuffer()
	defer txn.PutBuffer(buf)
	dst := (*buf)[:n*pageBytes]
	f.first = s
	index := owner.block + uint64(s) - uint64(owner.first)
	if f.Record, err = v.store.SealData(owner.ino, index, v.gen, m.data[s*pageBytes:(s+n)*pageBytes], dst); err != nil {
		return f, fmt.Errorf("seal: %w", err)
	}
	f.Addr = run.Start * layout.BlockBytes
	return f, v.store.Write(dst, f.Addr)
}

// refer updates the records to refer to the copies. It returns references that lack a copy.
func (m *mover) refer(w *tree.Writer, old []oldRef, fresh []freshCopy) (left []sharedRef, err error) {
	of := [maxSegments]int{} // 1 + index of the fresh copy that has the block
	for i := range fresh {
		for s := fresh[i].first; s < fresh[i].first+fresh[i].Count(); s++ {
			of[s] = i + 1
		}
	}
	for i := range old {
		r := &old[i]
		e, ok, err := m.find(w.Get, &r.sharedRef)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		r.e = e // its refbirth and owed bit may have changed since load
		own, err := m.v.ranges.unowed(w.ScanFloor, r.ino, &items.Placed{Block: r.block, FileExtent: e})
		if err != nil {
			return nil, err
		}
		lacks := false
		for s := r.first; s < r.first+r.count; s++ {
			if own && of[s] == 0 { // like its current blocks, its copy has no other reference
				m.copies[s].ok = false
			}
			lacks = lacks || of[s] == 0 && !m.copies[s].ok
		}
		if lacks {
			left = append(left, r.sharedRef)
			continue
		}
		if err := m.replace(w, r, fresh, &of); err != nil {
			return nil, err
		}
		run := layout.Run{Start: r.origin + uint64(r.first), Count: uint32(r.count)}
		if err := m.v.data.release(run, e.RefBirth); err != nil {
			return nil, err
		}
	}
	return left, m.v.rot.countFresh(fresh)
}

// replace replaces an old record by records of copies.
func (m *mover) replace(w *tree.Writer, r *oldRef, fresh []freshCopy, of *[maxSegments]int) error {
	v := m.v
	for s, end := int(r.first), int(r.first+r.count); s < end; {
		var e layout.FileExtent
		n := 1
		if f := of[s]; f > 0 {
			for s+n < end && of[s+n] == f {
				n++
			}
			c := &fresh[f-1]
			for i := range n {
				c.refs[s-c.first+i]++
			}
			e.Record = c.Slice(s-c.first, n)
		} else {
			c := &m.copies[s]
			for s+n < end && of[s+n] == 0 && m.copies[s+n].Addr == c.Addr && m.copies[s+n].at == c.at+n {
				n++
			}
			e.Record = c.Slice(c.at, n)
			if err := v.shares.Add(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(n)}); err != nil {
				return err
			}
		}
		e.RefBirth, e.Owed = v.gen, v.ranges.owes(&r.e)
		block := r.block + uint64(s) - uint64(r.first)
		if err := w.Put(items.ExtentKey(r.ino, block), e.Append(nil)); err != nil {
			return err
		}
		v.rot.met(e.Epoch)
		for i := range n {
			m.copies[s+i] = copied{e, r.ino, block, i, true}
		}
		s += n
	}
	return nil
}

// countFresh counts the references to new blocks, and frees blocks without references.
func (r *rotator) countFresh(fresh []freshCopy) error {
	v := r.v
	for i := range fresh {
		f := &fresh[i]
		for s, n := 0, f.Count(); s < n; {
			to := s + 1
			for to < n && f.refs[to] == f.refs[s] {
				to++
			}
			run := layout.Run{Start: f.Addr/layout.BlockBytes + uint64(s), Count: uint32(to - s)}
			if f.refs[s] == 0 {
				v.space.Free(run)
			} else if err := v.shares.AddN(run, f.refs[s]-1); err != nil {
				return err
			}
			s = to
		}
	}
	return nil
}
