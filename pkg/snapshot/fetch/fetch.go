package fetch

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

const (
	// WindowChunks is a good number of chunks of a window: 8 GiB of content, 25 MiB of memory.
	WindowChunks = 128 << 10

	maxGap          = 256 << 10 // bytes that are read for nothing, instead of another request
	maxRange        = 4 << 20   // bytes of one request
	defaultParallel = 8
)

// Chunk is a chunk to read, and what it is for.
type Chunk struct {
	Ref selfenc.PackedRef
	Ino uint64
	Off uint64 // in the file
}

// Fetcher reads chunks.
type Fetcher struct {
	Packs  *pack.Reader
	List   *pack.List
	Sealer *selfenc.PackedSealer
	// Parallel is how many ranges are read at once, each at most 4 MiB. 0: 8.
	Parallel int
	// Failed, if not nil, is told of each chunk that cannot be read. If it returns nil, the others
	// are read nevertheless. It is called concurrently.
	Failed func(c *Chunk, err error) error
}

// span is chunks that are read with one request.
type span struct {
	chunks   []Chunk
	from, to uint32 // in the pack
}

// Chunks reads the chunks of a window, which it sorts, and calls fn for each, concurrently and in
// any order. plain is valid only during the call. Holes are not allowed.
func (f *Fetcher) Chunks(ctx context.Context, window []Chunk, fn func(c *Chunk, plain []byte) error) error {
	slices.SortFunc(window, func(a, b Chunk) int {
		return cmp.Or(cmp.Compare(a.Ref.Pack, b.Ref.Pack), cmp.Compare(a.Ref.Offset, b.Ref.Offset), cmp.Compare(a.Ref.Stored, b.Ref.Stored))
	})
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(f.Parallel, defaultParallel))
	rooms := make(chan *room, cmp.Or(f.Parallel, defaultParallel))
	for len(window) > 0 {
		s := next(window)
		window = window[len(s.chunks):]
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var r *room
			select {
			case r = <-rooms:
			default:
				r = &room{}
			}
			defer func() { rooms <- r }()
			return f.read(ctx, &s, r, fn)
		})
	}
	return g.Wait()
}

// room is the memory of one range in work.
type room struct{ object, plain []byte }

// next returns the longest span at the beginning of sorted chunks.
func next(window []Chunk) span {
	first := &window[0].Ref
	s := span{from: first.Offset, to: first.Offset + first.Stored}
	n := 1
	for ; n < len(window); n++ {
		r := &window[n].Ref
		end := max(s.to, r.Offset+r.Stored)
		if r.Pack != first.Pack || r.Offset > s.to && r.Offset-s.to > maxGap || end-s.from > maxRange {
			break
		}
		s.to = end
	}
	s.chunks = window[:n]
	return s
}

// read fetches a span and opens its chunks.
func (f *Fetcher) read(ctx context.Context, s *span, r *room, fn func(c *Chunk, plain []byte) error) error {
	e, err := f.List.Find(ctx, s.chunks[0].Ref.Pack)
	if err == nil {
		r.object, err = f.Packs.Range(ctx, &e, s.from, s.to-s.from, r.object)
	}
	if err != nil {
		for i := range s.chunks {
			if err := f.fail(&s.chunks[i], err); err != nil {
				return err
			}
		}
		return nil
	}
	fetched := &fetched{packs: f.Packs, entry: &e, from: s.from, object: r.object}
	for i := range s.chunks {
		c := &s.chunks[i]
		if i == 0 || s.chunks[i-1].Ref != c.Ref { // else r.plain has it: equal chunks are stored once
			if r.plain, err = f.Sealer.OpenFrom(ctx, fetched, &c.Ref, r.plain[:0]); err != nil {
				if err := f.fail(c, err); err != nil {
					return err
				}
				c.Ref = selfenc.PackedRef{} // the next one is not equal to it
				continue
			}
		}
		if err := fn(c, r.plain); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fetcher) fail(c *Chunk, err error) error {
	err = fmt.Errorf("inode %d: content at %d: %w", c.Ino, c.Off, err)
	if f.Failed == nil {
		return err
	}
	return f.Failed(c, err)
}

// fetched is an Unpacker of what a span has.
type fetched struct {
	packs  *pack.Reader
	entry  *format.PackEntry
	from   uint32
	object []byte
}

// Open implements selfenc.Unpacker.
func (s *fetched) Open(_ context.Context, r *selfenc.PackedRef, dst []byte) ([]byte, error) {
	at := r.Offset - s.from
	return s.packs.OpenObject(s.entry, r, s.object[at:at+r.Stored], dst)
}
