package crypto

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
)

var freshTenants = flag.String("fresh-tenants", "", "write fresh output of tenant.go to this file, for testdata/check_snapshots.py")

type tenantIn struct {
	TenantSecret hexBytes `json:"tenant_secret"`
	Suite        Suite    `json:"suite,omitempty"`
	Header       hexBytes `json:"header,omitempty"`
	Slot         uint16   `json:"slot"`
	Clear        hexBytes `json:"clear,omitempty"`
	D            hexBytes `json:"d,omitempty"`
	P            hexBytes `json:"p,omitempty"`
	Label        string   `json:"label,omitempty"`
	SnapshotUUID hexBytes `json:"snapshot_uuid,omitempty"`
	Nonce        hexBytes `json:"nonce,omitempty"`
	Body         recipe   `json:"body"`
	Type         uint8    `json:"type"`
	Params       hexBytes `json:"params"`
	KEK          hexBytes `json:"kek,omitempty"`
	Salt         hexBytes `json:"salt,omitempty"`
}

var tenantGroups = map[string]func(*testing.T, *tenantIn) outputs{
	"tenants": tenantOutputs, "pack_slots": packSlotOutputs, "records": recordOutputs, "tenant_slots": tenantSlotOutputs,
}

// TestTenantVectors recomputes testdata/snapshots.json.
func TestTenantVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/snapshots.json")
	if err != nil {
		t.Fatal(err)
	}
	var groups map[string]json.RawMessage
	if err := json.Unmarshal(b, &groups); err != nil {
		t.Fatal(err)
	}
	for group, run := range tenantGroups {
		var cases []struct {
			Name string
			In   tenantIn
			Out  map[string]json.RawMessage
		}
		if err := json.Unmarshal(groups[group], &cases); err != nil || len(cases) == 0 {
			t.Fatalf("group %s: %d cases, %v", group, len(cases), err)
		}
		for _, c := range cases {
			t.Run(group+"/"+c.Name, func(t *testing.T) {
				v := vectorCase{Name: c.Name, Out: c.Out}
				v.check(t, run(t, &c.In))
			})
		}
	}
	if len(groups) != len(tenantGroups)+2 { // and format, about
		t.Errorf("%d groups in the file", len(groups))
	}
}

func tenantOutputs(t *testing.T, in *tenantIn) outputs {
	k := testTenant(t, in.TenantSecret)
	fp, err := k.Fingerprint()
	cut, err2 := k.CutKey()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return outputs{"C": hexBytes(bytes.Clone(k.c.bytes())), "fingerprint": hexBytes(fp[:]), "cut": hexBytes(cut[:])}
}

func packSlotOutputs(t *testing.T, in *tenantIn) outputs {
	k := testTenant(t, in.TenantSecret)
	at := PackSlot{Snapshot: UUID(in.SnapshotUUID), Header: in.Header, Index: in.Slot, Clear: [PackSlotClear]byte(in.Clear)}
	d, p := [32]byte(in.D), [32]byte(in.P)
	hidden, err := k.HideRef(&at, &d, &p)
	if err != nil {
		t.Fatal(err)
	}
	if got, p2, err := k.RevealRef(&at, &hidden); err != nil || got != [16]byte(in.D[:16]) || p2 != p {
		t.Errorf("reveals another reference: %v", err)
	}
	masked := bytes.Clone(hidden[:])
	for i, b := range append(bytes.Clone(p[:]), d[:16]...) {
		masked[i] ^= b
	}
	return outputs{"mask_p": hexBytes(masked[:32]), "mask": hexBytes(masked[32:]), "hidden": hexBytes(hidden[:])}
}

