package volume

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// RotateDataKey gives the volume a new data key. When it returns, everything written from then on
// is sealed under the new key. The rest is rewritten in the background, and by later mounts. If a
// rotation is running, the call only supplies keys for slots that could not be resealed.
func (v *Volume) RotateDataKey(o RotateOptions) (RotationStatus, error) {
	v.rot.rate.Store(o.BytesPerSecond)
	if o.BytesPerSecond == 0 {
		v.rot.rate.Store(DefaultRotationRate)
	}
	var dropped []int
	err := v.keys.change(func() (err error) {
		dropped, err = v.rot.beginRotation(&o)
		return err
	})
	if err != nil {
		return RotationStatus{}, err
	}
	s := v.RotationStatus()
	s.Dropped = dropped
	return s, nil
}

func (r *rotator) beginRotation(o *RotateOptions) (dropped []int, err error) {
	v := r.v
	k := &v.keys
	if r.target.Load() == 0 && o.Resume {
		return nil, nil
	}
	if r.target.Load() != 0 && !o.Again {
		return r.supplyNext(o)
	}
	if len(k.epochs) >= crypto.MaxEpochs {
		return nil, fmt.Errorf("%d epochs of the data key are in use: %s", len(k.epochs), v.RotationWaits())
	}
	vmk, err := crypto.GenerateKey()
	if err != nil {
		return nil, err
	}
	next := crypto.EpochKey{Epoch: k.epochs[len(k.epochs)-1].Epoch + 1, VMK: vmk}
	keys, err := crypto.DeriveEpochKeys(k.header.Suite, v.id, next.Epoch, vmk)
	if err != nil {
		vmk.Erase()
		return nil, err
	}
	dropped, err = r.switchEpoch(o, next, keys)
	if err != nil && v.store.Keys.Newest() != keys {
		keys.Erase()
		vmk.Erase()
	}
	return dropped, err
}

// RotationWaits is RotationStatus.Waits.
func (v *Volume) RotationWaits() string {
	v.rot.mu.Lock()
	defer v.rot.mu.Unlock()
	return v.rot.waits
}

// switchEpoch reseals all slots with one more epoch, and seals under that epoch from then on.
func (r *rotator) switchEpoch(o *RotateOptions, next crypto.EpochKey, keys *crypto.EpochKeys) (dropped []int, err error) {
	v := r.v
	k := &v.keys
	epochs := append(slices.Clone(k.epochs), next)
	only := epochs[len(epochs)-1:]
	h := *k.header
	last := map[int]crypto.Slot{}
	var missing []int
	for i := range h.Slots {
		if h.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		key, ok := k.keyOf(i, o.Keys)
		if !ok {
			missing = append(missing, i)
			h.Slots[i] = crypto.Slot{}
			continue
		}
		if h.Slots[i], err = v.keys.makeSlot(i, key, epochs); err != nil {
			return nil, err
		}
		if last[i], err = v.keys.makeSlot(i, key, only); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 && !o.Drop {
		return nil, fmt.Errorf("%w: %s", ErrKeyMissing, slotNames(k.header, missing))
	}
	if len(last) == 0 {
		return nil, fmt.Errorf("this would leave no key slot: %w", ErrLastKey)
	}
	// First, store the final content of the slots, so that it exists whenever the new epoch does.
	// If the header is not written, the epoch in the root shows that this content is void.
	before := r.current()
	r.set(layout.Rotation{Target: next.Epoch})
	if err := r.storeNext(last, keys); err != nil {
		r.set(before)
		return nil, err
	}
	if err := v.keys.writeHeaderUnder(&h, keys); err != nil {
		return nil, err
	}
	if slices.Contains(missing, k.slot) {
		k.slot = -1
	}
	k.epochs, k.next = epochs, last
	v.store.Keys.Add(keys)
	r.target.Store(next.Epoch)
	if err := v.keys.raiseFloor(); err != nil {
		return nil, err
	}
	r.start()
	return missing, nil
}

// keyOf finds a key to reseal a slot with.
func (k *keyring) keyOf(slot int, creds []crypto.Credential) (Key, bool) {
	s := &k.header.Slots[slot]
	if r, err := crypto.SlotRecipient(k.header.Suite, s); err == nil {
		return Key{Recipient: r}, true
	}
	for _, c := range creds {
		r, ok := c.(crypto.Recipient)
		if !ok || c.SlotType() != s.Type {
			continue
		}
		got, err := crypto.OpenSlot(k.header.Suite, k.header.ID, uint8(slot), s, c)
		if err != nil {
			continue
		}
		crypto.EraseEpochs(got)
		return Key{Recipient: r, Credential: c}, true
	}
	return Key{}, false
}

// supplyNext seals the final content of slots for which the rotation had no keys.
func (r *rotator) supplyNext(o *RotateOptions) (dropped []int, err error) {
	v := r.v
	k := &v.keys
	var missing []int
	for i := range k.header.Slots {
		if _, ok := k.next[i]; ok || k.header.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		key, ok := k.keyOf(i, o.Keys)
		if !ok {
			missing = append(missing, i)
			continue
		}
		if err := r.addNext(i, key); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 && o.Drop && len(missing) < k.header.Count() {
		if err := v.keys.removeKeys(missing); err != nil {
			return nil, err
		}
		dropped, missing = missing, nil
	}
	r.start()
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrKeyMissing, slotNames(k.header, missing))
	}
	return dropped, nil
}

