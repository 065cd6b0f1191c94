package manifest

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

func key(t testing.TB, fill byte) *crypto.Key {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func tenant(t testing.TB, fill byte) *crypto.TenantKeys {
	t.Helper()
	k, err := crypto.DeriveTenantKeys(key(t, fill))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func snapshotKeys(t testing.TB, s format.ID, fill byte) *crypto.SnapshotKeys {
	t.Helper()
	k, err := crypto.DeriveSnapshotKeys(1, crypto.UUID(s), key(t, fill))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func testBody() *Body {
	return &Body{Volume: crypto.UUID{1}, Generation: 2, Parent: crypto.UUID{3}, Instance: format.ID{4}, StateRoot: [32]byte{5}, ParentSealed: format.Sum{6},
		Root:   selfenc.PackedRef{Ref: selfenc.Ref{Suite: 1, Kind: crypto.ChunkTree, Comp: 1, Length: 5000, D: [32]byte{1}, P: [32]byte{2}}, Stored: 900, Pack: 3, Offset: 32},
		Height: 2, Seed: [16]byte{7}, ChunkBytes: 65536, LogicalBytes: 1 << 40, StoredBytes: 8, Files: 9, Dirs: 10, Epoch: 1, Since: 11, Dropped: 1 << 33, Writer: "sealvol test"}
}

func testHead(s format.ID) *format.Head {
	return &format.Head{Suite: 1, S: s, Lineage: format.ID{9}, Parent: format.ID{3}, Created: 5}
}

func testCard() *Card {
	return &Card{Sealed: format.Sum{1}, Created: 2, Finished: 3, LogicalBytes: 4, StoredBytes: 5, Files: 6, Suite: 1, Volume: format.ID{7}, Parent: format.ID{3},
		Name: "nightly", Claim: "shop/db", Host: "node-a", Tags: map[string]string{"a": "1", "b": "", "ü": "x"}}
}

func TestManifest(t *testing.T) {
	s := format.ID{1}
	keys, h := snapshotKeys(t, s, 1), testHead(s)
	object, err := Seal(keys, h, testBody())
	if err != nil {
		t.Fatal(err)
	}
	got, sealed, err := format.DecodeManifest(object)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(keys, got, sealed, &h.Sealed)
	if err != nil || !reflect.DeepEqual(b, testBody()) {
		t.Fatalf("%+v, %v", b, err)
	}
	if _, err := Open(snapshotKeys(t, s, 2), got, sealed, nil); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(keys, got, sealed, &format.Sum{1}); !errors.Is(err, ErrExchanged) {
		t.Errorf("another handle: %v", err)
	}
	// The store changes the head: other packs, another parent, another time.
	for name, edit := range map[string]func(*format.Head){
		"time": func(h *format.Head) { h.Created++ }, "lineage": func(h *format.Head) { h.Lineage[0]++ }, "parent": func(h *format.Head) { h.Parent[0]++ },
		"next": func(h *format.Head) { h.Next++ },
	} {
		bad := *got
		edit(&bad)
		if _, err := Open(keys, &bad, sealed, nil); !errors.Is(err, ErrExchanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Manifests of two snapshots exchanged.
	other := testHead(format.ID{2})
	object2, err := Seal(snapshotKeys(t, other.S, 1), other, testBody())
	if err != nil {
		t.Fatal(err)
	}
	_, sealed2, err := format.DecodeManifest(object2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(keys, got, sealed2, nil); !errors.Is(err, ErrKey) {
		t.Errorf("another snapshot's sealed part: %v", err)
	}
	lie := testBody()
	lie.Parent = crypto.UUID{9}
	if _, err := Seal(keys, h, lie); !errors.Is(err, ErrExchanged) {
		t.Errorf("two parents: %v", err)
	}
}

func TestCard(t *testing.T) {
	mine, theirs, s := tenant(t, 1), tenant(t, 2), format.ID{1}
	for _, c := range []*Card{testCard(), {Suite: 2}} {
		object, err := SealCard(mine, 1, s, c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenCard(mine, s, object)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := OpenCard(theirs, s, object); !errors.Is(err, ErrTenant) {
			t.Errorf("another tenant: %v", err)
		}
		if _, err := OpenCard(mine, format.ID{2}, object); !errors.Is(err, ErrTenant) {
			t.Errorf("another snapshot: %v", err)
		}
		if _, err := OpenCard(mine, s, []byte(format.VoidCard)); !errors.Is(err, format.ErrFormat) {
			t.Errorf("void: %v", err)
		}
	}
	c, h := testCard(), testHead(s)
	h.Sealed = c.Sealed
	if err := c.Check(h); err != nil {
		t.Error(err)
	}
	h.Sealed[0]++ // an old card put back
	if err := c.Check(h); !errors.Is(err, ErrExchanged) {
		t.Errorf("an old card: %v", err)
	}
	for name, edit := range map[string]func(*Card){
		"name": func(c *Card) { c.Name = strings.Repeat("x", 300) }, "utf-8": func(c *Card) { c.Host = "\xff" }, "empty tag": func(c *Card) { c.Tags = map[string]string{"": "x"} },
	} {
		c := testCard()
		edit(c)
		if _, err := SealCard(mine, 1, s, c); !errors.Is(err, format.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlots(t *testing.T) {
	id, sk, kek, other := format.ID{5}, key(t, 1), key(t, 2), key(t, 3)
	s := &Slots{Suite: 1, Slots: map[uint8]crypto.Slot{}}
	for i, k := range map[uint8]*crypto.Key{0: other, 7: kek} {
		slot, err := crypto.NewSnapshotSlot(1, crypto.UUID(id), i, crypto.SecretCredential(k), sk)
		if err != nil {
			t.Fatal(err)
		}
		s.Slots[i] = slot
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeSlots(b)
	if err != nil {
		t.Fatal(err)
	}
	k, err := got.OpenSnapshot(id, crypto.SecretCredential(kek))
	if err != nil || !bytes.Equal(k.Bytes(), sk.Bytes()) {
		t.Fatal(err)
	}
	k.Erase()
	if _, err := got.OpenSnapshot(id, crypto.SecretCredential(key(t, 4))); !errors.Is(err, ErrNoSlot) {
		t.Errorf("another key: %v", err)
	}
	if _, err := got.OpenSnapshot(format.ID{6}, crypto.SecretCredential(kek)); !errors.Is(err, ErrNoSlot) {
		t.Errorf("another snapshot: %v", err)
	}
	if _, err := got.OpenTenant(id, crypto.SecretCredential(kek)); err == nil {
		t.Error("a snapshot's slot opened as a tenant's")
	}
	fp, err := tenant(t, 1).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	slot, err := crypto.NewTenantSlot(1, fp, 0, crypto.SecretCredential(kek), sk)
	if err != nil {
		t.Fatal(err)
	}
	ts := &Slots{Suite: 1, Slots: map[uint8]crypto.Slot{0: slot}}
	if k, err = ts.OpenTenant(fp, crypto.SecretCredential(kek)); err != nil || !bytes.Equal(k.Bytes(), sk.Bytes()) {
		t.Errorf("tenant: %v", err)
	}
	k.Erase()
}

// TestDamagedSlot: a damaged slot does not hide a sound one with the same key.
func TestDamagedSlot(t *testing.T) {
	id, sk, kek := format.ID{5}, key(t, 1), key(t, 2)
	s := &Slots{Suite: 1, Slots: map[uint8]crypto.Slot{}}
	for i := range uint8(2) {
		slot, err := crypto.NewSnapshotSlot(1, crypto.UUID(id), i, crypto.SecretCredential(kek), sk)
		if err != nil {
			t.Fatal(err)
		}
		s.Slots[i] = slot
	}
	s.Slots[0].Sealed[len(s.Slots[0].Sealed)-1] ^= 1
	k, err := s.OpenSnapshot(id, crypto.SecretCredential(kek))
	if err != nil || !bytes.Equal(k.Bytes(), sk.Bytes()) {
		t.Errorf("%v", err)
	}
	k.Erase()
	s.Slots[1].Sealed[len(s.Slots[1].Sealed)-1] ^= 1
	if _, err := s.OpenSnapshot(id, crypto.SecretCredential(kek)); !errors.Is(err, crypto.ErrAuthentication) || errors.Is(err, ErrNoSlot) {
		t.Errorf("both damaged: %v", err)
	}
}

// The fuzz targets decode what somebody with the keys may have sealed.

func fuzz(f *testing.F, seed []byte, again func([]byte) ([]byte, error)) {
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := again(b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x is accepted as %x", b, got)
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func FuzzBody(f *testing.F) {
	fuzz(f, must(testBody().encode(format.Sum{1})), func(b []byte) ([]byte, error) {
		var body Body
		head, err := body.decode(b)
		if err != nil {
			return nil, err
		}
		return body.encode(head)
	})
}

func FuzzCardBody(f *testing.F) {
	fuzz(f, must(testCard().encode()), func(b []byte) ([]byte, error) {
		c, err := decodeCard(b)
		if err != nil {
			return nil, err
		}
		return c.encode()
	})
}

func FuzzSlots(f *testing.F) {
	slot, err := crypto.NewSnapshotSlot(1, crypto.UUID{}, 3, crypto.SecretCredential(key(f, 1)), key(f, 2))
	if err != nil {
		f.Fatal(err)
	}
	fuzz(f, must((&Slots{1, map[uint8]crypto.Slot{3: slot}}).Encode()), func(b []byte) ([]byte, error) {
		s, err := DecodeSlots(b)
		if err != nil {
			return nil, err
		}
		return s.Encode()
	})
}

// What CheckLabel takes can be sealed, and nothing else.
func TestCheckLabel(t *testing.T) {
	many := map[string]string{}
	for i := range maxTags + 1 {
		many[strings.Repeat("k", i+1)] = ""
	}
	long := strings.Repeat("x", maxName+1)
	for _, c := range []*Card{testCard(), {}, {Name: long[1:], Claim: long + long[:maxName], Host: long[1:], Tags: map[string]string{long[1:]: long[1:]}}, {Name: long}, {Name: "\xff"},
		{Claim: long + long}, {Host: long}, {Tags: many}, {Tags: map[string]string{"": "x"}}, {Tags: map[string]string{long: ""}}, {Tags: map[string]string{"a": "\xff"}}} {
		c.Suite = 1
		_, err := SealCard(tenant(t, 1), 1, format.ID{1}, c)
		label := CheckLabel(c.Name, c.Claim, c.Host, c.Tags)
		if (err == nil) != (label == nil) || label != nil && !errors.Is(label, format.ErrFormat) {
			t.Errorf("label %v, card %v", label, err)
		}
	}
}
