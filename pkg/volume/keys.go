package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Errors of changes of keys.
var (
	ErrLastKey    = errors.New("it is the last key of the volume")
	ErrNoSuchKey  = errors.New("no such key slot")
	ErrKeyExists  = errors.New("the key already opens the volume")
	ErrNoFreeSlot = errors.New("all key slots are in use")
	ErrKeyMissing = errors.New("key slots cannot be resealed without their keys")
)

// keyring owns the header of an open volume, and the VMKs that its slots hold.
type keyring struct {
	v *Volume

	mu     sync.Mutex        // one change at a time; see the package comment
	header *layout.Header    // equal to both copies; replaced, never changed
	epochs []crypto.EpochKey // ascending
	slot   int               // the slot that opened the volume, -1 once it is removed
	// next are the contents of the slots after the current rotation of the data key (rotate.go).
	next map[int]crypto.Slot

	// floor is the lowest sequence number that the roots accept from the next commit on.
	floor atomic.Uint64

	features atomic.Uint64 // incompat word of both copies of the header
}

// Key makes a key slot, and opens it if Credential is known. For a recovery key, the public half is
// enough.
type Key struct {
	Recipient  crypto.Recipient
	Credential crypto.Credential // nil: unknown
}

// KeySlot is one key slot in use.
type KeySlot struct {
	Index  int
	Type   uint8 // crypto.SlotSecret…; crypto.SlotTypeName names it
	Epochs int   // number of epochs of the data key in the slot
	// Fingerprint is the start of the SHA-256 of a recovery slot's public key as text, in
	// hexadecimal.
	Fingerprint string
	Opened      bool // the volume was opened with it
}

// Keys returns the key slots in use, and the epochs of the data key.
func (v *Volume) Keys() (slots []KeySlot, epochs []uint32) {
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.epochs {
		epochs = append(epochs, e.Epoch)
	}
	return keySlots(k.header, k.slot), epochs
}

// ReadKeySlots returns the key slots of a volume without a key, so none of it is authenticated. The
// volume may be in use.
func ReadKeySlots(dev device.Device) ([]KeySlot, error) {
	hs, err := header.Read(dev)
	if err != nil {
		return nil, err
	}
	h, _, err := hs.Best()
	if err != nil {
		return nil, err
	}
	return keySlots(h, -1), nil
}

func keySlots(h *layout.Header, opened int) (slots []KeySlot) {
	for i := range h.Slots {
		s := &h.Slots[i]
		if s.Type == crypto.SlotEmpty {
			continue
		}
		ks := KeySlot{Index: i, Type: s.Type, Epochs: s.Epochs(), Opened: i == opened}
		if r, err := crypto.SlotRecipient(h.Suite, s); err == nil {
			ks.Fingerprint = Fingerprint(r)
		}
		slots = append(slots, ks)
	}
	return slots
}

// Fingerprint identifies the public half of a recovery key by 16 hexadecimal digits.
func Fingerprint(r *crypto.RecoveryRecipient) string {
	sum := sha256.Sum256([]byte(r.String()))
	return hex.EncodeToString(sum[:8])
}

// AddKey makes a key slot and returns its number. From then on, the key opens the volume. If it
// already does, AddKey returns ErrKeyExists.
func (v *Volume) AddKey(key Key) (slot int, err error) {
	err = v.keys.change(func() error {
		slot, err = v.keys.addKey(key)
		return err
	})
	return slot, err
}

// change runs fn, which may write the header. Only one runs at a time, and none while the volume is
// frozen. Reservations of fn must be nested.
func (k *keyring) change(fn func() error) error { return k.changeFor(context.Background(), fn) }

// changeFor is change, but gives up when ctx ends before fn begins.
func (k *keyring) changeFor(ctx context.Context, fn func() error) error {
	v := k.v
	if err := v.frozen.enter(ctx); err != nil { // Close thaws
		return err
	}
	defer v.frozen.leave()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := errors.Join(context.Cause(ctx), v.writable()); err != nil {
		return err
	}
	return fn()
}

func (k *keyring) addKey(key Key) (int, error) {
	v := k.v
	if old := k.slotsOf(key); len(old) > 0 {
		return old[0], fmt.Errorf("%w: it is the key of slot %d", ErrKeyExists, old[0])
	}
	free := -1
	for i := range k.header.Slots {
		if k.header.Slots[i].Type == crypto.SlotEmpty {
			free = i
			break
		}
	}
	if free < 0 {
		return 0, fmt.Errorf("%w (%d of %d)", ErrNoFreeSlot, crypto.Slots, crypto.Slots)
	}
	h := *k.header
	var err error
	if h.Slots[free], err = k.makeSlot(free, key, k.epochs); err != nil {
		return 0, err
	}
	if k.next != nil { // before the header: a slot that cannot be resealed would block the rotation
		if err := v.rot.addNext(free, key); err != nil {
			return 0, err
		}
	}
	if err := k.writeHeader(&h); err != nil {
		return 0, err
	}
	return free, nil
}

