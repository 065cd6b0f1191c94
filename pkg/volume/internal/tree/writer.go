package tree

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Writer changes a tree. It is valid only during Update.
type Writer struct{ t *Tree }

// Update runs fn under the write lock. After an error of the Writer's methods, the tree may be half
// changed, and the owner must not commit it. Such an error is an I/O error, damage, or a bug.
func (t *Tree) Update(fn func(w *Writer) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fn(&Writer{t})
}

// load is child under the write lock: a missing page is read at once.
func (w *Writer) load(n *node, i int, in Range) (*node, error) {
	c, err := w.t.child(n, i, in)
	var m *missing
	if !errors.As(err, &m) {
		return c, err
	}
	if c, err = w.t.cfg.Cache.fetch(&m.ptr); err != nil {
		return nil, err
	}
	if !in.Child(&n.Node, i).Holds(&c.Node) {
		return nil, errRange
	}
	return c, nil
}

func (w *Writer) root() (*node, error) {
	n, err := w.t.rootNode()
	var m *missing
	if errors.As(err, &m) {
		return w.t.cfg.Cache.fetch(&m.ptr)
	}
	return n, err
}

// own returns a page that may be changed in place in the open generation.
func (w *Writer) own(n *node) *node {
	if !n.committed() && n.gen == w.t.gen {
		return n
	}
	p := make([]byte, layout.NodeBytes)
	c := &node{gen: w.t.gen}
	c.Node = n.Node
	copy(p, n.Page)
	c.Page = p
	if n.Level() > 0 {
		c.kids = make([]*node, n.Count(), n.Count()+8)
		copy(c.kids, n.kids)
	}
	w.release(n)
	w.t.cfg.Dirtied(1)
	return c
}

// release records that the open generation no longer reaches n.
func (w *Writer) release(n *node) {
	switch {
	case n.committed():
		w.t.cfg.Free(&n.ptr)
	case n.gen == w.t.gen:
		w.t.cfg.Dirtied(-1)
	default:
		w.t.dropped = append(w.t.dropped, n) // its place is known after its commit
	}
}

// descend makes the path to k changeable, and returns it.
func (w *Writer) descend(k layout.Key) ([]step, error) {
	n, err := w.root()
	if err != nil {
		return nil, err
	}
	if n == nil {
		n = &node{Node: layout.NewNode(w.t.cfg.ID, 0), gen: w.t.gen}
		w.t.cfg.Dirtied(1)
	}
	n = w.own(n)
	w.t.root = n
	path := make([]step, 0, 8)
	var in Range
	for n.Level() > 0 {
		i := Slot(&n.Node, k)
		c, err := w.load(n, i, in)
		if err != nil {
			return nil, err
		}
		o := w.own(c)
		n.kids[i] = o
		path = append(path, step{n, i, in})
		in = in.Child(&n.Node, i)
		n = o
	}
	i, _ := n.Search(k)
	return append(path, step{n, i, in}), nil
}

// Get returns the value of k. It is valid until the next change.
func (w *Writer) Get(k layout.Key) ([]byte, bool, error) {
	n, err := w.root()
	if err != nil || n == nil {
		return nil, false, err
	}
	for in := (Range{}); n.Level() > 0; {
		at, i := n, Slot(&n.Node, k)
		if n, err = w.load(at, i, in); err != nil {
			return nil, false, err
		}
		in = in.Child(&at.Node, i)
	}
	if i, eq := n.Search(k); eq {
		return n.Value(i), true, nil
	}
	return nil, false, nil
}

// Scan is Tree.Scan without locks. fn must not change the tree.
func (w *Writer) Scan(from, to layout.Key, fn func(k layout.Key, v []byte) bool) error {
	return w.ScanFloor(from, from, to, fn)
}

// ScanFloor is Tree.ScanFloor.
func (w *Writer) ScanFloor(low, from, to layout.Key, fn func(k layout.Key, v []byte) bool) error {
	if _, err := w.root(); err != nil { // so that the cursor finds it in memory
		return err
	}
	c := cursor{t: w.t, load: w.load, path: make([]step, 0, 8)}
	ok, err := c.seekFloor(low, from)
	for err == nil && ok {
		k := c.key()
		if to.Less(k) || !fn(k, c.val()) {
			return nil
		}
		ok, err = c.next()
	}
	return err
}

// Put sets the value of k.
func (w *Writer) Put(k layout.Key, v []byte) error {
	if len(v) > layout.MaxValue {
		panic("tree: value too large")
	}
	path, err := w.descend(k)
	if err != nil {
		return err
	}
	s := path[len(path)-1]
	leaf := s.n
	if s.i < leaf.Count() && leaf.Key(s.i) == k {
		if old := leaf.Value(s.i); len(old) == len(v) {
			copy(old, v)
			return nil
		}
		leaf.Delete(s.i)
	}
	if leaf.Fits(len(v)) {
		leaf.Insert(s.i, k, v)
	} else {
		w.split(path, len(path)-1, k, v, nil)
	}
	return nil
}

