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

// ParseName reads what String wrote.
func ParseName(s string) (n Name, err error) {
	if len(s) != hex.EncodedLen(len(n)) {
		return Name{}, fmt.Errorf("a chunk's name has 64 hexadecimal digits, not %d", len(s))
	}
	_, err = hex.Decode(n[:], []byte(s))
	return n, err
}

// MarshalJSON writes an array of 32 numbers, as the reference does.
func (n Name) MarshalJSON() ([]byte, error) { return json.Marshal([32]uint8(n)) }

// UnmarshalJSON reads an array of exactly 32 numbers, or hexadecimal digits.
func (n *Name) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		v, err := ParseName(s)
		*n = v
		return err
	}
	var list []uint16 // []uint8 would want base64
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) != len(n) {
		return fmt.Errorf("a hash of %d bytes", len(list))
	}
	for i, v := range list {
		if v > 0xff {
			return fmt.Errorf("a byte of value %d", v)
		}
		n[i] = byte(v)
	}
	return nil
}

// ChunkStore keeps chunks. Its methods are called by several goroutines at
// once. Whatever it returns is verified here: it can lose data, but not forge it.
type ChunkStore interface {
	// GetChunk returns a chunk of at most limit bytes, in room if it fits
	// there, else in new memory; the caller may change it. It returns an error that is ErrNoSuchChunk if there
	// is none, and one that is ErrChunkTooLarge if it is longer.
	GetChunk(ctx context.Context, name Name, room []byte, limit int) ([]byte, error)
	// PutChunk stores a chunk, and does nothing if it is there already. It
	// does not keep data.
	PutChunk(ctx context.Context, name Name, data []byte) error
}
