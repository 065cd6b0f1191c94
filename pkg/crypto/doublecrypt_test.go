package crypto

import (
	"bytes"
	"errors"
	"testing"
)

// TestDoublecryptKey checks that the master key is overwritten with zeros, even if it is refused,
// and that the derived key is unusable after Erase.
func TestDoublecryptKey(t *testing.T) {
	for _, n := range []int{0, 1, 32, 100} {
		master := bytes.Repeat([]byte{9}, n)
		k, err := NewDoublecryptKey(master)
		if (err != nil) != (n == 0) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(master, make([]byte, n)) {
			t.Errorf("%d bytes: the master key is still there", n)
		}
		if err != nil {
			continue
		}
		nonce := make([]byte, DoublecryptNonceBytes)
		sealed, err := k.Seal(nil, nonce, []byte("block"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open(nil, nonce, sealed); err != nil || string(got) != "block" {
			t.Errorf("%q, %v", got, err)
		}
		sealed[0] ^= 1
		if _, err := k.Open(nil, nonce, sealed); !errors.Is(err, ErrAuthentication) {
			t.Errorf("a flipped bit: %v", err)
		}
		k.Erase()
		k.Erase()
		if k.key.bytes() != nil || k.mem.base != nil {
			t.Error("the key is still there")
		}
		if _, err := k.Seal(nil, nonce, nil); !errors.Is(err, ErrErased) {
			t.Errorf("seal after Erase: %v", err)
		}
		if _, err := k.Open(nil, nonce, sealed); !errors.Is(err, ErrErased) {
			t.Errorf("open after Erase: %v", err)
		}
	}
	(*DoublecryptKey)(nil).Erase()
}
