package forgetest

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/big"

	"golang.org/x/crypto/chacha20"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// ErrNonce means that there is no solution for this nonce. Try again with another one: about one
// nonce in three has no solution.
var ErrNonce = errors.New("no 16-byte block gives this tag with this nonce")

// Forger seals metadata extents under one VMK, with a nonce and tag that the caller chooses.
type Forger struct {
	key []byte // K_meta; docs/format.md, "Key schedule"
	id  crypto.UUID
}

// New derives the key of metadata from a VMK of suite 1.
func New(id crypto.UUID, vmk []byte) (*Forger, error) {
	prk, err := hkdf.Extract(sha256.New, vmk, append([]byte("doublecrypt-v2"), id[:]...))
	if err != nil {
		return nil, err
	}
	info := append([]byte("dcv2 meta\x00"), byte(crypto.SuiteXChaCha20Poly1305))
	key, err := hkdf.Expand(sha256.New, prk, string(info), sha256.Size)
	return &Forger{key: key, id: id}, err
}

// Seal encrypts plain, padded to whole sectors, as the only segment of e. To get the given tag, it
// changes the 16 bytes of ciphertext at offset free, a multiple of 16. These bytes then decrypt to
// random bytes. If it returns ErrNonce, try again with another e.Nonce.
func (f *Forger) Seal(e *crypto.Extent, plain []byte, free int, tag crypto.Tag) ([]byte, error) {
	stream, err := f.stream(e)
	if err != nil {
		return nil, err
	}
	var one [32]byte // r and s of Poly1305 are the first bytes of the stream (RFC 8439, 2.6)
	stream.XORKeyStream(one[:], one[:])
	stream.SetCounter(1)
	text := make([]byte, e.PaddedBytes())
	copy(text, plain)
	stream.XORKeyStream(text, text)
	if !solve(&one, f.aad(e), text, free, tag) {
		return nil, ErrNonce
	}
	return text, nil
}

func (f *Forger) stream(e *crypto.Extent) (*chacha20.Cipher, error) {
	sub, err := chacha20.HChaCha20(f.key, e.Nonce[:16])
	if err != nil {
		return nil, err
	}
	return chacha20.NewUnauthenticatedCipher(sub, append(make([]byte, 4), e.Nonce[16:]...))
}

// aad is that of segment 0 of 1; docs/format.md, "Extents".
func (f *Forger) aad(e *crypto.Extent) []byte {
	b := append([]byte("DCv2"), byte(crypto.SuiteXChaCha20Poly1305), e.Kind, e.Level, e.Comp)
	b = append(b, f.id[:]...)
	le := binary.LittleEndian
	b = le.AppendUint32(b, e.Epoch)
	b = le.AppendUint32(b, e.PLen)
	b = le.AppendUint64(b, e.Object)
	b = le.AppendUint64(b, e.Index)
	b = le.AppendUint64(b, e.Birth)
	b = le.AppendUint32(b, e.LLen)
	return append(b, 0, 0, e.Shift, 0)
}

// solve sets text[free:free+16] so that the tag results. All lengths are multiples of 16 (RFC 8439,
// 2.5 and 2.8).
func solve(one *[32]byte, aad, text []byte, free int, tag crypto.Tag) bool {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 130), big.NewInt(5))
	top := new(big.Int).Lsh(big.NewInt(1), 128)
	rb := [16]byte(one[:16])
	for i, m := range [16]byte{3: 15, 4: 252, 7: 15, 8: 252, 11: 15, 12: 252, 15: 15} {
		if m != 0 {
			rb[i] &= m
		}
	}
	r, s := little(rb[:]), little(one[16:])
	msg := append(append([]byte{}, aad...), text...)
	msg = binary.LittleEndian.AppendUint64(msg, uint64(len(aad)))
	msg = binary.LittleEndian.AppendUint64(msg, uint64(len(text)))
	at := len(aad) + free
	clear(msg[at : at+16])
	// The sum with zeros instead of block x, without its high bit.
	sum, weight := new(big.Int), big.NewInt(1)
	for i := len(msg) - 16; i >= 0; i -= 16 {
		weight.Mul(weight, r).Mod(weight, p)
		if i == at {
			continue
		}
		block := little(msg[i : i+16])
		sum.Add(sum, block.Add(block, top).Mul(block, weight)).Mod(sum, p)
	}
	inverse := new(big.Int).Exp(r, big.NewInt(int64((len(msg)-at)/16)), p)
	if inverse.ModInverse(inverse, p) == nil {
		return false
	}
	want := new(big.Int).Sub(little(tag[:]), s)
	want.Mod(want, top)
	for ; want.Cmp(p) < 0; want.Add(want, top) { // the tag leaves out the bits above
		x := new(big.Int).Sub(want, sum)
		x.Mul(x, inverse).Mod(x, p).Sub(x, top)
		if x.Sign() < 0 || x.Cmp(top) >= 0 {
			continue // no block of 16 bytes
		}
		var b [16]byte
		x.FillBytes(b[:])
		for i := range b {
			text[free+i] = b[15-i]
		}
		return true
	}
	return false
}

func little(b []byte) *big.Int {
	r := make([]byte, len(b))
	for i := range b {
		r[len(b)-1-i] = b[i]
	}
	return new(big.Int).SetBytes(r)
}
