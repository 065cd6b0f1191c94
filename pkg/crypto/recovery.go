package crypto

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
)

// A recovery slot holds public key‖encapsulation. Its KEK is the secret that HPKE (RFC 9180,
// export-only) exports with the context "DCv2 kek" and the info "DCv2 recovery"‖s‖UUID. The slot
// keeps the public key, so that a new epoch can be wrapped without the owner's secret half. The
// header's MAC authenticates it.
const (
	recoveryInfo   = "DCv2 recovery"
	recoveryExport = "DCv2 kek"
)

// recoveryKEM returns the hybrid KEM of a suite, and the lengths of its public key and
// encapsulation. In both suites, the private key is a seed of 32 bytes.
func recoveryKEM(s Suite) (kem hpke.KEM, public, enc int) {
	if s == SuiteXAES256GCM {
		return hpke.MLKEM768P256(), 1184 + 65, 1088 + 65
	}
	return hpke.MLKEM768X25519(), 1184 + 32, 1088 + 32
}

func recoveryContext(s Suite, id UUID) []byte {
	return append(append([]byte(recoveryInfo), byte(s)), id[:]...)
}

// RecoveryRecipient is the public half of a recovery key. It creates slots of type SlotRecovery,
// which only the secret half opens.
type RecoveryRecipient struct {
	suite Suite
	key   hpke.PublicKey
}

// RecoverySecret is the secret half of a recovery key, a Credential.
type RecoverySecret struct {
	redacted
	suite Suite
	seed  *Key
}

// GenerateRecovery returns a new recovery key for volumes of that suite.
func GenerateRecovery(s Suite) (*RecoverySecret, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	seed, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	return &RecoverySecret{suite: s, seed: seed}, nil
}

// private expands the seed. The standard library's expanded key cannot be overwritten. This is
// acceptable because recovery runs in a short-lived command.
func (r *RecoverySecret) private() (hpke.PrivateKey, error) {
	if r.seed.Bytes() == nil {
		return nil, ErrErased
	}
	kem, _, _ := recoveryKEM(r.suite)
	return kem.NewPrivateKey(r.seed.Bytes())
}

// Recipient returns the public half.
func (r *RecoverySecret) Recipient() (*RecoveryRecipient, error) {
	p, err := r.private()
	if err != nil {
		return nil, err
	}
	return &RecoveryRecipient{suite: r.suite, key: p.PublicKey()}, nil
}

// RecoveryCredential returns the secret half as a Credential, like the constructors of the other
// credentials.
func RecoveryCredential(r *RecoverySecret) Credential { return r }

// SlotType returns SlotRecovery.
func (r *RecoverySecret) SlotType() uint8 { return SlotRecovery }

// Erase overwrites the secret.
func (r *RecoverySecret) Erase() { r.seed.Erase() }

func (r *RecoverySecret) kek(s Suite, id UUID, params []byte) (*Key, error) {
	_, public, enc := recoveryKEM(s)
	if len(params) != public+enc {
		return nil, errSlot
	}
	if s != r.suite {
		return nil, fmt.Errorf("%w: the recovery key is for volumes of suite %v", ErrWrongKey, r.suite)
	}
	p, err := r.private()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p.PublicKey().Bytes(), params[:public]) {
		return nil, ErrWrongKey
	}
	ctx, err := hpke.NewRecipient(params[public:], p, hpke.HKDFSHA256(), hpke.ExportOnly(), recoveryContext(s, id))
	if err != nil {
		return nil, ErrAuthentication
	}
	b, err := ctx.Export(recoveryExport, KeyBytes)
	if err != nil {
		return nil, err
	}
	return NewKey(b)
}

// SlotType returns SlotRecovery.
func (r *RecoveryRecipient) SlotType() uint8 { return SlotRecovery }

// Suite returns the suite of the volumes that the key is for.
func (r *RecoveryRecipient) Suite() Suite { return r.suite }

// Equal reports whether both are the same public key.
func (r *RecoveryRecipient) Equal(o *RecoveryRecipient) bool {
	return r.suite == o.suite && bytes.Equal(r.key.Bytes(), o.key.Bytes())
}

func (r *RecoveryRecipient) newKEK(s Suite, id UUID) ([]byte, *Key, error) {
	if s != r.suite {
		return nil, nil, fmt.Errorf("the recovery key is for volumes of suite %v, not %v", r.suite, s)
	}
	enc, ctx, err := hpke.NewSender(r.key, hpke.HKDFSHA256(), hpke.ExportOnly(), recoveryContext(s, id))
	if err != nil {
		return nil, nil, fmt.Errorf("encapsulate for the recovery key: %w", err)
	}
	b, err := ctx.Export(recoveryExport, KeyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("encapsulate for the recovery key: %w", err)
	}
	k, err := NewKey(b)
	return append(r.key.Bytes(), enc...), k, err
}

// SlotRecipient returns the public key of a recovery slot, so that the slot can be created again.
// Use it only after the MAC of the header was verified.
func SlotRecipient(s Suite, slot *Slot) (*RecoveryRecipient, error) {
	kem, public, enc := recoveryKEM(s)
	if s.Validate() != nil || slot.Type != SlotRecovery || len(slot.Params) != public+enc {
		return nil, errSlot
	}
	key, err := kem.NewPublicKey(slot.Params[:public])
	if err != nil {
		return nil, errSlot
	}
	return &RecoveryRecipient{suite: s, key: key}, nil
}

