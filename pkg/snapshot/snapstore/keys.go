package snapstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
)

// Keys is a set of key slots in a store: of a snapshot's key, or of a tenant secret. Each change
// puts the whole set under the next number and then deletes the old one: it takes effect at once
// and whole, and of two at once, the second begins again with what the first has put.
type Keys struct {
	store  chunkstore.Store
	prefix string // of the keys of the objects, with "/"
	what   string // for messages
	none   error  // if there are no slots at all
	secret *crypto.Key
	open   func(*manifest.Slots, crypto.Credential) (*crypto.Key, error)
	seal   func(crypto.Suite, uint8, crypto.Recipient, *crypto.Key) (crypto.Slot, error)
}

// SnapshotKeys is the set of key slots of a snapshot.
func (s *Store) SnapshotKeys(id format.ID) *Keys {
	return &Keys{store: s.objects, prefix: format.SnapKey(id, ""), what: "snapshot " + id.String(), none: ErrNoKeys,
		open: func(sl *manifest.Slots, c crypto.Credential) (*crypto.Key, error) { return sl.OpenSnapshot(id, c) },
		seal: func(suite crypto.Suite, i uint8, r crypto.Recipient, k *crypto.Key) (crypto.Slot, error) {
			return crypto.NewSnapshotSlot(suite, crypto.UUID(id), i, r, k)
		}}
}

// SealKey returns the first set of slots of the key sk of a new snapshot: commit.Parts.Keys.
func SealKey(suite crypto.Suite, id format.ID, sk *crypto.Key, recipients ...crypto.Recipient) ([]byte, error) {
	slots := &manifest.Slots{Suite: suite, Slots: map[uint8]crypto.Slot{}}
	if len(recipients) > crypto.Slots {
		return nil, fmt.Errorf("%d keys for a snapshot: at most %d", len(recipients), crypto.Slots)
	}
	for i, r := range recipients {
		slot, err := crypto.NewSnapshotSlot(suite, crypto.UUID(id), uint8(i), r, sk)
		if err != nil {
			return nil, err
		}
		slots.Slots[uint8(i)] = slot
	}
	return slots.Encode()
}

// SnapshotKey opens the key of a snapshot. The caller erases it. ErrNoSlot, ErrNoKeys.
func (s *Store) SnapshotKey(ctx context.Context, id format.ID, c crypto.Credential) (*crypto.Key, error) {
	return s.SnapshotKeys(id).unlock(ctx, c)
}

// Slots returns the key slots.
func (k *Keys) Slots(ctx context.Context) (*manifest.Slots, error) {
	slots, _, err := k.read(ctx)
	return slots, err
}

// unlock returns the key that the slots hold.
func (k *Keys) unlock(ctx context.Context, c crypto.Credential) (*crypto.Key, error) {
	slots, _, err := k.read(ctx)
	if err != nil {
		return nil, err
	}
	key, err := k.open(slots, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.what, err)
	}
	return key, nil
}

// maxRaces is how often a change that another process has overtaken is repeated.
const maxRaces = 16

