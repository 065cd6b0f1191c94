package volume

import (
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// PinnedKeys returns what another process needs to read local snapshots on the volume's device
// (package pinned) without a credential. The caller erases the keys.
func (v *Volume) PinnedKeys() (*pinned.Keys, error) {
	v.durable.mu.Lock()
	root := v.durable.root
	v.durable.mu.Unlock()
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	p := &pinned.Keys{Identity: pinned.Identity{ID: v.id, Instance: root.Instance, Suite: k.header.Suite, HashSeed: root.HashSeed,
		DeviceBytes: int64(root.DeviceBlocks) * layout.BlockBytes}}
	for _, e := range k.epochs {
		vmk, err := e.VMK.Clone()
		if err != nil { // the volume was shredded or is closed
			p.Erase()
			return nil, err
		}
		p.Epochs = append(p.Epochs, crypto.EpochKey{Epoch: e.Epoch, VMK: vmk})
	}
	return p, nil
}

// HoldSnapshot prevents the deletion of a snapshot that another process reads, until end is called.
// It does not prevent Close: what the snapshot holds stays on the device.
func (v *Volume) HoldSnapshot(name string) (ref pinned.StateRef, end func(), err error) {
	t, err := v.snap.find(name, func(t *snapshot) { t.holds++ })
	if err != nil {
		return ref, nil, err
	}
	end = func() { v.snap.unhold(t) }
	x, err := v.snap.read(t)
	if err != nil {
		end()
		return ref, nil, err
	}
	return pinned.NewRef(v.id, t.id, &x), end, nil
}
