package crypto

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// SectorBytes is the unit of padding and of all structures on the device.
	SectorBytes = 4096
	// MaxExtentBytes is the maximum length of an extent's payload.
	MaxExtentBytes = 1 << 20
	// MaxSegments is the maximum number of an extent's segments: their number minus one fits into a
	// byte.
	MaxSegments = 256
	// KindFileData is the kind of extents that are sealed under K_data. All other extents are
	// metadata, and are sealed under K_meta.
	KindFileData = 6

	minShift, maxShift = 12, 20
)

// Extent is the identity that an extent is sealed under. It contains all fields of the extent's
// record, except for address, run and tags.
type Extent struct {
	Nonce                    [24]byte
	Birth                    uint64 // generation in which it was sealed
	Epoch                    uint32 // key epoch, from 1
	PLen                     uint32 // payload bytes, 1 to MaxExtentBytes
	LLen                     uint32 // bytes after decompression; PLen if Comp is 0
	Kind, Level, Comp, Shift uint8  // Shift: segments have 1<<Shift bytes; 0 means one segment
	Object, Index            uint64
}

// Validate checks all limits of an extent. Call it before using any field.
func (e *Extent) Validate() error {
	switch {
	case e.PLen == 0 || e.PLen > MaxExtentBytes:
		return fmt.Errorf("extent of %d payload bytes", e.PLen)
	case e.Shift != 0 && (e.Shift < minShift || e.Shift > maxShift):
		return fmt.Errorf("extent with segment shift %d", e.Shift)
	case e.Comp == 0 && e.LLen != e.PLen:
		return fmt.Errorf("uncompressed extent of %d bytes claims %d", e.PLen, e.LLen)
	case e.Comp != 0 && (e.LLen == 0 || e.LLen > MaxExtentBytes):
		return fmt.Errorf("compressed extent of %d bytes", e.LLen)
	case e.Comp != 0 && e.Shift != 0:
		return errors.New("compressed extent in segments")
	case e.Kind != KindFileData && e.Shift != 0:
		return errors.New("metadata extent in segments")
	case e.Kind == 0:
		return errors.New("extent of kind 0")
	case e.Epoch == 0:
		return errors.New("extent of key epoch 0")
	}
	return nil // at most 1 MiB in segments of at least 4 KiB: never above MaxSegments
}

// PaddedBytes returns P, the length on the device: the payload, padded with zeros to whole sectors.
func (e *Extent) PaddedBytes() int {
	return (int(e.PLen) + SectorBytes - 1) &^ (SectorBytes - 1)
}

// Segments returns n, the number of messages that the extent is sealed as.
func (e *Extent) Segments() int {
	if e.Shift == 0 {
		return 1
	}
	size := 1 << e.Shift
	return (e.PaddedBytes() + size - 1) >> e.Shift
}

// SegmentRange returns where segment i lies within P: bytes off to end.
func (e *Extent) SegmentRange(i int) (off, end int) {
	p := e.PaddedBytes()
	if e.Shift == 0 {
		return 0, p
	}
	off = i << e.Shift
	return off, min(off+1<<e.Shift, p)
}

// putAAD writes AAD_i of the threat model for segment 0 to b.
func (e *Extent) putAAD(b *[64]byte, s Suite, id UUID, segments int) {
	copy(b[:], "DCv2")
	b[4], b[5], b[6], b[7] = byte(s), e.Kind, e.Level, e.Comp
	copy(b[8:24], id[:])
	binary.LittleEndian.PutUint32(b[24:], e.Epoch)
	binary.LittleEndian.PutUint32(b[28:], e.PLen)
	binary.LittleEndian.PutUint64(b[32:], e.Object)
	binary.LittleEndian.PutUint64(b[40:], e.Index)
	binary.LittleEndian.PutUint64(b[48:], e.Birth)
	binary.LittleEndian.PutUint32(b[56:], e.LLen)
	b[60], b[61], b[62], b[63] = 0, byte(segments-1), e.Shift, 0
}

// segmentCipher seals or opens the segments of one extent.
type segmentCipher struct {
	*workspace
	aead cipher.AEAD
	last uint32 // end of the inner nonce, before the segment number
}

func (k *EpochKeys) segments(e *Extent) (segmentCipher, error) {
	b := &k.meta
	if e.Kind == KindFileData {
		b = &k.data
	}
	c := segmentCipher{workspace: workspaces.Get().(*workspace)}
	c.full = e.Nonce
	var err error
	if c.aead, err = b.inner(c.workspace); err != nil {
		c.release()
		return c, err
	}
	c.last = binary.LittleEndian.Uint32(c.nonce[8:])
	e.putAAD(&c.aad, k.suite, k.id, e.Segments())
	return c, nil
}

func (c *segmentCipher) close() {
	eraseHeap(c.aead)
	c.release()
}

