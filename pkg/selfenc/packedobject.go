package selfenc

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sealvol/sealvol/pkg/crypto"
)

const (
	// PackedMinChunk and V2MaxChunk limit the chunks of packed objects. Chunks in packs cost no
	// request each, so they may be smaller than those of V2.
	PackedMinChunk = 16 << 10
	// PackedChunkBytes is the default.
	PackedChunkBytes = 64 << 10
	// PackedMaxBytes limits a packed object. A sparse file may be as large as an offset can say.
	PackedMaxBytes = math.MaxInt64
)

// Range is the bytes [Off, Off+Len) of an object.
type Range struct{ Off, Len uint64 }

// PackedObject describes data whose chunks and map lie in packs: the content of one file in a
// snapshot. The zero value with a chunk size is the empty object.
//
// The references say where chunks lie, which depends on what was stored before. Content does not:
// two objects of equal size and chunk size have equal data if and only if SamePackedContent says so.
type PackedObject struct {
	Bytes      int64
	ChunkBytes int
	// Content is the content hash of the map's root node. It is zero if there is no map (one chunk
	// at most), or if the data is zeros only.
	Content [32]byte
	// Root is the only chunk, or the root of the map. It is a hole if the data is empty or zeros.
	Root PackedRef
}

// checkPackedChunkBytes checks a chunk size.
func checkPackedChunkBytes(n int) error {
	if n < PackedMinChunk || n > V2MaxChunk || n&(n-1) != 0 {
		return fmt.Errorf("%w: %d bytes; packed objects support powers of two from %d to %d", ErrInvalidChunkSize, n, PackedMinChunk, V2MaxChunk)
	}
	return nil
}

// Validate checks an object, as far as possible without reading a chunk.
func (o *PackedObject) Validate() error {
	if err := checkPackedChunkBytes(o.ChunkBytes); err != nil {
		return fmt.Errorf("%w: %w", ErrMap, err)
	}
	if o.Bytes < 0 {
		return fmt.Errorf("%w: invalid size of %d bytes", ErrMap, o.Bytes)
	}
	if err := o.Root.Validate(); err != nil {
		return err
	}
	root := packedChild{o.Content, o.Root}
	if o.Bytes == 0 {
		if root != (packedChild{}) {
			return fmt.Errorf("%w: an empty object has a chunk", ErrMap)
		}
		return nil
	}
	return o.shape().check(&root)
}

// Chunks returns the number of chunks of the object, including holes.
func (o *PackedObject) Chunks() int64 {
	if o.Bytes == 0 {
		return 0
	}
	return (o.Bytes-1)>>shiftOf(o.ChunkBytes) + 1
}

// Levels returns the height of the map, or 0 if there is no map.
func (o *PackedObject) Levels() int { return o.shape().level }

// SamePackedContent reports whether two valid objects have the same data. It reads nothing. Objects
// with different chunk sizes are reported as different.
func SamePackedContent(a, b *PackedObject) bool {
	x, y := packedChild{a.Content, a.Root}, packedChild{b.Content, b.Root}
	return a.Bytes == b.Bytes && a.ChunkBytes == b.ChunkBytes && (a.Bytes == 0 || a.shape().same(&x, &y))
}

// shape returns the shape of the whole object, which must not be empty.
func (o *PackedObject) shape() packedShape {
	s := packedShape{shift: shiftOf(o.ChunkBytes), span: o.Bytes}
	for n := o.Chunks(); n > 1; n = (n + nodeFanout - 1) >> nodeFanoutShift {
		s.level++
	}
	return s
}

// MaxPackedObjectBytes is the largest encoding of an object.
const MaxPackedObjectBytes = 9 + contentBytes + MaxPackedRefBytes

// AppendPackedObject appends the encoding of a valid object:
//
//	log2(chunk bytes) u8 ‖ bytes u64 ‖ c[32] if the object has a map ‖ packed reference of the root
//
// If all data is zeros, c is zeros and the reference is a hole.
func AppendPackedObject(b []byte, o *PackedObject) []byte {
	b = appendPackedSize(b, o)
	if o.Levels() > 0 {
		b = append(b, o.Content[:]...)
	}
	return AppendPackedRef(b, &o.Root)
}

func appendPackedSize(b []byte, o *PackedObject) []byte {
	return binary.LittleEndian.AppendUint64(append(b, shiftOf(o.ChunkBytes)), uint64(o.Bytes))
}

