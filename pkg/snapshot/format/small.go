package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// VoidCard stands where a card would: the snapshot can never be committed, and
// nothing may rely on it. It is never removed.
const VoidCard = "VOIDVOID"

// What a verdict says, whoever of undelete and pruner puts it first.
const (
	VerdictKeep = "KEEP" // the snapshot was undeleted: this tomb means nothing
	VerdictVoid = "VOID" // it is too late for that
)

// DecodeVerdict reads a verdict, and reports whether it is VerdictVoid.
func DecodeVerdict(b []byte) (void bool, err error) {
	switch string(b) {
	case VerdictKeep:
		return false, nil
	case VerdictVoid:
		return true, nil
	}
	r := NewReader("verdict", "", nil)
	r.Fail("%.20q", b)
	return false, r.Err()
}

const (
	cardMagic = "SEALVCD1"
	// MaxCardBytes bounds a card.
	MaxCardBytes = 64 << 10
)

// IsVoid reports whether a card's bytes are VoidCard.
func IsVoid(card []byte) bool { return string(card) == VoidCard }

// EncodeCard returns the object of a sealed card.
func EncodeCard(suite uint8, sealed []byte) []byte {
	return append(append([]byte(cardMagic), suite), sealed...)
}

// DecodeCard reads what EncodeCard wrote. A VoidCard is none.
func DecodeCard(b []byte) (suite uint8, sealed []byte, err error) {
	r := NewReader("card", cardMagic, b)
	suite = r.U8()
	sealed = r.Rest()
	if suite == 0 || len(b) > MaxCardBytes || len(sealed) < 40 { // nonce and tag
		r.Fail("suite %d, %d bytes", suite, len(b))
	}
	if err := r.End(); err != nil {
		return 0, nil, err
	}
	return suite, sealed, nil
}

// Tomb says that a snapshot was forgotten: "SEALVTB1" ‖ when i64 ‖ who.
type Tomb struct {
	When int64  // ns since 1970, by the clock of who did it; for people
	Who  string // a text, u16 its length
}

const (
	tombMagic = "SEALVTB1"
	maxWho    = 256
	// MaxTombBytes bounds a tomb.
	MaxTombBytes = 8 + 8 + 2 + maxWho
)

// Encode returns the object.
func (t *Tomb) Encode() ([]byte, error) {
	return AppendText(le64([]byte(tombMagic), uint64(t.When)), t.Who), CheckText("tomb", t.Who, maxWho)
}

// DecodeTomb reads what Encode wrote.
func DecodeTomb(b []byte) (t Tomb, err error) {
	r := NewReader("tomb", tombMagic, b)
	t = Tomb{When: int64(r.U64()), Who: r.Text(maxWho)}
	if err := r.End(); err != nil {
		return Tomb{}, err
	}
	return t, nil
}

// Lease protects what a running process relies on, until it expires: TTL after
// the store's time of the object. Its key names the snapshot that is written or
// read.
//
//	"SEALVLS1" ‖ use u8 ‖ 00 ‖ bases u16 ‖ attempts u16 ‖ 00×2 ‖ TTL u32, seconds ‖
//	bases × S[16] ‖ attempts × attempt[16] ‖ who ‖ SHA-256 of all before
//
// The hash is there because nothing else would notice a base that was read as
// another one.
type Lease struct {
	Use Use
	TTL time.Duration // whole seconds
	// Bases are snapshots that must stay: parents, or what is read.
	Bases []ID
	// Attempts are those whose packs and pages must stay, listed or not.
	Attempts []ID
	Who      string
}

// Use is what a lease is for.
type Use uint8

// The uses.
const (
	Writing Use = 1
	Reading Use = 2
)

const (
	leaseMagic = "SEALVLS1"
	maxLeased  = 1024
	// MaxTTL is the longest that a lease protects anything without being renewed.
	MaxTTL = 7 * 24 * time.Hour
	// MaxLeaseBytes bounds a lease.
	MaxLeaseBytes = 8 + 12 + 2*16*maxLeased + 2 + maxWho + 32
)

// Encode returns the object.
func (l *Lease) Encode() ([]byte, error) {
	b := append([]byte(leaseMagic), byte(l.Use), 0)
	b = le16(le16(le16(b, uint16(len(l.Bases))), uint16(len(l.Attempts))), 0)
	b = le32(b, uint32(l.TTL/time.Second))
	for _, id := range slices.Concat(l.Bases, l.Attempts) {
		b = append(b, id[:]...)
	}
	b = AppendText(b, l.Who)
	sum := SumOf(b)
	b = append(b, sum[:]...)
	got, err := DecodeLease(b)
	if err == nil && (len(got.Bases) != len(l.Bases) || got.TTL != l.TTL) {
		err = fmt.Errorf("%w lease: for %v, of %d snapshots", ErrFormat, l.TTL, len(l.Bases))
	}
	return b, err
}

