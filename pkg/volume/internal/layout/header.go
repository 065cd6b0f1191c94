package layout

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Places of the header on the device, in bytes.
const (
	HeaderBytes   = 64 << 10
	HeaderOffsetA = 0
	HeaderOffsetB = 1 << 20
)

// FormatVersion is the version that this package reads and writes.
const FormatVersion = 2

// Feature bits that this version knows. A volume with an unknown incompat bit
// is refused; one with an unknown ro_compat bit must not be written; unknown
// compat bits are kept.
const (
	KnownIncompat = FeatureSnapshots | FeatureShares | FeatureReserved | FeatureFlags | FeatureRestoring
	KnownROCompat = uint64(0)
)

// Bits of the incompat word.
const (
	FeatureSnapshots uint64 = 1 << 0 // tree 3 is used
	FeatureShares    uint64 = 1 << 1 // files share blocks: reflinks
	FeatureReserved  uint64 = 1 << 2 // files have reserved ranges
	FeatureFlags     uint64 = 1 << 3 // inodes have flags that users set
	// FeatureRestoring is the only bit that is cleared: until then, the volume is incomplete.
	FeatureRestoring uint64 = 1 << 4
)

// Offsets within the header area; see docs/format.md, "Header".
const (
	headerMagic = "\x89SEALVOL" // the first byte is not text, as in PNG

	offVersion   = 8
	offBlockSize = 12
	offCompat    = 16
	offROCompat  = 24
	offIncompat  = 32
	offID        = 40
	offSequence  = 56
	offSuite     = 64
	offFixedEnd  = 65
	offSlots     = 4096
	offSlotsEnd  = offSlots + crypto.Slots*slotBytes
	offMAC       = HeaderBytes - 64
	offChecksum  = HeaderBytes - 32
	slotBytes    = 3072
	slotParams   = 8
	slotSealed   = slotParams + crypto.MaxSlotParams
	slotSealedSz = slotBytes - slotSealed
)

// Both must hold for slots to fit: a negative constant does not compile.
const (
	_ uint = slotSealedSz - crypto.MaxSlotSealed
	_ uint = offMAC - offSlotsEnd
)

var (
	// ErrNotSealvol reports bytes that do not begin with the magic.
	ErrNotSealvol = errors.New("not a Sealvol volume")
	// ErrNewerFormat reports a volume that needs a newer version.
	ErrNewerFormat = errors.New("the volume needs a newer version of Sealvol")
	// ErrHeaderDamaged reports a header whose checksum does not match, or that is
	// malformed.
	ErrHeaderDamaged = errors.New("the volume header is damaged")
	// ErrHeaderForged reports an intact header that was not written by a holder of the volume's
	// keys.
	ErrHeaderForged = errors.New("the volume header was tampered with")
	// ErrHeaderStale reports a copy of the header that is older than the other.
	ErrHeaderStale = errors.New("the copy of the volume header is older than the other")
	// ErrShredded reports a header without any key slot: no key opens the volume any more.
	ErrShredded = errors.New("the volume was crypto-shredded: it has no key slot, and no key can open it")
	// ErrHeaderConflict reports two copies of the header that belong to two volumes, both of which
	// the key opens: a format was interrupted.
	ErrHeaderConflict = errors.New("the two copies of the volume header belong to different volumes")
	// ErrRestoring reports a volume whose content is incomplete, because its restore has not ended.
	ErrRestoring = errors.New("the volume is being restored, and nothing in it can be used before that is complete")
)

// Header is the part of a volume that is readable without a key. Its block
// size is always crypto.SectorBytes.
type Header struct {
	Compat, ROCompat, Incompat uint64 // feature words

	ID       crypto.UUID
	Suite    crypto.Suite
	Sequence uint64 // increases by one with each write of the header, from 1
	Slots    [crypto.Slots]crypto.Slot

	mac [32]byte // as decoded
}

// Count is the number of key slots in use.
func (h *Header) Count() (n int) {
	for i := range h.Slots {
		if h.Slots[i].Type != crypto.SlotEmpty {
			n++
		}
	}
	return n
}

// Shredded reports whether the header has no key slot: the last one was removed, or all were
// shredded.
func (h *Header) Shredded() bool { return h.Count() == 0 }

// Restoring reports whether the content of the volume is incomplete.
func (h *Header) Restoring() bool { return h.Incompat&FeatureRestoring != 0 }

