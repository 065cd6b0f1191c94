package selfenc

import (
	"context"
	"fmt"
)

// PackedError adds the place in an object to an error.
type PackedError struct {
	Level int   // 0 for data, or a level of the map
	Index int64 // within the level
	Ref   PackedRef
	Err   error
}

func (e *PackedError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("chunk %d: %v", e.Index, e.Err)
	}
	return fmt.Sprintf("map node %d of level %d: %v", e.Index, e.Level, e.Err)
}

// Unwrap returns the error of the chunk.
func (e *PackedError) Unwrap() error { return e.Err }

// packedTree is the map of an object that exists.
type packedTree struct {
	s     *PackedSealer
	shape packedShape // span 0: the object is empty
	root  packedChild
}

// tree returns the map of a valid object.
func (s *PackedSealer) tree(o *PackedObject) *packedTree {
	t := &packedTree{s: s, root: packedChild{o.Content, o.Root}}
	if o.Bytes > 0 {
		t.shape = o.shape()
	}
	return t
}

// entry returns chunk or node i of a level. What does not exist is a hole.
func (t *packedTree) entry(ctx context.Context, level int, i int64) (packedChild, error) {
	if t.shape.span == 0 || level > t.shape.level || i > t.shape.last(level) {
		return packedChild{}, nil
	}
	if level == t.shape.level {
		return t.root, nil
	}
	n, err := t.node(ctx, level+1, i>>nodeFanoutShift)
	if err != nil || n.children == nil {
		return packedChild{}, err
	}
	return n.children[i&(nodeFanout-1)], nil
}

// node returns node i of a level. A node without children is a hole, or does not exist.
func (t *packedTree) node(ctx context.Context, level int, i int64) (packedNode, error) {
	e, err := t.entry(ctx, level, i)
	if err != nil || e.ref.Kind == 0 {
		return packedNode{}, err
	}
	return t.load(ctx, level, i, &e, true)
}

// load returns the node that e refers to, which is node i of a level. keep has it kept in the cache.
func (t *packedTree) load(ctx context.Context, level int, i int64, e *packedChild, keep bool) (n packedNode, err error) {
	k := packedNodeKey{e.ref.D, t.shape.at(level, i)}
	read := func() (packedNode, error) { return t.s.readNode(ctx, k.shape, &e.ref) }
	if keep {
		n, err = t.s.nodes.get(ctx, k, read)
	} else if cached, ok := t.s.nodes.peek(k); ok {
		n = cached
	} else {
		n, err = read()
	}
	if err == nil && n.c != e.c {
		err = fmt.Errorf("%w: its content hash is not the one in its parent", ErrMap)
	}
	if err != nil {
		return packedNode{}, &PackedError{Level: level, Index: i, Ref: e.ref, Err: err}
	}
	return n, nil
}

// readNode reads and decodes a node.
func (s *PackedSealer) readNode(ctx context.Context, shape packedShape, r *PackedRef) (packedNode, error) {
	if err := ctx.Err(); err != nil {
		return packedNode{}, context.Cause(ctx)
	}
	m := s.small.Get().(*smallScratch)
	defer s.small.Put(m)
	m.plain = grow(m.plain, int(r.Length))
	if err := s.open(ctx, s.in, r, m.plain); err != nil {
		return packedNode{}, err
	}
	children, err := decodePackedNode(m.plain, shape)
	if err != nil {
		return packedNode{}, err
	}
	m.payload = grow(m.payload, maxPackedPlaceless)
	return packedNode{packedContent(m.payload, shape, children), children}, nil
}
