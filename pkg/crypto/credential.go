package crypto

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/crypto/argon2"
)

// secretCredential is a KEK that is used directly: slot type 1, without params.
type secretCredential struct {
	redacted
	key *Key
}

// SecretCredential opens and creates slots of type SlotSecret. It takes ownership of kek: Erase
// also erases kek.
func SecretCredential(kek *Key) interface {
	Credential
	Recipient
} {
	return &secretCredential{key: kek}
}

func (c *secretCredential) SlotType() uint8 { return SlotSecret }
func (c *secretCredential) Erase()          { c.key.Erase() }

func (c *secretCredential) newKEK(Suite, UUID) ([]byte, *Key, error) {
	k, err := c.key.Clone()
	return nil, k, err
}

func (c *secretCredential) kek(_ Suite, _ UUID, params []byte) (*Key, error) {
	if len(params) != 0 {
		return nil, errSlot
	}
	return c.key.Clone()
}

// ParseKeyFile parses the contents of a key file: 32 raw bytes, or 64 hexadecimal digits with or
// without a newline. It overwrites b with zeros. Errors never contain b.
func ParseKeyFile(b []byte) (*Key, error) {
	defer clear(b)
	if len(b) == KeyBytes {
		return NewKey(b)
	}
	digits := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if isRecoverySecret(digits) {
		return nil, errors.New("this is the secret half of a recovery key, not a key of 32 bytes: give it as a recovery key")
	}
	if len(digits) != 2*KeyBytes {
		return nil, fmt.Errorf("the key file must contain 32 raw bytes or 64 hexadecimal digits, but it has %d bytes", len(b))
	}
	k, err := emptyKey()
	if err != nil {
		return nil, err
	}
	if _, err := hex.Decode(k.Bytes(), digits); err != nil {
		k.Erase()
		return nil, errors.New("the key file has 64 characters, but not all are hexadecimal digits")
	}
	return k, nil
}

// MaxPassphraseBytes is the maximum length of a passphrase.
const MaxPassphraseBytes = 1024

// passphraseParams are the params of a passphrase slot, 48 bytes:
// function u8‖00×3‖time u32‖memory u32‖lanes u32‖salt[32].
type passphraseParams struct {
	function uint8  // 1 Argon2id (RFC 9106), 2 PBKDF2-HMAC-SHA-256 (RFC 8018)
	time     uint32 // passes, or iterations
	memory   uint32 // KiB; 0 for PBKDF2
	lanes    uint32 // 0 for PBKDF2
	salt     [32]byte
}

const (
	functionArgon2id = 1
	functionPBKDF2   = 2

	passphraseParamsBytes = 48

	// Limits of the cost of opening a slot. An attacker can change the header without a key.
	// Without limits, a slot could require all memory.
	maxArgon2Time   = 16
	minArgon2Memory = 8 << 10   // KiB
	maxArgon2Memory = 256 << 10 // KiB
	maxArgon2Lanes  = 16
	minPBKDF2Time   = 100_000
	maxPBKDF2Time   = 10_000_000
)

// passphraseCost is the cost of new slots. Argon2id: the second recommended option of RFC 9106
// section 4. PBKDF2: more than the 600,000 iterations that OWASP recommended in 2023.
func passphraseCost(s Suite) passphraseParams {
	if s == SuiteXAES256GCM {
		return passphraseParams{function: functionPBKDF2, time: 1_000_000}
	}
	return passphraseParams{function: functionArgon2id, time: 3, memory: 64 << 10, lanes: 4}
}

func (p *passphraseParams) encode() []byte {
	b := append(make([]byte, 0, passphraseParamsBytes), p.function, 0, 0, 0)
	for _, v := range []uint32{p.time, p.memory, p.lanes} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return append(b, p.salt[:]...)
}

func decodePassphraseParams(s Suite, b []byte) (p passphraseParams, err error) {
	if len(b) != passphraseParamsBytes || !zeros(b[1:4]) {
		return p, errSlot
	}
	p = passphraseParams{
		function: b[0],
		time:     binary.LittleEndian.Uint32(b[4:]),
		memory:   binary.LittleEndian.Uint32(b[8:]),
		lanes:    binary.LittleEndian.Uint32(b[12:]),
		salt:     [32]byte(b[16:]),
	}
	ok := false
	switch {
	case s == SuiteXChaCha20Poly1305 && p.function == functionArgon2id:
		ok = p.time >= 1 && p.time <= maxArgon2Time && p.memory >= minArgon2Memory && p.memory <= maxArgon2Memory &&
			p.lanes >= 1 && p.lanes <= maxArgon2Lanes
	case s == SuiteXAES256GCM && p.function == functionPBKDF2:
		ok = p.time >= minPBKDF2Time && p.time <= maxPBKDF2Time && p.memory == 0 && p.lanes == 0
	}
	if !ok {
		return p, fmt.Errorf("%w: passphrase parameters out of bounds", errSlot)
	}
	return p, nil
}

