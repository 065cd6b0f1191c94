package tree

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// node is a page and, for pages of an inner level, the children in memory that
// are not (yet) what the page's stored pointers say.
type node struct {
	layout.Node
	gen  uint64         // in which it became dirty; meaningless once committed
	kids []*node        // by slot; nil: follow the stored pointer
	ptr  layout.Pointer // where it lies; zero until committed

	stored stored // ptr as its parent has it; set when it enters the cache
	uses   atomic.Uint32
}

func (n *node) committed() bool { return !n.ptr.IsZero() }

// Config ties a tree to its volume.
type Config struct {
	ID    uint64 // layout.TreeFS …
	Cache *Cache
	// Free is told of a committed page that the open generation no longer reaches.
	Free func(p *layout.Pointer)
	// Dirtied is told how many pages became dirty (or, negative, were dropped
	// before they were written).
	Dirtied func(pages int)
}

// Tree is one B+tree. The zero pointer is the empty tree.
type Tree struct {
	cfg Config

	mu      sync.RWMutex
	root    *node          // nil: follow ptr
	ptr     layout.Pointer // root as of the last commit, when root is nil
	stored  stored         // ptr, encoded
	gen     uint64         // open generation
	dropped []*node        // replaced in this generation while an older one was being committed
}

// New opens the tree at p in generation gen.
func New(cfg Config, p layout.Pointer, gen uint64) *Tree {
	return &Tree{cfg: cfg, ptr: p, stored: encode(&p), gen: gen}
}

// ID is the tree's number.
func (t *Tree) ID() uint64 { return t.cfg.ID }

// missing asks for a page that is not in memory.
type missing struct{ ptr layout.Pointer }

func (m *missing) Error() string { return "page is not in memory" }

// child returns child i of n, whose keys lie in a range. It returns a *missing
// unless it is in memory. Whoever seals pages can have any of them lead to any
// other, so what makes this a tree is checked at each step down: a level less each
// time, and keys of the part of the parent's range that belongs to the slot. So no way
// down is longer than the root's level, and no page is reached on two ways.
func (t *Tree) child(n *node, i int, in Range) (*node, error) {
	if n.kids != nil && n.kids[i] != nil {
		return n.kids[i], nil // made here, of pages that were checked
	}
	b := (*stored)(n.PointerBytesAt(i))
	c := t.cfg.Cache.get(b)
	if c == nil {
		p, err := layout.GetPointer(b[:], t.cfg.ID)
		if err != nil {
			return nil, err
		}
		if p.IsZero() || p.Level != n.Level()-1 {
			return nil, errLevel
		}
		// Birth of a child can not exceed its parent's (threat model, Extents).
		if n.committed() && p.Birth > n.ptr.Birth {
			return nil, errBirth
		}
		return nil, &missing{p}
	}
	switch {
	case c.Level() != n.Level()-1 || c.ptr.Object != t.cfg.ID:
		return nil, errLevel
	case n.committed() && c.ptr.Birth > n.ptr.Birth:
		return nil, errBirth
	case !in.Child(&n.Node, i).Holds(&c.Node):
		return nil, errRange
	}
	return c, nil
}

func (t *Tree) rootNode() (*node, error) {
	if t.root != nil {
		return t.root, nil
	}
	if t.ptr.IsZero() {
		return nil, nil
	}
	if n := t.cfg.Cache.get(&t.stored); n != nil {
		return n, nil
	}
	if t.ptr.Object != t.cfg.ID {
		return nil, errLevel
	}
	return nil, &missing{t.ptr}
}

// cursor is a path from the root to an item.
type cursor struct {
	t    *Tree
	load func(n *node, i int, in Range) (*node, error)
	path []step
}

func (t *Tree) cursor() cursor { return cursor{t: t, load: t.child, path: make([]step, 0, 8)} }

type step struct {
	n  *node
	i  int
	in Range // of the page's keys
}

// down is the child that the step is at.
func (c *cursor) down(s *step) (*node, error) { return c.load(s.n, s.i, s.in) }

// below is the step to child n of s.
func (s *step) below(n *node, i int) step { return step{n, i, s.in.Child(&s.n.Node, s.i)} }

