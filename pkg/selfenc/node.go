package selfenc

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Ref is a reference to a chunk of V2. Together with the tenant secret, it decrypts the chunk. The
// zero value is a hole: a range of zeros without a stored chunk.
type Ref = crypto.ChunkRef

// RefBytes is the length of an encoded Ref.
const RefBytes = 104

// AppendRef appends the encoding of a reference:
//
//	suite u8 ‖ kind u8 ‖ comp u8 ‖ 00 ‖ length u32 ‖ d[32] ‖ p[32] ‖ name[32]
//
// A hole is zeros.
func AppendRef(b []byte, r *Ref) []byte {
	b = append(b, byte(r.Suite), byte(r.Kind), r.Comp, 0)
	b = binary.LittleEndian.AppendUint32(b, r.Length)
	return append(append(append(b, r.D[:]...), r.P[:]...), r.Name[:]...)
}

// DecodeRef decodes the reference or hole at the beginning of b, which must have at least RefBytes
// bytes.
func DecodeRef(b []byte) (r Ref, err error) {
	if len(b) < RefBytes {
		return Ref{}, fmt.Errorf("%w: a reference of %d bytes", ErrMap, len(b))
	}
	r = Ref{Suite: crypto.Suite(b[0]), Kind: crypto.ChunkKind(b[1]), Comp: b[2], Length: binary.LittleEndian.Uint32(b[4:])}
	copy(r.D[:], b[8:])
	copy(r.P[:], b[40:])
	copy(r.Name[:], b[72:])
	if b[3] != 0 {
		return Ref{}, fmt.Errorf("%w: reference of an unknown kind", ErrMap)
	}
	if r == (Ref{}) {
		return r, nil
	}
	if r.Comp > compZstd {
		return Ref{}, fmt.Errorf("%w: unknown compression %d", ErrMap, r.Comp)
	}
	if err := r.Validate(); err != nil {
		return Ref{}, fmt.Errorf("%w: %w", ErrMap, err)
	}
	return r, nil
}

// The content of a chunk of kind map, by its first byte.
const (
	mapNode   = 1 // a node of a map
	mapRecord = 2 // an Object
)

const (
	v2MapVersion    = 1
	nodeHeaderBytes = 8
	recordBytes     = 16 + RefBytes
	// nodeFanout is the number of children of each node, except for the last node of a level.
	nodeFanout      = 256
	nodeFanoutShift = 8
	maxNodeBytes    = nodeHeaderBytes + nodeFanout*RefBytes
)

// Object describes data that was encrypted in V2. It is not secret, but the whole tree is verified
// from it. So keep it where nobody can replace it, such as in another chunk, or use SealObject.
type Object struct {
	Bytes      int64 // of plaintext
	ChunkBytes int   // plaintext of each chunk except for the last one; a power of two
	// Root is the only chunk, or the root of the map if there are several chunks. It is a hole if
	// the data is empty or all zeros.
	Root Ref
}

// checkChunkBytes checks a chunk size of V2.
func checkChunkBytes(n int) error {
	if n < V2MinChunk || n > V2MaxChunk || n&(n-1) != 0 {
		return fmt.Errorf("%w: %d bytes; v2 supports powers of two from %d to %d", ErrInvalidChunkSize, n, V2MinChunk, V2MaxChunk)
	}
	return nil
}

// Validate checks an object, as far as possible without reading a chunk.
func (o *Object) Validate() error {
	if err := checkChunkBytes(o.ChunkBytes); err != nil {
		return fmt.Errorf("%w: %w", ErrMap, err)
	}
	if o.Bytes < 0 || o.Bytes > V2MaxBytes {
		return fmt.Errorf("%w: invalid size of %d bytes", ErrMap, o.Bytes)
	}
	if o.Bytes == 0 && o.Root != (Ref{}) {
		return fmt.Errorf("%w: an empty object has a chunk", ErrMap)
	}
	return o.checkRef(&o.Root, o.Levels(), 0)
}

// Chunks returns the number of chunks of the object, including holes.
func (o *Object) Chunks() int64 { return (o.Bytes + int64(o.ChunkBytes) - 1) / int64(o.ChunkBytes) }

