package header

import (
	"errors"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Read reads both copies. A copy that cannot be read counts as damaged. If that leaves no copy,
// Read returns the I/O error.
func Read(dev device.Device) (*layout.Headers, error) {
	var c [2][]byte
	var failed error
	for i, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		c[i] = device.AlignedBytes(layout.HeaderBytes)
		if _, err := dev.ReadAt(c[i], off); err != nil {
			clear(c[i])
			if !errors.Is(err, io.EOF) { // a device that ends earlier holds no copy
				failed = errors.Join(failed, fmt.Errorf("%w: read header at %d: %w", vfs.ErrIO, off, err))
			}
		}
	}
	h := layout.DecodeHeaders(c[0], c[1])
	if failed != nil && h.Copy[0] == nil && h.Copy[1] == nil {
		return nil, failed
	}
	return h, nil
}

// Unlock reads and opens the header and derives the keys. The anchor may be nil. It refuses a volume
// that is being restored: layout.ErrRestoring.
func Unlock(dev device.Device, cred crypto.Credential, anchor *Anchor) (*layout.Unlocked, *txn.Keys, error) {
	return unlock(dev, anchor, func(hs *layout.Headers) (*layout.Unlocked, error) { return hs.Unlock(cred) })
}

// UnlockAny is Unlock for those who know what to do with a volume that is being restored.
func UnlockAny(dev device.Device, cred crypto.Credential, anchor *Anchor) (*layout.Unlocked, *txn.Keys, error) {
	return unlock(dev, anchor, func(hs *layout.Headers) (*layout.Unlocked, error) { return hs.UnlockAny(cred) })
}

func unlock(dev device.Device, anchor *Anchor, open func(*layout.Headers) (*layout.Unlocked, error)) (*layout.Unlocked, *txn.Keys, error) {
	hs, err := Read(dev)
	if err != nil {
		return nil, nil, err
	}
	if anchor != nil {
		if err := anchor.heldBy(hs); err != nil {
			return nil, nil, err
		}
	}
	u, err := open(hs)
	if err != nil {
		return nil, nil, err
	}
	var eks []*crypto.EpochKeys
	for _, e := range u.Epochs {
		k, err := crypto.DeriveEpochKeys(u.Suite, u.ID, e.Epoch, e.VMK)
		if err != nil {
			crypto.EraseEpochs(u.Epochs)
			return nil, nil, err
		}
		eks = append(eks, k)
	}
	return u, txn.NewKeys(eks...), nil
}
