package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// requireFeature has the header name an incompat feature, durably, before
// anything that needs it: versions that do not know it refuse the volume from
// then on. It is cheap once the bit is set. A crash in between leaves a bit that
// nothing needs. The caller holds no lock and is not in the gate.
func (v *Volume) requireFeature(bit uint64) error {
	if v.features.Load()&bit == bit {
		return nil
	}
	v.headerMu.Lock()
	defer v.headerMu.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	h := *v.header.Header
	if h.Incompat&bit != bit {
		h.Incompat |= bit
		if err := v.writeHeader(&h); err != nil {
			return err
		}
	}
	v.features.Store(h.Incompat)
	return nil
}

// writeHeader gives the volume a new header, under the next sequence number:
// copy A, barrier, copy B, barrier. A cut leaves a device that opens by the old
// header or by the new one. An error fails the volume: which of them the device
// has is not known. The caller holds headerMu.
func (v *Volume) writeHeader(h *layout.Header) error {
	h.Sequence = v.header.Sequence + 1
	if err := v.putHeader(h, layout.HeaderOffsetA, layout.HeaderOffsetB); err != nil {
		err = wrap(fmt.Errorf("write the header: %w", err))
		v.fail(err)
		return err
	}
	v.header.Header = h
	return nil
}

// putHeader writes a header to copies of it, each followed by a barrier.
func (v *Volume) putHeader(h *layout.Header, offsets ...int64) error {
	b, err := layout.EncodeHeader(h, v.store.Keys.Newest())
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
