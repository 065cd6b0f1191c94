package selfenc

import (
	"errors"
	"fmt"
)

// Errors of this package. Compare them with errors.Is. Errors of a store are passed on, wrapped in
// a ChunkError.
var (
	// ErrTooSmall means that the data is shorter than MinBytes, the minimum of the reference
	// encodings.
	ErrTooSmall = errors.New("too small for self-encryption: it needs at least 3 bytes")
	// ErrTooLarge means that the data is too large for the encoding or this implementation.
	ErrTooLarge = errors.New("too large for self-encryption")
	// ErrNoSuchChunk means that the store does not have a chunk of the map.
	ErrNoSuchChunk = errors.New("no such chunk")
	// ErrChunkTooSmall means that a stored chunk is shorter than the minimum of its kind.
	ErrChunkTooSmall = errors.New("chunk too small")
	// ErrChunkTooLarge means that a stored chunk is longer than its plaintext allows.
	ErrChunkTooLarge = errors.New("chunk too large")
	// ErrInvalidChunkSize means that the encoding does not support the size of chunks.
	ErrInvalidChunkSize = errors.New("invalid chunk size")
	// ErrCorrupt means that a stored chunk was damaged or replaced.
	ErrCorrupt = errors.New("chunk is corrupt")
	// ErrCompression means that the contents of a chunk cannot be decompressed.
	ErrCompression = errors.New("chunk does not decompress")
	// ErrMap means that bytes are not a valid data map.
	ErrMap = errors.New("malformed data map")
	// ErrEncoding means that an encoding or a form of a map is unknown.
	ErrEncoding = errors.New("unknown encoding")
	// ErrKey means that the tenant secret is missing, or is not the one that sealed the data.
	ErrKey = errors.New("wrong or missing tenant secret")
)

// ChunkError adds the chunk to an error.
type ChunkError struct {
	Name  Name
	Level uint64 // 0 for data, or a level of the map
	Index uint64 // within the level
	Err   error
}

func (e *ChunkError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("chunk %d (%s): %v", e.Index, e.Name, e.Err)
	}
	return fmt.Sprintf("map chunk %d of level %d (%s): %v", e.Index, e.Level, e.Name, e.Err)
}

// Unwrap returns the error of the chunk.
func (e *ChunkError) Unwrap() error { return e.Err }
