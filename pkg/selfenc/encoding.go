package selfenc

import (
	"fmt"
	"runtime"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Encoding is how data becomes chunks.
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

// ParseEncoding reads what String wrote.
func ParseEncoding(s string) (Encoding, error) {
	for _, e := range []Encoding{V2, SE31, SE36} {
		if s == e.String() {
			return e, nil
		}
	}
	return 0, fmt.Errorf("%w %q: it is v2, se36 or se31", ErrEncoding, s)
}

// Sizes, in bytes.
const (
	MinBytes      = 3       // least that the reference encodings take
	SE31MaxChunk  = 1 << 20 // plaintext of a chunk, in crate versions 0.30 to 0.34.1
	SE36MaxChunk  = 4<<20 - 4<<10
	V2ChunkBytes  = 1 << 20 // default; powers of two from V2MinChunk to V2MaxChunk are possible
	V2MinChunk    = 64 << 10
	V2MaxChunk    = 4 << 20
	V2MaxBytes    = 16 << 40 // of an object
	maxChunkBytes = 64 << 20 // what is read: the reference's chunk size is set when it is compiled
	maxMapChunks  = 1 << 22  // in one map of the reference's: 16 TiB in chunks of 4 MiB, 320 MiB of map
	maxMapLevels  = 8
)

// scheme is the reference's cryptography for the encoding.
func (e Encoding) scheme() crypto.Convergent {
	if e == SE31 {
		return crypto.ConvergentSHA3
	}
	return crypto.ConvergentBLAKE3
}

// isReference checks that e is one of the reference's encodings.
func (e Encoding) checkReference() error {
	if e != SE31 && e != SE36 {
		return fmt.Errorf("%w: %s is not one of the reference implementation's", ErrEncoding, e)
	}
	return nil
}

// NameOf returns the name that a stored chunk of this encoding has.
func (e Encoding) NameOf(stored []byte) Name {
	switch e {
	case SE31, SE36:
		return e.scheme().Hash(stored)
	}
	return crypto.ObjectName(stored)
}

// Options of encryption and decryption. The zero value works.
type Options struct {
	// ChunkBytes is the most plaintext in a chunk. 0: the encoding's default.
	// Readers find it in the map.
	ChunkBytes int
	// MapForm is how levels of a map are written that are chunks themselves.
	// 0: MapV0C in SE31, MapV1 in SE36. SE31 may also have MapV1, for crate
	// versions 0.33 and 0.34.
	MapForm MapForm
	// Workers is the most chunks in work at once. 0: two more than GOMAXPROCS,
	// or fewer, so that memory stays below MemoryBytes.
	Workers int
	// MemoryBytes bounds what encryption and decryption hold, apart from a
	// reference encoding's map. 0: 64 MiB in V2, 512 MiB in the others, whose
	// chunks and compression take more. One chunk is always worked on.
	MemoryBytes int64
	// Progress is called after each chunk, by one goroutine at a time.
	Progress func(Progress)
}

// Progress is how far a job is.
type Progress struct {
	Chunks    int64 // so far
	DoneBytes int64 // of plaintext, so far
}

// What Options.MemoryBytes is by default.
const (
	v2MemoryBytes        = 64 << 20
	referenceMemoryBytes = 512 << 20
)

// memory is what jobs may take.
type memory struct {
	standard int64 // bytes, if Options say nothing
	besides  int64 // bytes that the caller holds itself
	each     int64 // bytes for each chunk in work
}

// ahead is how many chunks more than processors are in work: while the results
// of some are taken in order, and others are read, no processor waits.
const ahead = 2

// maxWorkers bounds what Options ask for.
const maxWorkers = 1024

// workers returns how many chunks are worked on at once.
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

// chunkBytes returns the size of the reference encodings' chunks.
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
	return 0, fmt.Errorf("%w: levels of an %s map can not have the form %s", ErrEncoding, e, o.MapForm)
}