// Levels returns the height of the map, or 0 if there is no map.
func (o *Object) Levels() int {
	l := 0
	for n := o.Chunks(); n > 1; n = (n + nodeFanout - 1) / nodeFanout {
		l++
	}
	return l
}

// children returns the number of children of node i of a level, which counts from 1.
func (o *Object) children(level int, i int64) int {
	below := o.Chunks()
	for range level - 1 {
		below = (below + nodeFanout - 1) / nodeFanout
	}
	return int(min(nodeFanout, below-i*nodeFanout))
}

// chunkSpan returns the number of bytes in chunk i.
func (o *Object) chunkSpan(i int64) (from, to int64) {
	from = i * int64(o.ChunkBytes)
	return from, min(from+int64(o.ChunkBytes), o.Bytes)
}

// checkRef checks the kind and length of reference i of a level. Level 0 is data. The length of
// each chunk must match the size of the object.
func (o *Object) checkRef(r *Ref, level int, i int64) error {
	if *r == (Ref{}) {
		return nil
	}
	from, to := o.chunkSpan(i)
	kind, length := crypto.ChunkData, to-from
	if level > 0 {
		kind, length = crypto.ChunkMap, int64(nodeHeaderBytes+RefBytes*o.children(level, i))
	}
	if r.Kind != kind || int64(r.Length) != length {
		return fmt.Errorf("%w: chunk of kind %d and %d bytes instead of one of kind %d and %d bytes", ErrMap, r.Kind, r.Length, kind, length)
	}
	return nil
}

func shiftOf(chunkBytes int) byte { return byte(bits.TrailingZeros(uint(chunkBytes))) }

// appendNode appends a node of a level, which counts from 1:
//
//	01 ‖ version u8 = 1 ‖ level u8 ‖ log2(chunk bytes) u8 ‖ count u32 ‖ reference × count
func appendNode(b []byte, level, chunkBytes int, refs []Ref) []byte {
	b = append(b, mapNode, v2MapVersion, byte(level), shiftOf(chunkBytes))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(refs)))
	for i := range refs {
		b = AppendRef(b, &refs[i])
	}
	return b
}

// decodeNode decodes node i of a level of o, and validates it.
func (o *Object) decodeNode(b []byte, level int, i int64) ([]Ref, error) {
	count := o.children(level, i)
	if len(b) != nodeHeaderBytes+count*RefBytes || b[0] != mapNode || b[1] != v2MapVersion || int(b[2]) != level ||
		b[3] != shiftOf(o.ChunkBytes) || binary.LittleEndian.Uint32(b[4:]) != uint32(count) {
		return nil, fmt.Errorf("%w: not a node of level %d with %d children", ErrMap, level, count)
	}
	refs := make([]Ref, count)
	holes := true
	for k := range refs {
		r, err := DecodeRef(b[nodeHeaderBytes+k*RefBytes:])
		if err == nil {
			err = o.checkRef(&r, level-1, i*nodeFanout+int64(k))
		}
		if err != nil {
			return nil, err
		}
		refs[k] = r
		holes = holes && r == Ref{}
	}
	if holes {
		return nil, fmt.Errorf("%w: node that contains only holes", ErrMap)
	}
	return refs, nil
}

// appendRecord appends the encoding of an object in a chunk:
//
//	02 ‖ version u8 = 1 ‖ log2(chunk bytes) u8 ‖ 00×5 ‖ bytes u64 ‖ reference of the root
func (o *Object) appendRecord(b []byte) []byte {
	b = append(b, mapRecord, v2MapVersion, shiftOf(o.ChunkBytes), 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(o.Bytes))
	return AppendRef(b, &o.Root)
}

func decodeRecord(b []byte) (*Object, error) {
	if len(b) != recordBytes || b[0] != mapRecord || b[1] != v2MapVersion || b[2] > 31 || [5]byte(b[3:8]) != [5]byte{} {
		return nil, fmt.Errorf("%w: not an object", ErrMap)
	}
	root, err := DecodeRef(b[16:])
	if err != nil {
		return nil, err
	}
	o := &Object{Bytes: int64(binary.LittleEndian.Uint64(b[8:])), ChunkBytes: 1 << b[2], Root: root}
	return o, o.Validate()
}
