package selfenc

import (
	"context"
	"sync"
)

// NextData returns the first chunk from chunk from on that is no hole, or the number of chunks if
// there is none. It reads nodes of the map one after the other, and keeps them in memory for the
// next call.
func (s *PackedSealer) NextData(ctx context.Context, o *PackedObject, from int64) (chunk int64, err error) {
	return s.seek(ctx, o, from, true)
}

// NextHole returns the first chunk from chunk from on that is a hole, or the number of chunks if
// there is none. It may have to read the map of all data that comes before,
// in parallel.
func (s *PackedSealer) NextHole(ctx context.Context, o *PackedObject, from int64) (chunk int64, err error) {
	return s.seek(ctx, o, from, false)
}

func (s *PackedSealer) seek(ctx context.Context, o *PackedObject, from int64, data bool) (int64, error) {
	if err := o.Validate(); err != nil {
		return 0, err
	}
	end := o.Chunks()
	if from = max(from, 0); from >= end {
		return end, nil
	}
	x := &packedSeek{t: s.tree(o), data: data}
	var cancel context.CancelFunc
	x.ctx, cancel = context.WithCancel(ctx)
	defer x.ahead.Wait()
	defer cancel()
	at, found, err := x.in(x.t.shape.level, 0, &x.t.root, from)
	if err != nil || !found {
		return end, err
	}
	return at, nil
}

type packedSeek struct {
	ctx  context.Context //nolint:containedctx // it lives for one call only
	t    *packedTree
	data bool

	ahead sync.WaitGroup
	upTo  int64 // nodes of level 1 before it were asked for
}

// seekAhead is how many nodes of level 1 are read at once where data follows data.
const seekAhead = 16

// readAhead reads the nodes of level 1 behind one that has no hole: the file is perhaps dense.
func (x *packedSeek) readAhead(n *packedNode, first, k int64) {
	end := k + seekAhead
	for k = max(k, x.upTo-first); k < int64(len(n.children)) && k < end; k++ {
		c, i := n.children[k], first+k
		x.ahead.Go(func() { _, _ = x.t.load(x.ctx, 1, i, &c, true) }) // an error comes again
		x.upTo = max(x.upTo, i+1)
	}
}

// in looks below chunk or node i of a level, from a chunk on that is not behind it.
func (x *packedSeek) in(level int, i int64, c *packedChild, from int64) (at int64, found bool, err error) {
	bits := uint(level) * nodeFanoutShift
	if c.ref.Kind == 0 || level == 0 {
		return max(from, i<<bits), (c.ref.Kind != 0) == x.data, nil
	}
	n, err := x.t.load(x.ctx, level, i, c, true)
	if err != nil {
		return 0, false, err
	}
	below := bits - nodeFanoutShift
	first := i << nodeFanoutShift
	for k := max(0, from>>below-first); k < int64(len(n.children)); k++ {
		at, found, err = x.in(level-1, first+k, &n.children[k], from)
		if found || err != nil {
			return at, found, err
		}
		if level == 2 && !x.data {
			x.upTo = max(x.upTo, first+k+1)
			x.readAhead(&n, first, k+1)
		}
	}
	return 0, false, nil
}
