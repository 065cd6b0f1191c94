package crypto

import "encoding/binary"

const (
	// PackSlotClear is the length of the part of a slot that everybody can read.
	PackSlotClear = 12
	// PackSlotHidden is the length of the part that hides a chunk's identity.
	PackSlotHidden = 32 + 16
)

// PackSlot says which slot of which pack it is. The masks of a slot are derived from it. So no two
// slots may have the same snapshot, header and index: each run of a writer numbers its packs, and
// the header contains the run and the number.
type PackSlot struct {
	Snapshot UUID   // for which the pack was written
	Header   []byte // of the pack
	Index    uint16
	Clear    [PackSlotClear]byte // the slot's readable part
}

// HideRef returns the hidden part of a slot, for the chunk with the identities d and p:
//
//	p' = p ⊕ HMAC(X(C,"slot-p",S), i u16 ‖ header)
//	mark = d[0:16] ⊕ HMAC(X(C,"slot",S), i u16 ‖ header ‖ clear part ‖ p)[0:16]
//
// Without C, it is random: equal chunks look different in each slot.
func (t *TenantKeys) HideRef(s *PackSlot, d, p *[32]byte) (hidden [PackSlotHidden]byte, err error) {
	err = t.slotMasks(s, func(mask func(p *[32]byte) [16]byte, pMask *[32]byte) {
		m := mask(p)
		for i := range p {
			hidden[i] = p[i] ^ pMask[i]
		}
		for i := range m {
			hidden[len(p)+i] = d[i] ^ m[i]
		}
	})
	return hidden, err
}

// RevealRef reverses HideRef. It does not check anything, because a slot has no MAC. Whoever changes
// a byte of the slot, or moves it, changes the mask of d to a value that nobody without C can
// predict. So the caller compares d with that of a chunk that it has, and may use p only if they are
// equal.
func (t *TenantKeys) RevealRef(s *PackSlot, hidden *[PackSlotHidden]byte) (d [16]byte, p [32]byte, err error) {
	err = t.slotMasks(s, func(mask func(p *[32]byte) [16]byte, pMask *[32]byte) {
		for i := range p {
			p[i] = hidden[i] ^ pMask[i]
		}
		d = mask(&p)
		for i := range d {
			d[i] ^= hidden[len(p)+i]
		}
	})
	return d, p, err
}

// slotMasks passes the mask of p, and a function that returns that of d, to use.
func (t *TenantKeys) slotMasks(s *PackSlot, use func(mask func(p *[32]byte) [16]byte, pMask *[32]byte)) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return ErrErased
	}
	msg := append(binary.LittleEndian.AppendUint16(make([]byte, 0, 128), s.Index), s.Header...)
	pMask := t.id("slot-p", s.Snapshot[:], msg)
	use(func(p *[32]byte) (m [16]byte) {
		whole := t.id("slot", s.Snapshot[:], append(append(msg, s.Clear[:]...), p[:]...))
		copy(m[:], whole[:])
		return m
	}, &pMask)
	return nil
}
