package tree

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// aheadRead is a leaf that is being read, or was, before a Differ needs it.
type aheadRead struct {
	ptr  layout.Pointer
	low  layout.Key // lower bound of its keys
	done chan struct{}
	n    *node // nil: it could not be read; who needs it will learn why
}

// take returns the page that peek found, if it was read ahead. It forgets those that were passed.
func (s *treeSide) take(p *sidePlace) *node {
	for len(s.queue) > 0 && s.queue[0].low.Less(p.key) {
		s.queue = s.queue[1:]
	}
	if len(s.queue) == 0 || !samePage(&s.queue[0].ptr, &p.ptr) {
		return nil
	}
	r := s.queue[0]
	s.queue = s.queue[1:]
	<-r.done
	if r.n == nil || r.n.stored != encode(&p.ptr) {
		return nil
	}
	return r.n
}

// readAhead reads what follows the leaf that s has just entered, several leaves at a time: a device
// needs as long for one as for many. It leaves out those that the other side shares.
func (d *Differ) readAhead(s, other *treeSide) {
	if d.ahead == 0 || len(s.path) < 2 || s.path[len(s.path)-1].n.Level() != 0 {
		return
	}
	t := &s.path[len(s.path)-2]
	for i := t.i + 1; i < min(t.n.Count(), t.i+1+d.ahead); i++ {
		in := t.in.Child(t.n, i)
		if len(s.queue) > 0 && !s.queue[len(s.queue)-1].low.Less(in.Low()) {
			continue // it is in the queue
		}
		b, high := (*stored)(t.n.PointerBytesAt(i)), in.High()
		if high != nil && !d.from.Less(*high) || other.refers(b) || s.cache.get(b) != nil {
			continue
		}
		p, err := ChildPointer(&t.p, t.n, i)
		if err != nil {
			return // who comes there will learn why
		}
		r := &aheadRead{ptr: p, low: in.Low(), done: make(chan struct{})}
		s.queue = append(s.queue, r)
		d.reads.Go(func() {
			defer close(r.done)
			if n, err := s.cache.fetch(&r.ptr); err == nil {
				r.n = n
			}
		})
	}
}

// refers reports whether the inner page above the position has a pointer.
func (s *treeSide) refers(b *stored) bool {
	for d := len(s.path) - 1; d >= 0; d-- {
		t := &s.path[d]
		if t.n.Level() != 1 {
			continue
		}
		if s.kidsOf != t.n {
			s.kidsOf, s.kids = t.n, make(map[place]struct{}, t.n.Count())
			for i := range t.n.Count() {
				s.kids[placeOf((*stored)(t.n.PointerBytesAt(i)))] = struct{}{}
			}
		}
		_, is := s.kids[placeOf(b)]
		return is
	}
	return false
}
