package selfenc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Compression methods of a payload.
const (
	compNone = 0
	compZstd = 1
)

// Sealer encrypts and decrypts in V2 for one tenant. It is safe for concurrent use. Equal chunks of
// the tenant are stored only once, even if they are in different objects.
type Sealer struct {
	keys    *crypto.TenantKeys
	suite   crypto.Suite
	store   ChunkStore
	opts    Options
	chunk   int
	width   int
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

const (
	// zstdEncoderBytes is the approximate memory of a zstd encoder, without its window.
	zstdEncoderBytes = 2 << 20
	// heapGrowth: the garbage collector lets the heap grow to twice the memory in use.
	heapGrowth = 2
	// programBytes is the other memory of the program.
	programBytes = 12 << 20
)

// NewSealer returns a Sealer. The caller keeps ownership of the keys, and erases them after the
// last use.
func NewSealer(keys *crypto.TenantKeys, suite crypto.Suite, store ChunkStore, o Options) (*Sealer, error) {
	if keys == nil {
		return nil, ErrKey
	}
	if err := suite.Validate(); err != nil {
		return nil, err
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = V2ChunkBytes
	}
	if err := checkChunkBytes(o.ChunkBytes); err != nil {
		return nil, err
	}
	n := int64(o.ChunkBytes)
	s := &Sealer{keys: keys, suite: suite, store: store, opts: o, chunk: o.ChunkBytes}
	// A chunk, its compressed form, and the encoder's window. The object is sealed in place.
	// TestMemory measures it.
	s.width = o.workers(memory{v2MemoryBytes, programBytes, heapGrowth * (n + n + n/8 + n + zstdEncoderBytes)})
	var err error
	if s.encoder, s.decoder, err = newCodec(s.width, o.ChunkBytes, zstd.SpeedDefault); err != nil {
		return nil, err
	}
	return s, nil
}

// newCodec makes an encoder for a number of workers, and a decoder of chunks of any size.
func newCodec(workers, window int, level zstd.EncoderLevel) (*zstd.Encoder, *zstd.Decoder, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true),
		zstd.WithWindowSize(window), zstd.WithEncoderLevel(level), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCompression, err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(V2MaxChunk), zstd.WithDecoderMaxWindow(V2MaxChunk),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCompression, err)
	}
	return e, d, nil
}

// Close ends the Sealer's use.
func (s *Sealer) Close() {
	s.decoder.Close()
	_ = s.encoder.Close() // it has no output
}

// scratch is the memory of one chunk in work.
type scratch struct {
	plain, payload []byte // with capacity for the AEAD's tag
}

const tagRoom = 16

// seal compresses a chunk if that saves space, seals it and stores it. It overwrites plain, whose
// capacity includes the tag.
func (s *Sealer) seal(ctx context.Context, k crypto.ChunkKind, plain, payload []byte) (Ref, error) {
	comp := uint8(compZstd)
	payload = s.encoder.EncodeAll(plain, payload[:0])
	if len(payload) >= len(plain)-len(plain)/compMinSaving {
		comp, payload = compNone, plain
	}
	ref, object, err := s.keys.SealChunk(s.suite, k, comp, plain, payload, payload[:0])
	if err != nil {
		return Ref{}, err
	}
	if err := s.store.PutChunk(ctx, ref.Name, object); err != nil {
		return Ref{}, err
	}
	return ref, nil
}

// compMinSaving is the minimum saving of compression, as a fraction 1/compMinSaving. A smaller
// saving is not worth the decompression at every read.
const compMinSaving = 64

// open returns a chunk's verified plaintext in dst, whose capacity is its length.
func (s *Sealer) open(ctx context.Context, r *Ref, dst []byte, room *[]byte) error {
	limit := int(r.Length) + tagRoom // compression is used only if it saves space
	object, err := s.store.GetChunk(ctx, r.Name, *room, limit)
	if err != nil {
		return err
	}
	*room = object
	if len(object) < tagRoom {
		return fmt.Errorf("%w: %d bytes", ErrChunkTooSmall, len(object))
	}
	into := dst[:0]
	if r.Comp != compNone {
		into = object[:0]
	}
	payload, err := s.keys.OpenChunk(r, object, into)
	if err != nil {
		return openError(err)
	}
	if r.Comp == compNone {
		return nil // OpenChunk has verified the length and d, so dst was long enough
	}
	plain, err := s.decoder.DecodeAll(payload, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCompression, err)
	}
	if len(plain) != len(dst) {
		return fmt.Errorf("%w: %d bytes, not %d", ErrCorrupt, len(plain), len(dst))
	}
	if err := s.keys.CheckChunk(r, plain); err != nil {
		return fmt.Errorf("%w: its plaintext does not match the map", ErrCorrupt)
	}
	return nil
}

