package crypto

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// Slots is the number of key slots of a volume.
	Slots = 16
	// MaxEpochs is the maximum number of epochs' VMKs in a slot.
	MaxEpochs = 4
	// MaxSlotParams is the maximum length of a slot's params. A recovery slot of suite 2 has
	// 1249 (public key) + 1153 (encapsulation) bytes.
	MaxSlotParams = 2560
	// MaxSlotSealed is the length of Slot.Sealed with MaxEpochs.
	MaxSlotSealed = slotFixedBytes + MaxEpochs*entryBytes

	saltBytes      = 32
	commitBytes    = 32
	entryBytes     = 4 + KeyBytes + commitBytes         // epoch u32, VMK, commitment
	slotFixedBytes = saltBytes + commitBytes + tagBytes // and entries
)

// Slot types: the source of the slot's key-encryption key (KEK).
const (
	SlotEmpty      uint8 = 0
	SlotSecret     uint8 = 1 // given directly, usually by a Kubernetes Secret
	SlotKMS        uint8 = 2 // wrapped by a KMS
	SlotRecovery   uint8 = 3 // encapsulated for a recovery public key
	SlotPassphrase uint8 = 4 // derived from a passphrase
)

// SlotTypeName returns the name of a slot type, for output.
func SlotTypeName(kind uint8) string {
	switch kind {
	case SlotEmpty:
		return "empty"
	case SlotSecret:
		return "secret"
	case SlotKMS:
		return "kms"
	case SlotRecovery:
		return "recovery"
	case SlotPassphrase:
		return "passphrase"
	}
	return fmt.Sprintf("type %d", kind)
}

// Slot is one key slot: the VMKs of all epochs, sealed under one KEK. None of its fields is secret.
// The zero value is an empty slot.
type Slot struct {
	Type   uint8
	Params []byte // by type; at most MaxSlotParams
	Sealed []byte // salt‖wrap-commit‖ciphertext; at most MaxSlotSealed
}

var errSlot = errors.New("malformed key slot")

// Validate checks the lengths of a slot, which may be empty.
func (s *Slot) Validate() error {
	if s.Type == SlotEmpty {
		if len(s.Params)+len(s.Sealed) != 0 {
			return errSlot
		}
		return nil
	}
	if s.Type > SlotPassphrase {
		return fmt.Errorf("%w: unknown type %d", errSlot, s.Type)
	}
	n := len(s.Sealed) - slotFixedBytes
	if n < entryBytes || n > MaxEpochs*entryBytes || n%entryBytes != 0 || len(s.Params) > MaxSlotParams {
		return errSlot
	}
	return nil
}

// EpochKey is the VMK of one epoch.
type EpochKey struct {
	Epoch uint32
	VMK   *Key
}

// EraseEpochs erases all of them.
func EraseEpochs(epochs []EpochKey) {
	for _, e := range epochs {
		e.VMK.Erase()
	}
}

// Epochs returns the number of VMKs in a valid slot.
func (s *Slot) Epochs() int { return max(0, len(s.Sealed)-slotFixedBytes) / entryBytes }

// Equal reports whether both slots have the same bytes.
func (s *Slot) Equal(o *Slot) bool {
	return s.Type == o.Type && bytes.Equal(s.Params, o.Params) && bytes.Equal(s.Sealed, o.Sealed)
}

// Recipient creates key slots. SecretCredential, PassphraseCredential, KMSCredential and
// ParseRecoveryRecipient return Recipients.
type Recipient interface {
	// SlotType returns the type of the slots that it creates.
	SlotType() uint8
	// newKEK returns a slot's params and its KEK, which the caller erases.
	newKEK(s Suite, id UUID) (params []byte, kek *Key, err error)
}

// Credential opens key slots of its type. The caller erases it after use.
type Credential interface {
	// SlotType returns the type of the slots that it opens.
	SlotType() uint8
	// Erase overwrites the secret that the credential holds.
	Erase()
	// kek returns the slot's KEK, which the caller erases. It checks the limits of params before it
	// uses them.
	kek(s Suite, id UUID, params []byte) (*Key, error)
}

// NewSlot seals 1 to MaxEpochs VMKs, of ascending epochs from 1, as slot index of a volume. To
// rewrap the VMKs, call it again: it draws a new salt and new params.
func NewSlot(s Suite, id UUID, index uint8, r Recipient, epochs []EpochKey) (Slot, error) {
	if len(epochs) < 1 || len(epochs) > MaxEpochs {
		return Slot{}, fmt.Errorf("a key slot must hold 1 to %d epochs, not %d", MaxEpochs, len(epochs))
	}
	last := uint32(0)
	for _, e := range epochs {
		if e.Epoch <= last {
			return Slot{}, errors.New("key epochs must ascend from 1")
		}
		last = e.Epoch
	}
	return newSlot(s, id, index, r, epochs, saltVolume)
}

// OpenSlot opens slot index of a volume. It returns ErrWrongKey if c does not open the slot, and
// ErrAuthentication if the slot is damaged. The caller erases the VMKs.
func OpenSlot(s Suite, id UUID, index uint8, slot *Slot, c Credential) ([]EpochKey, error) {
	epochs, err := openSlot(s, id, index, slot, c, saltVolume)
	if err == nil && epochs[0].Epoch == 0 {
		EraseEpochs(epochs)
		return nil, ErrAuthentication
	}
	return epochs, err
}