// EncodeShredded returns the HeaderBytes of a header without key slots. Its MAC is zeros:
// there are no keys to check it with.
func EncodeShredded(h *Header) ([]byte, error) {
	if !h.Shredded() {
		return nil, errors.New("encode header: it has key slots")
	}
	b, err := h.encode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b[:offChecksum])
	copy(b[offChecksum:], sum[:])
	return b, nil
}

// EncodeHeader returns the HeaderBytes of both copies, under a MAC by the
// volume's newest keys.
func EncodeHeader(h *Header, newest *crypto.EpochKeys) ([]byte, error) {
	b, err := h.encode()
	if err != nil {
		return nil, err
	}
	if newest.ID() != h.ID || newest.Suite() != h.Suite {
		return nil, errors.New("encode header: the keys belong to another volume")
	}
	if newest.Commitment() == ([32]byte{}) {
		return nil, fmt.Errorf("encode header: %w", crypto.ErrErased)
	}
	mac := newest.HeaderMAC(b[:offMAC])
	copy(b[offMAC:], mac[:])
	sum := sha256.Sum256(b[:offChecksum])
	copy(b[offChecksum:], sum[:])
	return b, nil
}

// encode returns the header without MAC and checksum.
func (h *Header) encode() ([]byte, error) {
	if err := h.Suite.Validate(); err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	b := make([]byte, HeaderBytes)
	copy(b, headerMagic)
	binary.LittleEndian.PutUint32(b[offVersion:], FormatVersion)
	binary.LittleEndian.PutUint32(b[offBlockSize:], crypto.SectorBytes)
	binary.LittleEndian.PutUint64(b[offCompat:], h.Compat)
	binary.LittleEndian.PutUint64(b[offROCompat:], h.ROCompat)
	binary.LittleEndian.PutUint64(b[offIncompat:], h.Incompat)
	copy(b[offID:], h.ID[:])
	binary.LittleEndian.PutUint64(b[offSequence:], h.Sequence)
	b[offSuite] = byte(h.Suite)
	for i := range h.Slots {
		s := &h.Slots[i]
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("encode header: slot %d: %w", i, err)
		}
		p := b[offSlots+i*slotBytes:][:slotBytes]
		p[0] = s.Type
		binary.LittleEndian.PutUint16(p[2:], uint16(len(s.Params)))
		binary.LittleEndian.PutUint16(p[4:], uint16(len(s.Sealed)))
		copy(p[slotParams:], s.Params)
		copy(p[slotSealed:], s.Sealed)
	}
	return b, nil
}

// DecodeHeader reads one copy of the header without a key: nothing in it is authenticated before
// Verify. What it accepts encodes to the same bytes.
func DecodeHeader(b []byte) (*Header, error) {
	if len(b) < len(headerMagic) || string(b[:len(headerMagic)]) != headerMagic {
		return nil, ErrNotSealvol
	}
	if len(b) != HeaderBytes {
		return nil, fmt.Errorf("%w: %d of %d bytes", ErrHeaderDamaged, len(b), HeaderBytes)
	}
	// Magic, version, feature words and checksum keep their places in every version, so that a
	// newer volume is not mistaken for a damaged one.
	if sum := sha256.Sum256(b[:offChecksum]); string(sum[:]) != string(b[offChecksum:]) {
		return nil, fmt.Errorf("%w: its checksum does not match", ErrHeaderDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[offVersion:]); v > FormatVersion {
		return nil, fmt.Errorf("%w: its format version is %d, this version of Sealvol reads %d", ErrNewerFormat, v, FormatVersion)
	} else if v < FormatVersion {
		return nil, fmt.Errorf("%w: invalid format version %d", ErrHeaderDamaged, v)
	}
	h := &Header{
		Compat:   binary.LittleEndian.Uint64(b[offCompat:]),
		ROCompat: binary.LittleEndian.Uint64(b[offROCompat:]),
		Incompat: binary.LittleEndian.Uint64(b[offIncompat:]),
		ID:       crypto.UUID(b[offID:]),
		Sequence: binary.LittleEndian.Uint64(b[offSequence:]),
		Suite:    crypto.Suite(b[offSuite]),
		mac:      [32]byte(b[offMAC:]),
	}
	if unknown := h.Incompat &^ KnownIncompat; unknown != 0 {
		return nil, fmt.Errorf("%w: unknown incompat feature %s", ErrNewerFormat, bitList(unknown))
	}
	if err := h.Suite.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHeaderDamaged, err)
	}
	if n := binary.LittleEndian.Uint32(b[offBlockSize:]); n != crypto.SectorBytes {
		return nil, fmt.Errorf("%w: invalid block size %d", ErrHeaderDamaged, n)
	}
	if !zeros(b[offFixedEnd:offSlots]) || !zeros(b[offSlotsEnd:offMAC]) {
		return nil, fmt.Errorf("%w: reserved bytes are not zero", ErrHeaderDamaged)
	}
	for i := range h.Slots {
		if err := decodeSlot(&h.Slots[i], b[offSlots+i*slotBytes:][:slotBytes]); err != nil {
			return nil, fmt.Errorf("%w: slot %d: %w", ErrHeaderDamaged, i, err)
		}
	}
	return h, nil
}

