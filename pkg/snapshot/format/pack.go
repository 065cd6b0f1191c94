package format

import (
	"bytes"
	"encoding/binary"
)

// A pack, from front to end:
//
//	header   "SEALVPK1" ‖ kind u8 ‖ tenant epoch u8 ‖ 00×2 ‖ number u32 ‖ attempt[16]
//	objects  sealed chunks, back to back
//	table    n × {offset u32 ‖ length u32 ‖ kind u8 ‖ comp u8 ‖ suite u8 ‖ 00 ‖ p'[32] ‖ mark[16]}
//	trailer  n u32 ‖ table offset u32 ‖ SHA-256 of all before ‖ "SEALVPK1"   48 bytes
//
// Its name is the SHA-256 of all of it. p' and mark are the chunk's p and d[0:16],
// each ⊕ a mask that the tenant alone can compute, and that no two slots have in
// common: no two packs have one header, of 32 bytes, since an attempt uses each
// number once. crypto.TenantKeys.HideRef computes both.
const (
	packMagic = "SEALVPK1"
	// PackHeaderBytes is where the first object lies.
	PackHeaderBytes = 32
	// PackSlotBytes is the length of an entry of the table.
	PackSlotBytes = packSlotClear + packSlotHidden

	packSlotClear  = 12
	packSlotHidden = 48
	// PackTrailerBytes is the length of the end, which finds the table.
	PackTrailerBytes = 48
	// MaxPackBytes is the most that a pack has.
	MaxPackBytes = 32 << 20
	// MaxPackSlots is the most objects that a pack has.
	MaxPackSlots = 4096
	// MinObjectBytes is the least that a sealed chunk has: its tag.
	MinObjectBytes = 16
)

// PackKind says what a pack's chunks are.
type PackKind uint8

// The kinds of packs.
const (
	DataPack     PackKind = 1
	MetadataPack PackKind = 2
	MixedPack    PackKind = 3 // of a small snapshot
)

// PackHeader is the beginning of a pack.
type PackHeader struct {
	Kind    PackKind
	Epoch   uint8  // of the tenant secret
	Number  uint32 // in the list of the snapshot for which it was written
	Attempt ID
}

// Append appends the encoding.
func (h *PackHeader) Append(b []byte) []byte {
	b = append(append(b, packMagic...), byte(h.Kind), h.Epoch, 0, 0)
	return append(le32(b, h.Number), h.Attempt[:]...)
}

// DecodePackHeader reads what Append wrote.
func DecodePackHeader(b []byte) (h PackHeader, err error) {
	r := NewReader("pack header", packMagic, b)
	h.Kind, h.Epoch = PackKind(r.U8()), r.U8()
	r.Zeros(2)
	h.Number, h.Attempt = r.U32(), r.ID()
	if h.Kind < DataPack || h.Kind > MixedPack {
		r.Fail("unknown kind %d", h.Kind)
	}
	if err := r.End(); err != nil {
		return PackHeader{}, err
	}
	return h, nil
}

// PackSlot is an entry of a pack's table.
type PackSlot struct {
	Offset, Length    uint32
	Kind, Comp, Suite uint8
	Hidden            [packSlotHidden]byte // p' and mark
}

// Clear returns the encoding of all but Hidden, which depends on it.
func (s *PackSlot) Clear() (clear [packSlotClear]byte) {
	binary.LittleEndian.PutUint32(clear[:], s.Offset)
	binary.LittleEndian.PutUint32(clear[4:], s.Length)
	clear[8], clear[9], clear[10] = s.Kind, s.Comp, s.Suite
	return clear
}

// AppendPackTable appends table and first half of the trailer of a pack whose
// objects end at byte end. The SHA-256 of all before and PackEnd follow it.
func AppendPackTable(b []byte, slots []PackSlot, end uint32) []byte {
	for i := range slots {
		clear := slots[i].Clear()
		b = append(append(b, clear[:]...), slots[i].Hidden[:]...)
	}
	return le32(le32(b, uint32(len(slots))), end)
}

// PackEnd is the last word of a pack.
const PackEnd = packMagic

// PackTrailer is what a pack's end says.
type PackTrailer struct {
	Slots int
	Table uint32 // where the table begins
	Sum   Sum    // of all before Sum itself
}

// TableBytes is how long table and trailer are.
func (t *PackTrailer) TableBytes() int { return t.Slots*PackSlotBytes + PackTrailerBytes }

// DecodePackTrailer reads the last PackTrailerBytes of a pack that has size
// bytes.
func DecodePackTrailer(b []byte, size int64) (t PackTrailer, err error) {
	r := NewReader("pack trailer", "", b)
	n, table := r.U32(), r.U32()
	t = PackTrailer{Slots: int(n), Table: table, Sum: r.Sum()}
	if end := r.Bytes(len(PackEnd)); r.err == nil && string(end) != PackEnd {
		r.Fail("it ends in %q", end)
	}
	switch {
	case size > MaxPackBytes || n == 0 || n > MaxPackSlots || table < PackHeaderBytes:
		r.Fail("%d slots, table at %d, of %d bytes", n, table, size)
	case int64(table)+int64(t.TableBytes()) != size:
		r.Fail("a table of %d slots at %d does not end a pack of %d bytes", n, table, size)
	}
	if err := r.End(); err != nil {
		return PackTrailer{}, err
	}
	return t, nil
}

// DecodePackTable reads the table whose trailer is t: objects lie back to back
// from the header to the table.
func DecodePackTable(b []byte, t *PackTrailer) ([]PackSlot, error) {
	r := NewReader("pack table", "", b)
	slots := make([]PackSlot, r.Count(t.Slots, MaxPackSlots, PackSlotBytes))
	at := uint32(PackHeaderBytes)
	for i := range slots {
		s := &slots[i]
		s.Offset, s.Length, s.Kind, s.Comp, s.Suite = r.U32(), r.U32(), r.U8(), r.U8(), r.U8()
		r.Zeros(1)
		copy(s.Hidden[:], r.Bytes(len(s.Hidden)))
		if s.Offset != at || s.Length < MinObjectBytes || s.Length > t.Table-at || s.Kind < 1 || s.Kind > 3 || s.Suite == 0 {
			r.Fail("slot %d: kind %d, suite %d, %d bytes at %d, where %d to %d are free", i, s.Kind, s.Suite, s.Length, s.Offset, at, t.Table)
			break
		}
		at += s.Length
	}
	if at != t.Table {
		r.Fail("objects end at %d, the table begins at %d", at, t.Table)
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return slots, nil
}

// DecodePack checks a whole pack, without its name, and returns what it holds.
func DecodePack(b []byte) (h PackHeader, slots []PackSlot, err error) {
	if len(b) < PackHeaderBytes+PackTrailerBytes {
		return h, nil, NewReader("pack", packMagic, nil).Err()
	}
	if h, err = DecodePackHeader(b[:PackHeaderBytes]); err != nil {
		return h, nil, err
	}
	t, err := DecodePackTrailer(b[len(b)-PackTrailerBytes:], int64(len(b)))
	if err != nil {
		return h, nil, err
	}
	if slots, err = DecodePackTable(b[t.Table:len(b)-PackTrailerBytes], &t); err != nil {
		return h, nil, err
	}
	signed := len(b) - len(PackEnd) - len(t.Sum)
	if sum := SumOf(b[:signed]); !bytes.Equal(sum[:], t.Sum[:]) {
		r := NewReader("pack", "", nil)
		r.Fail("its hash is not what its end says")
		return h, nil, r.Err()
	}
	return h, slots, nil
}