// makeSlot seals epochs as a slot, and checks that the key opens it, if its credential is known.
func (k *keyring) makeSlot(i int, key Key, epochs []crypto.EpochKey) (crypto.Slot, error) {
	v := k.v
	suite := k.header.Suite
	s, err := crypto.NewSlot(suite, v.id, uint8(i), key.Recipient, epochs)
	if err != nil {
		return s, fmt.Errorf("key slot %d: %w", i, err)
	}
	if key.Credential != nil {
		got, err := crypto.OpenSlot(suite, v.id, uint8(i), &s, key.Credential)
		if err != nil {
			return s, fmt.Errorf("key slot %d: reading the new slot back failed: %w", i, err)
		}
		crypto.EraseEpochs(got)
	}
	return s, nil
}

// RemoveKey removes a key slot. Its key no longer opens the volume, even if an older copy of the
// header is put back. The last slot is removed only if last is set, otherwise RemoveKey returns
// ErrLastKey. After that, no key opens the volume once it is unmounted.
func (v *Volume) RemoveKey(slot int, last bool) error {
	return v.keys.change(func() error {
		k := &v.keys
		if slot < 0 || slot >= crypto.Slots || k.header.Slots[slot].Type == crypto.SlotEmpty {
			return fmt.Errorf("%w: %d", ErrNoSuchKey, slot)
		}
		if k.header.Count() == 1 && !last {
			return fmt.Errorf("key slot %d: %w", slot, ErrLastKey)
		}
		return v.keys.removeKeys([]int{slot})
	})
}

func (k *keyring) removeKeys(slots []int) error {
	v := k.v
	h := *k.header
	for _, i := range slots {
		h.Slots[i] = crypto.Slot{}
		if k.slot == i {
			k.slot = -1
		}
	}
	if err := k.writeHeader(&h); err != nil {
		return err
	}
	if k.next != nil {
		if err := v.rot.dropNext(slots); err != nil {
			return err
		}
	}
	return k.raiseFloor()
}

// KeyChange is the result of RotateKey.
type KeyChange struct {
	Slot    int   // of the new key
	Added   bool  // by this call; otherwise the slot already existed
	Removed []int // slots of the old key
}

// RotateKey replaces a key. It adds a slot for the new key, reads it back from the device, and
// removes the slots of the old key. The data key does not change, so the time does not depend on
// the size of the volume. After an error or a crash, call it again: completed steps are skipped,
// and both keys open the volume until it succeeds. If ctx ends while it waits, for example for a
// thaw, it changes nothing: by then, the caller's knowledge of the keys may be stale.
func (v *Volume) RotateKey(ctx context.Context, old crypto.Credential, key Key) (c KeyChange, err error) {
	err = v.keys.changeFor(ctx, func() error {
		c, err = v.keys.rotateKey(old, key)
		return err
	})
	return c, err
}

func (k *keyring) rotateKey(old crypto.Credential, key Key) (c KeyChange, err error) {
	gone := k.slotsOf(Key{Credential: old})
	is := k.slotsOf(key)
	for _, i := range is {
		for _, j := range gone {
			if i == j {
				return c, fmt.Errorf("%w: old and new key are the same", ErrKeyExists)
			}
		}
	}
	switch {
	case len(is) > 0:
		c.Slot = is[0]
	case len(gone) == 0:
		return c, fmt.Errorf("the old key: %w: it opens no key slot of the volume", ErrWrongKey)
	default:
		if c.Slot, err = k.addKey(key); err != nil {
			return c, err
		}
		c.Added = true
	}
	if len(gone) == 0 {
		return c, nil
	}
	if err := k.confirmKey(c.Slot, key.Credential); err != nil {
		return c, err
	}
	if err := k.removeKeys(gone); err != nil {
		return c, err
	}
	c.Removed = gone
	return c, nil
}

