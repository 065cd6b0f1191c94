package selfenc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Chunk is a stored chunk in memory.
type Chunk struct {
	Name Name
	Data []byte
}

// Encrypt encrypts plain, at least 3 bytes, in a reference encoding. It returns the chunks in the
// order of the reference implementation: those of the data, then those of each level of the map. In
// SE31, equal chunks may occur several times.
func Encrypt(e Encoding, plain []byte, o Options) (*DataMap, []Chunk, error) {
	mem := &memoryStore{}
	maps, err := encryptLevels(context.Background(), e, mem, bytes.NewReader(plain), o)
	if err != nil {
		return nil, nil, err
	}
	var chunks []Chunk
	for _, m := range maps {
		for i := range m.Chunks {
			name := m.Chunks[i].DstHash
			chunks = append(chunks, Chunk{name, mem.chunks[name]})
		}
	}
	return maps[len(maps)-1], chunks, nil
}

// Decrypt decrypts the data of a map. The chunks may be in any order.
func Decrypt(e Encoding, m *DataMap, chunks []Chunk, o Options) ([]byte, error) {
	mem := &memoryStore{chunks: make(map[Name][]byte, len(chunks))}
	for _, c := range chunks {
		mem.chunks[c.Name] = c.Data
	}
	ctx := context.Background()
	r, err := Open(ctx, e, mem, m, o)
	if err != nil {
		return nil, err
	}
	// The size in the map is not trusted: the buffer grows with the verified chunks.
	var out bytes.Buffer
	if err := r.Copy(ctx, &out, 0, r.Size()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// memoryStore is a store with the chunks of one call.
type memoryStore struct {
	mu     sync.Mutex
	chunks map[Name][]byte
}

func (s *memoryStore) GetChunk(_ context.Context, name Name, room []byte, limit int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.chunks[name]
	if !ok {
		return nil, ErrNoSuchChunk
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%w: %d bytes", ErrChunkTooLarge, len(b))
	}
	return append(room[:0], b...), nil
}

func (s *memoryStore) PutChunk(_ context.Context, name Name, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks == nil {
		s.chunks = map[Name][]byte{}
	}
	if _, ok := s.chunks[name]; !ok {
		s.chunks[name] = bytes.Clone(data)
	}
	return nil
}

// EncryptTo encrypts the data of r, at least 3 bytes, in a reference encoding. It returns the map
// when all chunks are in the store. It reads r once, to its end. It needs memory for the chunks in
// work, for five more chunks, and 80 bytes of map per chunk. If a Read blocks, EncryptTo waits for
// it, even after ctx has ended.
func EncryptTo(ctx context.Context, e Encoding, store ChunkStore, r io.Reader, o Options) (*DataMap, error) {
	maps, err := encryptLevels(ctx, e, store, r, o)
	if err != nil {
		return nil, err
	}
	return maps[len(maps)-1], nil
}

// encryptLevels returns the maps of all levels, that of the data first. It encrypts each level
// separately, and counts the levels itself. The reference implementation's encoder loses a level if
// the map of a map has more than three chunks; see docs/selfenc-format.md.
func encryptLevels(ctx context.Context, e Encoding, store ChunkStore, r io.Reader, o Options) ([]*DataMap, error) {
	if err := e.checkReference(); err != nil {
		return nil, err
	}
	form, err := o.mapForm(e)
	if err != nil {
		return nil, err
	}
	m, err := encryptLevel(ctx, e, store, r, 0, o)
	if err != nil {
		return nil, err
	}
	maps := []*DataMap{m}
	o.Progress = nil // for the data only
	for len(m.Chunks) > 3 {
		if m, err = shrinkOnce(ctx, e, store, m, form, o); err != nil {
			return nil, err
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// shrinkOnce encrypts a map as an additional level.
func shrinkOnce(ctx context.Context, e Encoding, store ChunkStore, m *DataMap, form MapForm, o Options) (*DataMap, error) {
	level := m.Child + 1
	if level > maxMapLevels {
		return nil, fmt.Errorf("%w: the map would have more than %d levels", ErrTooLarge, maxMapLevels)
	}
	b, err := m.Encode(form)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if int64(len(b)) >= m.PlainBytes() {
		return nil, fmt.Errorf("%w: chunks are so small that their map is larger than the data", ErrInvalidChunkSize)
	}
	if m, err = encryptLevel(ctx, e, store, bytes.NewReader(b), level, o); err != nil {
		return nil, fmt.Errorf("level %d of the map: %w", level, err)
	}
	return m, nil
}

// levelWriter encrypts one level.
type levelWriter struct {
	e     Encoding
	store ChunkStore
	level uint64
	max   int
	r     io.Reader
	head  [][]byte // chunks that were read ahead
	last  [2]*digest
	index int64
	m     *DataMap
	first [2][]byte // chunks 0 and 1, whose keys depend on the last two chunks
	report
}

// digest is the hash of a chunk, available when it is known.
type digest struct {
	known chan struct{}
	sum   [32]byte
}

// levelJob is the job of one chunk.
type levelJob struct {
	index            int64
	plain            []byte
	own              *digest
	previous, before *digest // nil for chunks 0 and 1
}

type levelResult struct {
	job  *levelJob
	name Name
}

// encryptLevel encrypts the data of r, without shrinking the map.
func encryptLevel(ctx context.Context, e Encoding, store ChunkStore, r io.Reader, level uint64, o Options) (*DataMap, error) {
	size, err := o.chunkBytes(e)
	if err != nil {
		return nil, err
	}
	w := &levelWriter{e: e, store: store, level: level, max: size, r: r, m: &DataMap{Child: level}, report: report{call: o.Progress}}
	if err := w.readHead(); err != nil {
		return nil, err
	}
	width := o.workers(memory{referenceMemoryBytes, 5 * int64(size), 4*int64(size) + brotliEncoderBytes})
	if err := pipeline(ctx, width, w.next, w.work, w.emit); err != nil {
		return nil, err
	}
	return w.m, w.finish(ctx)
}

// readHead reads up to three whole chunks. This determines how the data is split: if there is less,
// it is split into three equal parts.
func (w *levelWriter) readHead() error {
	head, err := io.ReadAll(io.LimitReader(w.r, 3*int64(w.max)))
	if err != nil {
		return fmt.Errorf("read the data: %w", err)
	}
	if len(head) < MinBytes {
		return fmt.Errorf("%w, not %d", ErrTooSmall, len(head))
	}
	third := len(head) / 3 // exactly max if there are three whole chunks
	w.head = [][]byte{head[:third], head[third : 2*third], head[2*third:]}
	if len(head) < 3*w.max {
		w.r = nil // the data ended
	}
	return nil
}

func (w *levelWriter) read() ([]byte, error) {
	if len(w.head) > 0 {
		b := w.head[0]
		w.head = w.head[1:]
		return b, nil
	}
	if w.r == nil {
		return nil, errEnd
	}
	b := make([]byte, w.max)
	n, ended, err := readFull(w.r, b)
	if err != nil {
		return nil, err
	}
	if ended {
		w.r = nil
	}
	if n == 0 {
		return nil, errEnd
	}
	return b[:n], nil
}

func (w *levelWriter) next(context.Context) (*levelJob, error) {
	plain, err := w.read()
	if err != nil {
		return nil, err
	}
	if w.index >= maxMapChunks {
		return nil, fmt.Errorf("%w: more than %d chunks", ErrTooLarge, maxMapChunks)
	}
	j := &levelJob{index: w.index, plain: plain, own: &digest{known: make(chan struct{})}}
	if j.index >= 2 {
		j.previous, j.before = w.last[1], w.last[0]
	}
	w.last = [2]*digest{w.last[1], j.own}
	w.index++
	return j, nil
}

// work waits only for the hashes of previous chunks, and hashing waits for nothing. So there is no
// deadlock.
func (w *levelWriter) work(ctx context.Context, j *levelJob) (levelResult, error) {
	j.own.sum = w.e.scheme().Hash(j.plain)
	close(j.own.known)
	if j.index < 2 {
		return levelResult{job: j}, nil
	}
	for _, d := range []*digest{j.previous, j.before} {
		select {
		case <-d.known:
		case <-ctx.Done():
			return levelResult{}, context.Cause(ctx)
		}
	}
	name, err := w.put(ctx, j, j.previous.sum, j.before.sum)
	return levelResult{j, name}, err
}

func (w *levelWriter) put(ctx context.Context, j *levelJob, previous, before [32]byte) (Name, error) {
	l := crypto.ChunkLink{Own: j.own.sum, Previous: previous, BeforePrevious: before, Index: uint64(j.index), Level: w.level}
	stored, err := sealReference(w.e, j.plain, &l)
	if err != nil {
		return Name{}, err
	}
	name := Name(w.e.scheme().Hash(stored))
	if err := w.store.PutChunk(ctx, name, stored); err != nil {
		return Name{}, &ChunkError{Name: name, Level: w.level, Index: uint64(j.index), Err: err}
	}
	return name, nil
}

func (w *levelWriter) emit(r levelResult) error {
	j := r.job
	w.m.Chunks = append(w.m.Chunks, ChunkInfo{Index: uint64(j.index), DstHash: r.name, SrcHash: j.own.sum, SrcBytes: uint64(len(j.plain))})
	if j.index < 2 {
		w.first[j.index] = j.plain
		return nil
	}
	w.done(len(j.plain))
	return nil
}

// finish encrypts chunks 0 and 1, because the last chunks are known now.
func (w *levelWriter) finish(ctx context.Context) error {
	for i, plain := range w.first {
		p, b := w.m.neighbours(i)
		j := &levelJob{index: int64(i), plain: plain, own: &digest{sum: w.m.Chunks[i].SrcHash}}
		name, err := w.put(ctx, j, w.m.Chunks[p].SrcHash, w.m.Chunks[b].SrcHash)
		if err != nil {
			return err
		}
		w.m.Chunks[i].DstHash = name
		w.done(len(plain))
	}
	return nil
}

// report calls Options.Progress.
type report struct {
	call func(Progress)
	p    Progress
}

func (r *report) done(n int) {
	r.p.Chunks++
	r.p.DoneBytes += int64(n)
	if r.call != nil {
		r.call(r.p)
	}
}

// Open returns a reader of encrypted data. It reads the levels of the map first. It validates the
// map, and verifies chunks when they are read.
func Open(ctx context.Context, e Encoding, store ChunkStore, m *DataMap, o Options) (*Reader, error) {
	root, err := RootMap(ctx, e, store, m, o)
	if err != nil {
		return nil, err
	}
	return newReader(newReferenceSource(e, store, root), o), nil
}

// RootMap returns the map of the data itself, given a map m above it.
func RootMap(ctx context.Context, e Encoding, store ChunkStore, m *DataMap, o Options) (*DataMap, error) {
	if err := e.checkReference(); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	o.Progress = nil
	for m.Child != 0 {
		src := newReferenceSource(e, store, m)
		if src.size() > maxMapChunks*chunkInfoBytes+18 {
			return nil, fmt.Errorf("%w: a level of %d bytes", ErrMap, src.size())
		}
		var b bytes.Buffer // it grows with the verified chunks, because the size in the map is not trusted
		if err := newReader(src, o).Copy(ctx, &b, 0, math.MaxInt64); err != nil {
			return nil, err
		}
		next, form, err := decodeBinary(b.Bytes())
		clear(b.Bytes())
		if err == nil {
			_, err = (&Options{MapForm: form}).mapForm(e)
		}
		if err != nil {
			return nil, fmt.Errorf("level %d of the map: %w", m.Child, err)
		}
		if next.Child >= m.Child {
			return nil, fmt.Errorf("%w: level %d follows level %d: the encoder lost a level", ErrMap, next.Child, m.Child)
		}
		m = next
	}
	return m, nil
}

// Shrink encrypts a map of more than three chunks into a store, until at most three chunks remain.
// EncryptTo already does this. Maps of crate version 0.30 may be unshrunk.
func Shrink(ctx context.Context, e Encoding, store ChunkStore, m *DataMap, o Options) (*DataMap, error) {
	form, err := o.mapForm(e)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(e.checkReference(), m.Validate()); err != nil {
		return nil, err
	}
	o.Progress = nil
	for len(m.Chunks) > 3 {
		if m, err = shrinkOnce(ctx, e, store, m, form, o); err != nil {
			return nil, err
		}
	}
	return m, nil
}
