package crypto

import (
	"crypto/rand"
	"fmt"
)

// This file has what a tenant's secret gives besides chunks and packs: the labels
// "card", "cut" and "tenant-fp", and the slots that wrap the secret itself.
// testdata/snapshots.json fixes them, and those of packslot.go.

// FingerprintBytes is the length of a tenant's fingerprint.
const FingerprintBytes = 16

// erased reports whether Erase was called.
func (t *TenantKeys) erased() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.c.at == nil
}

// derive returns X(C, label, context), of which the caller makes no secret key.
func (t *TenantKeys) derive(label string, context ...[]byte) (out [32]byte, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return out, ErrErased
	}
	expand(out[:], t.c.bytes(), label, context...)
	return out, nil
}

// Fingerprint names the tenant secret in a store: it tells which secret opens
// something, and nothing about the secret.
func (t *TenantKeys) Fingerprint() (fp [FingerprintBytes]byte, err error) {
	out, err := t.derive("tenant-fp")
	copy(fp[:], out[:])
	return fp, err
}

// CutKey returns the key of the hash that decides where the nodes of a
// snapshot's map end. It is no secret key: it keeps who runs the store from
// choosing keys whose nodes never end, and from recognising maps by their nodes'
// lengths.
func (t *TenantKeys) CutKey() (key [16]byte, err error) {
	out, err := t.derive("cut")
	copy(key[:], out[:])
	return key, err
}

// RecordCard is what SealRecord seals: the card, which a list of snapshots shows.
const RecordCard = "card"

// recordTag is the end of a record's associated data's first word.
func recordTag(label string) (byte, error) {
	if label == RecordCard {
		return 'K', nil
	}
	return 0, errBuffer
}

// SealRecord seals a card of snapshot id, which whoever has the tenant secret
// opens:
//
//	nonce ‖ AEAD(X(C, label, s ‖ S), nonce, "DCv2K" ‖ s ‖ S, body)
func (t *TenantKeys) SealRecord(s Suite, label string, id UUID, body []byte) ([]byte, error) {
	// 24 random bytes at each seal, and few records a key.
	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	return t.sealRecord(nonce, s, label, id, body)
}

// sealRecord is SealRecord under a nonce that was drawn for it alone.
func (t *TenantKeys) sealRecord(nonce [nonceBytes]byte, s Suite, label string, id UUID, body []byte) (sealed []byte, err error) {
	err = t.recordBox(s, label, id, func(b *box, aad []byte) (err error) {
		sealed = append(make([]byte, 0, nonceBytes+len(body)+tagBytes), nonce[:]...)
		sealed, err = b.seal(sealed, nonce[:], body, aad)
		return err
	})
	return sealed, err
}

// OpenRecord opens what SealRecord sealed, into memory of its own.
func (t *TenantKeys) OpenRecord(s Suite, label string, id UUID, sealed []byte) (body []byte, err error) {
	if len(sealed) < nonceBytes+tagBytes {
		return nil, ErrAuthentication
	}
	err = t.recordBox(s, label, id, func(b *box, aad []byte) (err error) {
		body, err = b.open(nil, sealed[:nonceBytes], sealed[nonceBytes:], aad)
		return err
	})
	return body, err
}

// recordBox passes the box of one record's key, and its associated data, to use.
func (t *TenantKeys) recordBox(s Suite, label string, id UUID, use func(b *box, aad []byte) error) error {
	tag, err := recordTag(label)
	if err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return ErrErased
	}
	mem, err := t.page()
	if err != nil {
		return err
	}
	defer t.giveBack(mem)
	key := mem.take(KeyBytes)
	expand(key.bytes(), t.c.bytes(), label, []byte{byte(s)}, id[:])
	var b box
	if err := b.init(s, key, mem); err != nil {
		return err
	}
	return use(&b, append([]byte{'D', 'C', 'v', '2', tag, byte(s)}, id[:]...))
}

// NewTenantSlot seals a tenant secret, whose fingerprint is fp, as its slot index.
// It checks the fingerprint: nobody could open a slot under another one.
func NewTenantSlot(s Suite, fp [FingerprintBytes]byte, index uint8, r Recipient, secret *Key) (Slot, error) {
	if err := checkFingerprint(secret, fp); err != nil {
		return Slot{}, fmt.Errorf("tenant secret has another fingerprint: %w", err)
	}
	return newSlot(s, fp, index, r, []EpochKey{{0, secret}}, saltSecret)
}

// OpenTenantSlot opens what NewTenantSlot sealed, and checks that the secret has
// the fingerprint; errors as in OpenSlot. The caller erases the key.
func OpenTenantSlot(s Suite, fp [FingerprintBytes]byte, index uint8, slot *Slot, c Credential) (*Key, error) {
	epochs, err := openSlot(s, fp, index, slot, c, saltSecret)
	if err != nil {
		return nil, err
	}
	if len(epochs) == 1 && epochs[0].Epoch == 0 {
		err = checkFingerprint(epochs[0].VMK, fp)
	} else {
		err = ErrAuthentication
	}
	if err != nil {
		EraseEpochs(epochs)
		return nil, err
	}
	return epochs[0].VMK, nil
}

func checkFingerprint(secret *Key, fp [FingerprintBytes]byte) error {
	t, err := DeriveTenantKeys(secret)
	if err != nil {
		return err
	}
	defer t.Erase()
	got, err := t.Fingerprint()
	if err == nil && !equal(got[:], fp[:]) {
		err = ErrAuthentication
	}
	return err
}
