package tree

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

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

// down returns the child that the step points to.
func (c *cursor) down(s *step) (*node, error) { return c.load(s.n, s.i, s.in) }

// below is the step to child n of s.
func (s *step) below(n *node, i int) step { return step{n, i, s.in.Child(&s.n.Node, s.i)} }

// seek moves to the first item whose key is not below k. ok is false at the end.
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

// seekFloor moves to the last item in [low, k], or, if there is none, to the first above k.
func (c *cursor) seekFloor(low, k layout.Key) (ok bool, err error) {
	if ok, err = c.seek(k); err != nil || (ok && c.key() == k) || low == k {
		return ok, err
	}
	if n := len(c.path); ok && c.path[n-1].i > 0 { // in the same leaf
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

// back moves to the last item below k, after seek(k).
func (c *cursor) back(k layout.Key) (bool, error) {
	// seek may have moved to the next leaf: start from the position of k, upwards.
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

// skip moves to the first item of the next leaf. No page is empty.
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

func (c *cursor) val() []byte { s := c.path[len(c.path)-1]; return s.n.Value(s.i) }
