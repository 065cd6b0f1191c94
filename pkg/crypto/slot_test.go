package crypto

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// fakeKMS wraps by XOR with the context's UUID, enough to see it misused.
type fakeKMS struct{ err error }

func (k fakeKMS) xor(id UUID, b []byte) []byte {
	out := slices.Clone(b)
	for i := range out {
		out[i] ^= id[i%16] ^ 0x3c
	}
	return out
}

func (k fakeKMS) Wrap(_ context.Context, id UUID, kek []byte) ([]byte, error) {
	return append([]byte("arn:"), k.xor(id, kek)...), k.err
}

func (k fakeKMS) Unwrap(_ context.Context, id UUID, b []byte) ([]byte, error) {
	return k.xor(id, b[4:]), k.err
}

// pairs returns a recipient and its credential for each slot type.
func pairs(t testing.TB, s Suite) map[string]struct {
	Recipient
	Credential
} {
	t.Helper()
	pass, err := PassphraseCredential([]byte("pass phrase"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pass.Erase)
	cheap(pass)
	recovery, err := GenerateRecovery(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(recovery.Erase)
	recipient, err := recovery.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	secret := SecretCredential(testKey(t, randomBytes(32)))
	kms := KMSCredential(t.Context(), fakeKMS{})
	return map[string]struct {
		Recipient
		Credential
	}{"secret": {secret, secret}, "kms": {kms, kms}, "recovery": {recipient, RecoveryCredential(recovery)}, "passphrase": {pass, pass}}
}

func testEpochs(t testing.TB, n int) []EpochKey {
	var epochs []EpochKey
	for i := range n {
		epochs = append(epochs, EpochKey{uint32(2*i + 1), testKey(t, randomBytes(32))})
	}
	return epochs
}

func TestSlots(t *testing.T) {
	for _, s := range bothSuites {
		id := NewUUID()
		for name, pair := range pairs(t, s) {
			t.Run(fmt.Sprintf("%v/%s", s, name), func(t *testing.T) {
				for n := 1; n <= MaxEpochs; n++ {
					epochs := testEpochs(t, n)
					slot, err := NewSlot(s, id, 5, pair.Recipient, epochs)
					if err != nil {
						t.Fatal(err)
					}
					if slot.Type != pair.Credential.SlotType() || len(slot.Params) > MaxSlotParams || len(slot.Sealed) > MaxSlotSealed {
						t.Errorf("slot of type %d, %d+%d bytes", slot.Type, len(slot.Params), len(slot.Sealed))
					}
					got, err := OpenSlot(s, id, 5, &slot, pair.Credential)
					if err != nil {
						t.Fatal(err)
					}
					defer EraseEpochs(got)
					for i := range epochs {
						if got[i].Epoch != epochs[i].Epoch || !bytes.Equal(got[i].VMK.Bytes(), epochs[i].VMK.Bytes()) {
							t.Fatalf("epoch %d of %d opens to something else", i, n)
						}
					}
					if n == 2 {
						testSlotTampering(t, s, id, &slot, pair.Credential)
						again, err := NewSlot(s, id, 5, pair.Recipient, epochs)
						if err != nil {
							t.Fatal(err)
						}
						if bytes.Equal(again.Sealed[:saltBytes], slot.Sealed[:saltBytes]) || bytes.Equal(again.Sealed[saltBytes:], slot.Sealed[saltBytes:]) {
							t.Error("wrapping again draws no new salt")
						}
					}
				}
			})
		}
	}
}

func testSlotTampering(t *testing.T, s Suite, id UUID, slot *Slot, c Credential) {
	t.Helper()
	refuse := func(name string, s Suite, id UUID, index uint8, slot Slot) {
		t.Helper()
		got, err := OpenSlot(s, id, index, &slot, c)
		if err == nil {
			EraseEpochs(got)
			t.Errorf("%s was accepted", name)
		}
	}
	refuse("another suite", 3-s, id, 5, *slot)
	refuse("another index", s, id, 6, *slot)
	refuse("another volume", s, NewUUID(), 5, *slot)
	refuse("another type", s, id, 5, Slot{slot.Type%4 + 1, slot.Params, slot.Sealed})
	step := 1
	if slot.Type == SlotPassphrase || slot.Type == SlotRecovery {
		step = 31 // each attempt is slow
	}
	for i := 0; i < len(slot.Sealed); i += step {
		b := slices.Clone(slot.Sealed)
		b[i] ^= 2
		want := ErrWrongKey
		if i >= saltBytes+commitBytes {
			want = ErrAuthentication
		}
		if _, err := OpenSlot(s, id, 5, &Slot{slot.Type, slot.Params, b}, c); !errors.Is(err, want) {
			t.Errorf("flip at %d: %v", i, err)
		}
	}
	for i := 0; i < len(slot.Params); i += max(1, len(slot.Params)/16) {
		b := slices.Clone(slot.Params)
		b[i] ^= 2
		refuse(fmt.Sprintf("params flipped at %d", i), s, id, 5, Slot{slot.Type, b, slot.Sealed})
	}
	for _, n := range []int{0, 1, 79, 80, len(slot.Sealed) - 1, len(slot.Sealed) - entryBytes} {
		refuse(fmt.Sprintf("%d bytes", n), s, id, 5, Slot{slot.Type, slot.Params, slot.Sealed[:n]})
	}
	refuse("longer", s, id, 5, Slot{slot.Type, slot.Params, append(slices.Clone(slot.Sealed), 0)})
	refuse("empty", s, id, 5, Slot{})
	if len(slot.Params) > 0 {
		refuse("without params", s, id, 5, Slot{slot.Type, nil, slot.Sealed})
	}
	refuse("more params", s, id, 5, Slot{slot.Type, append(slices.Clone(slot.Params), 1), slot.Sealed})
}

func TestSlotWrongKeys(t *testing.T) {
	for _, s := range bothSuites {
		id := NewUUID()
		mine, theirs := pairs(t, s), pairs(t, s)
		other, err := PassphraseCredential([]byte("pass phrase "))
		if err != nil {
			t.Fatal(err)
		}
		defer other.Erase()
		for name, pair := range mine {
			slot, err := NewSlot(s, id, 0, pair.Recipient, testEpochs(t, 1))
			if err != nil {
				t.Fatal(err)
			}
			for wrong, c := range theirs {
				cred := c.Credential
				switch {
				case wrong == "passphrase":
					cred = other
				case wrong == "kms" && name == "kms":
					continue // the same KMS
				}
				if _, err := OpenSlot(s, id, 0, &slot, cred); !errors.Is(err, ErrWrongKey) {
					t.Errorf("%v: a slot of type %s with another's %s: %v", s, name, wrong, err)
				}
			}
		}
	}
}

func TestSlotInput(t *testing.T) {
	c, k := SecretCredential(testKey(t, sequence(1))), testKey(t, sequence(2))
	for name, epochs := range map[string][]EpochKey{
		"no epoch": nil, "epoch 0": {{0, k}}, "five": {{1, k}, {2, k}, {3, k}, {4, k}, {5, k}},
		"twice": {{1, k}, {1, k}}, "descending": {{2, k}, {1, k}},
	} {
		if _, err := NewSlot(1, UUID{}, 0, c, epochs); err == nil {
			t.Errorf("%s was sealed", name)
		}
	}
	if _, err := NewSlot(1, UUID{}, 16, c, []EpochKey{{1, k}}); err == nil {
		t.Error("slot 16 was sealed")
	}
	if _, err := NewSlot(9, UUID{}, 1, c, []EpochKey{{1, k}}); !errors.Is(err, ErrUnsupportedSuite) {
		t.Errorf("suite 9: %v", err)
	}
	broken := errors.New("throttled")
	kms := KMSCredential(t.Context(), fakeKMS{broken})
	if _, err := NewSlot(1, UUID{}, 1, kms, []EpochKey{{1, k}}); !errors.Is(err, broken) {
		t.Errorf("failing KMS: %v", err)
	}
	// Domain separation: a snapshot's slot does not open as a volume's, even with the same UUID.
	slot, err := NewSnapshotSlot(1, UUID{}, 0, c, k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSlot(1, UUID{}, 0, &slot, c); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a snapshot's slot as a volume's: %v", err)
	}
	if slot, err = NewSlot(1, UUID{}, 0, c, []EpochKey{{1, k}}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSnapshotSlot(1, UUID{}, 0, &slot, c); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a volume's slot as a snapshot's: %v", err)
	}
}

func TestPassphraseParamsAreBounded(t *testing.T) {
	good := map[Suite]passphraseParams{1: passphraseCost(1), 2: passphraseCost(2)}
	for s, p := range good {
		if got, err := decodePassphraseParams(s, p.encode()); err != nil || got != p {
			t.Errorf("%v: %v", s, err)
		}
		if _, err := decodePassphraseParams(3-s, p.encode()); !errors.Is(err, errSlot) {
			t.Errorf("%v's function in the other suite: %v", s, err)
		}
	}
	for i, c := range []struct {
		s    Suite
		edit func(*passphraseParams)
	}{
		{1, func(p *passphraseParams) { p.function = 0 }},
		{1, func(p *passphraseParams) { p.time = 0 }},
		{1, func(p *passphraseParams) { p.time = maxArgon2Time + 1 }},
		{1, func(p *passphraseParams) { p.memory = minArgon2Memory - 1 }},
		{1, func(p *passphraseParams) { p.memory = maxArgon2Memory + 1 }},
		{1, func(p *passphraseParams) { p.memory = 1<<32 - 1 }},
		{1, func(p *passphraseParams) { p.lanes = 0 }},
		{1, func(p *passphraseParams) { p.lanes = 257 }},
		{2, func(p *passphraseParams) { p.time = minPBKDF2Time - 1 }},
		{2, func(p *passphraseParams) { p.time = maxPBKDF2Time + 1 }},
		{2, func(p *passphraseParams) { p.memory = 1 }},
		{2, func(p *passphraseParams) { p.lanes = 1 }},
	} {
		p := good[c.s]
		c.edit(&p)
		if _, err := decodePassphraseParams(c.s, p.encode()); !errors.Is(err, errSlot) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 1025)} {
		if _, err := PassphraseCredential(b); err == nil {
			t.Errorf("a passphrase of %d bytes was taken", len(b))
		}
	}
}

func TestParseKeyFile(t *testing.T) {
	want := sequence(0x30) // printable, so that the forms could be confused
	digits := hex.EncodeToString(want)
	for name, text := range map[string]string{
		"raw": string(want), "hex": digits, "line": digits + "\n", "DOS line": digits + "\r\n", "upper": strings.ToUpper(digits),
	} {
		b := []byte(text)
		k, err := ParseKeyFile(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(k.Bytes(), want) || !zeros(b) {
			t.Errorf("%s: another key, or its text remains", name)
		}
		k.Erase()
	}
	for name, text := range map[string]string{
		"empty": "", "short": digits[:63], "long": digits + "0", "two lines": digits + "\n\n", "not hex": "x" + digits[1:],
		"raw with line end": string(want) + "\n", "space": " " + digits[1:], "31": string(want[1:]),
	} {
		b := []byte(text)
		_, err := ParseKeyFile(b)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		if !zeros(b) {
			t.Errorf("%s: the text remains", name)
		}
		if text != "" && strings.Contains(err.Error(), text[1:min(len(text), 8)]) {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func TestRecoveryText(t *testing.T) {
	for _, s := range bothSuites {
		r, err := GenerateRecovery(s)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Erase()
		pub, err := r.Recipient()
		if err != nil {
			t.Fatal(err)
		}
		text := pub.String()
		if !strings.HasPrefix(text, "sealvolpub1") || text != strings.ToLower(text) || strings.ContainsAny(text, " -\n") {
			t.Errorf("public half %.40q…", text)
		}
		for _, form := range []string{text, strings.ToUpper(text), text + "\n", text[:100] + "\r\n  " + text[100:]} {
			got, err := ParseRecoveryRecipient(form)
			if err != nil || !got.Equal(pub) || got.Suite() != s {
				t.Errorf("%v: %v", s, err)
			}
		}
		secret, err := r.Text()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(secret, []byte("SEALVOL-RECOVERY-1-")) || len(secret) != len(secretPrefix)+80 {
			t.Errorf("secret half has %d characters", len(secret))
		}
		misread := strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(string(secret))
		for _, form := range []string{string(secret), strings.ToLower(string(secret)), string(secret) + "\n", strings.ReplaceAll(string(secret), "-", " "), misread} {
			b := []byte(form)
			got, err := ParseRecoverySecret(b)
			if err != nil {
				t.Errorf("%v: %v", s, err)
				continue
			}
			if got.suite != s || !bytes.Equal(got.seed.Bytes(), r.seed.Bytes()) || !zeros(b) {
				t.Error("another key, or its text remains")
			}
			got.Erase()
		}
		misspell(t, secret)
		for _, bad := range []string{"", "x", text, string(secret[:50]), string(secret) + "A", strings.Repeat("A", 5000)} {
			if _, err := ParseRecoverySecret([]byte(bad)); err == nil || len(bad) > 20 && strings.Contains(err.Error(), bad[19:30]) {
				t.Errorf("%.20q…: %v", bad, err)
			}
		}
		for _, bad := range []string{"", "sealvolpub1", text[:500], text + "a", string(secret), strings.Repeat("a", 5000)} {
			if _, err := ParseRecoveryRecipient(bad); err == nil {
				t.Errorf("%.20q… was taken", bad)
			}
		}
	}
}

// misspell tries every single wrong character, and every swap of two characters.
func misspell(t *testing.T, secret []byte) {
	t.Helper()
	for i := len(secretPrefix); i < len(secret); i++ {
		for _, c := range []byte("AZ27") {
			b := slices.Clone(secret)
			if b[i] == c || b[i] == '-' {
				continue
			}
			b[i] = c
			if _, err := ParseRecoverySecret(b); !errors.Is(err, errKeyCheck) {
				t.Fatalf("wrong character %d: %v", i, err)
			}
		}
		b := slices.Clone(secret)
		if b[i-1] == b[i] || b[i-1] == '-' || b[i] == '-' {
			continue
		}
		b[i-1], b[i] = b[i], b[i-1]
		if _, err := ParseRecoverySecret(b); !errors.Is(err, errKeyCheck) {
			t.Fatalf("swapped characters at %d: %v", i, err)
		}
	}
}

func TestSlotRecipient(t *testing.T) {
	for _, s := range bothSuites {
		r, err := GenerateRecovery(s)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Erase()
		pub, err := r.Recipient()
		if err != nil {
			t.Fatal(err)
		}
		id := NewUUID()
		slot, err := NewSlot(s, id, 0, pub, testEpochs(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		again, err := SlotRecipient(s, &slot)
		if err != nil || !again.Equal(pub) {
			t.Fatalf("%v: %v", s, err)
		}
		if slot, err = NewSlot(s, id, 0, again, testEpochs(t, 2)); err != nil {
			t.Fatal(err)
		}
		got, err := OpenSlot(s, id, 0, &slot, r)
		if err != nil {
			t.Fatal(err)
		}
		EraseEpochs(got)
		if _, err := SlotRecipient(3-s, &slot); err == nil {
			t.Error("a recipient of the other suite")
		}
		if _, err := NewSlot(3-s, id, 0, pub, testEpochs(t, 1)); err == nil {
			t.Error("a slot in a volume of the other suite")
		}
	}
}

func FuzzOpenSlot(f *testing.F) {
	key := testKey(f, sequence(1))
	secret := SecretCredential(key)
	// A fixed salt and VMK: the fuzzer's processes must agree on the seed.
	slot := Slot{Type: SlotSecret}
	var err error
	slot.Sealed, err = sealEntries(1, UUID{}, 0, &slot, key, [32]byte(sequence(2)), []EpochKey{{1, testKey(f, sequence(3))}}, saltVolume)
	if err != nil {
		f.Fatal(err)
	}
	recovery, err := GenerateRecovery(1)
	if err != nil {
		f.Fatal(err)
	}
	kms := KMSCredential(f.Context(), fakeKMS{})
	f.Add(slot.Type, slot.Params, slot.Sealed)
	f.Add(SlotRecovery, make([]byte, 1216+1120), slot.Sealed)
	f.Add(SlotPassphrase, make([]byte, 48), slot.Sealed)
	f.Add(SlotKMS, make([]byte, 36), slot.Sealed)
	f.Fuzz(func(t *testing.T, kind uint8, params, sealed []byte) {
		s := Slot{kind, params, sealed}
		for _, c := range []Credential{secret, kms, recovery} {
			if kind == SlotKMS && len(params) < 4 {
				continue // the fake wants four
			}
			got, err := OpenSlot(1, UUID{}, 0, &s, c)
			if err == nil && !bytes.Equal(sealed, slot.Sealed) {
				t.Fatal("a forged slot opens")
			}
			EraseEpochs(got)
		}
		if p, err := decodePassphraseParams(1, params); err == nil && !bytes.Equal(p.encode(), params) {
			t.Fatal("passphrase parameters encode to other bytes")
		}
	})
}

func FuzzParseRecoveryText(f *testing.F) {
	for _, s := range bothSuites {
		r := &RecoverySecret{suite: s, seed: testKey(f, sequence(1))}
		pub, err := r.Recipient()
		if err != nil {
			f.Fatal(err)
		}
		text, err := r.Text()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pub.String())
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if pub, err := ParseRecoveryRecipient(text); err == nil {
			if again, err := ParseRecoveryRecipient(pub.String()); err != nil || !again.Equal(pub) {
				t.Fatalf("writes to another key: %v", err)
			}
		}
		r, err := ParseRecoverySecret([]byte(text))
		if err != nil {
			return
		}
		defer r.Erase()
		b, err := r.Text()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(foldKeyText(nil, b), foldKeyText(nil, []byte(text))) {
			t.Fatal("writes to another text")
		}
	})
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(strings.Repeat("0a", 32) + "\n"))
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeyFile(slices.Clone(b)); err == nil {
			k.Erase()
			if len(b) != 32 && len(b) < 64 || len(b) > 66 {
				t.Fatalf("%d bytes were taken", len(b))
			}
		}
	})
}