// seek moves to the first item that is not below k. ok is false at the end.
func (c *cursor) seek(k layout.Key) (ok bool, err error) {
	c.path = c.path[:0]
	n, err := c.t.rootNode()
	if err != nil || n == nil {
		return false, err
	}
	var in Range
	for n.Level() > 0 {
		s := step{n, Slot(&n.Node, k), in}
		c.path = append(c.path, s)
		if n, err = c.down(&s); err != nil {
			return false, err
		}
		in = s.in.Child(&s.n.Node, s.i)
	}
	i, _ := n.Search(k)
	c.path = append(c.path, step{n, i, in})
	if i == n.Count() {
		return c.skip()
	}
	return true, nil
}

// seekFloor moves to the last item of [low, k]; if there is none, to the first above k.
func (c *cursor) seekFloor(low, k layout.Key) (ok bool, err error) {
	if ok, err = c.seek(k); err != nil || (ok && c.key() == k) || low == k {
		return ok, err
	}
	if n := len(c.path); ok && c.path[n-1].i > 0 { // within the leaf
		c.path[n-1].i--
		if c.key().Less(low) {
			c.path[n-1].i++
		}
		return true, nil
	}
	above := append(make([]step, 0, 8), c.path...)
	if back, err := c.back(k); err != nil || (back && !c.key().Less(low)) {
		return back, err
	}
	c.path = above
	return ok, nil
}

// back goes to the last item below k, where seek(k) has been.
func (c *cursor) back(k layout.Key) (bool, error) {
	// seek may have gone on to the next leaf: look where k belongs, from there up.
	c.path = c.path[:0]
	n, err := c.t.rootNode()
	if err != nil || n == nil {
		return false, err
	}
	for in := (Range{}); ; {
		i, _ := n.Search(k)
		if n.Level() > 0 {
			i = Slot(&n.Node, k)
		}
		s := step{n, i, in}
		c.path = append(c.path, s)
		if n.Level() == 0 {
			break
		}
		if n, err = c.down(&s); err != nil {
			return false, err
		}
		in = s.in.Child(&s.n.Node, s.i)
	}
	for d := len(c.path) - 1; d >= 0; d-- {
		s := &c.path[d]
		if s.i == 0 {
			continue
		}
		s.i--
		c.path = c.path[:d+1]
		for s.n.Level() > 0 {
			if n, err = c.down(s); err != nil {
				return false, err
			}
			c.path = append(c.path, s.below(n, n.Count()-1))
			s = &c.path[len(c.path)-1]
		}
		return true, nil
	}
	return false, nil
}

// skip goes to the first item of the next leaf. No page has none.
func (c *cursor) skip() (bool, error) {
	d := len(c.path) - 2
	for ; d >= 0; d-- {
		s := &c.path[d]
		if s.i+1 < s.n.Count() {
			s.i++
			break
		}
	}
	if d < 0 {
		return false, nil
	}
	c.path = c.path[:d+1]
	for {
		s := c.path[len(c.path)-1]
		n, err := c.down(&s)
		if err != nil {
			return false, err
		}
		c.path = append(c.path, s.below(n, 0))
		if n.Level() == 0 {
			return true, nil
		}
	}
}

func (c *cursor) next() (bool, error) {
	s := &c.path[len(c.path)-1]
	if s.i+1 < s.n.Count() {
		s.i++
		return true, nil
	}
	return c.skip()
}

func (c *cursor) key() layout.Key { s := c.path[len(c.path)-1]; return s.n.Key(s.i) }
func (c *cursor) val() []byte     { s := c.path[len(c.path)-1]; return s.n.Value(s.i) }

// read runs fn under the read lock, and again after loading what it missed.
// Readers need no pin: the page may have been freed and overwritten on the way
// to it. So what can not be loaded is damage only if the tree asks for the same
// page again.
func (t *Tree) read(fn func() error) error {
	var lost layout.Pointer
	var lostErr error
	for {
		t.mu.RLock()
		err := fn()
		t.mu.RUnlock()
		var m *missing
		if !errors.As(err, &m) {
			return err
		}
		if lostErr != nil && encode(&m.ptr) == encode(&lost) {
			return lostErr
		}
		if _, err := t.cfg.Cache.fetch(&m.ptr); err != nil {
			lost, lostErr = m.ptr, err
		}
	}
}

