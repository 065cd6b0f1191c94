package merkle

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Difference is a key whose value differs between two maps.
type Difference struct {
	Key      logical.Key
	Old, New []byte // nil: there is none
}

// Diff returns the keys whose content differs from a to b, in ascending order. Nodes that both maps
// have are not read, even if the nodes around them differ. Values that differ in places alone are
// equal. Both maps have the same key of the cutting hash.
func Diff(ctx context.Context, a, b *Map) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		if a.root.Content == b.root.Content && a.root.Height == b.root.Height && a.root.Empty() == b.root.Empty() {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		ahead := diffAhead{most: a.config.Parallel}
		defer ahead.group.Wait()
		defer cancel()
		d := newDiffer(a, b, -1, func(a, b *side) error { return compare(a, b, yield) })
		err := d.begin(ctx)
		if err == nil && ahead.most > 0 {
			ahead.begin(ctx, a, b)
			d.entered = func() { ahead.fill(ctx, 1) }
		}
		for err == nil && (d.a.some || d.b.some) {
			err = d.step(ctx)
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(Difference{}, err)
		}
	}
}

// compare yields the difference between two items with the same key. nil: there is none.
func compare(a, b *side, yield func(Difference, error) bool) error {
	var diff Difference
	switch {
	case b == nil:
		diff = Difference{Key: a.key, Old: a.value()}
	case a == nil:
		diff = Difference{Key: b.key, New: b.value()}
	default:
		same, err := a.m.config.sameContent(a.key, a.value(), b.value())
		if err != nil || same {
			return err
		}
		diff = Difference{Key: a.key, Old: a.value(), New: b.value()}
	}
	if !yield(diff, nil) {
		return errStop
	}
	return nil
}

// diffAhead reads leaves that differ before the differ enters them. It is a differ that takes leaves
// for items.
type diffAhead struct {
	d     *differ
	most  int // leaves that have been read ahead at once
	open  int // leaves that have been read, or are being read, and have not been entered
	group sync.WaitGroup
	ended bool
}

func (h *diffAhead) begin(ctx context.Context, a, b *Map) {
	load := func(s *side) {
		if s == nil || s.root != nil {
			return
		}
		h.open++
		m, x := s.m, s.at
		h.group.Go(func() {
			_, _ = m.load(ctx, &x) // into the cache; the differ gets the error
		})
	}
	h.d = newDiffer(a, b, 0, func(a, b *side) error {
		if a != nil && b != nil && a.at.content == b.at.content {
			return nil
		}
		load(a)
		load(b)
		return nil
	})
	h.ended = h.d.begin(ctx) != nil
	h.fill(ctx, 0)
}

// fill goes on after so many leaves have been entered.
func (h *diffAhead) fill(ctx context.Context, entered int) {
	h.open -= entered
	for !h.ended && h.open < h.most && (h.d.a.some || h.d.b.some) {
		h.ended = h.d.step(ctx) != nil
	}
}

// side is a position in one of the maps: at a node that has not been entered, or at an item.
type side struct {
	m     *Map
	d     *differ
	some  bool
	stack []frame  // the nodes that have been entered
	at    expected // the node, if level >= 0
	root  *node    // the root, which at describes; nil: at is another node
	level int      // -1: an item of a leaf
	key   logical.Key
}

func (s *side) begin(ctx context.Context) error {
	if s.m.root.Empty() {
		return nil
	}
	s.at = s.m.expectRoot()
	n, err := s.m.load(ctx, &s.at)
	if err != nil {
		return err
	}
	s.some, s.root, s.level, s.key = true, n, n.level, n.key(0)
	return nil
}

// enter moves to the first child or item of the node.
func (s *side) enter(ctx context.Context) error {
	n := s.root
	if s.root = nil; n == nil {
		var err error
		if n, err = s.m.load(ctx, &s.at); err != nil {
			return err
		}
		if n.level == 0 && s.d.entered != nil {
			s.d.entered()
		}
	}
	s.stack = append(s.stack, frame{x: s.at, n: n, i: -1})
	return s.next()
}

// next moves to what follows the node or item.
func (s *side) next() (err error) {
	for len(s.stack) > 0 {
		f := &s.stack[len(s.stack)-1]
		if f.i++; f.i < f.n.count() {
			s.key, s.level = f.n.key(f.i), f.n.level-1
			if s.level >= 0 {
				s.at, err = f.below(false)
			}
			return err
		}
		s.stack = s.stack[:len(s.stack)-1]
	}
	s.some = false
	return nil
}

func (s *side) value() []byte {
	f := &s.stack[len(s.stack)-1]
	return f.n.payload(f.i)
}

// differ goes through two maps at once.
type differ struct {
	a, b side
	// bottom is the level of what is compared: -1, items of leaves, or 0, leaves.
	bottom int
	// compare is called for what only one side has, the other being nil, and for what both have
	// with the same key.
	compare func(a, b *side) error
	entered func() // is called when a leaf has been entered; nil: nothing is
}

func newDiffer(a, b *Map, bottom int, compare func(a, b *side) error) *differ {
	d := &differ{a: side{m: a}, b: side{m: b}, bottom: bottom, compare: compare}
	d.a.d, d.b.d = d, d
	return d
}

func (d *differ) begin(ctx context.Context) error {
	if err := d.a.begin(ctx); err != nil {
		return err
	}
	return d.b.begin(ctx)
}

// step moves on at least one side.
//
// A node can be equal only to one with the same first key and level. So of two nodes the one that
// begins before the other is entered, as nothing on the other side begins there; of two that begin
// at the same key, the higher one, as the other may be equal to one below it.
func (d *differ) step(ctx context.Context) error {
	a, b := &d.a, &d.b
	var order int
	switch {
	case !a.some:
		order = 1
	case !b.some:
		order = -1
	default:
		order = a.key.Compare(b.key)
	}
	switch {
	case order < 0 && a.level > d.bottom, order == 0 && a.level > b.level:
		return a.enter(ctx)
	case order > 0 && b.level > d.bottom, order == 0 && a.level < b.level:
		return b.enter(ctx)
	case order < 0:
		return d.pass(a, nil)
	case order > 0:
		return d.pass(nil, b)
	case a.level > d.bottom && a.at.content != b.at.content:
		if err := a.enter(ctx); err != nil {
			return err
		}
		return b.enter(ctx)
	case a.level > d.bottom:
		return errors.Join(a.next(), b.next())
	}
	return d.pass(a, b)
}

// pass compares what is at the bottom, and moves on.
func (d *differ) pass(a, b *side) error {
	if err := d.compare(a, b); err != nil {
		return err
	}
	for _, s := range []*side{a, b} {
		if s != nil {
			if err := s.next(); err != nil {
				return err
			}
		}
	}
	return nil
}
