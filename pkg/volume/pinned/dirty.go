package pinned

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// errDirtyUsed is about a visitor that keeps DataChange.Dirty.
var errDirtyUsed = errors.New("ranges of a file were asked for after the visitor had returned")

// dirty finds the ranges of a file that differ, from extents that differ. It holds at most one
// extent of each state.
type dirty struct {
	ctx   context.Context
	src   *source
	ino   uint64
	end   uint64 // no range reaches beyond
	merge merger
	extra []logical.Range // dirty although extents may not tell, ascending

	last    bool          // no extent that matters follows
	raw     logical.Range // found, but not yet merged with what follows
	haveRaw bool
	r       logical.Range // the next to be yielded
	done    bool          // there is no r
	closed  bool          // the visitor has returned
	err     error
}

// resized adds what a change of the size makes differ without any extent: the end of an old last
// block, and, if the file shrinks, all that it loses.
func (x *dirty) resized(old, size uint64) {
	const block = layout.BlockBytes
	switch {
	case size < old:
		x.extra = []logical.Range{{Off: size, Len: old - size}}
	case size > old && old%block != 0:
		x.extra = []logical.Range{{Off: old, Len: min(size, (old+block-1)/block*block) - old}}
	}
}

// start finds the first range.
func (x *dirty) start() error {
	x.advance()
	return x.err
}

// yield is DataChange.Dirty.
func (x *dirty) yield(fn func(logical.Range, error) bool) {
	if x.closed {
		fn(logical.Range{}, errDirtyUsed)
		return
	}
	for !x.done {
		r := x.r
		x.advance()
		if !fn(r, nil) {
			return
		}
	}
	if x.err != nil {
		fn(logical.Range{}, x.err)
	}
}

// advance finds the next range: what comes first, with all that touches it.
func (x *dirty) advance() {
	p := x.first()
	if x.done = p == nil; x.done {
		return
	}
	x.r = *p
	x.drop(p)
	for {
		p, end := x.first(), x.r.Off+x.r.Len
		if p == nil || p.Off > end {
			return
		}
		x.r.Len = max(end, p.Off+p.Len) - x.r.Off
		x.drop(p)
	}
}

// first returns raw or the first of extra, whichever begins first. nil: there is neither.
func (x *dirty) first() *logical.Range {
	if !x.haveRaw {
		x.raw, x.haveRaw = x.blocks()
	}
	switch {
	case x.err != nil:
		return nil
	case len(x.extra) > 0 && (!x.haveRaw || x.extra[0].Off <= x.raw.Off):
		return &x.extra[0]
	case x.haveRaw:
		return &x.raw
	}
	return nil
}

// drop removes what first has returned.
func (x *dirty) drop(p *logical.Range) {
	if p == &x.raw {
		x.haveRaw = false
	} else {
		x.extra = x.extra[1:]
	}
}

// blocks returns the next range of blocks in which extents differ.
func (x *dirty) blocks() (r logical.Range, ok bool) {
	const block = layout.BlockBytes
	for !x.last {
		limit := ^uint64(0)
		e, more, err := x.src.peekOf(x.ino)
		if err == nil && x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		if err != nil {
			x.err = err
			return r, false
		}
		if more {
			limit = e.Key.Sub
		}
		if from, to, ok := x.merge.until(limit); ok {
			if from*block >= x.end {
				break
			}
			return logical.Range{Off: from * block, Len: min(to*block, x.end) - from*block}, true
		}
		if !more {
			break
		}
		if err := x.merge.add(e.Key.Sub, e.A, e.B); err != nil {
			x.err = reading(fmt.Errorf("inode %d: extent at block %d: %w", x.ino, e.Key.Sub, err))
			return r, false
		}
		x.src.advance()
	}
	x.last = true
	return r, false
}

// merger compares two sequences of extents. The extents of one sequence do not overlap. It holds
// at most one of each.
type merger struct {
	cur  [2]items.Placed
	have [2]bool
	at   [2]uint64 // how far each side is done
}

// add adds the extents that begin at a block. What is before the block is done.
func (m *merger) add(block uint64, a, b []byte) error {
	for i, val := range [2][]byte{a, b} {
		if val == nil {
			continue
		}
		if m.have[i] {
			return fmt.Errorf("%w: it overlaps the extent at block %d", layout.ErrCorrupt, m.cur[i].Block)
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			return err
		}
		if block > layout.MaxFileBytes/layout.BlockBytes {
			return fmt.Errorf("%w: it is beyond the largest file", layout.ErrCorrupt)
		}
		m.cur[i], m.have[i] = items.Placed{Block: block, FileExtent: e}, true
	}
	return nil
}

// until returns the next blocks before a limit in which the extents differ.
func (m *merger) until(limit uint64) (from, to uint64, ok bool) {
	for m.have[0] || m.have[1] {
		from, to = ^uint64(0), limit
		for i := range m.cur {
			if m.have[i] {
				from = min(from, max(m.at[i], m.cur[i].Block))
			}
		}
		if from >= limit {
			return 0, 0, false
		}
		var in [2]bool
		for i := range m.cur {
			if !m.have[i] {
				continue
			}
			if start := max(m.at[i], m.cur[i].Block); start > from {
				to = min(to, start)
			} else {
				in[i] = true
				to = min(to, m.cur[i].End())
			}
		}
		for i := range m.cur {
			if in[i] {
				m.at[i] = to
				m.have[i] = to < m.cur[i].End()
			}
		}
		if !in[0] || !in[1] || !samePlace(&m.cur[0], &m.cur[1]) {
			return from, to, true
		}
	}
	return 0, 0, false
}

// samePlace reports whether two extents have the same data wherever both have any. A nonce is never
// used twice.
func samePlace(a, b *items.Placed) bool {
	return a.Nonce == b.Nonce && a.Addr-a.Block*layout.BlockBytes == b.Addr-b.Block*layout.BlockBytes
}
