package crypto

import (
	"errors"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// Lengths of the AEAD of format v1, in bytes.
const (
	DoublecryptNonceBytes = chacha20poly1305.NonceSize
	DoublecryptTagBytes   = chacha20poly1305.Overhead
)

// DoublecryptKey seals the blocks of a format v1 volume with ChaCha20-Poly1305 (RFC 8439) under one
// key. As the format prescribes, there is no associated data, and the key derivation does not
// depend on the volume. Its methods are safe for concurrent use, except for Erase.
type DoublecryptKey struct {
	redacted
	mem *region
	key secret // in mem; zero after Erase
}

// NewDoublecryptKey derives the block key from a master key, and overwrites the master key with
// zeros. A master key should have 32 bytes. The format accepts any length except 0.
func NewDoublecryptKey(master []byte) (*DoublecryptKey, error) {
	defer clear(master)
	if len(master) == 0 {
		return nil, errors.New("the master key is empty")
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	k := &DoublecryptKey{mem: mem, key: mem.take(KeyBytes)}
	prk := mem.take(KeyBytes).bytes()
	defer clear(prk)
	// HKDF-SHA-256 (RFC 5869) with the constants of doublecrypt-core.
	extract(prk, "doublecrypt-v1", nil, master)
	m := newMAC(prk)
	m.Write([]byte("block-encryption"))
	m.Write([]byte{1})
	m.finish(k.key.bytes())
	return k, nil
}

// Seal appends ciphertext and tag to dst. The nonce has 12 bytes and must be unique for this key.
// The format allows only random nonces, which are safe for 2^32 blocks (NIST SP 800-38D section 8.3
// gives this limit for 96 bits).
func (k *DoublecryptKey) Seal(dst, nonce, plaintext []byte) ([]byte, error) {
	if k.key.bytes() == nil {
		return nil, ErrErased
	}
	if len(nonce) != DoublecryptNonceBytes {
		return nil, errBuffer
	}
	a, err := chacha20poly1305.New(k.key.bytes())
	if err != nil {
		return nil, err
	}
	defer eraseHeap(a)
	return a.Seal(dst, nonce, plaintext, nil), nil
}

// Equal compares two keys in constant time. An erased key is equal to no key.
func (k *DoublecryptKey) Equal(other *DoublecryptKey) bool {
	a, b := k.key.bytes(), other.key.bytes()
	return a != nil && b != nil && equal(a, b)
}

// Open appends the plaintext to dst, or returns ErrAuthentication.
func (k *DoublecryptKey) Open(dst, nonce, ciphertext []byte) ([]byte, error) {
	if k.key.bytes() == nil {
		return nil, ErrErased
	}
	if len(nonce) != DoublecryptNonceBytes {
		return nil, ErrAuthentication
	}
	a, err := chacha20poly1305.New(k.key.bytes())
	if err != nil {
		return nil, err
	}
	defer eraseHeap(a)
	out, err := a.Open(dst, nonce, ciphertext, nil)
	if err != nil {
		return nil, ErrAuthentication
	}
	return out, nil
}

// Erase overwrites the key. It may be called again, and on nil.
func (k *DoublecryptKey) Erase() {
	if k == nil {
		return
	}
	k.mem.erase()
	k.key = secret{}
}

// Blake3 is the plain 32-byte BLAKE3 hash, which format v1 uses as a checksum.
func Blake3(b []byte) [32]byte { return blake3.Sum256(b) }

// DoublecryptKeyOf derives the block key from the 32 bytes of a key file. Format v1 supports
// neither passphrases nor recovery keys.
func DoublecryptKeyOf(c Credential) (*DoublecryptKey, error) {
	s, ok := c.(*secretCredential)
	if !ok {
		return nil, errors.New("a volume of format v1 (doublecrypt) can be opened only with a key file")
	}
	if s.key.Bytes() == nil {
		return nil, ErrErased
	}
	master, err := s.key.Clone()
	if err != nil {
		return nil, err
	}
	defer master.Erase()
	return NewDoublecryptKey(master.Bytes())
}
