package tree

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// Leaf is a leaf page during a walk. It is valid only during the call.
type Leaf struct {
	layout.Node
	First int // its first item that is not below the given key
	// Epoch is the key epoch under which the page is sealed; 0 if it is newer than the device's
	// copy.
	Epoch uint32
}

// Leaf calls fn with the leaf that holds the first item not below from. It returns where the next
// leaf begins; more is false if there is none. fn runs under the tree's read lock: it must be fast
// and must not call methods of the tree.
func (t *Tree) Leaf(from layout.Key, fn func(l Leaf)) (next layout.Key, more bool, err error) {
	err = t.read(func() error {
		c := t.cursor()
		ok, err := c.seek(from)
		if err != nil || !ok {
			more = false
			return err
		}
		s := c.path[len(c.path)-1]
		next, more = s.n.Key(s.n.Count() - 1).Next()
		fn(Leaf{Node: s.n.Node, First: s.i, Epoch: s.n.ptr.Epoch})
		return nil
	})
	return next, more, err
}

// Touch makes the leaf of k, and all pages above it, dirty, so that the next commit rewrites them.
func (w *Writer) Touch(k layout.Key) error {
	if n, err := w.root(); err != nil || n == nil {
		return err
	}
	_, err := w.descend(k)
	return err
}
