package tree

import (
	"bytes"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Diff calls fn for each item that differs between two trees that do not change any more, in key
// order. a or b is nil where an item is missing. Pages that both trees share are skipped unread, so
// the cost depends on the pages that differ. The values are valid only during the call.
func Diff(c *Cache, from, to layout.Pointer, fn func(k layout.Key, a, b []byte) error) error {
	a, b := &treeSide{cache: c}, &treeSide{cache: c}
	for _, s := range []struct {
		side *treeSide
		p    layout.Pointer
	}{{a, from}, {b, to}} {
		if !s.p.IsZero() {
			s.side.root = &s.p
		}
	}
	for {
		pa, pb := a.peek(), b.peek()
		switch {
		case pa.err != nil:
			return pa.err
		case pb.err != nil:
			return pb.err
		case pa.end && pb.end:
			return nil
		case !pa.end && !pb.end && pa.page && pb.page && samePage(&pa.ptr, &pb.ptr):
			a.next()
			b.next()
			continue
		}
		order := pa.order(&pb) // which one comes first
		switch {
		case pa.page && order <= 0 && !(pb.page && order == 0 && pb.ptr.Level > pa.ptr.Level):
			if err := a.enter(&pa); err != nil {
				return err
			}
		case pb.page && order >= 0:
			if err := b.enter(&pb); err != nil {
				return err
			}
		case order < 0:
			if err := fn(pa.key, pa.val, nil); err != nil {
				return err
			}
			a.next()
		case order > 0:
			if err := fn(pb.key, nil, pb.val); err != nil {
				return err
			}
			b.next()
		default:
			if !bytes.Equal(pa.val, pb.val) {
				if err := fn(pa.key, pa.val, pb.val); err != nil {
					return err
				}
			}
			a.next()
			b.next()
		}
	}
}

func samePage(a, b *layout.Pointer) bool {
	return a.Addr == b.Addr && a.Birth == b.Birth && a.Nonce == b.Nonce
}

// treeSide is a position in one of the trees.
type treeSide struct {
	cache *Cache
	root  *layout.Pointer // not entered yet
	path  []sideStep
}

type sideStep struct {
	p  layout.Pointer // pointer to the page
	n  *layout.Node
	i  int
	in Range // of its keys
}

// sidePlace is what is at a position: the end, a page that was not entered yet, or an item.
type sidePlace struct {
	end, page bool
	key       layout.Key // of the item; of a page, a lower bound of its keys
	val       []byte
	ptr       layout.Pointer
	in        Range // of the page's keys
	err       error
}

// order compares keys. The end comes after everything.
func (p *sidePlace) order(o *sidePlace) int {
	switch {
	case p.end && o.end:
		return 0
	case p.end:
		return 1
	case o.end:
		return -1
	}
	return p.key.Compare(o.key)
}

func (s *treeSide) peek() sidePlace {
	if s.root != nil {
		return sidePlace{page: true, ptr: *s.root}
	}
	if len(s.path) == 0 {
		return sidePlace{end: true}
	}
	t := &s.path[len(s.path)-1]
	if t.n.Level() == 0 {
		return sidePlace{key: t.n.Key(t.i), val: t.n.Value(t.i)}
	}
	p := sidePlace{page: true, in: t.in.Child(t.n, t.i)}
	p.key = p.in.Low()
	p.ptr, p.err = ChildPointer(&t.p, t.n, t.i)
	return p
}

// enter enters the page that peek found.
func (s *treeSide) enter(p *sidePlace) error {
	n, err := s.cache.Page(&p.ptr, p.in)
	if err != nil {
		return err
	}
	s.root = nil
	s.path = append(s.path, sideStep{p: p.ptr, n: n, in: p.in})
	return nil
}

// next moves past what peek found.
func (s *treeSide) next() {
	s.root = nil
	for len(s.path) > 0 {
		t := &s.path[len(s.path)-1]
		if t.i++; t.i < t.n.Count() {
			return
		}
		s.path = s.path[:len(s.path)-1]
	}
}
