package pacing

import (
	"context"
	"errors"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// errReadOnly is the error of every change of the device.
var errReadOnly = errors.New("whoever stores a snapshot only reads the volume's device")

// paced is a device whose reads are paced, and that cannot be changed.
type paced struct {
	device.Device
	ctx   context.Context // of the job
	pacer *Pacer
}

// Device returns a device whose reads pass a Pacer, and end with ctx. It refuses all changes.
func Device(ctx context.Context, d device.Device, p *Pacer) device.Device { return &paced{d, ctx, p} }

// ReadAt implements device.Device.
func (p *paced) ReadAt(b []byte, off int64) (int, error) {
	if err := p.pacer.Wait(p.ctx, len(b)); err != nil {
		return 0, err
	}
	return p.Device.ReadAt(b, off)
}

// NextData implements device.Allocated.
func (p *paced) NextData(off int64) (from, to int64, err error) {
	if a, ok := p.Device.(device.Allocated); ok {
		return a.NextData(off)
	}
	return 0, 0, device.ErrNotSupported
}

// WriteAt implements device.Device.
func (p *paced) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }

// Sync implements device.Device.
func (p *paced) Sync() error { return errReadOnly }

// Discard implements device.Device.
func (p *paced) Discard(int64, int64) error { return errReadOnly }