func newSlot(s Suite, id UUID, index uint8, r Recipient, epochs []EpochKey, domain string) (Slot, error) {
	if err := s.Validate(); err != nil {
		return Slot{}, err
	}
	if index >= Slots {
		return Slot{}, fmt.Errorf("key slot %d does not exist", index)
	}
	params, kek, err := r.newKEK(s, id)
	if err != nil {
		return Slot{}, err
	}
	defer kek.Erase()
	if len(params) > MaxSlotParams {
		return Slot{}, fmt.Errorf("key slot parameters of %d bytes are too long", len(params))
	}
	slot := Slot{Type: r.SlotType(), Params: params}
	var salt [saltBytes]byte
	rand.Read(salt[:])
	slot.Sealed, err = sealEntries(s, id, index, &slot, kek, salt, epochs, domain)
	return slot, err
}

// wrapKeys are the keys that seal one slot, derived from KEK and salt.
type wrapKeys struct {
	mem    *region
	ctx    []byte
	wrap   box
	commit [commitBytes]byte
}

func deriveWrapKeys(s Suite, id UUID, index uint8, slot *Slot, kek *Key, salt []byte) (*wrapKeys, error) {
	if kek.Bytes() == nil {
		return nil, ErrErased
	}
	mem, err := newRegion()
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(slot.Params)
	ctx := append(append([]byte{byte(s)}, id[:]...), index, slot.Type)
	w := &wrapKeys{mem: mem, ctx: append(ctx, hash[:]...)}
	prk, key := mem.take(KeyBytes), mem.take(KeyBytes)
	extract(prk.bytes(), "", salt, kek.Bytes())
	expand(key.bytes(), prk.bytes(), "wrap", w.ctx)
	expand(w.commit[:], prk.bytes(), "wrap-commit", w.ctx)
	if err := w.wrap.init(s, key, mem); err != nil {
		mem.erase()
		return nil, err
	}
	return w, nil
}

// The nonce is zeros: the wrap key is derived from a salt of 32 random bytes
// that newSlot draws for each slot it seals, so each key seals one message.
var wrapNonce [nonceBytes]byte

// sealEntries seals a slot under a salt that was drawn for it alone.
func sealEntries(s Suite, id UUID, index uint8, slot *Slot, kek *Key, salt [saltBytes]byte, epochs []EpochKey, domain string) ([]byte, error) {
	w, err := deriveWrapKeys(s, id, index, slot, kek, salt[:])
	if err != nil {
		return nil, err
	}
	defer w.mem.erase()
	plain := w.mem.take(len(epochs) * entryBytes).bytes()
	for i, e := range epochs {
		if e.VMK.Bytes() == nil {
			return nil, ErrErased
		}
		b := plain[i*entryBytes : (i+1)*entryBytes]
		binary.LittleEndian.PutUint32(b, e.Epoch)
		copy(b[4:], e.VMK.Bytes())
		keyCommitment(b[4+KeyBytes:], domain, id, e.VMK)
	}
	sealed := append(append(make([]byte, 0, MaxSlotSealed), salt[:]...), w.commit[:]...)
	return w.wrap.seal(sealed, wrapNonce[:], plain, w.ctx)
}

func openSlot(s Suite, id UUID, index uint8, slot *Slot, c Credential, domain string) ([]EpochKey, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if err := slot.Validate(); err != nil {
		return nil, err
	}
	if c.SlotType() != slot.Type {
		return nil, ErrWrongKey
	}
	kek, err := c.kek(s, id, slot.Params)
	if err != nil {
		return nil, err
	}
	defer kek.Erase()
	w, err := deriveWrapKeys(s, id, index, slot, kek, slot.Sealed[:saltBytes])
	if err != nil {
		return nil, err
	}
	defer w.mem.erase()
	// The first of the two commitments: only this KEK can have created the slot.
	if !equal(w.commit[:], slot.Sealed[saltBytes:saltBytes+commitBytes]) {
		return nil, ErrWrongKey
	}
	text := slot.Sealed[saltBytes+commitBytes:]
	plain := w.mem.take(len(text) - tagBytes).bytes()
	if _, err := w.wrap.open(plain[:0], wrapNonce[:], text, w.ctx); err != nil {
		return nil, err
	}
	return openEntries(plain, domain, id)
}

// openEntries decodes an opened slot, and checks the second commitment, that of each VMK.
func openEntries(plain []byte, domain string, id UUID) (epochs []EpochKey, err error) {
	defer func() {
		if err != nil {
			EraseEpochs(epochs)
			epochs = nil
		}
	}()
	for ; len(plain) > 0; plain = plain[entryBytes:] {
		vmk, err := emptyKey()
		if err != nil {
			return epochs, err
		}
		copy(vmk.Bytes(), plain[4:])
		epochs = append(epochs, EpochKey{binary.LittleEndian.Uint32(plain), vmk})
		var commit [commitBytes]byte
		keyCommitment(commit[:], domain, id, vmk)
		n := len(epochs)
		if !equal(commit[:], plain[4+KeyBytes:entryBytes]) || n > 1 && epochs[n-1].Epoch <= epochs[n-2].Epoch {
			return epochs, ErrAuthentication
		}
	}
	return epochs, nil
}

// keyCommitment writes commit = X(PRK,"commit","") of a VMK or snapshot key.
func keyCommitment(dst []byte, domain string, id UUID, k *Key) {
	var prk [KeyBytes]byte
	defer clear(prk[:])
	extract(prk[:], domain, id[:], k.Bytes())
	expand(dst, prk[:], "commit")
}
