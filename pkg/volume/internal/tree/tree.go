package tree

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// node is a page and, for inner pages, the children in memory that differ from the page's stored
// pointers.
type node struct {
	layout.Node
	gen  uint64         // in which it became dirty; meaningless once committed
	kids []*node        // by slot; nil: follow the stored pointer
	ptr  layout.Pointer // its place; zero until committed

	stored stored // ptr as its parent has it; set when it enters the cache
	uses   atomic.Uint32
}

func (n *node) committed() bool { return !n.ptr.IsZero() }

// Config ties a tree to its volume.
type Config struct {
	ID    uint64 // layout.TreeFS …
	Cache *Cache
	// Free is called with a committed page that the open generation no longer reaches.
	Free func(p *layout.Pointer)
	// Dirtied is called with the number of pages that became dirty, or, if negative, were dropped
	// before they were written.
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

// missing is a request for a page that is not in memory.
type missing struct{ ptr layout.Pointer }

func (m *missing) Error() string { return "page is not in memory" }

// child returns child i of n, whose keys are in a range. It returns a *missing error unless the
// page is in memory. Whoever can seal pages can let any page refer to any other. So each step down
// checks what makes this a tree: the level decreases by one, and the keys are in the part of the
// parent's range that belongs to the child. Therefore no path is longer than the root's level, and
// no page is reached on two paths.
func (t *Tree) child(n *node, i int, in Range) (*node, error) {
	if n.kids != nil && n.kids[i] != nil {
		return n.kids[i], nil // made here, from pages that were checked
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
		// Birth of a child cannot exceed its parent's (threat model, Extents).
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

// read runs fn under the read lock, and again after loading a page that it missed. Readers need no
// pin: a page may have been freed and overwritten before it is read. So a page that cannot be
// loaded is damage only if the tree asks for the same page again.
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

// Scan calls fn for the items in [from, to], in order, until it returns false. v is valid only
// during the call, which runs under the tree's read lock: fn must be fast and must not call methods
// of the tree. The scan may or may not see changes made between two pages.
func (t *Tree) Scan(from, to layout.Key, fn func(k layout.Key, v []byte) bool) error {
	return t.ScanFloor(from, from, to, fn)
}

// ScanFloor is Scan from the last item in [low, from], or from from on if there is none.
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
					return nil // let others run between two leaves
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

// PointerHeight is the height of the tree with root p.
func PointerHeight(p *layout.Pointer) int {
	if p.IsZero() {
		return 0
	}
	return int(p.Level) + 1
}

// Pending is the number of page writes that a Freeze would need now.
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
