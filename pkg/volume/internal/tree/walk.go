package tree

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// Leaf is a leaf page as a walk sees it, valid during the call only.
type Leaf struct {
	layout.Node
	First int // its first item that is not below the key asked for
	// Epoch is the key epoch that the page is sealed under; 0 if it is newer than
	// the device.
	Epoch uint32
}

// Leaf calls fn with the leaf that holds the first item not below from, and
// returns where the next begins; more is false when there is none. fn runs under
// the tree's read lock: it must be quick and call no method of the tree.
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

// Touch has the next commit write the leaf of k again, and all pages above it.
func (w *Writer) Touch(k layout.Key) error {
	if n, err := w.root(); err != nil || n == nil {
		return err
	}
	_, err := w.descend(k)
	return err
}
