package create

import (
	"context"
	"errors"
	"iter"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// ranges are ascending and apart from each other.
type ranges = iter.Seq2[selfenc.Range, error]

var errStop = errors.New("stop")

// dataOf yields the chunks of an object that are no holes.
func (j *job) dataOf(ctx context.Context, o *selfenc.PackedObject) ranges {
	return func(yield func(selfenc.Range, error) bool) {
		err := j.sealer.Refs(ctx, o, 0, func(i int64, _ *selfenc.PackedRef) error {
			if !yield(selfenc.Range{Off: uint64(i) * uint64(o.ChunkBytes), Len: uint64(o.ChunkBytes)}, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(selfenc.Range{}, err)
		}
	}
}

// union yields what either a or b has.
func union(a, b ranges) ranges {
	return func(yield func(selfenc.Range, error) bool) {
		var sides [2]side
		for i, s := range []ranges{a, b} {
			next, stop := iter.Pull2(s)
			defer stop()
			sides[i] = side{next: next}
			sides[i].step()
		}
		var out selfenc.Range // not yielded yet
		for sides[0].ok || sides[1].ok {
			s := &sides[0]
			if !s.ok || sides[1].ok && sides[1].r.Off < s.r.Off {
				s = &sides[1]
			}
			r, err := s.r, s.err
			if err != nil {
				yield(selfenc.Range{}, err)
				return
			}
			s.step()
			if out.Len > 0 && r.Off <= out.Off+out.Len {
				out.Len = max(out.Len, r.Off+r.Len-out.Off)
				continue
			}
			if out.Len > 0 && !yield(out, nil) {
				return
			}
			out = r
		}
		if out.Len > 0 {
			yield(out, nil)
		}
	}
}

// side is one of two sequences that union merges. An error comes first.
type side struct {
	next func() (selfenc.Range, error, bool)
	r    selfenc.Range
	err  error
	ok   bool
}

func (s *side) step() {
	if s.r, s.err, s.ok = s.next(); s.err != nil {
		s.r = selfenc.Range{}
	}
}
