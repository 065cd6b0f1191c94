package selfenc

import (
	"context"
	"iter"
)

// Refs calls fn for each stored chunk of data from chunk from on, in ascending order. Holes have no
// reference. It reads parts of the map ahead, in parallel, and needs memory for some nodes only. r
// is valid during the call.
func (s *PackedSealer) Refs(ctx context.Context, o *PackedObject, from int64, fn func(chunk int64, r *PackedRef) error) error {
	return s.walk(ctx, o, from, 0, func(level int, i int64, r *PackedRef) error {
		if level > 0 {
			return nil
		}
		return fn(i, r)
	})
}

// Nodes calls fn for each node of the map, a node before those below it, in ascending order. Levels
// count from 1. It does not read nodes of level 1.
func (s *PackedSealer) Nodes(ctx context.Context, o *PackedObject, fn func(level int, index int64, r *PackedRef) error) error {
	return s.walk(ctx, o, 0, 1, fn)
}

// Walk calls fn for each stored chunk and node: everything that the object needs. A node comes before
// what is below it, otherwise the order is ascending. Chunks of data have level 0.
func (s *PackedSealer) Walk(ctx context.Context, o *PackedObject, fn func(level int, index int64, r *PackedRef) error) error {
	return s.walk(ctx, o, 0, 0, fn)
}

// walk visits everything from chunk from on, down to the lowest level.
func (s *PackedSealer) walk(ctx context.Context, o *PackedObject, from int64, lowest int, fn func(level int, index int64, r *PackedRef) error) error {
	if err := o.Validate(); err != nil {
		return err
	}
	t := s.tree(o)
	top := t.shape.level
	if t.root.ref.Kind == 0 || top < lowest || from > t.shape.last(0) {
		return context.Cause(ctx)
	}
	w := &packedWalk{ctx: ctx, t: t, from: from, stop: max(1, lowest)}
	if top <= w.stop {
		return w.visit(top, 0, &t.root, lowest, fn)
	}
	// The nodes above those of level 1 are few. Those of level 1 are loaded in parallel.
	next, end := iter.Pull2(w.above)
	defer end()
	type loaded struct {
		packedItem
		packedNode
	}
	return pipeline(ctx, s.width, func(context.Context) (packedItem, error) {
		item, err, ok := next()
		if !ok {
			return item, errEnd
		}
		return item, err
	}, func(ctx context.Context, item packedItem) (l loaded, err error) {
		l.packedItem = item
		if item.level == 1 && lowest == 0 {
			l.packedNode, err = t.load(ctx, 1, item.index, &item.child, false)
		}
		return l, err
	}, func(l loaded) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := fn(l.level, l.index, &l.child.ref); err != nil {
			return err
		}
		return w.chunks(l.index, &l.packedNode, fn)
	})
}

type packedItem struct {
	level int
	index int64
	child packedChild
}

type packedWalk struct {
	ctx  context.Context //nolint:containedctx // it lives for one call only
	t    *packedTree
	from int64
	stop int // the lowest level of above
}

// visit visits a map of one node at most.
func (w *packedWalk) visit(level int, i int64, c *packedChild, lowest int, fn func(level int, index int64, r *PackedRef) error) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	if err := fn(level, i, &c.ref); err != nil || level == lowest {
		return err
	}
	n, err := w.t.load(w.ctx, level, i, c, false)
	if err != nil {
		return err
	}
	return w.chunks(i, &n, fn)
}

// chunks visits the data of a node of level 1.
func (w *packedWalk) chunks(node int64, n *packedNode, fn func(level int, index int64, r *PackedRef) error) error {
	for k := range n.children {
		i := node<<nodeFanoutShift + int64(k)
		if n.children[k].ref.Kind == 0 || i < w.from {
			continue
		}
		if err := context.Cause(w.ctx); err != nil {
			return err
		}
		r := n.children[k].ref
		if err := fn(0, i, &r); err != nil {
			return err
		}
	}
	return nil
}

// above yields the nodes from the root down to level stop.
func (w *packedWalk) above(yield func(packedItem, error) bool) {
	w.descend(packedItem{w.t.shape.level, 0, w.t.root}, yield)
}

func (w *packedWalk) descend(p packedItem, yield func(packedItem, error) bool) bool {
	if !yield(p, nil) {
		return false
	}
	if p.level == w.stop {
		return true
	}
	n, err := w.t.load(w.ctx, p.level, p.index, &p.child, true)
	if err != nil {
		yield(packedItem{}, err)
		return false
	}
	for k := range n.children {
		i := p.index<<nodeFanoutShift + int64(k)
		last := (i+1)<<(uint(p.level-1)*nodeFanoutShift) - 1 // chunk of the child
		if n.children[k].ref.Kind == 0 || last < w.from {
			continue
		}
		if !w.descend(packedItem{p.level - 1, i, n.children[k]}, yield) {
			return false
		}
	}
	return true
}
