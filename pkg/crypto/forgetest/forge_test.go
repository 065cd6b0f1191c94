package forgetest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// TestSeal opens an extent that was sealed for a chosen tag with the real keys.
func TestSeal(t *testing.T) {
	id := crypto.NewUUID()
	vmk, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer vmk.Erase()
	keys, err := crypto.DeriveEpochKeys(crypto.SuiteXChaCha20Poly1305, id, 3, vmk)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Erase()
	f, err := New(id, vmk.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("0123456789"), 500)
	e := crypto.Extent{Kind: 2, Epoch: 3, PLen: uint32(len(plain)), LLen: uint32(len(plain)), Birth: 77, Object: 5}
	var tag crypto.Tag
	rand.Read(tag[:])
	for {
		rand.Read(e.Nonce[:])
		text, err := f.Seal(&e, plain, 8192-16, tag)
		if errors.Is(err, ErrNonce) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.OpenSegments(&e, 0, 1, text, text, []crypto.Tag{tag}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text[:len(plain)], plain) {
			t.Fatal("another content")
		}
		return
	}
}
