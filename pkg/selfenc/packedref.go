package selfenc

import (
	"encoding/binary"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// PackedRef names a chunk that lies in a pack beside others, and holds what,
// with the tenant secret, opens it. Its Name is zero: the pack has a name, and
// the key of the chunk is bound to its bytes. The zero value is a hole.
type PackedRef struct {
	Ref
	Stored uint32 // bytes of the sealed chunk
	Pack   uint32 // number in the snapshot's pack list
	Offset uint32 // where in the pack the chunk was put
	Slot   uint16 // its place in the pack's table, which finds it when it has moved
}

const (
	// PackedRefBytes is how long an encoded PackedRef without compression is.
	PackedRefBytes = 56
	// MaxPackedRefBytes is how long one with compression is.
	MaxPackedRefBytes = PackedRefBytes + 32

	// PackHeaderBytes is where the first chunk of a pack lies.
	PackHeaderBytes = 32
	// MaxPackBytes is the most that a pack has.
	MaxPackBytes = 32 << 20
	// MaxPackSlots is the most chunks that a pack has.
	MaxPackSlots = 4096

	packedTagBytes = 16 // of a sealed chunk's AEAD
)

// AppendPackedRef appends the encoding of a packed reference, 56 or 88 bytes:
//
//	suite u8 ‖ kind u8 ‖ comp u8 ‖ 00 ‖ length u32 ‖ stored u32 ‖ pack u32 ‖
//	offset u32 ‖ slot u16 ‖ 00×2 ‖ d[32] ‖ p[32] if comp ≠ 0
//
// A hole is 56 zeros.
func AppendPackedRef(b []byte, r *PackedRef) []byte {
	b = append(b, byte(r.Suite), byte(r.Kind), r.Comp, 0)
	for _, v := range []uint32{r.Length, r.Stored, r.Pack, r.Offset} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(binary.LittleEndian.AppendUint16(b, r.Slot), 0, 0)
	b = append(b, r.D[:]...)
	if r.Comp != 0 {
		b = append(b, r.P[:]...)
	}
	return b
}

// DecodePackedRef reads the packed reference, or hole, at the beginning of b,
// and returns how long it is.
func DecodePackedRef(b []byte) (r PackedRef, n int, err error) {
	if len(b) < PackedRefBytes {
		return PackedRef{}, 0, fmt.Errorf("%w: a packed reference of %d bytes", ErrMap, len(b))
	}
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	r = PackedRef{Stored: u32(8), Pack: u32(12), Offset: u32(16), Slot: binary.LittleEndian.Uint16(b[20:])}
	r.Suite, r.Kind, r.Comp, r.Length = crypto.Suite(b[0]), crypto.ChunkKind(b[1]), b[2], u32(4)
	copy(r.D[:], b[24:])
	n = PackedRefBytes
	if b[3] != 0 || b[22] != 0 || b[23] != 0 {
		return PackedRef{}, 0, fmt.Errorf("%w: a packed reference of an unknown kind", ErrMap)
	}
	if r == (PackedRef{}) {
		return r, n, nil
	}
	r.P = r.D
	if r.Comp != 0 {
		if n = MaxPackedRefBytes; len(b) < n {
			return PackedRef{}, 0, fmt.Errorf("%w: a packed reference of %d bytes", ErrMap, len(b))
		}
		copy(r.P[:], b[PackedRefBytes:])
	}
	if err := r.Validate(); err != nil {
		return PackedRef{}, 0, err
	}
	return r, n, nil
}

// Validate checks what can be checked without the pack; a hole is valid.
func (r *PackedRef) Validate() error {
	if *r == (PackedRef{}) {
		return nil
	}
	if r.Comp > compZstd {
		return fmt.Errorf("%w: unknown compression %d", ErrMap, r.Comp)
	}
	if err := r.Ref.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrMap, err)
	}
	switch {
	case r.Name != [32]byte{}:
		return fmt.Errorf("%w: a packed reference has a name", ErrMap)
	case r.Length > V2MaxChunk:
		return fmt.Errorf("%w: a packed chunk of %d bytes", ErrMap, r.Length)
	case r.Stored < packedTagBytes, r.Comp == 0 && r.Stored != r.Length+packedTagBytes, r.Comp != 0 && r.Stored >= r.Length+packedTagBytes:
		return fmt.Errorf("%w: a packed chunk of %d bytes is stored in %d", ErrMap, r.Length, r.Stored)
	case r.Slot >= MaxPackSlots, r.Offset < PackHeaderBytes, uint64(r.Offset)+uint64(r.Stored) > MaxPackBytes:
		return fmt.Errorf("%w: a packed chunk at slot %d, offset %d of its pack", ErrMap, r.Slot, r.Offset)
	}
	return nil
}
