package merkle

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// NodeRef is what is known of a node before it is read.
type NodeRef struct {
	Level   int // 0: a leaf
	Ref     selfenc.PackedRef
	Content [32]byte
	First   logical.Key // zero for the root
}

// Node is a node that was read and verified.
type Node struct {
	NodeRef
	n *node
}

// Count returns the number of items or children.
func (n *Node) Count() int { return n.n.count() }

// Bytes returns the length of the node.
func (n *Node) Bytes() int { return len(n.n.raw) }

// Items returns the items of a leaf. An inner node has none.
func (n *Node) Items() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for i := 0; n.Level == 0 && i < n.n.count(); i++ {
			if !yield(Item{n.n.key(i), n.n.payload(i)}) {
				return
			}
		}
	}
}

// errStop ends a walk early.
var errStop = errors.New("stop")

// Walk reads all nodes, each before those below it, in the order of keys. It calls enter, if that is
// not nil, before it reads a node, and leaves out the node and all below it if enter returns false;
// then it calls fn with the node. With Config.Parallel, enter may be called some nodes ahead of fn,
// and, for nodes of different levels, in another order; but never twice at the same time.
func (m *Map) Walk(ctx context.Context, enter func(*NodeRef) bool, fn func(*Node) error) error {
	if m.root.Empty() {
		return nil
	}
	w := walker{m: m, enter: enter, fn: fn, last: LastKey}
	x := m.expectRoot()
	if enter != nil && !enter(x.nodeRef()) {
		return nil
	}
	n, err := m.load(ctx, &x)
	if err != nil {
		return err
	}
	return w.walk(ctx, &x, n)
}

// Scan returns the items from the key first to the key last, both included, in the order of keys.
func (m *Map) Scan(ctx context.Context, first, last logical.Key) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if m.root.Empty() || first.Compare(last) > 0 {
			return
		}
		w := walker{m: m, first: first, last: last, fn: func(n *Node) error {
			i, _ := n.n.find(first)
			for ; n.Level == 0 && i < n.n.count() && n.n.key(i).Compare(last) <= 0; i++ {
				if !yield(Item{n.n.key(i), n.n.payload(i)}, nil) {
					return errStop
				}
			}
			return nil
		}}
		x := m.expectRoot()
		n, err := m.load(ctx, &x)
		if err == nil {
			err = w.walk(ctx, &x, n)
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(Item{}, err)
		}
	}
}

func (x *expected) nodeRef() *NodeRef {
	return &NodeRef{Level: x.level, Ref: x.ref, Content: x.content, First: x.first}
}

// walker walks the nodes that contain keys from first to last.
type walker struct {
	m           *Map
	enter       func(*NodeRef) bool
	fn          func(*Node) error
	first, last logical.Key
}

// walk visits a node and all below it.
func (w *walker) walk(ctx context.Context, x *expected, n *node) error {
	if err := w.fn(&Node{*x.nodeRef(), n}); err != nil || n.level == 0 {
		return err
	}
	return w.children(ctx, x, n, func(x *expected, n *node) error { return w.walk(ctx, x, n) })
}

// ahead is a node that is being read.
type ahead struct {
	x    expected
	done chan struct{} // closed when the others are set
	n    *node
	err  error
}

// children calls fn for the children of a node, and reads those that come next meanwhile.
func (w *walker) children(ctx context.Context, x *expected, n *node, fn func(*expected, *node) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	next, end := max(n.floor(w.first), 0), n.floor(w.last)+1
	var queue []*ahead
	for {
		for next < end && len(queue) <= w.m.config.Parallel {
			below, err := x.below(n, next)
			if err != nil {
				return err
			}
			next++
			if w.enter != nil && !w.enter(below.nodeRef()) {
				continue
			}
			a := &ahead{x: below, done: make(chan struct{})}
			queue = append(queue, a)
			load := func() {
				a.n, a.err = w.m.load(ctx, &a.x)
				close(a.done)
			}
			if w.m.config.Parallel == 0 {
				load()
			} else {
				group.Go(load)
			}
		}
		if len(queue) == 0 {
			return nil
		}
		a := queue[0]
		queue = queue[1:]
		<-a.done
		if a.err != nil {
			return a.err
		}
		if err := fn(&a.x, a.n); err != nil {
			return err
		}
	}
}
