package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Slots is an object of key slots: of a snapshot's key, or of a tenant secret.
//
//	"SEALVKY1" ‖ suite u8 ‖ count u8 ‖ 00×6 ‖
//	count × {index u8 ‖ type u8 ‖ params u16 ‖ sealed u16 ‖ 00×2 ‖ params ‖ sealed}
type Slots struct {
	Suite crypto.Suite
	Slots map[uint8]crypto.Slot // by index
}

const (
	slotsMagic = "SEALVKY1"
	// MaxSlotsBytes bounds such an object.
	MaxSlotsBytes = 16 + crypto.Slots*(8+crypto.MaxSlotParams+crypto.MaxSlotSealed)
)

// ErrNoSlot says that no slot opens with what was given.
var ErrNoSlot = errors.New("wrong key: it opens no key slot")

// Encode returns the object.
func (s *Slots) Encode() ([]byte, error) {
	b := append([]byte(slotsMagic), byte(s.Suite), byte(len(s.Slots)), 0, 0, 0, 0, 0, 0)
	le16 := binary.LittleEndian.AppendUint16
	for i := range uint8(crypto.Slots) {
		slot, ok := s.Slots[i]
		if !ok {
			continue
		}
		b = append(b, i, slot.Type)
		b = append(le16(le16(b, uint16(len(slot.Params))), uint16(len(slot.Sealed))), 0, 0)
		b = append(append(b, slot.Params...), slot.Sealed...)
	}
	_, err := DecodeSlots(b)
	return b, err
}

// DecodeSlots reads what Encode wrote.
func DecodeSlots(b []byte) (*Slots, error) {
	r := format.NewReader("key slots", slotsMagic, b)
	s := &Slots{Suite: crypto.Suite(r.U8()), Slots: map[uint8]crypto.Slot{}}
	count := int(r.U8())
	r.Zeros(6)
	if err := s.Suite.Validate(); r.Err() == nil && (err != nil || count == 0 || count > crypto.Slots) {
		r.Fail("suite %d, %d slots", s.Suite, count)
	}
	next := uint8(0)
	for range r.Count(count, crypto.Slots, 8) {
		i, kind := r.U8(), r.U8()
		params, sealed := int(r.U16()), int(r.U16())
		r.Zeros(2)
		slot := crypto.Slot{Type: kind, Params: append([]byte(nil), r.Bytes(params)...), Sealed: append([]byte(nil), r.Bytes(sealed)...)}
		if r.Err() != nil {
			break
		}
		if err := slot.Validate(); err != nil || kind == crypto.SlotEmpty || i < next || i >= crypto.Slots || slot.Epochs() != 1 {
			r.Fail("slot %d of type %d after %d: %v", i, kind, next, err)
			break
		}
		s.Slots[i] = slot
		next = i + 1
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenSnapshot returns the key of snapshot id from the first slot that c opens.
// If there is none: what is wrong with the first that is damaged, or ErrNoSlot.
// The caller erases the key.
func (s *Slots) OpenSnapshot(id format.ID, c crypto.Credential) (*crypto.Key, error) {
	return s.open(c, func(i uint8, slot *crypto.Slot) (*crypto.Key, error) {
		return crypto.OpenSnapshotSlot(s.Suite, crypto.UUID(id), i, slot, c)
	})
}

// OpenTenant returns the tenant secret with a fingerprint, or ErrNoSlot. The
// caller erases it.
func (s *Slots) OpenTenant(fingerprint format.ID, c crypto.Credential) (*crypto.Key, error) {
	return s.open(c, func(i uint8, slot *crypto.Slot) (*crypto.Key, error) {
		return crypto.OpenTenantSlot(s.Suite, fingerprint, i, slot, c)
	})
}

func (s *Slots) open(c crypto.Credential, try func(i uint8, slot *crypto.Slot) (*crypto.Key, error)) (*crypto.Key, error) {
	var failed error
	for i := range uint8(crypto.Slots) {
		slot, ok := s.Slots[i]
		if !ok || slot.Type != c.SlotType() {
			continue
		}
		k, err := try(i, &slot)
		if err == nil {
			return k, nil
		}
		if failed == nil && !errors.Is(err, crypto.ErrWrongKey) { // another slot may be sound
			failed = fmt.Errorf("key slot %d: %w", i, err)
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, ErrNoSlot
}
