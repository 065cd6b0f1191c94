package volume

import (
	"github.com/sealvol/sealvol/pkg/crypto"
)

// EpochKeys returns copies of the data keys of all epochs, ascending, for another process that reads
// the volume's device. The caller erases them.
func (v *Volume) EpochKeys() (epochs []crypto.EpochKey, err error) {
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.epochs {
		vmk, err := e.VMK.Clone()
		if err != nil {
			crypto.EraseEpochs(epochs)
			return nil, err
		}
		epochs = append(epochs, crypto.EpochKey{Epoch: e.Epoch, VMK: vmk})
	}
	return epochs, nil
}

// HoldSnapshot prevents the deletion of a snapshot that another process reads, until end is called.
// It does not prevent Close. The reference says where the snapshot is on the device.
func (v *Volume) HoldSnapshot(name string) (ref []byte, end func(), err error) {
	x, end, err := v.snap.hold(name)
	if err != nil {
		return nil, nil, err
	}
	return x.Append(nil), end, nil
}