// split makes room for an item at path[d] and inserts it. In inner nodes, kid is its child.
func (w *Writer) split(path []step, d int, k layout.Key, v []byte, kid *node) {
	n, at := path[d].n, path[d].i
	size := len(v)
	if n.Level() > 0 {
		size = layout.InnerCell - layout.KeyBytes - 2
	}
	i := n.SplitPoint(at, size)
	right := &node{Node: n.Split(i), gen: w.t.gen}
	w.t.cfg.Dirtied(1)
	if n.Level() > 0 {
		right.kids = append(make([]*node, 0, len(n.kids)+8), n.kids[i:]...)
		n.kids = n.kids[:i]
	}
	to, pos := n, at
	if at > i || i == n.Count() && at == i && !n.Fits(size) {
		to, pos = right, at-i
	}
	to.insert(pos, k, v, kid)
	if d == 0 { // a new root
		root := &node{Node: layout.NewNode(w.t.cfg.ID, n.Level()+1), gen: w.t.gen}
		w.t.cfg.Dirtied(1)
		root.insert(0, n.Key(0), zeroPointer[:], n)
		root.insert(1, right.Key(0), zeroPointer[:], right)
		w.t.root = root
		return
	}
	parent, ps := path[d-1].n, path[d-1].i+1
	if n.Key(0).Less(parent.Key(ps - 1)) {
		parent.SetKey(ps-1, n.Key(0)) // the first child may hold keys below its separator
	}
	if parent.Fits(0) {
		parent.insert(ps, right.Key(0), zeroPointer[:], right)
		return
	}
	path[d-1].i = ps
	w.split(path, d-1, right.Key(0), zeroPointer[:], right)
}

var zeroPointer [layout.PointerBytes]byte

func (n *node) insert(i int, k layout.Key, v []byte, kid *node) {
	n.Insert(i, k, v)
	if n.Level() > 0 {
		n.kids = append(n.kids, nil)
		copy(n.kids[i+1:], n.kids[i:])
		n.kids[i] = kid
	}
}

func (n *node) remove(i int) {
	n.Delete(i)
	if n.Level() > 0 {
		n.kids = append(n.kids[:i], n.kids[i+1:]...)
	}
}

// Delete removes k, and reports whether it existed.
func (w *Writer) Delete(k layout.Key) (bool, error) {
	// Check first, because descend would make the path dirty.
	if _, ok, err := w.Get(k); err != nil || !ok {
		return false, err
	}
	path, err := w.descend(k)
	if err != nil {
		return false, err
	}
	s := path[len(path)-1]
	s.n.Delete(s.i)
	return true, w.shrink(path)
}

// shrink drops empty pages, and merges small pages with a neighbour that is in memory. Reading a
// neighbour only to merge it would cost more than it gains.
func (w *Writer) shrink(path []step) error {
	for d := len(path) - 1; d > 0; d-- {
		n, parent, i := path[d].n, path[d-1].n, path[d-1].i
		if n.Count() == 0 {
			w.release(n)
			parent.remove(i)
			continue
		}
		if n.Used() >= layout.NodeCapacity/4 {
			break
		}
		if !w.mergeWith(n, &path[d-1]) {
			break
		}
	}
	for root := w.t.root; ; root = w.t.root {
		if root.Level() > 0 && root.Count() == 1 {
			c, err := w.load(root, 0, Range{})
			if err != nil {
				return err
			}
			w.release(root)
			w.t.root = c
			continue
		}
		if root.Count() == 0 {
			w.release(root)
			w.t.root, w.t.ptr, w.t.stored = nil, layout.Pointer{}, stored{}
		}
		return nil
	}
}

// mergeWith joins n, the child that s points to, with its left or right neighbour.
func (w *Writer) mergeWith(n *node, s *step) bool {
	parent, i := s.n, s.i
	const full = layout.NodeCapacity * 3 / 4 // leave room, so that it is not split again at once
	for _, j := range [2]int{i - 1, i + 1} {
		if j < 0 || j >= parent.Count() {
			continue
		}
		o, err := w.t.child(parent, j, s.in)
		if err != nil || o.Used()+n.Used() > full {
			continue
		}
		left, right, l, r := o, n, j, i
		if j > i {
			left, right, l, r = n, o, i, j
		}
		left = w.own(left)
		first := left.Count()
		left.Merge(&right.Node)
		if left.Level() > 0 {
			// As a first child, this page may hold keys below its own separator. As a middle one,
			// it needs the true bound.
			left.SetKey(first, parent.Key(r))
		}
		if left.Level() > 0 {
			if right.kids == nil {
				left.kids = append(left.kids, make([]*node, right.Count())...)
			} else {
				left.kids = append(left.kids, right.kids...)
			}
		}
		parent.kids[l] = left
		w.release(right)
		parent.remove(r)
		return true
	}
	return false
}

// Height is the number of pages from the root to a leaf, 0 for an empty tree.
func (w *Writer) Height() int {
	if w.t.root != nil {
		return int(w.t.root.Level()) + 1
	}
	return PointerHeight(&w.t.ptr)
}
