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

// ErrRestoring means that the content of a volume is incomplete, because its restore has not ended.
var ErrRestoring = errors.New("the volume is being restored, and nothing in it can be used before that is complete")

// Restoring reports whether a header marks its volume as incomplete.
func Restoring(h *layout.Header) bool { return h.Incompat&layout.FeatureRestoring != 0 }

// Unlock reads and opens the header and derives the keys. The anchor may be nil. It refuses a volume
// that is being restored: ErrRestoring.
func Unlock(dev device.Device, cred crypto.Credential, anchor *Anchor) (*layout.Unlocked, *txn.Keys, error) {
	u, keys, err := UnlockAny(dev, cred, anchor)
	if err == nil && Restoring(u.Header) {
		keys.Erase()
		crypto.EraseEpochs(u.Epochs)
		return nil, nil, ErrRestoring
	}
	return u, keys, err
}

// UnlockAny is Unlock for those who know what to do with a volume that is being restored.
func UnlockAny(dev device.Device, cred crypto.Credential, anchor *Anchor) (*layout.Unlocked, *txn.Keys, error) {
	hs, err := Read(dev)
	if err != nil {
		return nil, nil, err
	}
	if anchor != nil {
		if err := anchor.heldBy(hs); err != nil {
			return nil, nil, err
		}
	}
	u, err := hs.Unlock(cred)
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
