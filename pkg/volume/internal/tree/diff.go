package tree

import (
	"bytes"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Diff calls fn for each item that differs between two trees that do not change any more, in key
// order. a or b is nil where an item is missing. The values are valid only during the call. The cost
// is that of a Differ.
func Diff(c *Cache, from, to layout.Pointer, fn func(k layout.Key, a, b []byte) error) error {
	d := NewDiffer(c, from, to, 0)
	for {
		x, ok, err := d.Next()
		if err != nil || !ok {
			return err
		}
		if err := fn(x.Key, x.A, x.B); err != nil {
			return err
		}
	}
}

// Differ finds the items that differ between two trees that do not change any more. Pages that both
// trees share are skipped unread, so the cost depends on the pages that differ.
type Differ struct {
	a, b treeSide
	from layout.Key // items below do not matter

	ahead int // how many leaves are read ahead on each side
	reads sync.WaitGroup
}

// Different is an item that differs. A or B is nil where it is missing. Both alias pages, which do
// not change.
type Different struct {
	Key  layout.Key
	A, B []byte
}

// NewDiffer compares the trees behind two pointers. It reads some pages ahead, on each side; if that
// is not 0, it must be closed.
func NewDiffer(c *Cache, from, to layout.Pointer, ahead int) *Differ {
	d := &Differ{a: treeSide{cache: c}, b: treeSide{cache: c}}
	d.ahead = ahead
	if !from.IsZero() {
		d.a.root = &from
	}
	if !to.IsZero() {
		d.b.root = &to
	}
	return d
}

// Close waits for pages that are being read ahead.
func (d *Differ) Close() { d.reads.Wait() }

// SkipTo skips the items below k. Pages that hold only such items are not read.
func (d *Differ) SkipTo(k layout.Key) {
	if d.from.Less(k) {
		d.from = k
	}
}

// Next returns the next item that differs, in key order; ok is false at the end.
func (d *Differ) Next() (x Different, ok bool, err error) {
	for {
		pa, pb := d.a.peekFrom(d.from), d.b.peekFrom(d.from)
		switch {
		case pa.err != nil:
			return x, false, pa.err
		case pb.err != nil:
			return x, false, pb.err
		case pa.end && pb.end:
			return x, false, nil
		case !pa.end && !pb.end && pa.page && pb.page && samePage(&pa.ptr, &pb.ptr):
			d.a.next()
			d.b.next()
			continue
		}
		order := pa.order(&pb) // which one comes first
		switch {
		case pa.page && order <= 0 && !(pb.page && order == 0 && pb.ptr.Level > pa.ptr.Level):
			if err := d.enter(&d.a, &d.b, &pa); err != nil {
				return x, false, err
			}
		case pb.page && order >= 0:
			if err := d.enter(&d.b, &d.a, &pb); err != nil {
				return x, false, err
			}
		case order < 0:
			d.a.next()
			return Different{Key: pa.key, A: pa.val}, true, nil
		case order > 0:
			d.b.next()
			return Different{Key: pb.key, B: pb.val}, true, nil
		default:
			d.a.next()
			d.b.next()
			if !bytes.Equal(pa.val, pb.val) {
				return Different{pa.key, pa.val, pb.val}, true, nil
			}
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

	queue  []*aheadRead       // ascending
	kidsOf *layout.Node       // page of level 1 …
	kids   map[place]struct{} // and its pointers, see refers
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

// peekFrom skips what is below k, and returns what is at the position then.
func (s *treeSide) peekFrom(k layout.Key) sidePlace {
	for {
		p := s.peek()
		high := p.in.High()
		if p.end || p.err != nil || p.page && (high == nil || k.Less(*high)) || !p.page && !p.key.Less(k) {
			return p
		}
		s.next()
	}
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

// enter enters the page that peek found on side s.
func (d *Differ) enter(s, other *treeSide, p *sidePlace) error {
	n := s.take(p)
	if n == nil {
		var err error
		if n, err = s.cache.fetch(&p.ptr); err != nil {
			return err
		}
	}
	if !p.in.Holds(&n.Node) {
		return errRange
	}
	s.root = nil
	s.path = append(s.path, sideStep{p: p.ptr, n: &n.Node, in: p.in})
	d.readAhead(s, other)
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
