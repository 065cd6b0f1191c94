package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// Convergent is the cryptography of one family of the reference implementation's self-encryption.
// Use it only to exchange data with that implementation: anybody who knows the plaintext can
// compute all keys and chunks. docs/selfenc-format.md describes both families.
type Convergent uint8

// The families.
const (
	// ConvergentSHA3 is the family of crate versions 0.30 to 0.34: SHA3-256 and AES-128-CBC. It has
	// no MAC: only the name protects a chunk.
	ConvergentSHA3 Convergent = 1
	// ConvergentBLAKE3 is the family of crate versions 0.35 and 0.36: BLAKE3 and ChaCha20-Poly1305.
	ConvergentBLAKE3 Convergent = 2
)

const (
	sha3PadBytes    = 64
	blake3PadBytes  = 52
	blake3KeyOffset = blake3PadBytes
	blake3NonceFrom = blake3KeyOffset + KeyBytes
	blake3KDFBytes  = blake3NonceFrom + chacha20poly1305.NonceSize
	blake3KDFLabel  = "self_encryption/chunk/v2"
	aesKeyBytes     = 16
)

// ChunkLink is the input for the key of one chunk: the hashes of its own plaintext and of the
// plaintexts of its two predecessors, cyclically.
type ChunkLink struct {
	Own, Previous, BeforePrevious [32]byte
	Index, Level                  uint64 // only ConvergentBLAKE3 binds it
}

// Hash returns the hash of a chunk's plaintext, or of a stored chunk. The latter is the chunk's
// name.
func (c Convergent) Hash(b []byte) [32]byte {
	if c == ConvergentSHA3 {
		return sha3.Sum256(b)
	}
	return blake3.Sum256(b)
}

// SealedBytes returns the length of the sealed form of n bytes.
func (c Convergent) SealedBytes(n int) int {
	if c == ConvergentSHA3 {
		return n/aes.BlockSize*aes.BlockSize + aes.BlockSize
	}
	return n + chacha20poly1305.Overhead
}

// Seal appends the stored form of a payload, the compressed chunk, to dst.
//
// Neither nonce nor IV is random, because equal chunks must give equal objects. In ConvergentBLAKE3
// the key depends on the plaintext of the chunk itself. So one key seals two messages only if the
// same chunk is compressed in two ways.
func (c Convergent) Seal(dst, payload []byte, l *ChunkLink) ([]byte, error) {
	start := len(dst)
	if c == ConvergentSHA3 {
		block, err := aes.NewCipher(l.Previous[:aesKeyBytes])
		if err != nil {
			return nil, err
		}
		defer eraseHeap(block)
		dst = append(dst, payload...)
		fill := aes.BlockSize - len(payload)%aes.BlockSize
		for range fill { // PKCS#7
			dst = append(dst, byte(fill))
		}
		cipher.NewCBCEncrypter(block, l.Previous[aesKeyBytes:]).CryptBlocks(dst[start:], dst[start:])
		xorPad(dst[start:], l.sha3Pad())
		return dst, nil
	}
	out := l.blake3Keys()
	defer clear(out[:])
	aead, err := chacha20poly1305.New(out[blake3KeyOffset:blake3NonceFrom])
	if err != nil {
		return nil, err
	}
	defer eraseHeap(aead)
	dst = aead.Seal(dst, out[blake3NonceFrom:], payload, nil)
	xorPad(dst[start:], out[:blake3PadBytes])
	return dst, nil
}

// Open returns the payload of a stored chunk, and overwrites the chunk's memory. The caller must
// have verified the chunk's name, because the older family has no other check.
func (c Convergent) Open(object []byte, l *ChunkLink) ([]byte, error) {
	if c == ConvergentSHA3 {
		if len(object) == 0 || len(object)%aes.BlockSize != 0 {
			return nil, fmt.Errorf("%w: length %d", errConvergent, len(object))
		}
		block, err := aes.NewCipher(l.Previous[:aesKeyBytes])
		if err != nil {
			return nil, err
		}
		defer eraseHeap(block)
		xorPad(object, l.sha3Pad())
		cipher.NewCBCDecrypter(block, l.Previous[aesKeyBytes:]).CryptBlocks(object, object)
		return unpad(object)
	}
	out := l.blake3Keys()
	defer clear(out[:])
	aead, err := chacha20poly1305.New(out[blake3KeyOffset:blake3NonceFrom])
	if err != nil {
		return nil, err
	}
	defer eraseHeap(aead)
	xorPad(object, out[:blake3PadBytes])
	payload, err := aead.Open(object[:0], out[blake3NonceFrom:], object, nil)
	if err != nil {
		return nil, ErrAuthentication
	}
	return payload, nil
}

var errConvergent = errors.New("malformed chunk")

// unpad removes PKCS#7 padding. The caller has verified the name, so a specific error is no padding
// oracle.
func unpad(b []byte) ([]byte, error) {
	fill := int(b[len(b)-1])
	if fill == 0 || fill > aes.BlockSize || fill > len(b) {
		return nil, fmt.Errorf("%w: invalid padding", errConvergent)
	}
	for _, p := range b[len(b)-fill:] {
		if int(p) != fill {
			return nil, fmt.Errorf("%w: invalid padding", errConvergent)
		}
	}
	return b[:len(b)-fill], nil
}

func (l *ChunkLink) sha3Pad() []byte {
	return append(append(make([]byte, 0, sha3PadBytes), l.Own[:]...), l.BeforePrevious[:]...)
}

// blake3Keys returns pad, key and nonce.
func (l *ChunkLink) blake3Keys() (out [blake3KDFBytes]byte) {
	material := make([]byte, 0, 3*32+2*8)
	material = append(material, l.Own[:]...)
	material = append(material, l.Previous[:]...)
	material = append(material, l.BeforePrevious[:]...)
	material = binary.LittleEndian.AppendUint64(material, l.Index)
	material = binary.LittleEndian.AppendUint64(material, l.Level)
	blake3.DeriveKey(blake3KDFLabel, material, out[:])
	clear(material)
	return out
}

// xorPad XORs b with the repeated pad. For speed, it works on many repetitions at once.
func xorPad(b, pad []byte) {
	const repeat = 64
	long := make([]byte, 0, repeat*len(pad))
	for range min(repeat, len(b)/len(pad)+1) {
		long = append(long, pad...)
	}
	for len(b) > 0 {
		n := subtle.XORBytes(b, b, long[:min(len(b), len(long))])
		b = b[n:]
	}
	clear(long)
}