// at sets nonce and associated data for segment i: N⊕(00×20‖i). Segments of
// one extent differ in i < 256, so no two share a nonce; both suites keep the
// nonce's last four bytes out of the inner key's derivation, so one inner key
// serves them all.
func (c *segmentCipher) at(i int) {
	binary.LittleEndian.PutUint32(c.nonce[8:], c.last^uint32(i))
	c.aad[60] = byte(i)
}

// SealExtent seals payload (e.PLen bytes) into dst (e.PaddedBytes) and tags (e.Segments). It draws
// e.Nonce and sets e.Epoch. dst and payload must start at the same byte or not overlap. To seal
// again after any change, call it again: it never uses a nonce twice. To repeat a failed write,
// write the same bytes.
func (k *EpochKeys) SealExtent(e *Extent, dst []byte, tags []Tag, payload []byte) error {
	e.Epoch = k.epoch
	// 24 random bytes, drawn for each seal: after 2⁸⁰ extents, the probability of a repeated nonce
	// is 2⁻³².
	rand.Read(e.Nonce[:])
	return k.sealExtent(e, dst, tags, payload)
}

// sealExtent is SealExtent under a nonce that was drawn for it alone.
func (k *EpochKeys) sealExtent(e *Extent, dst []byte, tags []Tag, payload []byte) error {
	if err := e.Validate(); err != nil {
		return err
	}
	n := e.Segments()
	if len(payload) != int(e.PLen) || len(dst) != e.PaddedBytes() || len(tags) != n {
		return errBuffer
	}
	if err := k.hold(); err != nil {
		return err
	}
	defer k.mu.RUnlock()
	c, err := k.segments(e)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range n {
		off, end := e.SegmentRange(i)
		c.at(i)
		if i == n-1 {
			// Padded, and without room for a tag behind it.
			clear(dst[off+copy(dst[off:], payload[off:]):])
			out := c.aead.Seal(c.buffer(end - off + tagBytes)[:0], c.nonce[:], dst[off:end], c.aad[:])
			copy(tags[i][:], out[copy(dst[off:end], out):])
			continue
		}
		// The tag lands on the next segment, which may still be payload.
		room := dst[end : end+tagBytes]
		copy(c.save[:], room)
		c.aead.Seal(dst[off:off], c.nonce[:], payload[off:end], c.aad[:])
		copy(tags[i][:], room)
		copy(room, c.save[:])
	}
	return nil
}

// OpenSegments opens count segments of an extent, starting with first. src is their ciphertext, and
// tags are their tags. dst receives their plaintext, including the padding of the last segment. dst
// must be src itself or not overlap it. If a segment does not open, OpenSegments returns
// ErrAuthentication and overwrites dst with zeros.
func (k *EpochKeys) OpenSegments(e *Extent, first, count int, dst, src []byte, tags []Tag) error {
	err := k.openSegments(e, first, count, dst, src, tags)
	if err != nil {
		clear(dst)
	}
	return err
}

func (k *EpochKeys) openSegments(e *Extent, first, count int, dst, src []byte, tags []Tag) error {
	if e.Validate() != nil || e.Epoch != k.epoch ||
		first < 0 || count < 1 || first >= e.Segments() || count > e.Segments()-first {
		return ErrAuthentication
	}
	start, _ := e.SegmentRange(first)
	_, stop := e.SegmentRange(first + count - 1)
	if len(src) != stop-start || len(dst) != len(src) || len(tags) != count {
		return errBuffer
	}
	if err := k.hold(); err != nil {
		return err
	}
	defer k.mu.RUnlock()
	c, err := k.segments(e)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range count {
		off, end := e.SegmentRange(first + i)
		if err := c.open(first+i, dst, src, off-start, end-start, &tags[i]); err != nil {
			return err
		}
	}
	return nil
}

// open opens src[off:end] into dst[off:end]. The AEAD requires the tag directly after the
// ciphertext. Other readers may share src, so both are copied to dst, or to scratch memory for the
// last segment of dst.
func (c *segmentCipher) open(i int, dst, src []byte, off, end int, tag *Tag) error {
	c.at(i)
	if end+tagBytes > len(dst) {
		text := c.buffer(end - off + tagBytes)
		copy(text[copy(text, src[off:end]):], tag[:])
		if _, err := c.aead.Open(dst[off:off:end], c.nonce[:], text, c.aad[:]); err != nil {
			return ErrAuthentication
		}
		return nil
	}
	if &dst[off] != &src[off] {
		copy(dst[off:end], src[off:end])
	}
	room := dst[end : end+tagBytes]
	copy(c.save[:], room)
	copy(room, tag[:])
	_, err := c.aead.Open(dst[off:off], c.nonce[:], dst[off:end+tagBytes], c.aad[:])
	copy(room, c.save[:])
	if err != nil {
		return ErrAuthentication
	}
	return nil
}