func decodeSlot(s *crypto.Slot, p []byte) error {
	params, sealed := int(binary.LittleEndian.Uint16(p[2:])), int(binary.LittleEndian.Uint16(p[4:]))
	if params > crypto.MaxSlotParams || sealed > crypto.MaxSlotSealed {
		return errors.New("a length is out of bounds")
	}
	if p[1] != 0 || !zeros(p[6:slotParams]) || !zeros(p[slotParams+params:slotSealed]) || !zeros(p[slotSealed+sealed:]) {
		return errors.New("reserved bytes are not zero")
	}
	s.Type = p[0]
	if params > 0 { // empty and nil are the same on the device
		s.Params = append([]byte(nil), p[slotParams:slotParams+params]...)
	}
	if sealed > 0 {
		s.Sealed = append([]byte(nil), p[slotSealed:slotSealed+sealed]...)
	}
	return s.Validate()
}

// CheckWritable returns ErrNewerFormat if the volume has a feature that this
// version may read, but not write.
func (h *Header) CheckWritable() error {
	if unknown := h.ROCompat &^ KnownROCompat; unknown != 0 {
		return fmt.Errorf("%w to be written: unknown ro_compat feature %s", ErrNewerFormat, bitList(unknown))
	}
	return nil
}

// Unlock opens the first slot that cred opens, of those of its type. It returns crypto.ErrWrongKey
// if there is none. The caller verifies the header with the keys of the newest (last) epoch, and
// erases the VMKs.
func (h *Header) Unlock(cred crypto.Credential) (epochs []crypto.EpochKey, slot int, err error) {
	tried, failed := false, error(nil)
	for i := range h.Slots {
		if h.Slots[i].Type != cred.SlotType() {
			continue
		}
		epochs, err := crypto.OpenSlot(h.Suite, h.ID, uint8(i), &h.Slots[i], cred)
		if err == nil {
			return epochs, i, nil
		}
		tried = true
		// Report a damaged slot rather than a slot of another key.
		if failed == nil && !errors.Is(err, crypto.ErrWrongKey) {
			failed = fmt.Errorf("key slot %d: %w", i, err)
		}
	}
	switch {
	case failed != nil:
		return nil, -1, failed
	case !tried:
		return nil, -1, fmt.Errorf("%w: the volume has no key slot of type %s", crypto.ErrWrongKey, crypto.SlotTypeName(cred.SlotType()))
	}
	return nil, -1, fmt.Errorf("%w: it opens no key slot of the volume", crypto.ErrWrongKey)
}

// Verify checks that the header, as decoded, was written by a holder of the
// volume's newest keys.
func (h *Header) Verify(newest *crypto.EpochKeys) error {
	b, err := h.encode()
	if err != nil {
		return err
	}
	if newest.Commitment() == ([32]byte{}) {
		return crypto.ErrErased
	}
	mac := newest.HeaderMAC(b[:offMAC])
	if newest.ID() != h.ID || subtle.ConstantTimeCompare(mac[:], h.mac[:]) != 1 {
		return ErrHeaderForged
	}
	return nil
}

// Headers are both copies of the header, as read from the device.
type Headers struct {
	Copy [2]*Header // nil where Err is not
	Err  [2]error
	same bool
}

// DecodeHeaders decodes the copies that were read from HeaderOffsetA and
// HeaderOffsetB.
func DecodeHeaders(a, b []byte) *Headers {
	h := &Headers{same: string(a) == string(b)}
	h.Copy[0], h.Err[0] = DecodeHeader(a)
	h.Copy[1], h.Err[1] = DecodeHeader(b)
	return h
}

