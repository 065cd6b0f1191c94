package format

import "math/bits"

// A page of a pack list:
//
//	"SEALVPL1" ‖ packs u16 ‖ attempts u16 ‖ 00×4 ‖ attempts × attempt[16] ‖
//	packs × {number u32 ‖ attempt u16 ‖ slots u16 ‖ bytes u32 ‖ sha256[32] ‖ live u8 ‖ bitmap}
//
// Numbers ascend; attempts stand in the order of their first use, each once.
// live is 0, and no bitmap follows, if all slots are live; or 1, and the bitmap
// has a bit for each slot, the first in the lowest bit: some are 1 and some 0.
const (
	pageMagic = "SEALVPL1"
	// MaxPagePacks is the most packs of a page.
	MaxPagePacks = 1024
	// MaxPageBytes bounds a page: that many packs with a bitmap each.
	MaxPageBytes   = pageHeadBytes + MaxPagePacks*(16+pageItemBytes+MaxPackSlots/8)
	pageHeadBytes  = 16
	pageItemBytes  = 45
	minPackedBytes = PackHeaderBytes + MinObjectBytes + PackSlotBytes + PackTrailerBytes
)

// PackEntry is a pack of a list.
type PackEntry struct {
	Number uint32 // what references say; never used again in a lineage
	Name   Name
	Bytes  uint32
	Slots  uint16
	// Live has a bit for each slot that was needed at the last recount. Nil: all.
	Live []byte
}

// LiveSlots returns how many slots were needed at the last recount.
func (e *PackEntry) LiveSlots() int {
	if e.Live == nil {
		return int(e.Slots)
	}
	n := 0
	for _, b := range e.Live {
		n += bits.OnesCount8(b)
	}
	return n
}

// check checks an entry on its own.
func (e *PackEntry) check(r *Reader) {
	if e.Slots == 0 || e.Slots > MaxPackSlots || e.Bytes < minPackedBytes || e.Bytes > MaxPackBytes || e.Name.Class != Pack {
		r.Fail("pack %d: %d bytes, %d slots, class %d", e.Number, e.Bytes, e.Slots, e.Name.Class)
		return
	}
	if e.Live == nil {
		return
	}
	spare := 8*len(e.Live) - int(e.Slots)
	if spare < 0 || spare > 7 || e.Live[len(e.Live)-1]>>(8-spare) != 0 {
		r.Fail("pack %d: a bitmap of %d bytes for %d slots", e.Number, len(e.Live), e.Slots)
		return
	}
	if n := e.LiveSlots(); n == 0 || n == int(e.Slots) {
		r.Fail("pack %d: a bitmap of which %d of %d slots are live", e.Number, n, e.Slots)
	}
}

// EncodePage encodes the packs of a page, of ascending numbers.
func EncodePage(packs []PackEntry) ([]byte, error) {
	attempts := map[ID]uint16{}
	var order []ID
	for i := range packs {
		if _, ok := attempts[packs[i].Name.Attempt]; !ok {
			attempts[packs[i].Name.Attempt] = uint16(len(order))
			order = append(order, packs[i].Name.Attempt)
		}
	}
	b := le16(le16([]byte(pageMagic), uint16(len(packs))), uint16(len(order)))
	b = append(b, 0, 0, 0, 0)
	for _, a := range order {
		b = append(b, a[:]...)
	}
	for i := range packs {
		e := &packs[i]
		b = le16(le32(b, e.Number), attempts[e.Name.Attempt])
		b = le32(le16(b, e.Slots), e.Bytes)
		b = append(b, e.Name.Sum[:]...)
		if e.Live == nil {
			b = append(b, 0)
		} else {
			b = append(append(b, 1), e.Live...)
		}
	}
	if len(packs) > MaxPagePacks { // its count may not fit
		r := NewReader("page", "", nil)
		r.Fail("%d packs", len(packs))
		return nil, r.Err()
	}
	if _, err := DecodePage(b); err != nil { // one place has all rules
		return nil, err
	}
	return b, nil
}

// DecodePage reads what EncodePage wrote.
func DecodePage(b []byte) ([]PackEntry, error) {
	r := NewReader("page", pageMagic, b)
	count, n := int(r.U16()), int(r.U16())
	r.Zeros(4)
	if count == 0 || n > count {
		r.Fail("%d packs of %d attempts", count, n)
	}
	attempts := make([]ID, r.Count(n, MaxPagePacks, 16))
	seen := map[ID]bool{}
	for i := range attempts {
		attempts[i] = r.ID()
		if seen[attempts[i]] {
			r.Fail("attempt %s twice", attempts[i])
		}
		seen[attempts[i]] = true
	}
	packs := make([]PackEntry, r.Count(count, MaxPagePacks, pageItemBytes))
	used := 0
	for i := range packs {
		e := &packs[i]
		e.Number = r.U32()
		a := int(r.U16())
		e.Slots, e.Bytes, e.Name.Class = r.U16(), r.U32(), Pack
		e.Name.Sum = r.Sum()
		switch live := r.U8(); live {
		case 0:
		case 1:
			e.Live = r.Bytes((int(e.Slots) + 7) / 8)
		default:
			r.Fail("pack %d: live is %d", e.Number, live)
		}
		switch {
		case r.Err() != nil:
		case i > 0 && e.Number <= packs[i-1].Number:
			r.Fail("pack %d follows pack %d", e.Number, packs[i-1].Number)
		case a > used || a >= len(attempts):
			r.Fail("pack %d: attempt %d before attempt %d", e.Number, a, used)
		default:
			e.Name.Attempt = attempts[a]
			used = max(used, a+1)
			e.check(r)
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
	}
	if used != len(attempts) {
		r.Fail("%d attempts of which %d are used", len(attempts), used)
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return packs, nil
}
