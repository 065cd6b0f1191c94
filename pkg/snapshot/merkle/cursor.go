package merkle

import (
	"context"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// cursor stands at an item of one level of an old map, or behind its last one, and moves forward. It
// reads a node of its level only if it has to stand inside of it, or at an item of it. A level above
// the root has no items, except for the one right above: it has the root as its only child.
type cursor struct {
	m     *Map
	level int
	// path leads from the level above the root to the level above the cursor's. It ends earlier if
	// the cursor stands at the first item below, and nobody wanted to know more yet.
	path []frame
	leaf *node // the node of the cursor's level; nil: not read, and the cursor stands at its first item
	i    int
	end  bool
	// ordinal grows with each move to another node.
	ordinal int
}

// frame is a node above a cursor, and the child below which the cursor stands.
type frame struct {
	x expected
	n *node
	i int
}

// newCursor returns a cursor at the first item of a level. top is the level above the root.
func newCursor(m *Map, top *node, level int) cursor {
	c := cursor{m: m, level: level}
	switch {
	case top == nil || level > top.level:
		c.end = true
	case level == top.level:
		c.leaf = top
	default:
		c.path = []frame{{n: top}}
	}
	return c
}

// topOf returns the level above the root of a map: a node that is not stored. nil: the map is empty.
func topOf(ctx context.Context, m *Map) (*node, error) {
	if m.root.Empty() {
		return nil, nil
	}
	x := m.expectRoot()
	n, err := m.load(ctx, &x)
	if err != nil {
		return nil, err
	}
	raw := appendChild(nil, &x.child)
	return &node{level: n.level + 1, raw: raw, items: []place{{key: n.key(0), to: uint32(len(raw))}}}, nil
}

// below describes the child that a frame stands at.
func (f *frame) below(root bool) (expected, error) {
	x, err := f.x.below(f.n, f.i)
	x.root = root
	return x, err
}

// descend completes the path, below its last frame, towards k.
func (c *cursor) descend(ctx context.Context, k logical.Key) error {
	for c.path[len(c.path)-1].n.level > c.level+1 {
		x, err := c.expect()
		if err != nil {
			return err
		}
		n, err := c.m.load(ctx, &x)
		if err != nil {
			return err
		}
		i := max(n.floor(k), 0)
		if i > 0 {
			c.moved()
		}
		c.path = append(c.path, frame{x, n, i})
	}
	return nil
}

// expect describes the next node on the path, or, if the path is complete, the node that the cursor
// stands at.
func (c *cursor) expect() (expected, error) {
	return c.path[len(c.path)-1].below(len(c.path) == 1)
}

// read reads the node that the cursor stands at.
func (c *cursor) read(ctx context.Context) error {
	if c.leaf != nil {
		return nil
	}
	if err := c.descend(ctx, logical.Key{}); err != nil {
		return err
	}
	x, err := c.expect()
	if err != nil {
		return err
	}
	c.leaf, err = c.m.load(ctx, &x)
	return err
}

// key returns the key of the item that the cursor stands at. ok is false at the end.
func (c *cursor) key() (k logical.Key, ok bool) {
	if c.end {
		return k, false
	}
	if c.leaf != nil {
		return c.leaf.key(c.i), true
	}
	f := &c.path[len(c.path)-1]
	return f.n.key(f.i), true
}

// atStart reports whether the cursor stands at the first item of a node.
func (c *cursor) atStart() bool { return !c.end && c.i == 0 }

// child returns hash and reference of the node that the cursor stands at, which has been read. The
// level above the root has no such node.
func (c *cursor) child() []byte {
	if len(c.path) == 0 {
		return nil
	}
	f := &c.path[len(c.path)-1]
	return f.n.payload(f.i)
}

// seekNode moves to the first item of the node that contains the last key that is not above k, if
// that is a later node. The cursor stands at the first item of a node.
func (c *cursor) seekNode(ctx context.Context, k logical.Key) (moved bool, err error) {
	if c.end || len(c.path) == 0 {
		return false, nil
	}
	// The lowest frame whose node contains k.
	d := len(c.path) - 1
	for d > 0 && c.path[d].x.end != nil && c.path[d].x.end.Compare(k) <= 0 {
		d--
	}
	f := &c.path[d]
	ahead := sort.Search(f.n.count()-f.i, func(j int) bool { return f.n.key(f.i+j).Compare(k) > 0 }) - 1
	if ahead > 0 {
		f.i += ahead
		c.path = c.path[:d+1]
		c.moved()
		return true, c.descend(ctx, k)
	}
	at := c.ordinal
	if err := c.descend(ctx, k); err != nil {
		return false, err
	}
	return c.ordinal != at, nil
}

// moved notes that the cursor stands at the start of another node.
func (c *cursor) moved() {
	c.ordinal++
	c.leaf, c.i = nil, 0
}

// nextNode moves to the first item of the next node, or to the end. It reads nothing.
func (c *cursor) nextNode() {
	c.moved()
	for d := len(c.path) - 1; d >= 0; d-- {
		if f := &c.path[d]; f.i+1 < f.n.count() {
			f.i++
			c.path = c.path[:d+1]
			return
		}
	}
	c.end = true
}

// next moves to the next item. The cursor's node has been read.
func (c *cursor) next() {
	if c.i++; c.i == c.leaf.count() {
		c.nextNode()
	}
}

// skipTo moves to the first item whose key is not below k. It does not read nodes that it skips.
func (c *cursor) skipTo(ctx context.Context, k logical.Key) error {
	if at, ok := c.key(); !ok || at.Compare(k) >= 0 {
		return nil
	}
	if _, err := c.seekNode(ctx, k); err != nil {
		return err
	}
	if at, _ := c.key(); at.Compare(k) >= 0 {
		return nil
	}
	if err := c.read(ctx); err != nil {
		return err
	}
	if c.i, _ = c.leaf.find(k); c.i < c.leaf.count() {
		return nil
	}
	c.nextNode()
	return nil
}

// skipAll moves to the end.
func (c *cursor) skipAll() { c.end, c.leaf = true, nil }