// Best returns the copy with the highest sequence number, unverified: for what may be shown without
// a key. If neither copy decodes, the error is that of copy A, or that of copy B if it is more
// specific. A copy of a newer format is never ignored, because the other one may be the rest of an
// interrupted upgrade.
func (h *Headers) Best() (*Header, int, error) {
	a, b := h.Copy[0], h.Copy[1]
	for _, err := range h.Err {
		if errors.Is(err, ErrNewerFormat) {
			return nil, -1, err
		}
	}
	switch {
	case a == nil && b == nil:
		if errors.Is(h.Err[0], ErrNotSealvol) {
			return nil, -1, h.Err[1]
		}
		return nil, -1, h.Err[0]
	case a == nil || b != nil && b.Sequence > a.Sequence:
		return b, 1, nil
	}
	return a, 0, nil
}

// Unlocked is a header that was opened and verified.
type Unlocked struct {
	*Header
	Epochs []crypto.EpochKey // ascending; the caller erases the VMKs
	Slot   int               // the slot that opened
	Copy   int               // the copy it came from: 0 is A, 1 is B
	// Other is the reason why the other copy must be rewritten: damaged, forged or stale; nil if it
	// is the same.
	Other error
	// Second is the other copy, unverified; nil if it does not decode.
	Second *Header
	// Ahead means that the other copy has the next sequence number and no slot that the key opens:
	// a change of keys was interrupted. That number must not be used for another header.
	Ahead bool
}

// Unlock returns the copy with the highest sequence number that cred opens and that verifies. It
// refuses a volume that is being restored: ErrRestoring.
func (h *Headers) Unlock(cred crypto.Credential) (*Unlocked, error) {
	u, err := h.UnlockAny(cred)
	if err == nil && u.Restoring() {
		crypto.EraseEpochs(u.Epochs)
		return nil, ErrRestoring
	}
	return u, err
}

// UnlockAny is Unlock for those who know what to do with a volume that is being restored.
func (h *Headers) UnlockAny(cred crypto.Credential) (*Unlocked, error) {
	_, first, err := h.Best()
	if err != nil {
		return nil, err
	}
	for _, c := range h.Copy {
		// Even if the other copy is intact: shredding was interrupted, and must be completed. An
		// attacker who can write one such copy can write both, so this refuses nothing more.
		if c != nil && c.Shredded() {
			return nil, ErrShredded
		}
	}
	u, err := h.unlockBest(first, cred)
	if err == nil {
		u.Second = h.Copy[1-u.Copy]
	}
	return u, err
}

// unlockBest tries the copy with the highest sequence number first.
func (h *Headers) unlockBest(first int, cred crypto.Credential) (*Unlocked, error) {
	other := 1 - first
	u, err := h.unlockCopy(first, cred)
	if h.same || h.Copy[other] == nil {
		if err == nil {
			u.Other = h.Err[other]
		}
		return u, err
	}
	if err == nil && h.Copy[other].ID == u.ID {
		u.Other = ErrHeaderStale
		if h.Copy[other].Sequence == u.Sequence { // our writer never writes two different headers with one number
			u.Other = ErrHeaderForged
		}
		return u, nil
	}
	v, otherErr := h.unlockCopy(other, cred)
	switch {
	case err == nil && otherErr == nil:
		crypto.EraseEpochs(u.Epochs)
		crypto.EraseEpochs(v.Epochs)
		return nil, ErrHeaderConflict
	case err == nil:
		u.Other = otherErr
		return u, nil
	case otherErr == nil:
		v.Other = err
		v.Ahead = h.Copy[first].ID == v.ID && h.Copy[first].Sequence == v.Sequence+1
		return v, nil
	}
	return nil, err
}

func (h *Headers) unlockCopy(i int, cred crypto.Credential) (*Unlocked, error) {
	c := h.Copy[i]
	epochs, slot, err := c.Unlock(cred)
	if err != nil {
		return nil, err
	}
	last := epochs[len(epochs)-1]
	keys, err := crypto.DeriveEpochKeys(c.Suite, c.ID, last.Epoch, last.VMK)
	if err == nil {
		err = c.Verify(keys)
		keys.Erase()
	}
	if err != nil {
		crypto.EraseEpochs(epochs)
		return nil, err
	}
	return &Unlocked{Header: c, Epochs: epochs, Slot: slot, Copy: i}, nil
}

// bitList describes the bits of a feature word: "bits 0, 7".
func bitList(w uint64) string {
	var s []string
	for ; w != 0; w &= w - 1 {
		s = append(s, fmt.Sprint(bits.TrailingZeros64(w)))
	}
	if len(s) == 1 {
		return "bit " + s[0]
	}
	return "bits " + strings.Join(s, ", ")
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
