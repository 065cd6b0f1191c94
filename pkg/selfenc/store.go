package selfenc

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Name is the name of a stored chunk: the hash of the stored bytes.
type Name [32]byte

// String returns 64 hexadecimal digits.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// ParseName parses the result of String.
func ParseName(s string) (n Name, err error) {
	if len(s) != hex.EncodedLen(len(n)) {
		return Name{}, fmt.Errorf("the name of a chunk must have 64 hexadecimal digits, not %d", len(s))
	}
	_, err = hex.Decode(n[:], []byte(s))
	return n, err
}

// MarshalJSON encodes an array of 32 numbers, like the reference implementation.
func (n Name) MarshalJSON() ([]byte, error) { return json.Marshal([32]uint8(n)) }

// UnmarshalJSON decodes an array of exactly 32 numbers, or hexadecimal digits.
func (n *Name) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		v, err := ParseName(s)
		*n = v
		return err
	}
	var list []uint16 // []uint8 would require base64
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) != len(n) {
		return fmt.Errorf("invalid hash of %d bytes", len(list))
	}
	for i, v := range list {
		if v > 0xff {
			return fmt.Errorf("invalid byte value %d", v)
		}
		n[i] = byte(v)
	}
	return nil
}

// ChunkStore keeps chunks. Its methods must be safe for concurrent use. This package verifies all
// data that it returns: a store can lose data, but cannot forge it.
type ChunkStore interface {
	// GetChunk returns a chunk of at most limit bytes. It uses the memory of room if that is large
	// enough, and new memory otherwise. The caller may change the result. The error is
	// ErrNoSuchChunk if the chunk does not exist, and ErrChunkTooLarge if it is longer than limit.
	GetChunk(ctx context.Context, name Name, room []byte, limit int) ([]byte, error)
	// PutChunk stores a chunk. If the chunk already exists, it does nothing. It does not keep data.
	PutChunk(ctx context.Context, name Name, data []byte) error
}
