package tree

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Errors of a page at its place in a tree. When it was loaded, each page was checked on its own.
var (
	errLevel = fmt.Errorf("%w: a child page has a wrong level or belongs to another tree", layout.ErrCorrupt)
	errBirth = fmt.Errorf("%w: a page is older than its child", layout.ErrCorrupt)
	errRange = fmt.Errorf("%w: the keys of a page are outside the bounds that its parent sets", layout.ErrCorrupt)
)

// Range is the range of a page's keys: from low on, and below high unless the page is the last of
// its level. The zero Range is that of a root.
type Range struct {
	low, high layout.Key
	bounded   bool // high is valid
}

// Child is the range of child i of an inner page with range r. The first child inherits the low
// bound of its parent, because it may hold keys below its separator.
func (r Range) Child(n *layout.Node, i int) Range {
	if i > 0 {
		r.low = n.Key(i)
	}
	if i+1 < n.Count() {
		r.high, r.bounded = n.Key(i+1), true
	}
	return r
}

// Holds reports whether all keys of a page that is not empty are in r.
func (r Range) Holds(n *layout.Node) bool {
	return !n.Key(0).Less(r.low) && (!r.bounded || n.Key(n.Count()-1).Less(r.high))
}

// Low is the lowest key in the range.
func (r *Range) Low() layout.Key { return r.low }

// High is the first key above the range; nil if there is none.
func (r *Range) High() *layout.Key {
	if !r.bounded {
		return nil
	}
	return &r.high
}

// ChildPointer returns the pointer in item i of the page n behind p. It must lead to a page of the
// level below that is not younger.
func ChildPointer(p *layout.Pointer, n *layout.Node, i int) (layout.Pointer, error) {
	c, err := layout.GetPointer(n.PointerBytesAt(i), p.Object)
	switch {
	case err != nil:
	case c.IsZero() || c.Level != n.Level()-1:
		err = errLevel
	case c.Birth > p.Birth:
		err = errBirth
	}
	return c, err
}

// Slot is the index of the child of an inner page whose range holds k: the last one whose key is
// not above k.
func Slot(n *layout.Node, k layout.Key) int {
	i, eq := n.Search(k)
	if !eq && i > 0 {
		i--
	}
	return i
}

// CheckKeys checks the keys of a page against its separators.
func CheckKeys(n *layout.Node, lo layout.Key, hi *layout.Key) error {
	if n.Count() == 0 {
		if lo == (layout.Key{}) && hi == nil {
			return fmt.Errorf("%w: empty root", layout.ErrCorrupt)
		}
		return fmt.Errorf("%w: empty page", layout.ErrCorrupt)
	}
	// The first child of an inner page may hold keys below its own separator, down to the bound of
	// its parent. But the separator itself is within the bounds.
	if n.Key(0).Less(lo) {
		return fmt.Errorf("%w: key %v is below the page's bound %v", layout.ErrCorrupt, n.Key(0), lo)
	}
	if last := n.Key(n.Count() - 1); hi != nil && !last.Less(*hi) {
		return fmt.Errorf("%w: key %v is above the page's bound %v", layout.ErrCorrupt, last, *hi)
	}
	return nil
}
