package selfenc

import (
	"fmt"
	"runtime"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Encoding is the format of chunks and maps.
type Encoding uint8

// The encodings. The values are those in map files.
const (
	V2   Encoding = 2  // this project's own, and the default
	SE31 Encoding = 31 // the reference implementation, crate versions 0.30 to 0.34
	SE36 Encoding = 36 // the reference implementation, crate versions 0.35 and 0.36
)

// String returns the encoding's name on the command line.
func (e Encoding) String() string {
	switch e {
	case V2:
		return "v2"
	case SE31:
		return "se31"
	case SE36:
		return "se36"
	}
	return fmt.Sprintf("encoding %d", uint8(e))
}

// ParseEncoding parses the result of String.
func ParseEncoding(s string) (Encoding, error) {
	for _, e := range []Encoding{V2, SE31, SE36} {
		if s == e.String() {
			return e, nil
		}
	}
	return 0, fmt.Errorf("%w %q: must be v2, se36 or se31", ErrEncoding, s)
}

// Sizes, in bytes.
const (
	MinBytes      = 3       // the minimum of the reference encodings
	SE31MaxChunk  = 1 << 20 // plaintext of a chunk, in crate versions 0.30 to 0.34.1
	SE36MaxChunk  = 4<<20 - 4<<10
	V2ChunkBytes  = 1 << 20 // default; powers of two from V2MinChunk to V2MaxChunk are possible
	V2MinChunk    = 64 << 10
	V2MaxChunk    = 4 << 20
	V2MaxBytes    = 16 << 40 // of an object
	maxChunkBytes = 64 << 20 // the maximum that is read; the reference implementation's chunk size is set at compile time
	maxMapChunks  = 1 << 22  // in one map of a reference encoding: 16 TiB in chunks of 4 MiB, with a map of 320 MiB
	maxMapLevels  = 8
)

// scheme returns the reference implementation's cryptography for the encoding.
func (e Encoding) scheme() crypto.Convergent {
	if e == SE31 {
		return crypto.ConvergentSHA3
	}
	return crypto.ConvergentBLAKE3
}

// isReference checks that e is one of the reference's encodings.
func (e Encoding) checkReference() error {
	if e != SE31 && e != SE36 {
		return fmt.Errorf("%w: %s is not an encoding of the reference implementation", ErrEncoding, e)
	}
	return nil
}

// NameOf returns the name of a stored chunk in this encoding.
func (e Encoding) NameOf(stored []byte) Name {
	switch e {
	case SE31, SE36:
		return e.scheme().Hash(stored)
	}
	return crypto.ObjectName(stored)
}

// Options are the options of encryption and decryption. The zero value works.
type Options struct {
	// ChunkBytes is the maximum plaintext of a chunk. 0 means the default of the encoding. Readers
	// find it in the map.
	ChunkBytes int
	// MapForm is the form of map levels that are themselves stored as chunks. 0 means MapV0C in
	// SE31, and MapV1 in SE36. SE31 also supports MapV1, for crate versions 0.33 and 0.34.
	MapForm MapForm
	// Workers is the maximum number of chunks in work at once. 0 means two more than GOMAXPROCS, or
	// fewer to stay below MemoryBytes.
	Workers int
	// MemoryBytes limits the memory of encryption and decryption, except for the map of a reference
	// encoding. 0 means 64 MiB in V2, and 512 MiB in the other encodings, whose chunks and
	// compression need more. There is always at least one chunk in work.
	MemoryBytes int64
	// Progress is called after each chunk, by one goroutine at a time.
	Progress func(Progress)
}

// Progress is the progress of a job.
type Progress struct {
	Chunks    int64 // so far
	DoneBytes int64 // of plaintext, so far
}

// Defaults of Options.MemoryBytes.
const (
	v2MemoryBytes        = 64 << 20
	referenceMemoryBytes = 512 << 20
)

// memory is the memory limit of jobs.
type memory struct {
	standard int64 // default limit in bytes
	besides  int64 // bytes that the caller uses
	each     int64 // bytes for each chunk in work
}

// ahead is the number of chunks in work in addition to one per processor. So no processor waits
// while some chunks are read and the results of others are taken in order.
const ahead = 2

// maxWorkers limits Options.Workers.
const maxWorkers = 1024

// workers returns the number of chunks in work at once.
func (o *Options) workers(m memory) int {
	if o.Workers > 0 {
		return min(o.Workers, maxWorkers)
	}
	total := o.MemoryBytes
	if total == 0 {
		total = m.standard
	}
	return int(max(1, min((total-m.besides)/m.each, int64(runtime.GOMAXPROCS(0)+ahead))))
}

// chunkBytes returns the size of chunks in the reference encodings.
func (o *Options) chunkBytes(e Encoding) (int, error) {
	n := o.ChunkBytes
	switch {
	case n == 0 && e == SE31:
		return SE31MaxChunk, nil
	case n == 0:
		return SE36MaxChunk, nil
	case n < 1 || n >= maxChunkBytes: // the third of three chunks may have one byte more
		return 0, fmt.Errorf("%w: %d bytes", ErrInvalidChunkSize, n)
	}
	return n, nil
}

func (o *Options) mapForm(e Encoding) (MapForm, error) {
	switch {
	case o.MapForm == 0 && e == SE31:
		return MapV0C, nil
	case o.MapForm == 0, o.MapForm == MapV1:
		return MapV1, nil
	case o.MapForm == MapV0C && e == SE31:
		return MapV0C, nil
	}
	return 0, fmt.Errorf("%w: levels of an %s map cannot have the form %s", ErrEncoding, e, o.MapForm)
}
