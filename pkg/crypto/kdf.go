package crypto

import (
	"crypto/sha256"
	"crypto/subtle"
	"hash"
)

// hmacSHA256 is HMAC-SHA-256 (RFC 2104). crypto/hmac leaves the padded key on the heap; this
// implementation overwrites it. The key has at most 64 bytes, like all keys of this package.
type hmacSHA256 struct {
	pad  [sha256.BlockSize]byte
	sum  [sha256.Size]byte
	hash hash.Hash
}

func newMAC(key ...[]byte) *hmacSHA256 {
	m := &hmacSHA256{hash: sha256.New()}
	n := 0
	for _, k := range key {
		n += copy(m.pad[n:], k)
	}
	for i := range m.pad {
		m.pad[i] ^= 0x36
	}
	m.hash.Write(m.pad[:])
	return m
}

// Write adds to the message.
func (m *hmacSHA256) Write(b []byte) { m.hash.Write(b) }

// finish writes the MAC to dst, at most 32 bytes, and erases the state.
func (m *hmacSHA256) finish(dst []byte) {
	inner := m.hash.Sum(m.sum[:0])
	m.hash.Reset()
	for i := range m.pad {
		m.pad[i] ^= 0x36 ^ 0x5c
	}
	m.hash.Write(m.pad[:])
	m.hash.Write(inner)
	copy(dst, m.hash.Sum(m.sum[:0]))
	m.hash.Reset()
	eraseHeap(m.hash)
	clear(m.pad[:])
	clear(m.sum[:])
}

// extract is HKDF-Extract-SHA-256 (RFC 5869) with the salt label‖context.
func extract(prk []byte, label string, context, ikm []byte) {
	m := newMAC([]byte(label), context)
	m.Write(ikm)
	m.finish(prk)
}

// expand is X of the threat model: HKDF-Expand-SHA-256 of 32 bytes, with the
// info "dcv2 "‖label‖00‖context. One block of output needs one HMAC.
func expand(dst, key []byte, label string, context ...[]byte) {
	m := newMAC(key)
	m.Write([]byte("dcv2 " + label + "\x00"))
	for _, c := range context {
		m.Write(c)
	}
	m.Write([]byte{1}) // RFC 5869 section 2.3: the block counter
	m.finish(dst[:sha256.Size])
}

// equal compares in constant time.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
