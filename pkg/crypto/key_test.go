package crypto

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var bothSuites = []Suite{SuiteXChaCha20Poly1305, SuiteXAES256GCM}

// TestNothingFormatsAKey prints every type that holds a secret in all ways: directly, as a value,
// and in a struct.
func TestNothingFormatsAKey(t *testing.T) {
	secretBytes := bytes.Repeat([]byte{0xb7}, 32)
	key := testKey(t, secretBytes)
	epoch := testEpochKeys(t, SuiteXAES256GCM, UUID{}, 1, secretBytes)
	tenant, err := DeriveTenantKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	defer tenant.Erase()
	snap, err := DeriveSnapshotKeys(1, UUID{}, key)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Erase()
	pass, err := PassphraseCredential(slices.Clone(secretBytes))
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Erase()
	recovery := &RecoverySecret{suite: 1, seed: key}

	// The forms of a leak: bytes, hex, base64 or decimal of the secrets.
	traces := []string{string(secretBytes[:4]), "b7b7", "B7B7", "t7e3", "183 183", "183,183", "0xb7, 0xb7", `\xb7`}
	for _, k := range [][]byte{epoch.data.key.bytes(), epoch.header.bytes(), tenant.c.bytes()} {
		traces = append(traces, string(k[:4]), hex.EncodeToString(k[:4]), strings.Trim(fmt.Sprint(k[:3]), "[]"))
	}
	clean := func(how, s string) {
		t.Helper()
		for _, trace := range traces {
			if strings.Contains(s, trace) {
				t.Errorf("%s shows the key: %.80q", how, s)
			}
		}
	}
	for _, v := range []any{key, epoch, tenant, snap, pass, recovery, SecretCredential(key), KMSCredential(t.Context(), nil)} {
		name := fmt.Sprintf("%T", v)
		value := reflect.ValueOf(v).Elem().Interface() // a copy, as a careless caller makes
		holder := struct {
			Exported, hidden any
		}{v, v}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%b", "%o", "%p", "%c", "%U", "%t", "%e"} {
			for _, x := range []any{v, value, holder, &holder, []any{v}, map[string]any{"k": v}} {
				clean(name+" "+verb, fmt.Sprintf(verb, x))
			}
		}
		if s := fmt.Sprint(v); s != "[key]" {
			t.Errorf("%s prints as %q", name, s)
		}
		if s := fmt.Sprint(value); s != "[key]" {
			t.Errorf("a copied %s prints as %q", name, s)
		}
		var logs bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
			slog.New(h).Info("test", "key", v, "value", value, "holder", holder)
		}
		clean(name+" slog", logs.String())
		for _, x := range []any{v, value, holder} {
			if b, err := json.Marshal(x); err == nil {
				t.Errorf("%s marshals to %s", name, b)
			}
		}
		var out bytes.Buffer
		if err := gob.NewEncoder(&out).Encode(v); err == nil {
			t.Errorf("gob takes %s", name)
		}
		clean(name+" gob", out.String())
		clean(name+" error", fmt.Errorf("mount: %v: %w", v, ErrWrongKey).Error())
	}
}

func TestNewKey(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		b := bytes.Repeat([]byte{9}, n)
		if _, err := NewKey(b); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
		if !zeros(b) {
			t.Errorf("%d bytes were not zeroed", n)
		}
	}
	b := sequence(5)
	k := testKey(t, b)
	if !bytes.Equal(k.Bytes(), b) {
		t.Error("another key")
	}
	if k2, err := NewKey(b); err != nil || !zeros(b) {
		t.Errorf("not zeroed: %v", err)
	} else {
		k2.Erase()
	}
	g1, err1 := GenerateKey()
	g2, err2 := GenerateKey()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer g1.Erase()
	defer g2.Erase()
	if bytes.Equal(g1.Bytes(), g2.Bytes()) || zeros(g1.Bytes()) {
		t.Error("generated keys are not random")
	}
}

func sequence(from byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func TestSuiteAndUUID(t *testing.T) {
	for _, s := range bothSuites {
		if got, err := ParseSuite(s.String()); err != nil || got != s {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	for _, name := range []string{"", "aes", "suite(3)", "XChaCha20Poly1305"} {
		if _, err := ParseSuite(name); !errors.Is(err, ErrUnsupportedSuite) {
			t.Errorf("suite %q: %v", name, err)
		}
	}
	if _, err := DeriveEpochKeys(3, UUID{}, 1, testKey(t, sequence(0))); !errors.Is(err, ErrUnsupportedSuite) {
		t.Errorf("suite 3: %v", err)
	}
	if _, err := DeriveEpochKeys(1, UUID{}, 0, testKey(t, sequence(0))); err == nil {
		t.Error("epoch 0 was taken")
	}
	u := NewUUID()
	if s := u.String(); len(s) != 36 || s[14] != '4' || !strings.Contains("89ab", s[19:20]) {
		t.Errorf("not a version 4 UUID: %s", s)
	}
	for _, s := range []string{u.String(), strings.ToUpper(u.String())} {
		if got, err := ParseUUID(s); err != nil || got != u {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", u.String()[1:], u.String() + "0", strings.Replace(u.String(), "-", "0", 1), "g" + u.String()[1:]} {
		if _, err := ParseUUID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestReadSecret(t *testing.T) {
	for _, n := range []int{0, 1, 100, 101} {
		var got string
		var kept []byte
		err := ReadSecret(strings.NewReader(strings.Repeat("s", n)), 100, func(b []byte) error {
			got, kept = string(b), b
			return nil
		})
		if n > 100 {
			if err == nil || got != "" {
				t.Errorf("%d bytes of 100: %v", n, err)
			}
			continue
		}
		if err != nil || len(got) != n || cap(kept) < n {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
	}
	if err := ReadSecret(strings.NewReader(""), MaxReadSecret+1, nil); err == nil {
		t.Error("more than a page")
	}
}
