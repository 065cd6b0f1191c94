package volumectl

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func sampleKeys(t testing.TB) []byte {
	t.Helper()
	r, err := crypto.GenerateRecovery(crypto.SuiteXChaCha20Poly1305)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Erase()
	secret, err := r.Text()
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, k := range []struct {
		role KeyRole
		kind KeyKind
		text string
	}{
		{KeyOld, KindSecret, strings.Repeat("ab", 32) + "\n"}, {KeyOld, KindPassphrase, "correct horse\r\n"}, {KeyOld, KindRecovery, string(secret)},
		{KeyNew, KindSecret, strings.Repeat("k", 32)},
	} {
		if err := f.Add(k.role, k.kind, strings.NewReader(k.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Fatal("written to after it was sealed")
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestKeyFile(t *testing.T) {
	b := sampleKeys(t)
	s, err := ReadKeys(bytes.NewReader(b))
	if err != nil || len(s.Old) != 3 || s.New == nil || s.New.Credential.SlotType() != crypto.SlotSecret || s.Old[1].SlotType() != crypto.SlotPassphrase {
		t.Fatalf("%+v %v", s, err)
	}
	s.Erase()
	if s, err := ReadKeys(bytes.NewReader(nil)); err != nil || len(s.Old) != 0 || s.New != nil {
		t.Fatal(s, err)
	}
	secret := "correct horse"
	for name, bad := range map[string][]byte{
		"cut":          b[:len(b)-1],
		"cut in head":  append(bytes.Clone(b), 1, 2),
		"two new":      append(bytes.Clone(b), b[len(b)-36:]...),
		"role":         {9, byte(KindPassphrase), 1, 0, 'x'},
		"kind":         {byte(KeyOld), 9, 1, 0, 'x'},
		"empty":        {byte(KeyOld), byte(KindPassphrase), 0, 0},
		"public opens": append([]byte{byte(KeyOld), byte(KindRecipient), byte(len(secret)), 0}, secret...),
		"no key":       append([]byte{byte(KeyOld), byte(KindSecret), byte(len(secret)), 0}, secret...),
		"too many":     bytes.Repeat(append([]byte{byte(KeyOld), byte(KindPassphrase), byte(len(secret)), 0}, secret...), MaxKeys+1),
		"too long":     append([]byte{byte(KeyOld), byte(KindPassphrase), 0xff, 0xff}, make([]byte, 0xffff)...),
	} {
		if _, err := ReadKeys(bytes.NewReader(bad)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f, err := NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Add(KeyOld, KindPassphrase, strings.NewReader(strings.Repeat("x", maxKeyBytes+1))); err == nil {
		t.Error("a key that is too long")
	}
}

func FuzzReadKeys(f *testing.F) {
	f.Add(sampleKeys(f))
	f.Add([]byte{1, 4, 1, 0, 'x'})
	f.Add(make([]byte, 32))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadKeys(bytes.NewReader(b))
		if err != nil && s != nil {
			t.Fatal("keys in spite of an error")
		}
		s.Erase()
		s, err = readKEKs(bytes.NewReader(b))
		if (err == nil) != (len(b) == 32 || len(b) == 64) || err != nil && s != nil || err == nil && (s.New == nil || len(s.Old) != len(b)/32-1) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		s.Erase()
	})
}
