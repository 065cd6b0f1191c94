package selfenc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Packer puts sealed chunks into packs: a pack.Writer. Safe for concurrent use.
type Packer interface {
	// Add puts an object, whose reference without a place is r, and returns the reference with its
	// place. It does not keep object.
	Add(ctx context.Context, r *crypto.ChunkRef, object []byte) (PackedRef, error)
}

// Unpacker fetches and decrypts chunks: a pack.Reader. Safe for concurrent use.
type Unpacker interface {
	// Open appends the payload of a chunk to dst. It verifies p, and the length if r.Comp is 0.
	// Otherwise the payload is compressed, and the caller verifies the chunk.
	Open(ctx context.Context, r *PackedRef, dst []byte) ([]byte, error)
}

// PackedOptions are the options of a PackedSealer. The zero value works.
type PackedOptions struct {
	// ChunkBytes is the maximum plaintext of a chunk, a power of two. 0 means PackedChunkBytes.
	ChunkBytes int
	// Workers is the maximum number of batches in work at once, in all calls together. 0 means two
	// more than GOMAXPROCS, or fewer to stay below MemoryBytes.
	Workers int
	// MemoryBytes limits the memory, without that of DedupChunks and NodeCacheBytes. 0 means 64 MiB.
	// There is always at least one batch in work.
	MemoryBytes int64
	// DedupChunks is how many chunks are remembered, so that equal ones are stored once, 88 bytes
	// each. 0 means 131,072. A negative number means none.
	DedupChunks int
	// NodeCacheBytes limits the decoded map nodes in memory. 0 means 16 MiB.
	NodeCacheBytes int64
	// Known finds chunks that are stored already. Nil: none.
	Known Known
	// Progress is called with a number of bytes whenever Update has stored so much more data, or
	// found that it need not store it. Concurrent calls of Update call it concurrently.
	Progress func(bytes int64)
}

// PackedSealer encrypts and decrypts objects whose chunks lie in packs, for one tenant. It is safe
// for concurrent use. All calls together use the memory and the number of workers of its options.
type PackedSealer struct {
	keys    *crypto.TenantKeys
	suite   crypto.Suite
	out     Packer
	in      Unpacker
	opts    PackedOptions
	chunk   int
	batch   int // chunks in a batch
	width   int
	dedup   *refCache
	nodes   nodeCache
	places  chan *packedScratch // the memory of batches; nil: not allocated yet
	small   sync.Pool           // of *smallScratch
	rooms   sync.Pool           // of *[]byte: stored forms of chunks that are opened
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

const (
	// packedBatchBytes is how much is read at once: the reader below is a device.
	packedBatchBytes     = 1 << 20
	packedNodeCacheBytes = 16 << 20
)

// NewPackedSealer returns a PackedSealer that stores chunks in out, and reads them from in. A nil
// out suffices to read, a nil in to store objects that replace none. The caller keeps ownership of
// the keys, and erases them after the last use.
func NewPackedSealer(keys *crypto.TenantKeys, suite crypto.Suite, out Packer, in Unpacker, o PackedOptions) (*PackedSealer, error) {
	if keys == nil {
		return nil, ErrKey
	}
	if err := suite.Validate(); err != nil {
		return nil, err
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = PackedChunkBytes
	}
	if err := checkPackedChunkBytes(o.ChunkBytes); err != nil {
		return nil, err
	}
	if o.DedupChunks == 0 {
		o.DedupChunks = packedDedupChunks
	}
	if o.NodeCacheBytes == 0 {
		o.NodeCacheBytes = packedNodeCacheBytes
	}
	s := &PackedSealer{keys: keys, suite: suite, out: out, in: in, opts: o, chunk: o.ChunkBytes, batch: max(1, packedBatchBytes/o.ChunkBytes),
		dedup: newRefCache(o.DedupChunks), nodes: nodeCache{limit: max(0, o.NodeCacheBytes)}}
	n := int64(o.ChunkBytes)
	// The plaintext and the objects of a batch, the compressed form of a chunk, the encoder's window.
	each := 2*int64(s.batch)*(n+tagRoom) + n + n/8 + n + zstdEncoderBytes
	s.width = (&Options{Workers: o.Workers, MemoryBytes: o.MemoryBytes}).workers(memory{v2MemoryBytes, programBytes, heapGrowth * each})
	s.places = make(chan *packedScratch, s.width)
	for range s.width {
		s.places <- nil
	}
	s.small.New = func() any { return &smallScratch{} }
	s.rooms.New = func() any { return new([]byte) }
	var err error
	// The fastest level stores a source tree in 6 % more than the default one, and takes half of its
	// time, which is most of the time of a snapshot.
	if s.encoder, s.decoder, err = newCodec(s.width, max(o.ChunkBytes, V2MinChunk), zstd.SpeedFastest); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the PackedSealer's use.
func (s *PackedSealer) Close() {
	s.decoder.Close()
	_ = s.encoder.Close() // it has no output
}

// smallScratch is memory to seal one chunk, such as a node.
type smallScratch struct {
	plain, payload, object []byte
	d                      [32]byte
}

// errNoPacker is a mistake of the caller.
var errNoPacker = errors.New("packed objects: this sealer can only read")

// Seal compresses a chunk if that saves space, seals it and stores it. Equal chunks of the same
// kind are stored once, as far as the PackedSealer remembers them. It does not change or keep plain.
func (s *PackedSealer) Seal(ctx context.Context, k crypto.ChunkKind, plain []byte) (PackedRef, error) {
	r, _, err := s.seal(ctx, k, plain)
	return r, err
}

// seal is Seal. It also returns how many bytes were stored, 0 if the chunk was there already.
func (s *PackedSealer) seal(ctx context.Context, k crypto.ChunkKind, plain []byte) (r PackedRef, stored int, err error) {
	if len(plain) == 0 || len(plain) > V2MaxChunk {
		return PackedRef{}, 0, fmt.Errorf("%w: a chunk of %d bytes must have 1 to %d", ErrInvalidChunkSize, len(plain), V2MaxChunk)
	}
	id, err := s.keys.Identify(k, plain)
	if err != nil {
		return PackedRef{}, 0, err
	}
	m := s.small.Get().(*smallScratch)
	defer s.small.Put(m)
	m.d = id.D()
	if r, ok := s.known(ctx, k, &m.d, uint32(len(plain))); ok {
		return r, 0, nil
	}
	m.object = grow(m.object, len(plain)+tagRoom)
	ref, object, err := s.sealIdentified(&id, plain, &m.payload, m.object[:0])
	if err != nil {
		return PackedRef{}, 0, err
	}
	return s.add(ctx, &ref, object)
}

// known finds a chunk that this PackedSealer stored, or that was stored before.
func (s *PackedSealer) known(ctx context.Context, k crypto.ChunkKind, d *[32]byte, length uint32) (PackedRef, bool) {
	if r, ok := s.dedup.get(d); ok {
		return r, true
	}
	if s.opts.Known == nil {
		return PackedRef{}, false
	}
	r, ok := s.opts.Known.Find(ctx, k, d, length)
	if !ok || r.Kind != k || r.D != *d || r.Length != length || r.Validate() != nil {
		return PackedRef{}, false
	}
	s.dedup.put(&r)
	return r, true
}

// sealIdentified compresses and seals a chunk. It appends the object to dst, which has room for it.
func (s *PackedSealer) sealIdentified(id *crypto.Identified, plain []byte, payload *[]byte, dst []byte) (crypto.ChunkRef, []byte, error) {
	comp, compressed := uint8(compNone), []byte(nil)
	if compressible(plain) {
		*payload = s.encoder.EncodeAll(plain, grow(*payload, len(plain)+len(plain)/8+64)[:0])
		if len(*payload) < len(plain)-len(plain)/compMinSaving {
			comp, compressed = compZstd, *payload
		}
	}
	return s.keys.SealIdentified(s.suite, comp, id, compressed, dst)
}

// add stores an object, unless an equal one was stored meanwhile.
func (s *PackedSealer) add(ctx context.Context, ref *crypto.ChunkRef, object []byte) (r PackedRef, stored int, err error) {
	if r, ok := s.dedup.get(&ref.D); ok {
		return r, 0, nil
	}
	if s.out == nil {
		return PackedRef{}, 0, errNoPacker
	}
	if r, err = s.out.Add(ctx, ref, object); err != nil {
		return PackedRef{}, 0, fmt.Errorf("store chunk of %d bytes: %w", ref.Length, err)
	}
	if r.Ref != *ref {
		return PackedRef{}, 0, fmt.Errorf("%w: the packer returned the reference of another chunk", ErrMap)
	}
	s.dedup.put(&r)
	return r, len(object), nil
}

// grow returns b with space for n bytes. It does not keep the content.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		b = make([]byte, n)
	}
	return b[:n]
}