func recordOutputs(t *testing.T, in *tenantIn) outputs {
	k, id := testTenant(t, in.TenantSecret), UUID(in.SnapshotUUID)
	sealed, err := k.sealRecord([24]byte(in.Nonce), in.Suite, in.Label, id, in.Body.bytes())
	if err != nil {
		t.Fatal(err)
	}
	if body, err := k.OpenRecord(in.Suite, in.Label, id, sealed); err != nil || !bytes.Equal(body, in.Body.bytes()) {
		t.Errorf("opens to something else: %v", err)
	}
	out := outputs{"sealed": hexBytes(sealed)}
	if err := k.recordBox(in.Suite, in.Label, id, func(b *box, aad []byte) error {
		out["key"], out["aad"] = hexBytes(bytes.Clone(b.key.bytes())), hexBytes(aad)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func tenantSlotOutputs(t *testing.T, in *tenantIn) outputs {
	secret, kek, index := testKey(t, in.TenantSecret), testKey(t, in.KEK), uint8(in.Slot)
	fp, err := testTenant(t, in.TenantSecret).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	slot := Slot{Type: in.Type, Params: in.Params}
	if slot.Sealed, err = sealEntries(in.Suite, fp, index, &slot, kek, [32]byte(in.Salt), []EpochKey{{0, secret}}, saltSecret); err != nil {
		t.Fatal(err)
	}
	got, err := OpenTenantSlot(in.Suite, fp, index, &slot, fixedKEK{slot.Type, kek})
	if err != nil || !bytes.Equal(got.Bytes(), secret.Bytes()) {
		t.Errorf("the slot opens to something else: %v", err)
	}
	got.Erase()
	var commit [32]byte
	keyCommitment(commit[:], saltSecret, fp, secret)
	return outputs{"fingerprint": hexBytes(fp[:]), "commit": hexBytes(commit[:]), "slot_bytes": hexBytes(slot.Sealed)}
}

// TestFreshTenants lets the product's own functions, with their random nonces
// and salts, write cases that check_snapshots.py recomputes.
func TestFreshTenants(t *testing.T) {
	doc := map[string]any{"format": 1, "about": "fresh output of pkg/crypto"}
	add := func(group string, in tenantIn, out outputs) {
		cases, _ := doc[group].([]any)
		doc[group] = append(cases, map[string]any{"name": fmt.Sprint(len(cases)), "in": in, "out": out})
	}
	for _, s := range bothSuites {
		for range 3 {
			in := tenantIn{TenantSecret: randomBytes(32), Suite: s}
			add("tenants", in, tenantOutputs(t, &in))
			in.Header, in.Slot, in.SnapshotUUID = randomBytes(32), uint16(randomBytes(1)[0]), randomBytes(16)
			in.Clear, in.D, in.P = randomBytes(PackSlotClear), randomBytes(32), randomBytes(32)
			add("pack_slots", in, packSlotOutputs(t, &in))
			k, id, body := testTenant(t, in.TenantSecret), NewUUID(), hexBytes(randomBytes(700))
			sealed, err := k.SealRecord(s, RecordCard, id, body)
			if err != nil {
				t.Fatal(err)
			}
			in = tenantIn{TenantSecret: in.TenantSecret, Suite: s, Label: RecordCard, SnapshotUUID: id[:], Nonce: sealed[:24], Body: recipe{Hex: &body}}
			add("records", in, recordOutputs(t, &in))
			if again := recordOutputs(t, &in)["sealed"].(hexBytes); !bytes.Equal(again, sealed) {
				t.Error("sealing anew under one nonce gives other bytes")
			}
			fp, err := k.Fingerprint()
			if err != nil {
				t.Fatal(err)
			}
			kek := randomBytes(32)
			slot, err := NewTenantSlot(s, fp, 3, SecretCredential(testKey(t, kek)), testKey(t, in.TenantSecret))
			if err != nil {
				t.Fatal(err)
			}
			in = tenantIn{TenantSecret: in.TenantSecret, Suite: s, Slot: 3, Type: slot.Type, Params: slot.Params, KEK: kek, Salt: slot.Sealed[:32]}
			add("tenant_slots", in, tenantSlotOutputs(t, &in))
		}
	}
	if *freshTenants == "" {
		return
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*freshTenants, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRecords: a card opens under its own snapshot, suite, label and tenant
// alone, whole.
func TestRecords(t *testing.T) {
	mine, theirs, id := testTenant(t, sequence(1)), testTenant(t, sequence(2)), NewUUID()
	for _, s := range bothSuites {
		sealed, err := mine.SealRecord(s, RecordCard, id, []byte("card"))
		if err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"another tenant":   func() ([]byte, error) { return theirs.OpenRecord(s, RecordCard, id, sealed) },
			"another snapshot": func() ([]byte, error) { return mine.OpenRecord(s, RecordCard, NewUUID(), sealed) },
			"another suite":    func() ([]byte, error) { return mine.OpenRecord(3-s, RecordCard, id, sealed) },
			"nothing":          func() ([]byte, error) { return mine.OpenRecord(s, RecordCard, id, nil) },
		} {
			if b, err := open(); !errors.Is(err, ErrAuthentication) || b != nil {
				t.Errorf("%v: %s: %q, %v", s, name, b, err)
			}
		}
		for i := range sealed {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1
			if _, err := mine.OpenRecord(s, RecordCard, id, bad); !errors.Is(err, ErrAuthentication) {
				t.Fatalf("%v: flip at %d: %v", s, i, err)
			}
		}
		for _, label := range []string{"chunk-key", "slot", ""} {
			if _, err := mine.SealRecord(s, label, id, nil); err == nil {
				t.Errorf("label %q, of something else, was accepted", label)
			}
		}
	}
	theirs.Erase()
	_, seal := theirs.SealRecord(1, RecordCard, id, nil)
	_, open := theirs.OpenRecord(1, RecordCard, id, make([]byte, 100))
	_, fp := theirs.Fingerprint()
	_, cut := theirs.CutKey()
	_, hide := theirs.HideRef(&PackSlot{}, &[32]byte{}, &[32]byte{})
	_, _, reveal := theirs.RevealRef(&PackSlot{}, &[PackSlotHidden]byte{})
	for i, err := range []error{seal, open, fp, cut, hide, reveal} {
		if !errors.Is(err, ErrErased) {
			t.Errorf("call %d after Erase: %v", i, err)
		}
	}
}

// TestTenantSlots: slots of a tenant secret are of it and of their index alone.
func TestTenantSlots(t *testing.T) {
	secret, kek := testKey(t, sequence(1)), testKey(t, sequence(9))
	fp, err := testTenant(t, sequence(1)).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	other, err := testTenant(t, sequence(2)).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	slot, err := NewTenantSlot(1, fp, 0, SecretCredential(kek), secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenTenantSlot(1, fp, 0, &slot, SecretCredential(kek))
	if err != nil || !bytes.Equal(got.Bytes(), secret.Bytes()) {
		t.Fatal(err)
	}
	got.Erase()
	wrong := testKey(t, sequence(8))
	_, key := OpenTenantSlot(1, fp, 0, &slot, SecretCredential(wrong))
	_, index := OpenTenantSlot(1, fp, 1, &slot, SecretCredential(kek))
	_, tenant := OpenTenantSlot(1, other, 0, &slot, SecretCredential(kek))
	_, snapshot := OpenSnapshotSlot(1, UUID(fp), 0, &slot, SecretCredential(kek))
	for i, err := range []error{key, index, tenant} {
		if !errors.Is(err, ErrWrongKey) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	if snapshot == nil {
		t.Error("it opens as a snapshot's slot")
	}
	// A slot that says it is of another secret's fingerprint.
	if _, err := NewTenantSlot(1, other, 0, SecretCredential(kek), secret); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a slot that nobody could open is sealed: %v", err)
	}
	lie, err := newSlot(1, other, 0, SecretCredential(kek), []EpochKey{{0, secret}}, saltSecret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTenantSlot(1, other, 0, &lie, SecretCredential(kek)); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a secret of another fingerprint: %v", err)
	}
}

// TestPackedChunks: without a name, p alone refuses other objects.
func TestPackedChunks(t *testing.T) {
	k := testTenant(t, sequence(1))
	for _, s := range bothSuites {
		r, object, err := k.SealPacked(s, ChunkData, 0, []byte("chunk"), nil, nil)
		named, same, err2 := k.SealChunk(s, ChunkData, 0, []byte("chunk"), nil, nil)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if r.Name != ([32]byte{}) || !bytes.Equal(object, same) || r.D != named.D {
			t.Errorf("%v: another object", s)
		}
		if got, err := k.OpenPacked(&r, object, nil); err != nil || string(got) != "chunk" {
			t.Errorf("%v: %q, %v", s, got, err)
		}
		_, other, err := k.SealPacked(s, ChunkData, 0, []byte("other"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.OpenPacked(&r, other, nil); !errors.Is(err, ErrAuthentication) {
			t.Errorf("%v: another object of the tenant: %v", s, err)
		}
	}
}

// TestPackSlots: a slot reveals its chunk at its place alone. Each other place, tenant or snapshot,
// and each changed bit, gives another d, which matches no chunk.
func TestPackSlots(t *testing.T) {
	mine, theirs := testTenant(t, sequence(1)), testTenant(t, sequence(2))
	at := PackSlot{Snapshot: UUID{1}, Header: bytes.Repeat([]byte{7}, 32), Index: 5, Clear: [PackSlotClear]byte{32, 4: 16, 8: 1, 10: 1}}
	d, p := [32]byte(randomBytes(32)), [32]byte(randomBytes(32))
	hidden, err := mine.HideRef(&at, &d, &p)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[16]byte]string{}
	reveal := func(name string, k *TenantKeys, at PackSlot, hidden [PackSlotHidden]byte) (same bool) {
		t.Helper()
		got, _, err := k.RevealRef(&at, &hidden)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s reveals the same as %s", name, other)
		}
		seen[got] = name
		return got == [16]byte(d[:16])
	}
	if !reveal("the slot", mine, at, hidden) {
		t.Error("the slot does not reveal its chunk")
	}
	for name, edit := range map[string]func(*PackSlot){
		"another snapshot": func(s *PackSlot) { s.Snapshot[15] ^= 1 }, "another index": func(s *PackSlot) { s.Index ^= 256 },
		"another header": func(s *PackSlot) { s.Header = bytes.Repeat([]byte{8}, 32) },
	} {
		bad := at
		if edit(&bad); reveal(name, mine, bad, hidden) {
			t.Errorf("%s reveals the chunk", name)
		}
	}
	for bit := range 8 * (PackSlotClear + PackSlotHidden) {
		bad, h := at, hidden
		name := "bit "
		if bit < 8*PackSlotClear {
			bad.Clear[bit/8] ^= 1 << (bit % 8)
		} else {
			h[bit/8-PackSlotClear] ^= 1 << (bit % 8)
		}
		if reveal(name+fmt.Sprint(bit), mine, bad, h) {
			t.Errorf("bit %d flipped: it reveals the chunk", bit)
		}
	}
	if reveal("another tenant", theirs, at, hidden) {
		t.Error("another tenant sees the chunk")
	}
	// The same chunk in another slot does not look alike, in no part.
	at.Index++
	again, err := mine.HideRef(&at, &d, &p)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(again[:32], hidden[:32]) || bytes.Equal(again[32:], hidden[32:]) {
		t.Error("equal chunks look alike")
	}
}