// Get appends the value of k to buf[:0].
func (t *Tree) Get(k layout.Key, buf []byte) (v []byte, ok bool, err error) {
	err = t.read(func() error {
		ok = false
		n, err := t.rootNode()
		if err != nil || n == nil {
			return err
		}
		for in := (Range{}); n.Level() > 0; {
			at, i := n, Slot(&n.Node, k)
			if n, err = t.child(at, i, in); err != nil {
				return err
			}
			in = in.Child(&at.Node, i)
		}
		if i, eq := n.Search(k); eq {
			v, ok = append(buf[:0], n.Value(i)...), true
		}
		return nil
	})
	return v, ok, err
}

// Scan calls fn for the items of [from, to] in order, until it returns false.
// v is valid during the call only, which runs under the tree's read lock: fn
// must be quick and call no method of the tree. Changes made between two pages
// of the scan may or may not be seen.
func (t *Tree) Scan(from, to layout.Key, fn func(k layout.Key, v []byte) bool) error {
	return t.ScanFloor(from, from, to, fn)
}

// ScanFloor is Scan from the last item of [low, from], or from if there is none.
func (t *Tree) ScanFloor(low, from, to layout.Key, fn func(k layout.Key, v []byte) bool) error {
	done := false
	for !done {
		err := t.read(func() error {
			c := t.cursor()
			ok, err := c.seekFloor(low, from)
			if err != nil {
				return err
			}
			if !ok {
				done = true
				return nil
			}
			leaf := c.path[len(c.path)-1].n
			for {
				k := c.key()
				if to.Less(k) || !fn(k, c.val()) {
					done = true
					return nil
				}
				var more bool
				if from, more = k.Next(); !more {
					done = true
					return nil
				}
				low = from
				s := &c.path[len(c.path)-1]
				if s.i+1 == leaf.Count() {
					return nil // let others in between two leaves
				}
				s.i++
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Writer changes a tree; it is valid during Update only.
type Writer struct{ t *Tree }

// Update runs fn under the write lock. An error of the Writer's methods leaves
// the tree half changed: the owner must not commit it (it is an I/O error or
// damage met half way, or a bug).
func (t *Tree) Update(fn func(w *Writer) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fn(&Writer{t})
}

// load is child under the write lock: what is missing is read at once.
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

// release notes that the open generation does not reach n any more.
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

// descend makes the path to k changeable and returns it.
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

// Get returns the value of k; it is valid until the next change.
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

// Scan is Tree.Scan without locks; fn must not change the tree.
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

// split makes room for an item at path[d] and inserts it; kid is its child in
// inner nodes.
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

// Delete removes k, and tells whether it was there.
func (w *Writer) Delete(k layout.Key) (bool, error) {
	// Look first: descending would make the path dirty.
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

// shrink drops empty pages and merges small ones with a neighbour that is in
// memory; reading one only to merge it would cost more than it saves.
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

// mergeWith joins n, the child that s is at, with the neighbour to its left or right.
func (w *Writer) mergeWith(n *node, s *step) bool {
	parent, i := s.n, s.i
	const full = layout.NodeCapacity * 3 / 4 // leave room: no split right after
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
			// As a first child, this one may hold keys below its own separator; as
			// a middle one it needs the true bound.
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

// PointerHeight is the height of the tree whose root p leads to.
func PointerHeight(p *layout.Pointer) int {
	if p.IsZero() {
		return 0
	}
	return int(p.Level) + 1
}

// Pending is the number of page writes that a Freeze now would ask for.
func (t *Tree) Pending() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := &Frozen{t: t, root: t.root}
	if f.root == nil || f.root.committed() {
		return 0
	}
	f.collect(f.root)
	return f.Copies()
}

// SetGeneration starts generation gen on a tree without changes.
func (t *Tree) SetGeneration(gen uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gen = gen
}
