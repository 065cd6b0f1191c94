package layout

import (
	"encoding/binary"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Types of keys of TreeAnchors. Obj is 0.
const (
	KeyAnchor   = 0x01 // Sub: generation
	KeyNextSlot = 0x02 // Sub: key slot
)

// MaxAnchorsKept bounds the anchors of TreeAnchors.
const MaxAnchorsKept = 1024

// Anchored is the value of a KeyAnchor item: a root whose anchor was confirmed.
type Anchored struct {
	R     [32]byte
	Epoch uint32 // of the anchor
}

const anchoredBytes = 40

// Append encodes the value.
func (a *Anchored) Append(b []byte) []byte {
	b = append(b, a.R[:]...)
	b = binary.LittleEndian.AppendUint32(b, a.Epoch)
	return append(b, 0, 0, 0, 0)
}

// DecodeAnchored decodes a whole value.
func DecodeAnchored(b []byte) (a Anchored, err error) {
	if len(b) != anchoredBytes || !zeros(b[36:]) {
		return a, corrupt("anchor item: invalid length of %d bytes", len(b))
	}
	a = Anchored{R: [32]byte(b[:32]), Epoch: binary.LittleEndian.Uint32(b[32:])}
	if a.Epoch == 0 {
		return a, corrupt("anchor item: key epoch is 0")
	}
	return a, nil
}

// NextSlot is the value of a KeyNextSlot item: the content of a key slot after a rotation of the
// data key. It was sealed when the rotation began and the slot's key was available.
type NextSlot struct {
	Commit [32]byte // of the only epoch in it
	Slot   crypto.Slot
}

const nextSlotFixed = 40

// Append encodes the value: commit‖type u8‖00‖lengths of params and sealed
// part, u16 each‖00×2‖params‖sealed part.
func (n *NextSlot) Append(b []byte) []byte {
	b = append(b, n.Commit[:]...)
	b = append(b, n.Slot.Type, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(n.Slot.Params)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(n.Slot.Sealed)))
	b = append(b, 0, 0)
	b = append(b, n.Slot.Params...)
	return append(b, n.Slot.Sealed...)
}

// DecodeNextSlot decodes a whole value.
func DecodeNextSlot(b []byte) (n NextSlot, err error) {
	if len(b) < nextSlotFixed || b[33] != 0 || !zeros(b[38:nextSlotFixed]) {
		return n, corrupt("next key slot: invalid length of %d bytes", len(b))
	}
	p, q := int(binary.LittleEndian.Uint16(b[34:])), int(binary.LittleEndian.Uint16(b[36:]))
	if len(b) != nextSlotFixed+p+q {
		return n, corrupt("next key slot: params of %d and sealed part of %d bytes do not fit %d bytes", p, q, len(b))
	}
	n.Commit = [32]byte(b[:32])
	n.Slot.Type = b[32]
	if p > 0 {
		n.Slot.Params = append([]byte(nil), b[nextSlotFixed:nextSlotFixed+p]...)
	}
	n.Slot.Sealed = append([]byte(nil), b[nextSlotFixed+p:]...)
	if err := n.Slot.Validate(); err != nil || n.Slot.Type == crypto.SlotEmpty {
		return n, corrupt("next key slot: %v", err)
	}
	return n, nil
}
