package selfenc

import "context"

// packedRecentChunks is the number of chunks that a Reader of a packed object keeps.
const packedRecentChunks = 16

// Reader returns a reader of an object. It reads the map on demand, and shares the nodes in memory
// with all readers and updates of the PackedSealer.
func (s *PackedSealer) Reader(o *PackedObject) (*Reader, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := newReader(&packedSource{o: *o, t: s.tree(o)}, Options{Workers: s.width})
	r.recent.max = packedRecentChunks
	return r, nil
}

// packedSource provides the chunks of one packed object.
type packedSource struct {
	o PackedObject
	t *packedTree
}

func (p *packedSource) size() int64          { return p.o.Bytes }
func (p *packedSource) chunks() int64        { return p.o.Chunks() }
func (p *packedSource) memory() memory       { return memory{} } // the PackedSealer has its own width
func (p *packedSource) find(off int64) int64 { return off >> shiftOf(p.o.ChunkBytes) }

func (p *packedSource) span(i int64) (from, to int64) {
	from = i << shiftOf(p.o.ChunkBytes)
	return from, from + p.t.shape.at(0, i).span
}

func (p *packedSource) read(ctx context.Context, i int64, dst []byte, _ *[]byte) error {
	c, err := p.t.entry(ctx, 0, i)
	if err != nil {
		return err
	}
	if c.ref.Kind == 0 {
		clear(dst)
		return nil
	}
	if err := p.t.s.open(ctx, &c.ref, dst); err != nil {
		return &PackedError{Index: i, Ref: c.ref, Err: err}
	}
	return nil
}
