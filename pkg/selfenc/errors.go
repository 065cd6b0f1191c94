package selfenc

import (
	"errors"
	"fmt"
)

// Errors of this package; compare with errors.Is. What a store returns is
// passed on, wrapped in a ChunkError.
var (
	// ErrTooSmall: the reference encodings need at least MinBytes bytes.
	ErrTooSmall = errors.New("too small for self-encryption: it needs at least 3 bytes")
	// ErrTooLarge: more than the encoding, or this implementation, can hold.
	ErrTooLarge = errors.New("too large for self-encryption")
	// ErrNoSuchChunk: the store does not have a chunk that the map names.
	ErrNoSuchChunk = errors.New("no such chunk")
	// ErrChunkTooSmall: a stored chunk is shorter than any of its kind.
	ErrChunkTooSmall = errors.New("chunk too small")
	// ErrChunkTooLarge: a stored chunk is longer than its plaintext allows.
	ErrChunkTooLarge = errors.New("chunk too large")
	// ErrInvalidChunkSize: a size of chunks that the encoding does not have.
	ErrInvalidChunkSize = errors.New("invalid chunk size")
	// ErrCorrupt: a stored chunk is not the one that was stored.
	ErrCorrupt = errors.New("chunk is corrupt")
	// ErrCompression: a chunk's contents do not decompress.
	ErrCompression = errors.New("chunk does not decompress")
	// ErrMap: bytes that are no data map.
	ErrMap = errors.New("malformed data map")
	// ErrEncoding: an encoding, or a form of a map, that is not known here.
	ErrEncoding = errors.New("unknown encoding")
	// ErrKey: the tenant secret is missing, or not the one that sealed this.
	ErrKey = errors.New("wrong or missing tenant secret")
)

// ChunkError says which chunk an error is about.
type ChunkError struct {
	Name  Name
	Level uint64 // 0 is data, others are levels of the map
	Index uint64 // within the level
	Err   error
}

func (e *ChunkError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("chunk %d (%s): %v", e.Index, e.Name, e.Err)
	}
	return fmt.Sprintf("map chunk %d of level %d (%s): %v", e.Index, e.Level, e.Name, e.Err)
}

// Unwrap returns what is wrong with the chunk.
func (e *ChunkError) Unwrap() error { return e.Err }