// confirmKey reads both copies of the header back from the device, and opens a
// slot of each.
func (k *keyring) confirmKey(slot int, cred crypto.Credential) error {
	v := k.v
	hs, err := header.Read(v.store.Dev)
	if err != nil {
		return err
	}
	newest := v.store.Keys.Newest()
	for i, h := range hs.Copy {
		if h == nil {
			return fmt.Errorf("read back header copy %c: %w", 'A'+i, hs.Err[i])
		}
		if err := h.Verify(newest); err != nil || h.Sequence != k.header.Sequence || !h.Slots[slot].Equal(&k.header.Slots[slot]) {
			return fmt.Errorf("%w: header copy %c differs from what was written", ErrHeader, 'A'+i)
		}
		if cred == nil {
			continue
		}
		got, err := crypto.OpenSlot(h.Suite, h.ID, uint8(slot), &h.Slots[slot], cred)
		if err != nil {
			return fmt.Errorf("read back key slot %d: %w", slot, err)
		}
		crypto.EraseEpochs(got)
	}
	return nil
}

// OpenedBy reports whether a key opens the volume.
func (v *Volume) OpenedBy(c crypto.Credential) bool {
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.slotsOf(Key{Credential: c})) > 0
}

// slotsOf returns the slots of a key.
func (k *keyring) slotsOf(key Key) (slots []int) {
	pub, _ := key.Recipient.(*crypto.RecoveryRecipient)
	for i := range k.header.Slots {
		s := &k.header.Slots[i]
		if pub != nil {
			if r, err := crypto.SlotRecipient(k.header.Suite, s); err == nil && r.Equal(pub) {
				slots = append(slots, i)
			}
			continue
		}
		if key.Credential == nil || s.Type != key.Credential.SlotType() {
			continue
		}
		if got, err := crypto.OpenSlot(k.header.Suite, k.header.ID, uint8(i), s, key.Credential); err == nil {
			crypto.EraseEpochs(got)
			slots = append(slots, i)
		}
	}
	return slots
}

// writeHeader writes a new header under the next sequence number: copy A, barrier, copy B, barrier.
// After an interruption, the device opens with the old or the new header. An error makes the volume
// fail, because it is unknown which header the device has. The caller holds keyring.mu.
func (k *keyring) writeHeader(h *layout.Header) error {
	v := k.v
	return k.writeHeaderUnder(h, v.store.Keys.Newest())
}

// writeHeaderUnder is writeHeader with the given keys, those of the highest epoch in the slots.
func (k *keyring) writeHeaderUnder(h *layout.Header, newest *crypto.EpochKeys) error {
	v := k.v
	h.Sequence = k.header.Sequence + 1
	return v.frozen.whileAwake(func() error {
		if err := k.putHeader(h, newest, layout.HeaderOffsetA, layout.HeaderOffsetB); err != nil {
			err = txn.Wrap(fmt.Errorf("write the header: %w", err))
			v.fail(err) // before a commit or a freeze continues
			return err
		}
		k.header = h
		return nil
	})
}

func (k *keyring) putHeader(h *layout.Header, newest *crypto.EpochKeys, offsets ...int64) error {
	v := k.v
	b, err := layout.EncodeHeader(h, newest)
	if err != nil {
		return err
	}
	head := device.AlignedBytes(len(b))
	copy(head, b)
	for _, off := range offsets {
		if err := v.store.Write(head, uint64(off)); err != nil {
			return err
		}
		if err := v.store.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// repairHeader rewrites a copy of the header that differs from the verified one.
func (k *keyring) repairHeader(u *layout.Unlocked) error {
	v := k.v
	own, other := int64(layout.HeaderOffsetA), int64(layout.HeaderOffsetB)
	if u.Copy == 1 {
		own, other = other, own
	}
	if !u.Ahead {
		return k.putHeader(k.header, v.store.Keys.Newest(), other)
	}
	// An interrupted change used the next number and is abandoned. The good copy is written last.
	h := *k.header
	h.Sequence += 2
	if err := k.putHeader(&h, v.store.Keys.Newest(), other, own); err != nil {
		return err
	}
	k.header = &h
	return nil
}

// raiseFloor makes the two newest roots refuse older headers.
func (k *keyring) raiseFloor() error {
	v := k.v
	k.floor.Store(k.header.Sequence)
	for range 2 {
		if err := v.com.commitAll(); err != nil {
			return v.sync.syncErr(err)
		}
	}
	return nil
}

// slotNames describes key slots for users: "2 (passphrase) and 3 (secret)".
func slotNames(h *layout.Header, slots []int) string {
	var names []string
	for _, i := range slots {
		names = append(names, fmt.Sprintf("%d (%s)", i, crypto.SlotTypeName(h.Slots[i].Type)))
	}
	if n := len(names); n > 1 {
		names = append(names[:n-2], names[n-2]+" and "+names[n-1])
	}
	return strings.Join(names, ", ")
}
