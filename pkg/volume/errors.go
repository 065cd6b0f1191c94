package volume

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
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
	ErrTruncated   = header.ErrTruncated
	ErrShredded    = layout.ErrShredded
	ErrMemory      = txn.ErrMemory
	ErrCopy        = errors.New("the device is a copy of another one")

	// ErrRestoring: the restore of the volume has not ended (Loader). ErrNotRestoring: it has, or
	// there never was one.
	ErrRestoring    = layout.ErrRestoring
	ErrNotRestoring = errors.New("the volume is not being restored")

	// With an anchor.
	ErrRolledBack  = header.ErrRolledBack
	ErrForked      = header.ErrForked
	ErrOtherVolume = header.ErrOtherVolume

	ErrSnapshotName     = errors.New("invalid snapshot name")
	ErrSnapshotExists   = errors.New("a snapshot with this name already exists")
	ErrNoSnapshot       = errors.New("no such snapshot")
	ErrSnapshotInUse    = errors.New("the snapshot is in use")
	ErrTooManySnapshots = errors.New("too many snapshots")
	ErrNewerSnapshots   = errors.New("there are newer snapshots")
)
