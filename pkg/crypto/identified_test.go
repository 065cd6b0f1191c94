package crypto

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// TestIdentified checks that sealing what was identified gives the same object, and happens once.
func TestIdentified(t *testing.T) {
	tenant := func(b byte) *TenantKeys {
		k, err := NewKey(bytes.Repeat([]byte{b}, KeyBytes))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Erase()
		keys, err := DeriveTenantKeys(k)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(keys.Erase)
		return keys
	}
	keys, other := tenant(1), tenant(2)
	chunk, payload := []byte("hello, world!"), []byte("hello")
	for comp, payload := range [][]byte{nil, payload} {
		want, object, err := keys.SealPacked(SuiteXAES256GCM, ChunkTree, uint8(comp), chunk, payload, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := keys.Identify(ChunkTree, chunk)
		if err != nil || c.D() != want.D {
			t.Fatalf("%x, %v", c.D(), err)
		}
		if _, _, err := other.SealIdentified(SuiteXAES256GCM, uint8(comp), &c, payload, nil); !errors.Is(err, errIdentified) {
			t.Errorf("other keys: %v", err)
		}
		r, got, err := keys.SealIdentified(SuiteXAES256GCM, uint8(comp), &c, payload, []byte("front"))
		if err != nil || r != want || string(got) != "front"+string(object) {
			t.Errorf("%+v instead of %+v, %v", r, want, err)
		}
		if _, _, err := keys.SealIdentified(SuiteXAES256GCM, uint8(comp), &c, payload, nil); !errors.Is(err, errIdentified) {
			t.Errorf("sealed twice: %v", err)
		}
	}
	c, err := keys.Identify(ChunkData, chunk)
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v", c, &c); bytes.Contains([]byte(s), []byte("hello")) || s != "[key] [key]" {
		t.Errorf("it prints %s", s)
	}
	if _, _, err := keys.SealIdentified(9, 0, &c, nil, nil); err == nil {
		t.Error("an unknown suite")
	}
	if c, err = keys.Identify(ChunkData, chunk); err != nil {
		t.Fatal(err)
	}
	keys.Erase()
	if _, _, err := keys.SealIdentified(SuiteXAES256GCM, 0, &c, nil, nil); !errors.Is(err, ErrErased) {
		t.Errorf("erased: %v", err)
	}
	if _, err := keys.Identify(ChunkData, chunk); !errors.Is(err, ErrErased) {
		t.Errorf("erased: %v", err)
	}
}
