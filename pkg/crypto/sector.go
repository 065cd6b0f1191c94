package crypto

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// RootBytes is the length of a root's plaintext: a sector without nonce and tag.
	RootBytes = SectorBytes - nonceBytes - tagBytes
	// FrameBytes is the length of a log frame's payload.
	FrameBytes = RootBytes
	// RootSlots is the number of root slots.
	RootSlots = 16

	frameHeaderBytes = 24
	// FrameDataBytes is the maximum amount of data in one log frame.
	FrameDataBytes = FrameBytes - frameHeaderBytes
)

// sealSector writes nonce‖AEAD(plaintext, padded with zeros) to dst.
func (k *EpochKeys) sealSector(b *box, aad, plaintext, dst []byte) error {
	// 24 random bytes for each seal: as for extents, a repetition is too unlikely to occur.
	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	return k.sealSectorNonce(b, nonce, aad, plaintext, dst)
}

// sealSectorNonce is sealSector under a nonce that was drawn for it alone.
func (k *EpochKeys) sealSectorNonce(b *box, nonce [nonceBytes]byte, aad, plaintext, dst []byte) error {
	if len(plaintext) > RootBytes || len(dst) != SectorBytes {
		return errBuffer
	}
	if err := k.hold(); err != nil {
		return err
	}
	defer k.mu.RUnlock()
	text := dst[nonceBytes : SectorBytes-tagBytes]
	clear(text[copy(text, plaintext):]) // first, because plaintext may overlap dst
	copy(dst, nonce[:])
	_, err := b.seal(text[:0], nonce[:], text, aad)
	return err
}

// openSector opens the result of sealSector into dst.
func (k *EpochKeys) openSector(b *box, aad, src, dst []byte) error {
	if len(src) != SectorBytes || len(dst) != RootBytes {
		return errBuffer
	}
	if err := k.hold(); err != nil {
		return err
	}
	defer k.mu.RUnlock()
	if _, err := b.open(dst[:0:RootBytes], src[:nonceBytes], src[nonceBytes:], aad); err != nil {
		clear(dst)
		return err
	}
	return nil
}

func (k *EpochKeys) rootAAD(slot uint8) []byte {
	aad := append(make([]byte, 0, 32), "DCv2R"...)
	aad = append(append(append(aad, byte(k.suite)), k.id[:]...), slot)
	return binary.LittleEndian.AppendUint32(aad, k.epoch)
}

// SealRoot seals a root, at most RootBytes of plaintext, padded with zeros,
// for root slot 0 to 15 into dst (one sector).
func (k *EpochKeys) SealRoot(slot uint8, plaintext, dst []byte) error {
	if slot >= RootSlots {
		return fmt.Errorf("root slot %d", slot)
	}
	return k.sealSector(&k.root, k.rootAAD(slot), plaintext, dst)
}

// OpenRoot opens the sector src of a root slot into dst (RootBytes). On error
// dst is zeros.
func (k *EpochKeys) OpenRoot(slot uint8, src, dst []byte) error {
	return k.openSector(&k.root, k.rootAAD(slot), src, dst)
}

// RootHash returns R of a root: SHA-256 of its plaintext, padded with zeros to
// RootBytes.
func RootHash(plaintext []byte) [32]byte {
	var padded [RootBytes]byte
	if len(plaintext) < RootBytes {
		copy(padded[:], plaintext)
		plaintext = padded[:]
	}
	return sha256.Sum256(plaintext)
}

// Anchor returns A, the anchor of the root with that generation and hash. After Erase it
// is zeros.
func (k *EpochKeys) Anchor(generation uint64, r [32]byte) (a [32]byte) {
	msg := append(make([]byte, 0, 66), "anchor"...)
	msg = append(msg, k.id[:]...)
	msg = binary.LittleEndian.AppendUint32(msg, k.epoch)
	msg = binary.LittleEndian.AppendUint64(msg, generation)
	return k.mac(&k.anchor, append(msg, r[:]...))
}

// HeaderMAC returns the MAC of the volume header's bytes. After Erase it is
// zeros.
func (k *EpochKeys) HeaderMAC(b []byte) [32]byte { return k.mac(&k.header, b) }

func (k *EpochKeys) mac(key *secret, msg []byte) (out [32]byte) {
	if k.hold() != nil {
		return out
	}
	defer k.mu.RUnlock()
	m := newMAC(key.bytes())
	m.Write(msg)
	m.finish(out[:])
	return out
}

func (k *EpochKeys) frameAAD(mount *[16]byte, seq uint64) []byte {
	aad := append(make([]byte, 0, 64), "DCv2L"...)
	aad = append(append(aad, byte(k.suite)), k.id[:]...)
	aad = binary.LittleEndian.AppendUint32(aad, k.epoch)
	return binary.LittleEndian.AppendUint64(append(aad, mount[:]...), seq)
}

// SealFrame seals the payload (FrameBytes) of log frame seq of a mount into
// dst (one sector).
func (k *EpochKeys) SealFrame(mount [16]byte, seq uint64, payload, dst []byte) error {
	if len(payload) != FrameBytes {
		return errBuffer
	}
	return k.sealSector(&k.log, k.frameAAD(&mount, seq), payload, dst)
}

// OpenFrame opens the sector src of log frame seq of a mount into dst
// (FrameBytes). On error dst is zeros.
func (k *EpochKeys) OpenFrame(mount [16]byte, seq uint64, src, dst []byte) error {
	return k.openSector(&k.log, k.frameAAD(&mount, seq), src, dst)
}

// Flags of a log frame: its position in its record.
const (
	FrameFirst uint8 = 1 << iota
	FrameLast
)

// FramePayload is the content of a log frame.
type FramePayload struct {
	Acked uint64 // when sealed, frames below were durable
	Base  uint64 // when sealed, the root of this generation was durable
	Flags uint8  // FrameFirst, FrameLast
	Data  []byte // at most FrameDataBytes
}

// Encode writes the payload to dst (FrameBytes), padded with zeros.
func (p *FramePayload) Encode(dst []byte) error {
	if len(dst) != FrameBytes || len(p.Data) > FrameDataBytes {
		return errBuffer
	}
	binary.LittleEndian.PutUint64(dst[0:], p.Acked)
	binary.LittleEndian.PutUint64(dst[8:], p.Base)
	binary.LittleEndian.PutUint16(dst[16:], uint16(len(p.Data)))
	dst[18] = p.Flags
	clear(dst[19:frameHeaderBytes])
	clear(dst[frameHeaderBytes+copy(dst[frameHeaderBytes:], p.Data):])
	return nil
}

// DecodeFramePayload parses the result of Encode. Data is a part of b.
func DecodeFramePayload(b []byte) (FramePayload, error) {
	if len(b) != FrameBytes {
		return FramePayload{}, errBuffer
	}
	p := FramePayload{
		Acked: binary.LittleEndian.Uint64(b[0:]),
		Base:  binary.LittleEndian.Uint64(b[8:]),
		Flags: b[18],
	}
	n := int(binary.LittleEndian.Uint16(b[16:]))
	if n > FrameDataBytes || p.Flags&^(FrameFirst|FrameLast) != 0 ||
		!zeros(b[19:frameHeaderBytes]) || !zeros(b[frameHeaderBytes+n:]) {
		return FramePayload{}, errors.New("malformed log frame")
	}
	p.Data = b[frameHeaderBytes : frameHeaderBytes+n : frameHeaderBytes+n]
	return p, nil
}

// zeros reports whether all of b is zero.
func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