// addNext seals the final content of one slot. The caller holds keyring.mu.
func (r *rotator) addNext(slot int, key Key) error {
	v := r.v
	k := &v.keys
	s, err := v.keys.makeSlot(slot, key, k.epochs[len(k.epochs)-1:])
	if err != nil {
		return err
	}
	next := map[int]crypto.Slot{}
	for i, s := range k.next {
		next[i] = s
	}
	next[slot] = s
	if err := r.storeNext(next, v.store.Keys.Newest()); err != nil {
		return err
	}
	k.next = next
	return nil
}

// dropNext removes the final content of slots that were removed.
func (r *rotator) dropNext(slots []int) error {
	v := r.v
	next := map[int]crypto.Slot{}
	for i, s := range v.keys.next {
		if !slices.Contains(slots, i) {
			next[i] = s
		}
	}
	v.keys.next = next
	return r.storeNext(next, v.store.Keys.Newest())
}

// storeNext makes the final contents of slots durable: exactly those in next.
func (r *rotator) storeNext(next map[int]crypto.Slot, keys *crypto.EpochKeys) error {
	v := r.v
	c := reservation{nodes: crypto.Slots, urgent: true, nested: true} // in keyring.change
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	err := v.inGate(func() error { return r.putNext(next, keys.Commitment()) })
	v.adm.done(c)
	if err == nil {
		err = v.com.commitAll()
	}
	return v.sync.syncErr(err)
}

func (r *rotator) putNext(next map[int]crypto.Slot, commit [32]byte) error {
	v := r.v
	return v.anc.tree.Update(func(w *tree.Writer) error {
		for i := range crypto.Slots {
			s, ok := next[i]
			if !ok {
				if _, err := w.Delete(items.NextSlotKey(i)); err != nil {
					return err
				}
				continue
			}
			n := layout.NextSlot{Commit: commit, Slot: s}
			if err := w.Put(items.NextSlotKey(i), n.Append(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// load continues a rotation from the state in the root. Nobody else uses the volume yet.
func (r *rotator) load(root *layout.Root) error {
	v := r.v
	k := &v.keys
	newest := v.store.Keys.Newest()
	if len(k.epochs) == 1 {
		// The rotation is complete or never began: the header decides. Its remains are removed.
		if root.Rotation.Target == 0 || v.opts.ReadOnly {
			return nil
		}
		return r.putNext(nil, [32]byte{})
	}
	s := layout.Rotation{Target: newest.Epoch()}
	if root.Rotation.Target == s.Target {
		s = root.Rotation
	}
	r.set(s)
	r.target.Store(s.Target)
	r.tell(RotationRewriting, "", nil)
	k.next = map[int]crypto.Slot{}
	var derr error
	err := v.anc.tree.Scan(items.NextSlotKey(0), items.NextSlotKey(crypto.Slots-1), func(key layout.Key, val []byte) bool {
		var n layout.NextSlot
		if n, derr = layout.DecodeNextSlot(val); derr != nil {
			return false
		}
		if n.Commit == newest.Commitment() && k.header.Slots[key.Sub].Type == n.Slot.Type {
			k.next[int(key.Sub)] = n.Slot
		}
		return true
	})
	return errors.Join(err, derr)
}
