package selfenc

import "context"

// DiffObjects calls fn for the ranges in which two objects may differ, in ascending order: whole
// chunks that are not equal, and what the longer one has beyond the end of the other one. It reads
// only parts of the maps that differ, and no data. If the chunk sizes differ, so does everything.
func (s *PackedSealer) DiffObjects(ctx context.Context, a, b *PackedObject, fn func(Range) error) error {
	return s.DiffObjectsOf(ctx, s, a, b, fn)
}

// DiffObjectsOf is DiffObjects for an object a whose packs another PackedSealer opens, of the same
// tenant.
func (s *PackedSealer) DiffObjectsOf(ctx context.Context, of *PackedSealer, a, b *PackedObject, fn func(Range) error) error {
	if err := a.Validate(); err != nil {
		return err
	}
	if err := b.Validate(); err != nil {
		return err
	}
	d := &packedDiff{ctx: ctx, fn: fn, common: min(a.Bytes, b.Bytes), chunk: int64(a.ChunkBytes)}
	if a.ChunkBytes != b.ChunkBytes {
		d.common = 0
	}
	if d.common > 0 {
		d.a, d.b = of.tree(a), s.tree(b)
		if err := d.compare(max(a.Levels(), b.Levels()), 0, d.side(d.a), d.side(d.b)); err != nil {
			return err
		}
	}
	d.differs(d.common, max(a.Bytes, b.Bytes)-d.common)
	return d.flush()
}

type packedDiff struct {
	ctx     context.Context //nolint:containedctx // it lives for one call only
	fn      func(Range) error
	a, b    *packedTree
	common  int64
	chunk   int64
	pending Range
	err     error
}

// diffSide is one object's part of a comparison.
type diffSide struct {
	t     *packedTree
	child packedChild
	below bool // the root of the map is below: it is the first child, or the first one's first, and so on
}

func (d *packedDiff) side(t *packedTree) diffSide { return diffSide{t: t, child: t.root, below: true} }

// children returns the children of node i of a level, and nil for a hole.
func (s *diffSide) children(ctx context.Context, level int, i int64) ([]packedChild, error) {
	if s.below || s.child.ref.Kind == 0 {
		return nil, nil
	}
	n, err := s.t.load(ctx, level, i, &s.child, true)
	return n.children, err
}

// at returns the part for a child.
func (s *diffSide) at(k int, children []packedChild) diffSide {
	c := diffSide{t: s.t}
	switch {
	case s.below && k == 0:
		c.child, c.below = s.child, true
	case k < len(children):
		c.child = children[k]
	}
	return c
}

// compare compares chunk or node i of a level.
func (d *packedDiff) compare(level int, i int64, a, b diffSide) error {
	if err := context.Cause(d.ctx); err != nil {
		return err
	}
	a.below, b.below = a.below && a.t.shape.level < level, b.below && b.t.shape.level < level
	s := packedShape{level, a.t.shape.shift, d.common}
	if !a.below && !b.below && s.same(&a.child, &b.child) {
		return nil
	}
	if level == 0 {
		d.differs(i*d.chunk, min(d.chunk, d.common-i*d.chunk))
		return d.err
	}
	x, err := a.children(d.ctx, level, i)
	if err != nil {
		return err
	}
	y, err := b.children(d.ctx, level, i)
	if err != nil {
		return err
	}
	first := i << nodeFanoutShift
	for k := range int(min(nodeFanout, s.last(level-1)-first+1)) {
		if err := d.compare(level-1, first+int64(k), a.at(k, x), b.at(k, y)); err != nil {
			return err
		}
	}
	return nil
}

// differs reports a range, together with the one before if they touch.
func (d *packedDiff) differs(off, n int64) {
	if n <= 0 || d.err != nil {
		return
	}
	if d.pending.Len > 0 && d.pending.Off+d.pending.Len == uint64(off) {
		d.pending.Len += uint64(n)
		return
	}
	d.err = d.flush()
	d.pending = Range{uint64(off), uint64(n)}
}

func (d *packedDiff) flush() error {
	if d.err == nil && d.pending.Len > 0 {
		d.err = d.fn(d.pending)
	}
	d.pending = Range{}
	return d.err
}