// Open appends the verified plaintext of a chunk to dst.
func (s *PackedSealer) Open(ctx context.Context, r *PackedRef, dst []byte) ([]byte, error) {
	return s.OpenFrom(ctx, s.in, r, dst)
}

// OpenFrom is Open for a chunk that another Unpacker has: one that has fetched several at once.
func (s *PackedSealer) OpenFrom(ctx context.Context, in Unpacker, r *PackedRef, dst []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if r.Kind == 0 || r.Length == 0 {
		return nil, fmt.Errorf("%w: a hole or an empty chunk is not stored", ErrMap)
	}
	n, all := len(dst), len(dst)+int(r.Length)
	if cap(dst) < all {
		dst = append(make([]byte, 0, all), dst...)
	}
	if err := s.open(ctx, in, r, dst[n:all]); err != nil {
		return nil, err
	}
	return dst[:all], nil
}

// open writes the verified plaintext of a chunk to dst, which has its length.
func (s *PackedSealer) open(ctx context.Context, in Unpacker, r *PackedRef, dst []byte) error {
	if in == nil {
		return errors.New("packed objects: this sealer cannot read")
	}
	if r.Comp == compNone {
		plain, err := in.Open(ctx, r, dst[:0:len(dst)])
		if err != nil {
			return err
		}
		if len(plain) != len(dst) {
			return fmt.Errorf("%w: %d bytes, not %d", ErrCorrupt, len(plain), len(dst))
		}
		if &plain[0] != &dst[0] {
			copy(dst, plain)
		}
		return nil
	}
	room := s.rooms.Get().(*[]byte)
	defer s.rooms.Put(room)
	payload, err := in.Open(ctx, r, grow(*room, int(r.Stored))[:0])
	if err != nil {
		return err
	}
	*room = payload
	plain, err := s.decoder.DecodeAll(payload, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCompression, err)
	}
	if len(plain) != len(dst) {
		return fmt.Errorf("%w: %d bytes, not %d", ErrCorrupt, len(plain), len(dst))
	}
	if err := s.keys.CheckChunk(&r.Ref, plain); err != nil {
		return fmt.Errorf("%w: its plaintext does not match the map", ErrCorrupt)
	}
	return nil
}
