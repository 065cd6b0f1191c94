package selfenc

import (
	"context"
	"fmt"
	"io"
	"math"
)

// source provides the chunks of one encrypted object. Its methods are safe for concurrent use.
type source interface {
	size() int64
	chunks() int64
	memory() memory // that Copy needs
	find(off int64) (chunk int64)
	span(chunk int64) (from, to int64)
	// read writes the verified plaintext of a chunk to dst, which has the length of the plaintext.
	// room is working memory, which may be replaced.
	read(ctx context.Context, chunk int64, dst []byte, room *[]byte) error
}

// Reader decrypts an object, completely or in parts. It returns only verified bytes. It is safe for
// concurrent use.
type Reader struct {
	src    source
	opts   Options
	width  int
	recent recent[int64, []byte] // recent chunks, for adjacent small reads
}

// recentChunks is the number of chunks that ReadAt keeps.
const recentChunks = 4

func newReader(src source, o Options) *Reader {
	return &Reader{src: src, opts: o, width: o.workers(src.memory()), recent: recent[int64, []byte]{max: recentChunks}}
}

// Size returns the length of the object in bytes.
func (r *Reader) Size() int64 { return r.src.size() }

// Chunks returns the number of data chunks, including holes.
func (r *Reader) Chunks() int64 { return r.src.chunks() }

// Copy writes count bytes at off, or all up to the end, to w. It decrypts several chunks at once.
// After an error, the bytes that were written to w are correct, but incomplete.
func (r *Reader) Copy(ctx context.Context, w io.Writer, off, count int64) error {
	size := r.Size()
	if off < 0 || count < 0 || off > size {
		return fmt.Errorf("copy %d bytes at %d of %d: out of range", count, off, size)
	}
	end := size
	if count < size-off {
		end = off + count
	}
	if off == end {
		return nil
	}
	i, last := r.src.find(off), r.src.find(end-1)
	type buffers struct{ plain, room []byte }
	type part struct {
		*buffers
		data []byte
	}
	free := make(chan *buffers, r.width)
	rep := report{call: r.opts.Progress}
	next := func(context.Context) (int64, error) {
		if i > last {
			return 0, errEnd
		}
		i++
		return i - 1, nil
	}
	work := func(ctx context.Context, i int64) (part, error) {
		var b *buffers
		select {
		case b = <-free:
		default:
			b = &buffers{}
		}
		from, to := r.src.span(i)
		if int64(cap(b.plain)) < to-from {
			b.plain = make([]byte, to-from)
		}
		b.plain = b.plain[:to-from]
		if err := r.src.read(ctx, i, b.plain, &b.room); err != nil {
			return part{}, err
		}
		return part{b, b.plain[max(0, off-from) : min(to, end)-from]}, nil
	}
	emit := func(p part) error {
		if _, err := w.Write(p.data); err != nil {
			return fmt.Errorf("write decrypted data: %w", err)
		}
		rep.done(len(p.data))
		free <- p.buffers // never blocks: it has a place for each chunk in work
		return nil
	}
	return pipeline(ctx, r.width, next, work, emit)
}

// Verify reads and verifies every chunk.
func (r *Reader) Verify(ctx context.Context) error {
	return r.Copy(ctx, io.Discard, 0, math.MaxInt64)
}

// ReadRange fills p with the bytes at off, like io.ReaderAt. It reads only the chunks that it
// needs, several at once.
func (r *Reader) ReadRange(ctx context.Context, p []byte, off int64) (n int, err error) {
	size := r.Size()
	switch {
	case off < 0:
		return 0, fmt.Errorf("read at %d: out of range", off)
	case len(p) == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	}
	end, atEnd := size, io.EOF
	if int64(len(p)) <= size-off {
		end, atEnd = off+int64(len(p)), nil
	}
	// part reads what p wants of a chunk.
	part := func(ctx context.Context, i int64) (int, error) {
		from, to := r.src.span(i)
		first := max(from, off)
		dst := p[first-off : min(to, end)-off]
		if int64(len(dst)) == to-from {
			return len(dst), r.whole(ctx, i, dst)
		}
		plain, err := r.chunk(ctx, i)
		if err != nil {
			return 0, err
		}
		return copy(dst, plain[first-from:]), nil
	}
	i, last := r.src.find(off), r.src.find(end-1)
	if i == last {
		if n, err = part(ctx, i); err != nil {
			return 0, err
		}
		return n, atEnd
	}
	next := func(context.Context) (int64, error) {
		if i > last {
			return 0, errEnd
		}
		i++
		return i - 1, nil
	}
	err = pipeline(ctx, r.width, next, part, func(k int) error { n += k; return nil })
	if err != nil {
		return n, err
	}
	return n, atEnd
}

// At returns an io.ReaderAt whose reads end with ctx.
func (r *Reader) At(ctx context.Context) io.ReaderAt { return readerAt{ctx, r} }

type readerAt struct {
	ctx context.Context
	r   *Reader
}

func (a readerAt) ReadAt(p []byte, off int64) (int, error) { return a.r.ReadRange(a.ctx, p, off) }

// whole writes the plaintext of a chunk to dst, which has its length.
func (r *Reader) whole(ctx context.Context, i int64, dst []byte) error {
	if plain, ok := r.recent.peek(i); ok {
		copy(dst, plain)
		return nil
	}
	return r.src.read(ctx, i, dst, new([]byte))
}

// chunk returns the plaintext of a chunk, which must not be changed.
func (r *Reader) chunk(ctx context.Context, i int64) ([]byte, error) {
	return r.recent.get(ctx, i, func() ([]byte, error) {
		from, to := r.src.span(i)
		b := make([]byte, to-from)
		return b, r.src.read(ctx, i, b, new([]byte))
	})
}