// The text of a recovery key is a prefix, followed by base32 (RFC 4648, without padding) of suite
// u8‖key‖the first 7 bytes of SHA-256(prefix‖suite‖key). The secret half has 64 such characters, in
// groups of four. People copy it from paper. Therefore the parser ignores case, hyphens and white
// space, and reads 0, 1 and 8, which base32 does not contain, as O, I and B.
const (
	recipientPrefix = "sealvolpub1"
	secretPrefix    = "SEALVOL-RECOVERY-1"
	checkBytes      = 7
)

var keyText = base32.StdEncoding.WithPadding(base32.NoPadding)

func appendKeyCheck(prefix string, b []byte) []byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write(b)
	sum := h.Sum(nil)
	eraseHeap(h)
	return append(b, sum[:checkBytes]...)
}

var (
	errKeyText  = errors.New("not a recovery key")
	errKeyCheck = errors.New("the recovery key has a typing error: its checksum does not match")
)

// decodeKeyText returns the suite and key of a text. The caller erases the key and the text.
func decodeKeyText(prefix string, text []byte) (Suite, []byte, error) {
	folded := foldKeyText(make([]byte, 0, len(text)), text)
	defer clear(folded[:cap(folded)])
	rest, ok := bytes.CutPrefix(folded, foldKeyText(nil, []byte(prefix)))
	switch {
	case ok:
	case prefix == recipientPrefix && isRecoverySecret(text):
		return 0, nil, errors.New("this is the secret half of the recovery key, and the public half is needed")
	case prefix == secretPrefix && bytes.HasPrefix(folded, foldKeyText(nil, []byte(recipientPrefix))):
		return 0, nil, errors.New("this is the public half of the recovery key, and the secret half is needed")
	default:
		return 0, nil, fmt.Errorf("%w: it does not begin with %s", errKeyText, prefix)
	}
	b := make([]byte, keyText.DecodedLen(len(rest)))
	n, err := keyText.Decode(b, rest)
	if err != nil || n < 1+KeyBytes+checkBytes {
		clear(b)
		return 0, nil, errKeyCheck
	}
	body := b[: n-checkBytes : n-checkBytes]
	want := appendKeyCheck(prefix, append(make([]byte, 0, n), body...))
	defer clear(want)
	again := make([]byte, keyText.EncodedLen(n))
	defer clear(again)
	keyText.Encode(again, b[:n])
	if !equal(want, b[:n]) || !bytes.Equal(again, rest) {
		clear(b)
		return 0, nil, errKeyCheck
	}
	if s := Suite(body[0]); s.Validate() != nil {
		clear(b)
		return 0, nil, fmt.Errorf("the recovery key is for a newer version: %w %d", ErrUnsupportedSuite, uint8(s))
	}
	return Suite(body[0]), body[1:], nil
}

// isRecoverySecret reports whether a text is meant to be the secret half of a recovery key.
func isRecoverySecret(text []byte) bool {
	folded := foldKeyText(make([]byte, 0, len(text)), text)
	defer clear(folded[:cap(folded)])
	return bytes.HasPrefix(folded, foldKeyText(nil, []byte(secretPrefix)))
}

// foldKeyText appends text in the form that base32 accepts.
func foldKeyText(dst, text []byte) []byte {
	for _, c := range text {
		switch {
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		case c == '0':
			c = 'O'
		case c == '1':
			c = 'I'
		case c == '8':
			c = 'B'
		case c == '-' || c == ' ' || c == '\t' || c == '\r' || c == '\n':
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// String returns the text of the public half: one word of about 1,970 characters.
func (r *RecoveryRecipient) String() string {
	b := appendKeyCheck(recipientPrefix, append([]byte{byte(r.suite)}, r.key.Bytes()...))
	return recipientPrefix + string(bytes.ToLower([]byte(keyText.EncodeToString(b))))
}

// ParseRecoveryRecipient parses the text of a public half.
func ParseRecoveryRecipient(text string) (*RecoveryRecipient, error) {
	if len(text) > 4096 {
		return nil, errKeyText
	}
	s, b, err := decodeKeyText(recipientPrefix, []byte(text))
	if err != nil {
		return nil, err
	}
	kem, public, _ := recoveryKEM(s)
	if len(b) != public {
		return nil, errKeyText
	}
	key, err := kem.NewPublicKey(b)
	if err != nil {
		return nil, errKeyText
	}
	return &RecoveryRecipient{suite: s, key: key}, nil
}

// Text returns the text of the secret half, without a newline. The caller overwrites it.
func (r *RecoverySecret) Text() ([]byte, error) {
	if r.seed.Bytes() == nil {
		return nil, ErrErased
	}
	b := append(append(make([]byte, 0, 64), byte(r.suite)), r.seed.Bytes()...)
	b = appendKeyCheck(secretPrefix, b)
	defer clear(b)
	digits := make([]byte, keyText.EncodedLen(len(b)))
	defer clear(digits)
	keyText.Encode(digits, b)
	text := append(make([]byte, 0, 128), secretPrefix...)
	for i := 0; i < len(digits); i += 4 {
		text = append(append(text, '-'), digits[i:i+4]...)
	}
	return text, nil
}

// ParseRecoverySecret parses the text of a secret half, and overwrites text with zeros. Errors
// never contain it.
func ParseRecoverySecret(text []byte) (*RecoverySecret, error) {
	defer clear(text)
	if len(text) > 4096 {
		return nil, errKeyText
	}
	s, b, err := decodeKeyText(secretPrefix, text)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if len(b) != KeyBytes {
		return nil, errKeyText
	}
	seed, err := NewKey(b)
	if err != nil {
		return nil, err
	}
	return &RecoverySecret{suite: s, seed: seed}, nil
}