// derive returns the KEK of a passphrase. The working memory of Argon2id is on the heap and is not
// erased; HardenProcess prevents other processes from reading it.
func (p *passphraseParams) derive(passphrase []byte) (*Key, error) {
	var b []byte
	if p.function == functionArgon2id {
		b = argon2.IDKey(passphrase, p.salt[:], p.time, p.memory, uint8(p.lanes), KeyBytes)
	} else {
		var err error
		s := unsafe.String(unsafe.SliceData(passphrase), len(passphrase)) // avoid a copy on the heap
		if b, err = pbkdf2.Key(sha256.New, s, p.salt[:], int(p.time), KeyBytes); err != nil {
			return nil, err
		}
	}
	return NewKey(b)
}

type passphraseCredential struct {
	redacted
	mem  *region
	text secret // in mem; zero after Erase
	cost func(Suite) passphraseParams
}

// PassphraseLine returns the passphrase of a file: the contents without the last newline. lines
// tells whether it has more than one line. Such files are refused for new slots. They still open
// volumes with all lines as the passphrase, because earlier versions created such volumes.
func PassphraseLine(file []byte) (phrase []byte, lines bool) {
	phrase = file
	if rest, ok := bytes.CutSuffix(file, []byte("\n")); ok {
		phrase = bytes.TrimSuffix(rest, []byte("\r"))
	}
	return phrase, bytes.IndexByte(phrase, '\n') >= 0
}

// ErrPassphraseLines is the error for a new key slot if the passphrase has several lines.
var ErrPassphraseLines = errors.New("the passphrase file has more than one line")

// PassphraseCredential opens and creates slots of type SlotPassphrase. The passphrase is used byte
// for byte. It has 1 to MaxPassphraseBytes bytes. b is overwritten with zeros.
func PassphraseCredential(b []byte) (interface {
	Credential
	Recipient
}, error) {
	defer clear(b)
	if len(b) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	if len(b) > MaxPassphraseBytes {
		return nil, fmt.Errorf("the passphrase is longer than %d bytes", MaxPassphraseBytes)
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	c := &passphraseCredential{mem: mem, text: mem.take(len(b)), cost: passphraseCost}
	copy(c.text.bytes(), b)
	return c, nil
}

func (c *passphraseCredential) SlotType() uint8 { return SlotPassphrase }

func (c *passphraseCredential) Erase() {
	c.mem.erase()
	c.text = secret{}
}

func (c *passphraseCredential) newKEK(s Suite, _ UUID) ([]byte, *Key, error) {
	if c.text.bytes() == nil {
		return nil, nil, ErrErased
	}
	p := c.cost(s)
	rand.Read(p.salt[:])
	k, err := p.derive(c.text.bytes())
	return p.encode(), k, err
}

func (c *passphraseCredential) kek(s Suite, _ UUID, params []byte) (*Key, error) {
	if c.text.bytes() == nil {
		return nil, ErrErased
	}
	p, err := decodePassphraseParams(s, params)
	if err != nil {
		return nil, err
	}
	return p.derive(c.text.bytes())
}

// KMS is a key management service. Both calls pass the volume's UUID as encryption context, so that
// a wrapped key cannot be used for another volume.
type KMS interface {
	// Wrap returns the wrapped form of kek, at most MaxSlotParams bytes, which also identify the
	// wrapping key. kek has 32 bytes, and the KMS does not keep it.
	Wrap(ctx context.Context, volume UUID, kek []byte) ([]byte, error)
	// Unwrap returns the 32 bytes of the KEK. The caller overwrites them.
	Unwrap(ctx context.Context, volume UUID, wrapped []byte) ([]byte, error)
}

type kmsCredential struct {
	redacted
	ctx context.Context
	kms KMS
}

// KMSCredential opens and creates slots of type SlotKMS. ctx limits the calls of kms.
func KMSCredential(ctx context.Context, kms KMS) interface {
	Credential
	Recipient
} {
	return &kmsCredential{ctx: ctx, kms: kms}
}

func (c *kmsCredential) SlotType() uint8 { return SlotKMS }
func (c *kmsCredential) Erase()          {}

func (c *kmsCredential) newKEK(_ Suite, id UUID) ([]byte, *Key, error) {
	k, err := GenerateKey()
	if err != nil {
		return nil, nil, err
	}
	params, err := c.kms.Wrap(c.ctx, id, k.Bytes())
	if err == nil && (len(params) == 0 || len(params) > MaxSlotParams) {
		err = fmt.Errorf("the KMS returned %d bytes", len(params))
	}
	if err != nil {
		k.Erase()
		return nil, nil, fmt.Errorf("wrap a key with the KMS: %w", err)
	}
	return params, k, nil
}

func (c *kmsCredential) kek(_ Suite, id UUID, params []byte) (*Key, error) {
	if len(params) == 0 {
		return nil, errSlot
	}
	b, err := c.kms.Unwrap(c.ctx, id, params)
	if err != nil {
		return nil, fmt.Errorf("unwrap a key with the KMS: %w", err)
	}
	k, err := NewKey(b)
	if err != nil {
		return nil, fmt.Errorf("unwrap a key with the KMS: %w", err)
	}
	return k, nil
}
