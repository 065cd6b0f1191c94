package crypto

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// TestFingerprint checks that the fingerprint is HKDF-Expand of the key, and differs between keys.
func TestFingerprint(t *testing.T) {
	seen := map[string]bool{}
	for i := range 3 {
		raw := make([]byte, KeyBytes)
		raw[0] = byte(i)
		want, err := hkdf.Expand(sha256.New, raw, "dcv2 fingerprint\x00", KeyBytes)
		if err != nil {
			t.Fatal(err)
		}
		text := hex.EncodeToString(raw)
		k, err := NewKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Erase()
		got := k.Fingerprint()
		if got != hex.EncodeToString(want[:16]) || seen[got] || strings.Contains(text, got) {
			t.Errorf("key %d: %s, want the beginning of %x", i, got, want)
		}
		seen[got] = true
	}
}
