package pinned

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// source is a stream of items that differ: of two states, or all items of one inode of one state.
type source struct {
	pages *tree.Differ
	scan  *scan // instead of pages

	x    tree.Different // the item that peek has found
	have bool
}

// peek returns the next item. ok is false at the end.
func (s *source) peek() (x *tree.Different, ok bool, err error) {
	if s.have {
		return &s.x, true, nil
	}
	if s.scan != nil {
		s.x, s.have, err = s.scan.next()
	} else {
		s.x, s.have, err = s.pages.Next()
	}
	return &s.x, s.have && err == nil, reading(err)
}

// peekOf is peek, if the item belongs to an inode.
func (s *source) peekOf(ino uint64) (x *tree.Different, ok bool, err error) {
	x, ok, err = s.peek()
	return x, ok && x.Key.Obj == ino, err
}

// advance moves past the item that peek has found. The item remains valid until the next peek.
func (s *source) advance() { s.have = false }

// skipTo skips items below k.
func (s *source) skipTo(k layout.Key) {
	s.have = s.have && !s.x.Key.Less(k)
	if s.scan != nil {
		s.scan.skipTo(k)
	} else {
		s.pages.SkipTo(k)
	}
}

// scanItems is how many items a scan copies at a time. The largest have 4 KiB.
const scanItems = 64

// scan reads the items of an inode as if they were missing on the other side.
type scan struct {
	s     *State
	from  layout.Key
	to    layout.Key
	batch []tree.Different
	end   bool
}

// newScan scans the items of an inode from a key on.
func newScan(s *State, from layout.Key) *scan {
	return &scan{s: s, from: from, to: layout.Key{Obj: from.Obj, Type: 0xff, Sub: ^uint64(0)}}
}

func (c *scan) next() (x tree.Different, ok bool, err error) {
	if len(c.batch) == 0 && !c.end {
		if err := c.fill(); err != nil {
			return x, false, err
		}
	}
	if len(c.batch) == 0 {
		return x, false, nil
	}
	x, c.batch = c.batch[0], c.batch[1:]
	return x, true, nil
}

func (c *scan) fill() error {
	c.batch, c.end = nil, true
	return c.s.tree.Scan(c.from, c.to, func(k layout.Key, v []byte) bool {
		c.batch = append(c.batch, tree.Different{Key: k, B: append([]byte(nil), v...)})
		c.from, _ = k.Next() // the last item of all has a type that no item has
		c.end = len(c.batch) < scanItems
		return c.end
	})
}

func (c *scan) skipTo(k layout.Key) {
	for len(c.batch) > 0 && c.batch[0].Key.Less(k) {
		c.batch = c.batch[1:]
	}
	if c.from.Less(k) {
		c.from = k
	}
}