// openError returns the reason why a chunk does not open.
func openError(err error) error {
	switch {
	case errors.Is(err, crypto.ErrObjectName):
		return fmt.Errorf("%w: the store returned a chunk with another name", ErrCorrupt)
	case errors.Is(err, crypto.ErrAuthentication):
		return fmt.Errorf("%w: cannot open the chunk", ErrKey)
	}
	return err
}

// PutTree seals and stores a chunk of kind tree, at most V2MaxChunk bytes.
func (s *Sealer) PutTree(ctx context.Context, b []byte) (Ref, error) {
	if len(b) > V2MaxChunk {
		return Ref{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	return s.put(ctx, crypto.ChunkTree, b)
}

func (s *Sealer) put(ctx context.Context, k crypto.ChunkKind, b []byte) (Ref, error) {
	plain := append(make([]byte, 0, len(b)+tagRoom), b...)
	r, err := s.seal(ctx, k, plain, nil)
	if err != nil {
		return Ref{}, fmt.Errorf("store chunk of %d bytes: %w", len(b), err)
	}
	return r, nil
}

// GetTree returns the bytes that PutTree stored.
func (s *Sealer) GetTree(ctx context.Context, r *Ref) ([]byte, error) {
	if r.Kind != crypto.ChunkTree || r.Length > V2MaxChunk {
		return nil, fmt.Errorf("%w: not a tree", ErrMap)
	}
	return s.get(ctx, r)
}

func (s *Sealer) get(ctx context.Context, r *Ref) ([]byte, error) {
	b := make([]byte, r.Length)
	if err := s.open(ctx, r, b, new([]byte)); err != nil {
		return nil, &ChunkError{Name: r.Name, Err: err}
	}
	return b, nil
}

// Encrypt encrypts the data of r up to its end. It returns the object when all of its chunks are in
// the store. It reads r once. If a Read blocks, it waits for it, even after ctx has ended. Chunks
// of zeros become holes.
func (s *Sealer) Encrypt(ctx context.Context, r io.Reader) (*Object, error) {
	w := &objectWriter{s: s, o: Object{ChunkBytes: s.chunk}, free: make(chan *scratch, s.width), r: r, ctx: ctx, report: report{call: s.opts.Progress}}
	if err := pipeline(ctx, s.width, w.next, w.work, w.emit); err != nil {
		return nil, err
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	return &w.o, nil
}

// objectWriter encrypts one object.
type objectWriter struct {
	s     *Sealer
	ctx   context.Context //nolint:containedctx // the writer lives for one call only
	r     io.Reader
	ended bool
	index int64
	free  chan *scratch
	o     Object
	// levels contains, for each level, the children that are not in a node of the next level yet.
	// The first is the level of data. Each has at most nodeFanout entries.
	levels [][]Ref
	report
}

type objectJob struct {
	*scratch
	index int64
}

type objectResult struct {
	*scratch
	ref Ref
	n   int
}

func (w *objectWriter) next(context.Context) (objectJob, error) {
	if w.ended {
		return objectJob{}, errEnd
	}
	var m *scratch
	select {
	case m = <-w.free:
	default:
		m = &scratch{plain: make([]byte, 0, w.s.chunk+tagRoom), payload: make([]byte, 0, w.s.chunk+w.s.chunk/8)}
	}
	n, ended, err := readFull(w.r, m.plain[:w.s.chunk])
	if err != nil {
		return objectJob{}, err
	}
	m.plain = m.plain[:n]
	if w.ended = ended; n == 0 {
		return objectJob{}, errEnd
	}
	w.index++
	if w.index*int64(w.s.chunk) > V2MaxBytes {
		return objectJob{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(V2MaxBytes))
	}
	return objectJob{m, w.index - 1}, nil
}

var zeros [V2MinChunk]byte

// isZero reports whether b contains only zeros.
func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (w *objectWriter) work(ctx context.Context, j objectJob) (objectResult, error) {
	r := objectResult{scratch: j.scratch, n: len(j.plain)}
	if isZero(j.plain) {
		return r, nil
	}
	var err error
	if r.ref, err = w.s.seal(ctx, crypto.ChunkData, j.plain, j.payload); err != nil {
		return r, fmt.Errorf("chunk %d: %w", j.index, err)
	}
	return r, nil
}

func (w *objectWriter) emit(r objectResult) error {
	w.free <- r.scratch // never blocks: it has a place for each chunk in work
	w.o.Bytes += int64(r.n)
	w.done(r.n)
	return w.add(0, r.ref)
}

// add appends a child at a level. If there are enough children, it creates a node.
func (w *objectWriter) add(level int, r Ref) error {
	if level == len(w.levels) {
		w.levels = append(w.levels, make([]Ref, 0, nodeFanout))
	}
	w.levels[level] = append(w.levels[level], r)
	if len(w.levels[level]) < nodeFanout {
		return nil
	}
	return w.flush(level)
}

// flush creates a node of the children at a level.
func (w *objectWriter) flush(level int) error {
	refs := w.levels[level]
	var node Ref // a hole, if all children are holes
	for i := range refs {
		if refs[i] == (Ref{}) {
			continue
		}
		var err error
		if node, err = w.s.put(w.ctx, crypto.ChunkMap, appendNode(make([]byte, 0, maxNodeBytes), level+1, w.s.chunk, refs)); err != nil {
			return fmt.Errorf("level %d of the map: %w", level+1, err)
		}
		break
	}
	w.levels[level] = refs[:0]
	return w.add(level+1, node)
}

// finish creates nodes of the remaining children, up to the root.
func (w *objectWriter) finish() error {
	top := w.o.Levels()
	for level := range top {
		if level < len(w.levels) && len(w.levels[level]) > 0 {
			if err := w.flush(level); err != nil {
				return err
			}
		}
	}
	if w.o.Bytes > 0 {
		w.o.Root = w.levels[top][0]
	}
	return nil
}

// Open returns a reader of an object. The reader reads the map on demand.
func (s *Sealer) Open(o *Object) (*Reader, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return newReader(&objectSource{s: s, o: *o, nodes: recent[nodeKey, []Ref]{max: recentNodes}}, s.opts), nil
}

// objectSource provides the chunks of one object.
type objectSource struct {
	s     *Sealer
	o     Object
	nodes recent[nodeKey, []Ref]
}

type nodeKey struct {
	level int
	index int64
}

// recentNodes is the number of map nodes in the cache, each at most 27 KiB.
const recentNodes = 64

func (s *objectSource) size() int64                   { return s.o.Bytes }
func (s *objectSource) chunks() int64                 { return s.o.Chunks() }
func (s *objectSource) find(off int64) int64          { return off / int64(s.o.ChunkBytes) }
func (s *objectSource) span(i int64) (from, to int64) { return s.o.chunkSpan(i) }

func (s *objectSource) memory() memory {
	n := int64(s.o.ChunkBytes)
	// The plaintext and object of each chunk, and its share of the memory of the Sealer's encoders.
	return memory{v2MemoryBytes, programBytes + recentChunks*n, heapGrowth * 4 * n}
}

func (s *objectSource) read(ctx context.Context, i int64, dst []byte, room *[]byte) error {
	r, err := s.ref(ctx, 0, i)
	if err != nil {
		return err
	}
	if r == (Ref{}) {
		clear(dst)
		return nil
	}
	if err := s.s.open(ctx, &r, dst, room); err != nil {
		return &ChunkError{Name: r.Name, Index: uint64(i), Err: err}
	}
	return nil
}

// ref returns reference i of a level. Consecutive chunks share the cached nodes above them.
func (s *objectSource) ref(ctx context.Context, level int, i int64) (Ref, error) {
	if level == s.o.Levels() {
		return s.o.Root, nil
	}
	refs, err := s.node(ctx, nodeKey{level + 1, i >> nodeFanoutShift})
	if err != nil || refs == nil {
		return Ref{}, err
	}
	return refs[i&(nodeFanout-1)], nil
}

// node returns the children of a node, or nil if it is a hole.
func (s *objectSource) node(ctx context.Context, k nodeKey) ([]Ref, error) {
	return s.nodes.get(ctx, k, func() ([]Ref, error) {
		r, err := s.ref(ctx, k.level, k.index)
		if err != nil || r == (Ref{}) {
			return nil, err
		}
		b := make([]byte, r.Length)
		if err = s.s.open(ctx, &r, b, new([]byte)); err == nil {
			var refs []Ref
			if refs, err = s.o.decodeNode(b, k.level, k.index); err == nil {
				return refs, nil
			}
		}
		return nil, &ChunkError{Name: r.Name, Level: uint64(k.level), Index: uint64(k.index), Err: err}
	})
}

// SealObject returns an object sealed under the tenant's keys. It can be stored anywhere, because
// nobody else can read or change it.
func (s *Sealer) SealObject(o *Object) ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r, sealed, err := s.keys.SealChunk(s.suite, crypto.ChunkMap, compNone, o.appendRecord(nil), nil, nil)
	if err != nil {
		return nil, err
	}
	return append(AppendRef(nil, &r), sealed...), nil
}

// sealedObjectBytes is the length of the result of SealObject.
const sealedObjectBytes = RefBytes + recordBytes + tagRoom

// OpenObject opens the result of SealObject.
func (s *Sealer) OpenObject(b []byte) (*Object, error) {
	if len(b) != sealedObjectBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrMap, len(b))
	}
	r, err := DecodeRef(b)
	if err != nil {
		return nil, err
	}
	if r.Kind != crypto.ChunkMap || r.Comp != compNone {
		return nil, fmt.Errorf("%w: not a sealed object", ErrMap)
	}
	record, err := s.keys.OpenChunk(&r, b[RefBytes:], nil)
	if err != nil {
		return nil, fmt.Errorf("the map: %w", openError(err))
	}
	return decodeRecord(record)
}
