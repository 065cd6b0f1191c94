package volume

import "context"

// requireFeature sets an incompat feature in the header, durably, before anything that needs it is
// written. From then on, versions that do not know the feature refuse the volume. The call is cheap
// once the bit is set. A crash in between leaves a bit that nothing needs, which does no harm. The
// caller holds no lock and is not in the gate.
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
