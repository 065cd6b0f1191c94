package merkle

import (
	"context"
	"iter"

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
		d := differ{a: side{m: a}, b: side{m: b}}
		err := d.begin(ctx)
		for err == nil && (d.a.some || d.b.some) {
			var diff *Difference
			if diff, err = d.step(ctx); err == nil && diff != nil && !yield(*diff, nil) {
				return
			}
		}
		if err != nil {
			yield(Difference{}, err)
		}
	}
}

// side is a position in one of the maps: at a node that has not been entered, or at an item.
type side struct {
	m     *Map
	some  bool
	stack []frame  // the nodes that have been entered
	at    expected // the node, if level >= 0
	root  *node    // the root, which at describes; nil: at is another node
	level int      // -1: an item
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

type differ struct{ a, b side }

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
func (d *differ) step(ctx context.Context) (*Difference, error) {
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
	case order < 0:
		return a.alone(ctx, true)
	case order > 0:
		return b.alone(ctx, false)
	case a.level > b.level:
		return nil, a.enter(ctx)
	case a.level < b.level:
		return nil, b.enter(ctx)
	case a.level >= 0 && a.at.content != b.at.content:
		if err := a.enter(ctx); err != nil {
			return nil, err
		}
		return nil, b.enter(ctx)
	}
	var diff *Difference
	if a.level < 0 {
		same, err := a.m.config.sameContent(a.key, a.value(), b.value())
		if err != nil {
			return nil, err
		}
		if !same {
			diff = &Difference{Key: a.key, Old: a.value(), New: b.value()}
		}
	}
	if err := a.next(); err != nil {
		return nil, err
	}
	return diff, b.next()
}

// alone handles a node or item to which the other side has no equal one.
func (s *side) alone(ctx context.Context, old bool) (*Difference, error) {
	if s.level >= 0 {
		return nil, s.enter(ctx)
	}
	diff := &Difference{Key: s.key}
	if old {
		diff.Old = s.value()
	} else {
		diff.New = s.value()
	}
	return diff, s.next()
}
