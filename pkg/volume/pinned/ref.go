package pinned

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// StateRef leads to the state of a snapshot without looking it up. One process hands it over to
// another. It is not secret, and useless without the volume's keys. StateRefs can be compared.
type StateRef struct {
	Volume     crypto.UUID
	Name       string
	ID         uint32 // never used again
	Generation uint64 // at whose end the snapshot was taken
	Created    vfs.Timespec
	Inodes     uint64
	Blocks     uint64 // in use then
	KeyEpoch   uint32 // oldest key epoch of the volume when it was made

	root [layout.PointerBytes]byte // pointer to the root of its tree
}

// NewRef returns the reference to a snapshot of an open volume.
func NewRef(volume crypto.UUID, id uint32, x *layout.Snapshot) StateRef {
	r := StateRef{Volume: volume, Name: x.Name, ID: id, Generation: x.Generation, Created: x.Created,
		Inodes: x.Inodes, Blocks: x.Blocks, KeyEpoch: x.Epoch}
	x.Tree.Put(r.root[:])
	return r
}

// The encoding: magic ‖ volume[16] ‖ id u32 ‖ the value of a KeySnapshot item (docs/format.md).
const (
	refMagic = "SVPREF\x00\x01"
	refFixed = len(refMagic) + 16 + 4
)

// Append encodes the reference.
func (r *StateRef) Append(b []byte) []byte {
	b = append(b, refMagic...)
	b = append(b, r.Volume[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.ID)
	p, err := layout.GetPointer(r.root[:], layout.TreeFS)
	if err != nil {
		p = layout.Pointer{} // of a zero StateRef, which nobody decodes
	}
	x := layout.Snapshot{Generation: r.Generation, Created: r.Created, Tree: p, Inodes: r.Inodes, Blocks: r.Blocks, Epoch: r.KeyEpoch, Name: r.Name}
	return x.Append(b)
}

// DecodeStateRef decodes what Append made of a reference.
func DecodeStateRef(b []byte) (r StateRef, err error) {
	if len(b) < refFixed || string(b[:len(refMagic)]) != refMagic {
		return r, fmt.Errorf("%w: it begins differently", ErrInvalidRef)
	}
	id := binary.LittleEndian.Uint32(b[refFixed-4:])
	x, err := layout.DecodeSnapshot(b[refFixed:])
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrInvalidRef, err)
	}
	r = NewRef(crypto.UUID(b[len(refMagic):]), id, &x)
	if id == 0 || !bytes.Equal(r.Append(nil), b) {
		return StateRef{}, fmt.Errorf("%w: unexpected ID or flags", ErrInvalidRef)
	}
	return r, nil
}

// Identity is a hash that only this state of this volume has, wherever a copy of the device is.
func (r *StateRef) Identity() [32]byte {
	h := sha256.New()
	h.Write([]byte("sealvol pinned state\x00"))
	h.Write(r.Volume[:])
	var g [8]byte
	binary.LittleEndian.PutUint64(g[:], r.Generation)
	h.Write(g[:])
	h.Write(r.root[:])
	return [32]byte(h.Sum(nil))
}
