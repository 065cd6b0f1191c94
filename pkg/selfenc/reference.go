package selfenc

import (
	"context"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// sealReference returns the stored form of a chunk.
func sealReference(e Encoding, plain []byte, l *crypto.ChunkLink) ([]byte, error) {
	s := e.scheme()
	comp, err := compressBrotli(plain, s.SealedBytes(0))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCompression, err)
	}
	return s.Seal(make([]byte, 0, s.SealedBytes(len(comp))), comp, l)
}

// openReference writes the plaintext of a stored chunk to dst, which has the length of the
// plaintext. It overwrites stored. It verifies the name first, and the plaintext last.
func openReference(e Encoding, dst, stored []byte, info *ChunkInfo, l *crypto.ChunkLink) error {
	s := e.scheme()
	switch {
	case len(stored) <= s.SealedBytes(0)-1:
		return fmt.Errorf("%w: %d bytes", ErrChunkTooSmall, len(stored))
	case len(stored) > maxStored(info.SrcBytes):
		return fmt.Errorf("%w: %d bytes for a plaintext of %d bytes", ErrChunkTooLarge, len(stored), info.SrcBytes)
	case s.Hash(stored) != info.DstHash:
		return fmt.Errorf("%w: the store returned a chunk with another name", ErrCorrupt)
	}
	comp, err := s.Open(stored, l)
	if err != nil {
		return fmt.Errorf("%w: the map does not decrypt it: %w", ErrCorrupt, err)
	}
	if err := decompressBrotli(dst, comp); err != nil {
		return err
	}
	if s.Hash(dst) != info.SrcHash {
		return fmt.Errorf("%w: its plaintext does not match the map", ErrCorrupt)
	}
	return nil
}

// referenceSource provides the chunks of one level of a reference encoding.
type referenceSource struct {
	encoding Encoding
	store    ChunkStore
	m        *DataMap
	ends     []int64 // the end of each chunk
	largest  int
}

func newReferenceSource(e Encoding, store ChunkStore, m *DataMap) *referenceSource {
	s := &referenceSource{encoding: e, store: store, m: m, ends: make([]int64, len(m.Chunks))}
	end := int64(0)
	for i := range m.Chunks {
		end += int64(m.Chunks[i].SrcBytes)
		s.ends[i] = end
		s.largest = max(s.largest, int(m.Chunks[i].SrcBytes))
	}
	return s
}

func (s *referenceSource) size() int64   { return s.ends[len(s.ends)-1] }
func (s *referenceSource) chunks() int64 { return int64(len(s.ends)) }

func (s *referenceSource) memory() memory {
	n := int64(s.largest)
	return memory{referenceMemoryBytes, recentChunks * n, 3*n + brotliDecoderBytes}
}

// find returns the chunk that contains byte off.
func (s *referenceSource) find(off int64) int64 {
	lo, hi := 0, len(s.ends)-1
	for lo < hi {
		if mid := (lo + hi) / 2; s.ends[mid] <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return int64(lo)
}

func (s *referenceSource) span(i int64) (from, to int64) {
	return s.ends[i] - int64(s.m.Chunks[i].SrcBytes), s.ends[i]
}

func (s *referenceSource) read(ctx context.Context, i int64, dst []byte, room *[]byte) error {
	info := &s.m.Chunks[i]
	p, b := s.m.neighbours(int(i))
	l := crypto.ChunkLink{Own: info.SrcHash, Previous: s.m.Chunks[p].SrcHash, BeforePrevious: s.m.Chunks[b].SrcHash,
		Index: uint64(i), Level: s.m.Child}
	stored, err := s.store.GetChunk(ctx, info.DstHash, *room, maxStored(info.SrcBytes))
	if err == nil {
		*room = stored
		err = openReference(s.encoding, dst, stored, info, &l)
	}
	if err != nil {
		return &ChunkError{Name: info.DstHash, Level: s.m.Child, Index: uint64(i), Err: err}
	}
	return nil
}
