package format

import "math"

// A manifest is a head in the clear and a sealed body:
//
//	"SEALVMH1" ‖ suite u8 ‖ 00×7 ‖ S[16] ‖ lineage[16] ‖ parent[16] or 00×16 ‖
//	created i64, ns since 1970 ‖ next u32 ‖ packs u32 ‖ bytes u64 ‖ pages u32 ‖ 00×4 ‖
//	pages × {attempt[16] ‖ sha256[32] ‖ first u32 ‖ packs u16 ‖ 00×2 ‖ length u32 ‖ 00×4 ‖ bytes u64} ‖
//	SHA-256(sealed) ‖ sealed
//
// packs and bytes are sums over the pages, so that a pruner notices a list that
// does not add up. next is the first number that no pack of the lineage has had.
const (
	headMagic      = "SEALVMH1"
	headFixedBytes = 8 + 8 + 3*16 + 8 + 4 + 4 + 8 + 4 + 4
	pageRefBytes   = 16 + 32 + 4 + 2 + 2 + 4 + 4 + 8
	// MaxPages is the most pages of a list: 16 TiB of small packs, and more.
	MaxPages = 1 << 16
	// MaxManifestBytes bounds a manifest.
	MaxManifestBytes = 8 << 20
)

// PageRef names a page of a pack list.
type PageRef struct {
	Name   Name
	First  uint32 // number of its first pack
	Packs  uint16
	Length uint32 // of the page
	Bytes  uint64 // of its packs
}

// Head is the clear part of a manifest.
type Head struct {
	Suite   uint8 // of the sealed part
	S       ID
	Lineage ID    // of which this is a snapshot: a volume, until it is cloned
	Parent  ID    // zero: none
	Created int64 // ns since 1970, by the writer's clock
	Next    uint32
	Packs   uint32
	Bytes   uint64
	Pages   []PageRef
	Sealed  Sum // of the sealed part
}

// Append appends the encoding without the last field, whose hash the sealed part
// holds.
func (h *Head) appendUnsealed(b []byte) []byte {
	b = append(append(b, headMagic...), h.Suite, 0, 0, 0, 0, 0, 0, 0)
	b = append(append(append(b, h.S[:]...), h.Lineage[:]...), h.Parent[:]...)
	b = le64(le32(le32(le64(b, uint64(h.Created)), h.Next), h.Packs), h.Bytes)
	b = le32(le32(b, uint32(len(h.Pages))), 0)
	for i := range h.Pages {
		p := &h.Pages[i]
		b = append(append(b, p.Name.Attempt[:]...), p.Name.Sum[:]...)
		b = le16(le16(le32(b, p.First), p.Packs), 0)
		b = le64(le32(le32(b, p.Length), 0), p.Bytes)
	}
	return b
}

// Binding returns the hash that the sealed part holds of the head: of all but
// the hash of the sealed part.
func (h *Head) Binding() Sum { return SumOf(h.appendUnsealed(nil)) }

// EncodeManifest returns the manifest, and sets h.Sealed.
func EncodeManifest(h *Head, sealed []byte) ([]byte, error) {
	h.Sealed = SumOf(sealed)
	b := append(h.appendUnsealed(nil), h.Sealed[:]...)
	b = append(b, sealed...)
	if _, _, err := DecodeManifest(b); err != nil { // one place has all rules
		return nil, err
	}
	return b, nil
}

// DecodeManifest reads what EncodeManifest wrote; sealed is a part of b.
func DecodeManifest(b []byte) (h *Head, sealed []byte, err error) {
	r := NewReader("manifest", headMagic, b)
	if len(b) > MaxManifestBytes {
		r.Fail("%d bytes", len(b))
	}
	h = &Head{Suite: r.U8()}
	r.Zeros(7)
	h.S, h.Lineage, h.Parent = r.ID(), r.ID(), r.ID()
	h.Created, h.Next, h.Packs, h.Bytes = int64(r.U64()), r.U32(), r.U32(), r.U64()
	n := r.U32()
	r.Zeros(4)
	if h.Suite == 0 || h.S == (ID{}) || n > MaxPages {
		r.Fail("suite %d, snapshot %s, %d pages", h.Suite, h.S, n)
	}
	if n := r.Count(int(n), MaxPages, pageRefBytes); n > 0 {
		h.Pages = make([]PageRef, n)
	}
	h.decodePages(r)
	h.Sealed = r.Sum()
	sealed = r.Rest()
	if r.Err() == nil && SumOf(sealed) != h.Sealed {
		r.Fail("its sealed part is not the one that its head names")
	}
	if err := r.End(); err != nil {
		return nil, nil, err
	}
	return h, sealed, nil
}

func (h *Head) decodePages(r *Reader) {
	packs, bytes, next := uint64(0), uint64(0), uint64(0)
	for i := range h.Pages {
		p := &h.Pages[i]
		p.Name = Name{Page, r.ID(), r.Sum()}
		p.First, p.Packs = r.U32(), r.U16()
		r.Zeros(2)
		p.Length = r.U32()
		r.Zeros(4)
		p.Bytes = r.U64()
		if r.Err() != nil {
			return
		}
		if uint64(p.First) < next || p.Packs == 0 || p.Packs > MaxPagePacks || p.Length > MaxPageBytes || p.Bytes > uint64(p.Packs)*MaxPackBytes {
			r.Fail("page %d: %d packs from number %d on, %d bytes in %d", i, p.Packs, p.First, p.Bytes, p.Length)
			return
		}
		next = uint64(p.First) + uint64(p.Packs)
		packs, bytes = packs+uint64(p.Packs), bytes+p.Bytes
	}
	if packs != uint64(h.Packs) || bytes != h.Bytes || packs > math.MaxUint32 || uint64(h.Next) < next {
		r.Fail("its pages have %d packs of %d bytes up to number %d, its head says %d of %d up to %d", packs, bytes, next, h.Packs, h.Bytes, h.Next)
	}
}

// CheckPage checks a page against its reference, and returns its packs.
func (p *PageRef) CheckPage(b []byte) ([]PackEntry, error) {
	r := NewReader("page", "", nil)
	if len(b) != int(p.Length) || SumOf(b) != p.Name.Sum {
		r.Fail("its %d bytes are not those that its name promises", len(b))
		return nil, r.Err()
	}
	packs, err := DecodePage(b)
	if err != nil {
		return nil, err
	}
	bytes := uint64(0)
	for i := range packs {
		bytes += uint64(packs[i].Bytes)
	}
	if len(packs) != int(p.Packs) || packs[0].Number != p.First || bytes != p.Bytes {
		r.Fail("it has %d packs from number %d on, of %d bytes; the head says %d, %d, %d", len(packs), packs[0].Number, bytes, p.Packs, p.First, p.Bytes)
		return nil, r.Err()
	}
	return packs, nil
}

// RefOf returns the reference of an encoded page of packs.
func RefOf(attempt ID, page []byte, packs []PackEntry) PageRef {
	p := PageRef{Name: Name{Page, attempt, SumOf(page)}, First: packs[0].Number, Packs: uint16(len(packs)), Length: uint32(len(page))}
	for i := range packs {
		p.Bytes += uint64(packs[i].Bytes)
	}
	return p
}