// DecodeLease reads what Encode wrote.
func DecodeLease(b []byte) (l Lease, err error) {
	r := NewReader("lease", leaseMagic, b)
	l.Use = Use(r.U8())
	r.Zeros(1)
	bases, attempts := int(r.U16()), int(r.U16())
	r.Zeros(2)
	l.TTL = time.Duration(r.U32()) * time.Second
	if l.Use != Writing && l.Use != Reading || l.TTL <= 0 || l.TTL > MaxTTL || bases > maxLeased || attempts > maxLeased {
		r.Fail("use %d, for %v, of %d snapshots and %d attempts", l.Use, l.TTL, bases, attempts)
	}
	for range r.Count(bases, maxLeased, 16) {
		l.Bases = append(l.Bases, r.ID())
	}
	for range r.Count(attempts, maxLeased, 16) {
		l.Attempts = append(l.Attempts, r.ID())
	}
	l.Who = r.Text(maxWho)
	signed := len(b) - r.Left()
	if sum := r.Sum(); r.Err() == nil && sum != SumOf(b[:signed]) {
		r.Fail("its hash is not what its end says")
	}
	if err := r.End(); err != nil {
		return Lease{}, err
	}
	return l, nil
}

const (
	gcMagic = "SEALVGC1"
	// MaxCondemned is the most names of one record; more are several records.
	MaxCondemned = 1 << 16
	// MaxRecordBytes bounds a record.
	MaxRecordBytes = 8 + 8 + MaxCondemned*(1+16+32)
)

// EncodeCondemned encodes a record of condemned objects, which ascend:
// "SEALVGC1" ‖ count u32 ‖ 00×4 ‖ count × {class u8 ‖ attempt[16] ‖ sha256[32]}.
func EncodeCondemned(names []Name) ([]byte, error) {
	b := le32(le32([]byte(gcMagic), uint32(len(names))), 0)
	for i := range names {
		n := &names[i]
		b = append(append(append(b, byte(n.Class)), n.Attempt[:]...), n.Sum[:]...)
	}
	_, err := DecodeCondemned(b)
	return b, err
}

// DecodeCondemned reads what EncodeCondemned wrote.
func DecodeCondemned(b []byte) ([]Name, error) {
	r := NewReader("record of condemned objects", gcMagic, b)
	n := r.U32()
	r.Zeros(4)
	if n == 0 || n > MaxCondemned {
		r.Fail("%d names", n)
	}
	names := make([]Name, r.Count(int(n), MaxCondemned, 49))
	for i := range names {
		names[i] = Name{Class(r.U8()), r.ID(), r.Sum()}
		if c := names[i].Class; c != Pack && c != Page || i > 0 && names[i-1].Compare(names[i]) >= 0 {
			r.Fail("name %d is of class %d, or out of order", i, c)
			break
		}
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return names, nil
}

// Store describes a store, in store.json.
type Store struct {
	Format      int    `json:"format"`
	ID          string `json:"store"`
	Consistency string `json:"consistency"` // Strong or Eventual
	ChunkBytes  int    `json:"chunkBytes"`
	PackBytes   int    `json:"packBytes"`
}

// What a store's owner says of it.
const (
	Strong   = "strong"   // whoever reads after a write sees it
	Eventual = "eventual" // perhaps later
	// MaxStoreBytes bounds store.json.
	MaxStoreBytes = 1 << 10
)

// Encode returns the object.
func (s *Store) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err == nil {
		_, err = DecodeStore(append(b, '\n'))
	}
	return append(b, '\n'), err
}

// ErrNewer says that a newer version of the program wrote something.
var ErrNewer = errors.New("it is of a newer format than this version knows")

// DecodeStore reads what Encode wrote. ErrNewer.
func DecodeStore(b []byte) (s Store, err error) {
	r := NewReader("store.json", "", nil)
	if len(b) > MaxStoreBytes {
		r.Fail("%d bytes", len(b))
		return Store{}, r.Err()
	}
	var any struct { // a newer format may have other fields
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &any); err == nil && any.Format > 1 {
		return Store{}, fmt.Errorf("%w: format %d", ErrNewer, any.Format)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		r.Fail("%v", err)
		return Store{}, r.Err()
	}
	_, err = ParseID(s.ID)
	again, merr := json.Marshal(s)
	switch {
	case s.Format != 1:
		r.Fail("format %d", s.Format)
	case err != nil || merr != nil || string(again)+"\n" != string(b):
		r.Fail("it is not as it was written")
	case s.Consistency != Strong && s.Consistency != Eventual:
		r.Fail("consistency %.20q", s.Consistency)
	case s.ChunkBytes < 16<<10 || s.ChunkBytes > 4<<20 || s.ChunkBytes&(s.ChunkBytes-1) != 0 || s.PackBytes < 1<<20 || s.PackBytes > MaxPackBytes:
		r.Fail("chunks of %d bytes in packs of %d", s.ChunkBytes, s.PackBytes)
	}
	if r.Err() != nil {
		return Store{}, r.Err()
	}
	return s, nil
}
