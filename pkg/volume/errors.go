package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Errors of formatting and opening.
var (
	ErrNotSealvol  = layout.ErrNotSealvol
	ErrNewerFormat = layout.ErrNewerFormat
	ErrDamaged     = layout.ErrCorrupt
	ErrHeader      = layout.ErrHeaderDamaged
	ErrForged      = layout.ErrHeaderForged
	ErrWrongKey    = crypto.ErrWrongKey
	ErrInUse       = device.ErrInUse
	ErrNoRoot      = txn.ErrNoRoot
	ErrTwoRoots    = txn.ErrTwoRoots
	ErrLogDamaged  = txn.ErrLogDamaged
	ErrNotEmpty    = errors.New("device is not empty")
	ErrTooSmall    = errors.New("device is too small")
	ErrTruncated   = errors.New("device is smaller than its volume")
	ErrShredded    = layout.ErrShredded
	ErrMemory      = txn.ErrMemory
	ErrCopy        = errors.New("the device is a copy of another one")

	ErrSnapshotName     = errors.New("not a name for a snapshot")
	ErrSnapshotExists   = errors.New("a snapshot of that name exists")
	ErrNoSnapshot       = errors.New("no such snapshot")
	ErrSnapshotInUse    = errors.New("the snapshot is open")
	ErrTooManySnapshots = errors.New("too many snapshots")
	ErrNewerSnapshots   = errors.New("there are newer snapshots")
)

// wrap gives internal errors the kind that vfs promises.
func wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, crypto.ErrErased): // the last that a close does
		return vfs.ErrClosed
	case errors.Is(err, layout.ErrCorrupt):
		return fmt.Errorf("%w: %w", vfs.ErrCorrupt, err)
	case errors.Is(err, txn.ErrDevice):
		return fmt.Errorf("%w: %w", vfs.ErrIO, err)
	case errors.Is(err, device.ErrNotSupported):
		return fmt.Errorf("%w: %w", vfs.ErrNotSupported, err)
	case errors.Is(err, txn.ErrNoSpace):
		return fmt.Errorf("%w: %w", vfs.ErrNoSpace, err)
	}
	return err
}
