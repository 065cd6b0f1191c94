package selfenc

import (
	"context"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// openNode is a node that is being changed.
type openNode struct {
	index    int64 // -1: none is open
	shape    packedShape
	old      packedChild // what it was; a hole if it did not exist
	changed  bool        // children differ from those of old
	children []packedChild
	memory   [nodeFanout]packedChild
}

// set replaces a child.
func (n *openNode) set(i int64, c *packedChild) {
	at := &n.children[i&(nodeFanout-1)]
	if *at != *c {
		*at, n.changed = *c, true
	}
}

// packedBuilder makes the map of an object from that of an older one. It is told of changed chunks
// and nodes in ascending order, and keeps one open node a level: its memory does not depend on the
// size. Nodes that are not named stay as they are, unread.
type packedBuilder struct {
	s     *PackedSealer
	old   *packedTree
	shape packedShape // of the new object
	root  *packedChild
	open  []*openNode // by level-1
	stats *UpdateStats
}

// oldNode is what a node was before.
type oldNode struct {
	entry    packedChild   // a hole, if it did not exist
	children []packedChild // shared; further ones are holes
	stored   bool          // entry is the node, or it was a hole
}

// before returns what node i of a level was.
func (b *packedBuilder) before(ctx context.Context, level int, i int64) (oldNode, error) {
	if old := b.old.shape; level > old.level {
		// The old map was not as high. Its root, if it was of the level below, is the first child.
		if i == 0 && level == old.level+1 && old.span > 0 {
			return oldNode{children: []packedChild{b.old.root}}, nil
		}
		return oldNode{}, nil
	}
	e, err := b.old.entry(ctx, level, i)
	if err != nil || e.ref.Kind == 0 {
		return oldNode{stored: true}, err
	}
	n, err := b.old.load(ctx, level, i, &e, true)
	return oldNode{e, n.children, true}, err
}

// begin opens node i of a level with its old children.
func (b *packedBuilder) begin(n *openNode, level int, i int64, old *oldNode) {
	*n = openNode{index: i, shape: b.shape.at(level, i), old: old.entry}
	n.children = n.memory[:n.shape.count()]
	copy(n.children, old.children)
	n.changed = !old.stored || len(old.children) != len(n.children) && old.entry.ref.Kind != 0
}

// end returns a node as its parent's child. It stores the node if it has changed.
func (b *packedBuilder) end(ctx context.Context, n *openNode, stats *UpdateStats) (packedChild, error) {
	if !n.changed {
		return n.old, nil
	}
	holes := true
	for i := range n.children {
		if n.children[i].ref.Kind != 0 {
			holes = false
			break
		}
	}
	if holes {
		return packedChild{}, nil
	}
	m := b.s.small.Get().(*smallScratch)
	defer b.s.small.Put(m)
	m.plain = appendPackedNode(grow(m.plain, maxPackedNodeBytes)[:0], n.shape, n.children)
	m.payload = grow(m.payload, maxPackedPlaceless)
	c := packedChild{c: packedContent(m.payload, n.shape, n.children)}
	var stored int
	var err error
	if c.ref, stored, err = b.s.seal(ctx, crypto.ChunkMap, m.plain); err != nil {
		return packedChild{}, &PackedError{Level: n.shape.level, Index: n.index, Err: err}
	}
	stats.addNode(stored)
	return c, nil
}

// put replaces chunk or node i of a level. Calls are in ascending order, and a node comes either
// whole or in parts.
func (b *packedBuilder) put(ctx context.Context, level int, i int64, c *packedChild) error {
	if err := b.endBefore(ctx, level, i); err != nil {
		return err
	}
	if level == b.shape.level {
		b.root = c
		return nil
	}
	n := b.open[level]
	if n == nil {
		n = &openNode{index: -1}
		b.open[level] = n
	}
	if n.index < 0 {
		old, err := b.before(ctx, level+1, i>>nodeFanoutShift)
		if err != nil {
			return err
		}
		b.begin(n, level+1, i>>nodeFanoutShift, &old)
	}
	n.set(i, c)
	return nil
}

// endBefore ends the nodes that lie before chunk or node i of a level: all open ones below, and its
// parent's level unless the open node is its parent.
func (b *packedBuilder) endBefore(ctx context.Context, level int, i int64) error {
	for l := 0; l <= level && l < len(b.open); l++ {
		n := b.open[l]
		if n == nil || n.index < 0 || l == level && n.index == i>>nodeFanoutShift {
			continue
		}
		c, err := b.end(ctx, n, b.stats)
		index := n.index
		n.index = -1
		if err == nil {
			err = b.put(ctx, l+1, index, &c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish ends all nodes and returns the root.
func (b *packedBuilder) finish(ctx context.Context) (packedChild, error) {
	for l := range b.open {
		if err := b.endBefore(ctx, l, -1); err != nil {
			return packedChild{}, err
		}
	}
	if b.root != nil {
		return *b.root, nil
	}
	return b.old.entry(ctx, b.shape.level, 0)
}
