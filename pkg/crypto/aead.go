package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"sync"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	nonceBytes = 24
	tagBytes   = 16
)

// box is one long-lived key. Both suites accept a nonce of 24 bytes: they derive an inner key from
// its first bytes. inner creates the AEAD of that inner key once for many messages.
type box struct {
	suite Suite
	key   secret
	block func() cipher.Block // AES under key, in locked memory; suite 2 only
	k1    secret              // CMAC subkey (NIST SP 800-38B); suite 2 only
}

// init prepares the box for key. Derived values stay in mem, next to the key, until mem is erased.
func (b *box) init(s Suite, key secret, mem *region) (err error) {
	b.suite, b.key = s, key
	if s != SuiteXAES256GCM {
		return nil
	}
	if b.block, err = lockedBlock(key.bytes(), mem); err != nil {
		return err
	}
	b.k1 = mem.take(aes.BlockSize)
	k1 := b.k1.bytes()
	b.block().Encrypt(k1, k1) // of zeros
	msb := byte(0)
	for i := len(k1) - 1; i >= 0; i-- {
		msb, k1[i] = k1[i]>>7, k1[i]<<1|msb
	}
	k1[15] ^= 0x87 & -msb
	return nil
}

// workspace is the memory of one call. Values passed through an interface escape to the heap, so
// workspaces are pooled, and sealing a segment allocates nothing.
type workspace struct {
	full  [nonceBytes]byte // the 24-byte nonce
	nonce [12]byte         // the inner AEAD's nonce
	aad   [64]byte
	save  [tagBytes]byte
	sub   [KeyBytes]byte
	text  []byte // ciphertext and tag of a segment without space for the tag
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// maxPooledText limits the buffer that a pooled workspace keeps.
const maxPooledText = 64<<10 + tagBytes

func (w *workspace) release() {
	if cap(w.text) > maxPooledText {
		w.text = nil
	}
	workspaces.Put(w)
}

// buffer returns n bytes of scratch memory.
func (w *workspace) buffer(n int) []byte {
	if cap(w.text) < n {
		w.text = make([]byte, n)
	}
	return w.text[:n]
}

// inner returns the AEAD for the nonce w.full and sets w.nonce. The caller
// passes the AEAD to eraseHeap when it has finished.
func (b *box) inner(w *workspace) (cipher.AEAD, error) {
	defer clear(w.sub[:])
	if b.suite == SuiteXChaCha20Poly1305 {
		sub, err := chacha20.HChaCha20(b.key.bytes(), w.full[:16])
		if err != nil {
			return nil, err
		}
		copy(w.sub[:], sub)
		clear(sub)
		clear(w.nonce[:4])
		copy(w.nonce[4:], w.full[16:])
		return chacha20poly1305.New(w.sub[:])
	}
	outer, k1 := b.block(), b.k1.bytes()
	for i := range 2 { // XAES-256-GCM: NIST SP 800-108r1 in counter mode with CMAC
		m := w.sub[16*i : 16*i+16]
		m[0], m[1], m[2], m[3] = 0, byte(i+1), 'X', 0
		copy(m[4:], w.full[:12])
		for j := range m {
			m[j] ^= k1[j]
		}
		outer.Encrypt(m, m)
	}
	copy(w.nonce[:], w.full[12:])
	block, err := aes.NewCipher(w.sub[:])
	if err != nil {
		return nil, err
	}
	defer eraseHeap(block)
	return cipher.NewGCM(block)
}

// seal appends ciphertext and tag of one message to dst. The caller ensures that the nonce is
// unique.
func (b *box) seal(dst []byte, nonce, plaintext, aad []byte) ([]byte, error) {
	w := workspaces.Get().(*workspace)
	defer w.release()
	copy(w.full[:], nonce)
	a, err := b.inner(w)
	if err != nil {
		return nil, err
	}
	defer eraseHeap(a)
	return a.Seal(dst, w.nonce[:], plaintext, aad), nil
}

// open appends the plaintext of one message to dst, or returns ErrAuthentication.
func (b *box) open(dst []byte, nonce, ciphertext, aad []byte) ([]byte, error) {
	w := workspaces.Get().(*workspace)
	defer w.release()
	copy(w.full[:], nonce)
	a, err := b.inner(w)
	if err != nil {
		return nil, err
	}
	defer eraseHeap(a)
	out, err := a.Open(dst, w.nonce[:], ciphertext, aad)
	if err != nil {
		return nil, ErrAuthentication
	}
	return out, nil
}