// DecodePackedObject decodes and validates the object at the beginning of b, and returns the length
// of its encoding.
func DecodePackedObject(b []byte) (o PackedObject, n int, err error) {
	if len(b) < 9 || b[0] > 31 {
		return PackedObject{}, 0, fmt.Errorf("%w: not a packed object", ErrMap)
	}
	o = PackedObject{ChunkBytes: 1 << b[0], Bytes: int64(binary.LittleEndian.Uint64(b[1:]))}
	if err := checkPackedChunkBytes(o.ChunkBytes); err != nil || o.Bytes < 0 {
		return PackedObject{}, 0, fmt.Errorf("%w: a packed object of %d bytes in chunks of %d", ErrMap, uint64(o.Bytes), o.ChunkBytes)
	}
	n = 9
	if o.Levels() > 0 {
		if len(b)-n < contentBytes {
			return PackedObject{}, 0, fmt.Errorf("%w: a packed object of %d bytes", ErrMap, len(b))
		}
		copy(o.Content[:], b[n:])
		n += contentBytes
	}
	root, k, err := DecodePackedRef(b[n:])
	if err != nil {
		return PackedObject{}, 0, err
	}
	o.Root = root
	if err := o.Validate(); err != nil {
		return PackedObject{}, 0, err
	}
	return o, n + k, nil
}

// AppendPackedContent appends the placeless form of an object, 41 bytes. It is equal for two objects
// if and only if SamePackedContent is true:
//
//	log2(chunk bytes) u8 ‖ bytes u64 ‖ c, or d of the only chunk, or zeros if the data is zeros [32]
func AppendPackedContent(b []byte, o *PackedObject) []byte {
	b = appendPackedSize(b, o)
	if o.Levels() > 0 {
		return append(b, o.Content[:]...)
	}
	return append(b, o.Root.D[:]...)
}

// packedShape is what an object's size and chunk size say about a chunk or node of its map: nothing
// else decides how the map is built.
type packedShape struct {
	level int   // 0: a chunk
	shift byte  // log2 of the chunk size
	span  int64 // how many bytes of the object it covers, at least 1
}

// at returns the shape of chunk or node i of a level, which must exist.
func (s packedShape) at(level int, i int64) packedShape {
	bits := uint(s.shift) + uint(level)*nodeFanoutShift
	c := packedShape{level, s.shift, s.span}
	if bits < 63 {
		c.span = min(1<<bits, s.span-i<<bits)
	}
	return c
}

// last returns the index of the last chunk or node of a level.
func (s packedShape) last(level int) int64 {
	return (s.span - 1) >> (uint(s.shift) + uint(level)*nodeFanoutShift)
}

// count returns the number of a node's children.
func (s packedShape) count() int { return int(s.last(s.level-1)) + 1 }

// check checks that a valid reference and content hash suit a chunk or node of this shape.
func (s packedShape) check(c *packedChild) error {
	if s.level == 0 || c.ref.Kind == 0 {
		if c.c != ([contentBytes]byte{}) {
			return fmt.Errorf("%w: content hash of a chunk or hole", ErrMap)
		}
	} else if c.c == ([contentBytes]byte{}) {
		return fmt.Errorf("%w: node without a content hash", ErrMap)
	}
	if c.ref.Kind == 0 {
		return nil
	}
	kind, least, most := crypto.ChunkData, s.span, s.span
	if s.level > 0 {
		kind = crypto.ChunkMap
		n := int64(s.count())
		each := int64(PackedRefBytes)
		if s.level > 1 {
			each += contentBytes
		}
		least = nodeHeaderBytes + n*each
		most = least + n*(MaxPackedRefBytes-PackedRefBytes)
	}
	if n := int64(c.ref.Length); c.ref.Kind != kind || n < least || n > most {
		return fmt.Errorf("%w: chunk of kind %d and %d bytes instead of one of kind %d and %d to %d bytes", ErrMap, c.ref.Kind, n, kind, least, most)
	}
	return nil
}

// same reports whether two children of this shape have the same data.
func (s packedShape) same(a, b *packedChild) bool {
	if s.level > 0 {
		return a.c == b.c
	}
	return a.ref.D == b.ref.D && a.ref.Length == b.ref.Length
}
