package layout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

var freshHeaders = flag.String("fresh-headers", "", "write fresh headers to this file, for testdata/check_headers.py")

var update = flag.Bool("update", false, "write testdata and the example of docs/format.md anew")

// sequence returns 32 ascending bytes, as the golden vectors of pkg/crypto use.
func sequence(from byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func newKey(t testing.TB, b []byte) *crypto.Key {
	t.Helper()
	k, err := crypto.NewKey(slices.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func newEpochKeys(t testing.TB, s crypto.Suite, id crypto.UUID, epoch uint32, vmk *crypto.Key) *crypto.EpochKeys {
	t.Helper()
	k, err := crypto.DeriveEpochKeys(s, id, epoch, vmk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func secret(t testing.TB, b []byte) crypto.Credential {
	t.Helper()
	return crypto.SecretCredential(newKey(t, b))
}

// exampleHeaders are the headers of the golden vectors: the key slots are
// those of pkg/crypto/testdata/vectors.json.
func exampleHeaders(t testing.TB) (names []string, headers []*Header, keys []*crypto.EpochKeys) {
	t.Helper()
	raw, err := os.ReadFile("../../../crypto/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		KeySlots []struct {
			Name string
			In   struct {
				UUID   string
				Suite  crypto.Suite
				Slot   int
				Type   uint8
				Params string
				Epochs [][]any
			}
			Out struct {
				SlotBytes string `json:"slot_bytes"`
			}
		} `json:"key_slots"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for i, c := range v.KeySlots {
		h := &Header{ID: crypto.UUID(unhex(t, c.In.UUID)), Suite: c.In.Suite, Sequence: uint64(i + 1), Compat: uint64(i) << 40}
		h.Slots[c.In.Slot] = crypto.Slot{Type: c.In.Type, Params: unhex(t, c.In.Params), Sealed: unhex(t, c.Out.SlotBytes)}
		newest := c.In.Epochs[len(c.In.Epochs)-1]
		k := newEpochKeys(t, h.Suite, h.ID, uint32(newest[0].(float64)), newKey(t, unhex(t, newest[1].(string))))
		names, headers, keys = append(names, c.Name), append(headers, h), append(keys, k)
	}
	return names, headers, keys
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustEncode(t testing.TB, h *Header, k *crypto.EpochKeys) []byte {
	t.Helper()
	b, err := EncodeHeader(h, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// headerVector is one case of testdata/headers.json.
type headerVector struct {
	Name     string `json:"name"`
	UUID     string `json:"uuid"`
	VMK      string `json:"newest_vmk"`
	Epoch    uint32 `json:"newest_epoch"`
	Suite    uint8  `json:"suite"`
	Sequence uint64 `json:"sequence"`
	Compat   uint64 `json:"compat"`
	Slots    []struct {
		Index  int    `json:"index"`
		Type   uint8  `json:"type"`
		Params string `json:"params"`
		Sealed string `json:"sealed"`
	} `json:"slots"`
	MAC      string `json:"mac"`
	Checksum string `json:"checksum"`
	SHA256   string `json:"area_sha256"`
}

func TestHeaderVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/headers.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []headerVector
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 4 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			h := &Header{ID: crypto.UUID(unhex(t, v.UUID)), Suite: crypto.Suite(v.Suite), Sequence: v.Sequence, Compat: v.Compat}
			for _, s := range v.Slots {
				h.Slots[s.Index] = crypto.Slot{Type: s.Type, Params: unhex(t, s.Params), Sealed: unhex(t, s.Sealed)}
			}
			b := mustEncode(t, h, newEpochKeys(t, h.Suite, h.ID, v.Epoch, newKey(t, unhex(t, v.VMK))))
			sum := sha256.Sum256(b)
			if got := hex.EncodeToString(b[offMAC:offChecksum]); got != v.MAC {
				t.Errorf("mac %s, want %s", got, v.MAC)
			}
			if got := hex.EncodeToString(b[offChecksum:]); got != v.Checksum {
				t.Errorf("checksum %s, want %s", got, v.Checksum)
			}
			if got := hex.EncodeToString(sum[:]); got != v.SHA256 {
				t.Errorf("area %s, want %s", got, v.SHA256)
			}
		})
	}
}

// hexDump is the form of hexdump -C: repeated lines collapse to "*".
func hexDump(b []byte) string {
	var s strings.Builder
	var last []byte
	starred := false
	for off := 0; off < len(b); off += 16 {
		line := b[off : off+16]
		if bytes.Equal(line, last) {
			if !starred {
				s.WriteString("*\n")
			}
			starred = true
			continue
		}
		last, starred = line, false
		fmt.Fprintf(&s, "%08x  % x  % x\n", off, line[:8], line[8:])
	}
	fmt.Fprintf(&s, "%08x\n", len(b))
	return s.String()
}

// TestHeaderDocument holds docs/format.md to its word: its example is the
// first golden vector, byte for byte.
func TestHeaderDocument(t *testing.T) {
	const path = "../../../../docs/format.md"
	const begin, end = "<!-- example: header -->\n```\n", "```\n<!-- end -->"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, headers, keys := exampleHeaders(t)
	want := hexDump(mustEncode(t, headers[0], keys[0]))
	before, rest, ok := strings.Cut(string(doc), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/format.md has no header example")
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("the example of docs/format.md differs; this is right:\n%s", want)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	names, headers, keys := exampleHeaders(t)
	for i, h := range headers {
		t.Run(names[i], func(t *testing.T) {
			b := mustEncode(t, h, keys[i])
			got, err := DecodeHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(mustEncode(t, got, keys[i]), b) {
				t.Error("encodes to other bytes")
			}
			if err := got.Verify(keys[i]); err != nil {
				t.Error(err)
			}
			if h.Slots[0].Type != crypto.SlotSecret {
				return
			}
			epochs, slot, err := got.Unlock(secret(t, sequence(0xc0)))
			if err != nil {
				t.Fatal(err)
			}
			defer crypto.EraseEpochs(epochs)
			if slot != 0 || !bytes.Equal(epochs[0].VMK.Bytes(), sequence(0)) {
				t.Errorf("slot %d opens to something else", slot)
			}
			if _, _, err := got.Unlock(secret(t, sequence(0xc1))); !errors.Is(err, crypto.ErrWrongKey) {
				t.Errorf("wrong key: %v", err)
			}
		})
	}
}

// rechecksum makes the checksum fit, as an attacker would.
func rechecksum(b []byte) []byte {
	sum := sha256.Sum256(b[:offChecksum])
	copy(b[offChecksum:], sum[:])
	return b
}

func TestHeaderDamage(t *testing.T) {
	_, headers, keys := exampleHeaders(t)
	good := mustEncode(t, headers[0], keys[0])
	for off := 0; off < HeaderBytes; off++ {
		if off > 256 && off < offMAC && off%61 != 0 && (off-offSlots)%slotBytes > 300 {
			continue // far from every field, a sample is enough
		}
		b := slices.Clone(good)
		b[off] ^= 1 << (off % 8)
		want := ErrHeaderDamaged
		if off < len(headerMagic) {
			want = ErrNotSealvol
		}
		if _, err := DecodeHeader(b); !errors.Is(err, want) {
			t.Fatalf("flip at %d: %v", off, err)
		}
		if off >= offChecksum {
			continue
		}
		h, err := DecodeHeader(rechecksum(b))
		if err == nil {
			err = h.Verify(keys[0])
		}
		if err == nil {
			t.Fatalf("forged byte %d was accepted", off)
		}
	}
}

func TestHeaderErrors(t *testing.T) {
	_, headers, keys := exampleHeaders(t)
	good := mustEncode(t, headers[0], keys[0])
	for _, c := range []struct {
		name string
		edit func(b []byte) []byte
		want error
		text string
	}{
		{"empty", func([]byte) []byte { return nil }, ErrNotSealvol, ""},
		{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }, ErrNotSealvol, ""},
		{"short", func(b []byte) []byte { return b[:5000] }, ErrHeaderDamaged, "5000 of 65536 bytes"},
		{"newer version", func(b []byte) []byte { b[offVersion] = 3; return rechecksum(b) }, ErrNewerFormat, "version is 3"},
		{"version 1", func(b []byte) []byte { b[offVersion] = 1; return rechecksum(b) }, ErrHeaderDamaged, "version 1"},
		{"incompat", func(b []byte) []byte { b[offIncompat], b[offIncompat+7] = 0x80, 0x80; return rechecksum(b) }, ErrNewerFormat, "bits 7, 63"},
		{"incompat 63", func(b []byte) []byte { b[offIncompat+7] = 0x80; return rechecksum(b) }, ErrNewerFormat, "bit 63"},
		{"suite", func(b []byte) []byte { b[offSuite] = 9; return rechecksum(b) }, crypto.ErrUnsupportedSuite, "suite 9"},
		{"block", func(b []byte) []byte { b[offBlockSize+1] = 2; return rechecksum(b) }, ErrHeaderDamaged, "block size 512"},
		{"slot type", func(b []byte) []byte { b[offSlots] = 77; return rechecksum(b) }, ErrHeaderDamaged, "slot 0"},
		{"slot length", func(b []byte) []byte { b[offSlots+slotBytes+3] = 0xff; return rechecksum(b) }, ErrHeaderDamaged, "slot 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeHeader(c.edit(slices.Clone(good)))
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	h := *headers[0]
	h.ROCompat = 1 << 5
	got, err := DecodeHeader(mustEncode(t, &h, keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.CheckWritable(); !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), "bit 5") {
		t.Errorf("unknown ro_compat bit: %v", err)
	}
	h.Compat, h.ROCompat = 1<<60, 0
	if got, err = DecodeHeader(mustEncode(t, &h, keys[0])); err != nil || got.CheckWritable() != nil || got.Compat != 1<<60 {
		t.Errorf("unknown compat bit: %v", err)
	}
	h.Slots[3] = crypto.Slot{Type: 1, Sealed: make([]byte, 1000)}
	if _, err := EncodeHeader(&h, keys[0]); err == nil {
		t.Error("an oversized slot was encoded")
	}
	if _, err := EncodeHeader(headers[0], keys[2]); err == nil {
		t.Error("a header was encoded with another suite's keys")
	}
}

func TestHeaderCopies(t *testing.T) {
	_, headers, keys := exampleHeaders(t)
	at := func(seq uint64, edit ...func(*Header)) []byte {
		h := *headers[0]
		h.Sequence = seq
		for _, e := range edit {
			e(&h)
		}
		return mustEncode(t, &h, keys[0])
	}
	flip := func(b []byte) []byte { b[offSequence] ^= 0x10; return b }
	forge := func(b []byte) []byte { return rechecksum(flip(b)) }
	// A second volume that the same KEK opens.
	foreign := func(seq uint64) []byte {
		id := crypto.NewUUID()
		vmk := newKey(t, sequence(0x77))
		slot, err := crypto.NewSlot(1, id, 0, crypto.SecretCredential(newKey(t, sequence(0xc0))), []crypto.EpochKey{{Epoch: 1, VMK: vmk}})
		if err != nil {
			t.Fatal(err)
		}
		h := &Header{ID: id, Suite: 1, Sequence: seq}
		h.Slots[0] = slot
		return mustEncode(t, h, newEpochKeys(t, 1, id, 1, vmk))
	}
	stranger := func(seq uint64) []byte { // and one that it does not open
		b := foreign(seq)
		b[offSlots+slotSealed+40] ^= 1
		return rechecksum(b)
	}
	for _, c := range []struct {
		name  string
		a, b  []byte
		copy  int
		other error
		err   error
	}{
		{"same", at(5), at(5), 0, nil, nil},
		{"A newer", at(6), at(5), 0, ErrHeaderStale, nil},
		{"B newer", at(5), at(6), 1, ErrHeaderStale, nil},
		{"A damaged", flip(at(5)), at(5), 1, ErrHeaderDamaged, nil},
		{"B damaged", at(5), flip(at(5)), 0, ErrHeaderDamaged, nil},
		{"A wiped", make([]byte, HeaderBytes), at(5), 1, ErrNotSealvol, nil},
		{"A newer but forged", forge(at(7)), at(5), 1, ErrHeaderForged, nil},
		{"B newer but forged", at(5), forge(at(7)), 0, ErrHeaderForged, nil},
		{"same sequence, different", at(5), at(5, func(h *Header) { h.Compat = 1 }), 0, ErrHeaderForged, nil},
		{"both damaged", flip(at(5)), flip(at(5)), 0, nil, ErrHeaderDamaged},
		{"both forged", forge(at(5)), forge(at(5)), 0, nil, ErrHeaderForged},
		{"both wiped", make([]byte, HeaderBytes), nil, 0, nil, ErrNotSealvol},
		{"wiped and damaged", make([]byte, HeaderBytes), flip(at(5)), 0, nil, ErrHeaderDamaged},
		{"two volumes", at(5), foreign(9), 0, nil, ErrHeaderConflict},
		{"two volumes, one not ours", at(5), stranger(9), 0, crypto.ErrWrongKey, nil},
		{"one newer format", at(5), at(5, func(h *Header) { h.Incompat = 1 << 9 }), 0, nil, ErrNewerFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := DecodeHeaders(c.a, c.b).Unlock(secret(t, sequence(0xc0)))
			if c.err != nil {
				if !errors.Is(err, c.err) {
					t.Fatalf("got %v, want %v", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer crypto.EraseEpochs(u.Epochs)
			if u.Copy != c.copy || !errors.Is(u.Other, c.other) {
				t.Errorf("copy %d, other %v; want %d, %v", u.Copy, u.Other, c.copy, c.other)
			}
		})
	}
	both := DecodeHeaders(at(5), at(5))
	if _, err := both.Unlock(secret(t, sequence(1))); !errors.Is(err, crypto.ErrWrongKey) || !strings.Contains(err.Error(), "opens no key slot") {
		t.Errorf("wrong key: %v", err)
	}
	pass, err := crypto.PassphraseCredential([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Erase()
	if _, err := both.Unlock(pass); !errors.Is(err, crypto.ErrWrongKey) || !strings.Contains(err.Error(), "no key slot of type passphrase") {
		t.Errorf("no such slot: %v", err)
	}
	damaged := *headers[0]
	damaged.Slots[0].Sealed = slices.Clone(damaged.Slots[0].Sealed)
	damaged.Slots[0].Sealed[100] ^= 1
	b := mustEncode(t, &damaged, keys[0])
	if _, err := DecodeHeaders(b, b).Unlock(secret(t, sequence(0xc0))); !errors.Is(err, crypto.ErrAuthentication) || !strings.Contains(err.Error(), "key slot 0") {
		t.Errorf("damaged slot: %v", err)
	}
}

// TestFreshHeaders lets EncodeHeader write headers of the shape of
// headers.json, with random keys; `make vectors` has them recomputed by
// check_headers.py.
func TestFreshHeaders(t *testing.T) {
	var cases []map[string]any
	for i := range 8 {
		s := crypto.Suite(1 + i%2)
		h := &Header{ID: crypto.NewUUID(), Suite: s, Sequence: 1 << (7 * i), Compat: 1 << (9 * i % 64), ROCompat: uint64(i)}
		vmk, err := crypto.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		defer vmk.Erase()
		var slots []map[string]any
		for j := range i * 2 {
			kek, err := crypto.GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			defer kek.Erase()
			slot, err := crypto.NewSlot(s, h.ID, uint8(j), crypto.SecretCredential(kek), []crypto.EpochKey{{Epoch: 7, VMK: vmk}})
			if err != nil {
				t.Fatal(err)
			}
			h.Slots[j] = slot
			slots = append(slots, map[string]any{
				"index": j, "type": slot.Type, "params": hex.EncodeToString(slot.Params), "sealed": hex.EncodeToString(slot.Sealed),
			})
		}
		b := mustEncode(t, h, newEpochKeys(t, s, h.ID, 7, vmk))
		sum := sha256.Sum256(b)
		cases = append(cases, map[string]any{
			"name": fmt.Sprint("fresh-", i), "uuid": hex.EncodeToString(h.ID[:]), "newest_vmk": hex.EncodeToString(vmk.Bytes()),
			"newest_epoch": 7, "suite": s, "sequence": h.Sequence, "compat": h.Compat, "ro_compat": h.ROCompat,
			"slots": append([]map[string]any{}, slots...), "mac": hex.EncodeToString(b[offMAC:offChecksum]),
			"checksum": hex.EncodeToString(b[offChecksum:]), "area_sha256": hex.EncodeToString(sum[:]),
		})
	}
	if *freshHeaders == "" {
		return
	}
	b, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*freshHeaders, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	_, headers, keys := exampleHeaders(f)
	for i := range headers {
		f.Add(mustEncode(f, headers[i], keys[i])[:offSlots+slotBytes])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b := make([]byte, HeaderBytes)
		copy(b[:offChecksum], in)
		h, err := DecodeHeader(rechecksum(b))
		if err != nil {
			return
		}
		again, err := h.encode()
		if err != nil {
			t.Fatalf("decodes, but does not encode: %v", err)
		}
		if !bytes.Equal(again[:offMAC], b[:offMAC]) {
			t.Fatal("encodes to other bytes")
		}
		if h.Verify(keys[0]) == nil && binary.LittleEndian.Uint64(b[offSequence:]) != headers[0].Sequence {
			t.Fatal("a forged header verifies")
		}
	})
}