// read returns the newest set, and the numbers of all, ascending.
func (k *Keys) read(ctx context.Context) (*manifest.Slots, []uint32, error) {
	for range maxRaces {
		versions, err := k.versions(ctx)
		if err != nil {
			return nil, nil, err
		}
		if len(versions) == 0 {
			return nil, nil, fmt.Errorf("%s: %w", k.what, k.none)
		}
		key := k.key(versions[len(versions)-1])
		b, err := k.store.Get(ctx, key, nil, manifest.MaxSlotsBytes)
		if errors.Is(err, chunkstore.ErrNotFound) { // a newer one replaced it meanwhile
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		slots, err := manifest.DecodeSlots(b)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
		return slots, versions, nil
	}
	return nil, nil, fmt.Errorf("%s: %w: the store lists key slots that it does not have", k.what, ErrLost)
}

func (k *Keys) versions(ctx context.Context) (list []uint32, err error) {
	for info, err := range k.store.List(ctx, k.prefix+format.KeysPart, "") {
		if err != nil {
			return nil, err
		}
		if n, ok := format.SlotsVersion(strings.TrimPrefix(info.Key, k.prefix)); ok {
			list = append(list, n)
		}
	}
	slices.Sort(list) // keys-10 is listed before keys-9
	return list, nil
}

func (k *Keys) key(n uint32) string {
	return k.prefix + format.KeysPart + strconv.FormatUint(uint64(n), 10)
}

// Change is what a change of key slots did.
type Change struct {
	Slot    int // of the new key; -1: none
	Added   bool
	Removed []int
	// Locked says that an object lock keeps earlier slots, which removed keys open until it ends.
	Locked bool
}

// Add adds a slot for a key, unless one of the slots is for it. from opens the present slots; nil:
// the tenant secret is unlocked already. suite is that of a first slot.
func (k *Keys) Add(ctx context.Context, suite crypto.Suite, from crypto.Credential, to crypto.Recipient) (Change, error) {
	return k.replace(ctx, suite, func(slots *manifest.Slots, c *Change) error {
		if from == nil && k.secret != nil {
			return k.add(slots, k.secret, to, c)
		}
		key, err := k.open(slots, from)
		if err != nil {
			return err
		}
		defer key.Erase()
		return k.add(slots, key, to, c)
	})
}

// Replace adds a slot for a key and removes all that old opens, in one step. If old opens none and
// there is one for the key, it was done before: what an interrupted call left is removed.
func (k *Keys) Replace(ctx context.Context, old crypto.Credential, to crypto.Recipient) (Change, error) {
	return k.replace(ctx, 0, func(slots *manifest.Slots, c *Change) error {
		key, err := k.open(slots, old)
		if errors.Is(err, ErrNoSlot) {
			for i, slot := range slots.Slots {
				if k.isFor(slots, i, &slot, to) {
					c.Slot = int(i)
					return nil
				}
			}
		}
		if err != nil {
			return err
		}
		defer key.Erase()
		if err := k.add(slots, key, to, c); err != nil {
			return err
		}
		for i := range slots.Slots {
			if int(i) != c.Slot && k.fits(slots, i, old) {
				delete(slots.Slots, i)
				c.Removed = append(c.Removed, int(i))
			}
		}
		slices.Sort(c.Removed)
		return nil
	})
}

// Remove removes a slot. No key is needed: whoever may write to the store can do it. ErrNoSuchSlot,
// ErrLastSlot.
func (k *Keys) Remove(ctx context.Context, slot uint8) (Change, error) {
	return k.replace(ctx, 0, func(slots *manifest.Slots, c *Change) error {
		if _, ok := slots.Slots[slot]; !ok {
			return fmt.Errorf("%w: %d", ErrNoSuchSlot, slot)
		}
		if len(slots.Slots) == 1 {
			return ErrLastSlot
		}
		delete(slots.Slots, slot)
		c.Removed = append(c.Removed, int(slot))
		return nil
	})
}

// replace puts what f makes of the slots. If f changes nothing, nothing is put.
func (k *Keys) replace(ctx context.Context, suite crypto.Suite, f func(*manifest.Slots, *Change) error) (Change, error) {
	for range maxRaces {
		slots, versions, err := k.read(ctx)
		next := uint32(0)
		switch {
		case errors.Is(err, k.none) && suite != 0 && k.secret != nil:
			slots = &manifest.Slots{Suite: suite, Slots: map[uint8]crypto.Slot{}}
		case err != nil:
			return Change{Slot: -1}, err
		case versions[len(versions)-1] == math.MaxUint32:
			return Change{Slot: -1}, fmt.Errorf("%s: %w: no number is free for new key slots", k.what, format.ErrFormat)
		default:
			next = versions[len(versions)-1] + 1
		}
		before := maps.Clone(slots.Slots)
		c := Change{Slot: -1}
		if err := f(slots, &c); err != nil {
			return Change{Slot: -1}, fmt.Errorf("%s: %w", k.what, err)
		}
		if maps.EqualFunc(before, slots.Slots, func(a, b crypto.Slot) bool { return a.Equal(&b) }) {
			c.Locked, err = k.drop(ctx, versions[:max(len(versions), 1)-1])
			return c, err
		}
		b, err := slots.Encode()
		if err != nil {
			return Change{Slot: -1}, err
		}
		created, err := k.store.Put(ctx, k.key(next), b)
		if err != nil {
			return Change{Slot: -1}, err
		}
		if !created {
			continue
		}
		newest, err := k.isNewest(ctx, versions, next)
		if err == nil && newest {
			c.Locked, err = k.drop(ctx, versions)
		} else if err == nil {
			err = k.store.Delete(ctx, k.key(next))
		}
		if err != nil || newest {
			return c, err
		}
	}
	return Change{Slot: -1}, fmt.Errorf("%s: other processes keep changing its key slots", k.what)
}

// isNewest reports whether the set that was just put as number next, which is made of the last of the
// versions, is the newest. It is not if, since the versions were read, other processes have put that
// number, replaced it and deleted it. As they delete older sets first, the one that this is made of is
// gone then.
func (k *Keys) isNewest(ctx context.Context, versions []uint32, next uint32) (bool, error) {
	if n := len(versions); n > 0 {
		_, err := k.store.Stat(ctx, k.key(versions[n-1]))
		if errors.Is(err, chunkstore.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	now, err := k.versions(ctx)
	return err == nil && len(now) > 0 && now[len(now)-1] == next, err
}

// drop deletes old sets, the oldest first: isNewest relies on that. Until that has succeeded, a removed key still opens them.
func (k *Keys) drop(ctx context.Context, versions []uint32) (locked bool, err error) {
	for _, n := range versions {
		err := k.store.Delete(ctx, k.key(n))
		switch {
		case errors.Is(err, chunkstore.ErrLocked):
			locked = true
		case err != nil:
			return locked, fmt.Errorf("the new key slots are stored, but the old ones remain, and removed keys open them: %w", err)
		}
	}
	return locked, nil
}

// add makes a slot for a key, unless there is one.
func (k *Keys) add(slots *manifest.Slots, key *crypto.Key, to crypto.Recipient, c *Change) error {
	free := -1
	for i := range uint8(crypto.Slots) {
		slot, used := slots.Slots[i]
		switch {
		case !used && free < 0:
			free = int(i)
		case used && k.isFor(slots, i, &slot, to):
			return k.again(slots, i, key, to, c)
		}
	}
	if free < 0 {
		return fmt.Errorf("all %d key slots are in use", crypto.Slots)
	}
	slot, err := k.seal(slots.Suite, uint8(free), to, key)
	if err != nil {
		return err
	}
	slots.Slots[uint8(free)] = slot
	c.Slot, c.Added = free, true
	return nil
}

// again leaves a slot that was opened with the very key. That a slot is for a recovery key is what
// the store says: it may hold nothing, so it is sealed again.
func (k *Keys) again(slots *manifest.Slots, i uint8, key *crypto.Key, to crypto.Recipient, c *Change) error {
	c.Slot = int(i)
	if to.SlotType() != crypto.SlotRecovery {
		return nil
	}
	slot, err := k.seal(slots.Suite, i, to, key)
	if err == nil {
		slots.Slots[i] = slot
	}
	return err
}

// isFor reports whether a slot is for a recipient.
func (k *Keys) isFor(slots *manifest.Slots, i uint8, slot *crypto.Slot, to crypto.Recipient) bool {
	if slot.Type != to.SlotType() {
		return false
	}
	if pub, ok := to.(*crypto.RecoveryRecipient); ok {
		got, err := crypto.SlotRecipient(slots.Suite, slot)
		return err == nil && got.Equal(pub)
	}
	c, ok := to.(crypto.Credential) // all but recovery keys are both
	return ok && k.fits(slots, i, c)
}

// fits reports whether a credential opens a slot.
func (k *Keys) fits(slots *manifest.Slots, i uint8, c crypto.Credential) bool {
	key, err := k.open(&manifest.Slots{Suite: slots.Suite, Slots: map[uint8]crypto.Slot{i: slots.Slots[i]}}, c)
	if err != nil {
		return false
	}
	key.Erase()
	return true
}
