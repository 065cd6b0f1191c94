package volume

import "context"

// requireFeature has the header name an incompat feature, durably, before
// anything that needs it: versions that do not know it refuse the volume from
// then on. It is cheap once the bit is set. A crash in between leaves a bit that
// nothing needs. The caller holds no lock and is not in the gate.
func (k *keyring) requireFeature(bit uint64) error {
	v := k.v
	if k.features.Load()&bit == bit {
		return nil
	}
	if err := v.frozen.enter(context.Background()); err != nil { // waits for a thaw
		return err
	}
	defer v.frozen.leave()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	h := *k.header
	if h.Incompat&bit != bit {
		h.Incompat |= bit
		if err := k.writeHeader(&h); err != nil {
			return err
		}
	}
	k.features.Store(h.Incompat)
	return nil
}
