package crypto

import (
	"bytes"
	"errors"
	"testing"
	"unsafe"
)

func testTenant(t testing.TB, secret []byte) *TenantKeys {
	t.Helper()
	k, err := DeriveTenantKeys(testKey(t, secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func TestChunks(t *testing.T) {
	mine, theirs := testTenant(t, sequence(1)), testTenant(t, sequence(2))
	for _, s := range bothSuites {
		for _, comp := range []uint8{0, 1} {
			chunk, payload := randomBytes(5000), randomBytes(700)
			r, object, err := mine.SealChunk(s, ChunkData, comp, chunk, payload, []byte("prefix"))
			if err != nil {
				t.Fatal(err)
			}
			object = object[len("prefix"):]
			if comp == 0 {
				payload = chunk
			}
			if got, err := mine.OpenChunk(&r, object, nil); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%v: %v", s, err)
			}
			r2, object2, err := mine.SealChunk(s, ChunkData, comp, chunk, payload, nil)
			if err != nil || r2 != r || !bytes.Equal(object, object2) {
				t.Errorf("%v: sealing again gives another object: %v", s, err)
			}
			if r3, _, err := theirs.SealChunk(s, ChunkData, comp, chunk, payload, nil); err != nil || r3.Name == r.Name || r3.D == r.D {
				t.Errorf("%v: two tenants' chunks are equal: %v", s, err)
			}
			for name, edit := range map[string]func(*ChunkRef){
				"suite": func(r *ChunkRef) { r.Suite = 3 - s }, "kind": func(r *ChunkRef) { r.Kind = ChunkMap },
				"comp": func(r *ChunkRef) { r.Comp ^= 1 }, "name": func(r *ChunkRef) { r.Name[0] ^= 1 },
				"p": func(r *ChunkRef) { r.P[0] ^= 1 }, "d and p": func(r *ChunkRef) { r.D[0] ^= 1; r.P[0] ^= 1 },
				"kind 0": func(r *ChunkRef) { r.Kind = 0 }, "suite 0": func(r *ChunkRef) { r.Suite = 0 },
			} {
				bad := r
				edit(&bad)
				if _, err := mine.OpenChunk(&bad, object, nil); err == nil {
					t.Errorf("%v: another %s was accepted", s, name)
				}
			}
			if _, err := theirs.OpenChunk(&r, object, nil); !errors.Is(err, ErrAuthentication) {
				t.Errorf("%v: another tenant: %v", s, err)
			}
			for _, i := range []int{0, len(object) - 1} {
				bad := bytes.Clone(object)
				bad[i] ^= 1
				if _, err := mine.OpenChunk(&r, bad, nil); !errors.Is(err, ErrAuthentication) {
					t.Errorf("%v: flip at %d: %v", s, i, err)
				}
			}
			if err := mine.CheckChunk(&r, chunk); err != nil {
				t.Errorf("%v: %v", s, err)
			}
			if err := mine.CheckChunk(&r, chunk[1:]); !errors.Is(err, ErrAuthentication) {
				t.Errorf("%v: another chunk: %v", s, err)
			}
		}
	}
	// A chunk of no bytes is one too.
	r, object, err := mine.SealChunk(1, ChunkTree, 0, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := mine.OpenChunk(&r, object, nil); err != nil || len(got) != 0 {
		t.Error(err)
	}
	theirs.Erase()
	if _, _, err := theirs.SealChunk(1, ChunkData, 0, nil, nil, nil); !errors.Is(err, ErrErased) {
		t.Errorf("after Erase: %v", err)
	}
	if _, err := theirs.OpenChunk(&r, object, nil); !errors.Is(err, ErrErased) {
		t.Errorf("after Erase: %v", err)
	}
}

func TestManifests(t *testing.T) {
	for _, s := range bothSuites {
		id, sk := NewUUID(), testKey(t, sequence(1))
		derive := func(s Suite, id UUID, sk *Key) *SnapshotKeys {
			k, err := DeriveSnapshotKeys(s, id, sk)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(k.Erase)
			return k
		}
		k := derive(s, id, sk)
		m := &Manifest{Volume: NewUUID(), Generation: 9, Body: []byte("body")}
		sealed, err := k.SealManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.OpenManifest(sealed)
		if err != nil || got.Volume != m.Volume || got.Generation != 9 || got.Parent != (UUID{}) || string(got.Body) != "body" {
			t.Errorf("%v: %v", s, err)
		}
		for i := range sealed {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1
			if _, err := k.OpenManifest(bad); !errors.Is(err, ErrAuthentication) {
				t.Fatalf("%v: flip at %d: %v", s, i, err)
			}
			if _, err := k.OpenManifest(sealed[:i]); !errors.Is(err, ErrAuthentication) {
				t.Fatalf("%v: cut at %d: %v", s, i, err)
			}
		}
		for _, other := range []*SnapshotKeys{derive(3-s, id, sk), derive(s, NewUUID(), sk), derive(s, id, testKey(t, sequence(2)))} {
			if _, err := other.OpenManifest(sealed); !errors.Is(err, ErrAuthentication) {
				t.Errorf("%v: another key: %v", s, err)
			}
		}
		k.Erase()
		if _, err := k.OpenManifest(sealed); !errors.Is(err, ErrErased) {
			t.Errorf("after Erase: %v", err)
		}
	}
}

func FuzzOpenManifest(f *testing.F) {
	k, err := DeriveSnapshotKeys(1, UUID{}, testKey(f, sequence(1)))
	if err != nil {
		f.Fatal(err)
	}
	// A fixed nonce: the fuzzer's processes must agree on the seed.
	sealed, err := k.sealManifest([24]byte(sequence(9)), &Manifest{Body: []byte("body")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := k.OpenManifest(b); err == nil && !bytes.Equal(b, sealed) {
			t.Fatal("a forged manifest opens")
		}
	})
}

func FuzzOpenChunk(f *testing.F) {
	k := testTenant(f, sequence(1))
	r, object, err := k.SealChunk(1, ChunkData, 0, []byte("chunk"), nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(1), uint8(1), uint8(0), uint32(5), r.D[:], object)
	f.Fuzz(func(t *testing.T, s, kind, comp uint8, length uint32, d, b []byte) {
		x := ChunkRef{Suite: Suite(s), Kind: ChunkKind(kind), Comp: comp, Length: length}
		copy(x.D[:], d)
		x.P, x.Name = x.D, [32]byte(hashOf(b))
		if _, err := k.OpenChunk(&x, b, nil); err == nil && x != r {
			t.Fatal("a forged chunk opens")
		}
	})
}

// TestChunkPages: the pages of chunks' keys are used again, and hold nothing between two chunks.
func TestChunkPages(t *testing.T) {
	keys := testTenant(t, bytes.Repeat([]byte{3}, KeyBytes))
	for _, s := range []Suite{SuiteXChaCha20Poly1305, SuiteXAES256GCM} {
		for range 3 {
			r, object, err := keys.SealChunk(s, ChunkData, 0, []byte("chunk"), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keys.OpenChunk(&r, object, nil); err != nil {
				t.Fatal(err)
			}
			if len(keys.pages) != 1 {
				t.Fatalf("%d pages", len(keys.pages))
			}
			page := keys.pages[0]
			if b := unsafe.Slice((*byte)(page.base), pageBytes); page.used != 0 || !bytes.Equal(b, make([]byte, pageBytes)) {
				t.Fatal("a page holds something")
			}
		}
	}
	var busy []*region
	for range maxFreePages + 5 {
		p, err := keys.page()
		if err != nil {
			t.Fatal(err)
		}
		busy = append(busy, p)
	}
	for _, p := range busy {
		keys.giveBack(p)
	}
	if len(keys.pages) != maxFreePages {
		t.Errorf("%d pages are kept", len(keys.pages))
	}
	kept := keys.pages[0]
	keys.Erase()
	if kept.base != nil || len(keys.pages) != 0 {
		t.Error("pages outlive the keys")
	}
}
