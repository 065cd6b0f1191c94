package mountserver

import (
	"log/slog"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// Options says which volume to open and how. Device and Keys are required.
type Options struct {
	// Device is opened exclusively. Open closes it if it fails, else the server does at its end.
	Device *device.File
	// Name is what callers of the control socket know the volume by; "": its UUID.
	Name string
	// Keys open the volume; the first one that does is used. They stay the caller's, who erases
	// them once Open has returned.
	Keys []crypto.Credential
	// Current, if not nil, is the key that is to open the volume from now on: the first of Keys.
	// The others are removed from the volume.
	Current crypto.Recipient
	// ReadOnly writes nothing to the device, not even to replay its log.
	ReadOnly bool
	// Discard tells the device which space is free, in batches.
	Discard bool
	// MemoryBytes bounds what the volume keeps in memory; 0: volume.DefaultMemory.
	MemoryBytes int64
	// Format, if not nil, allows to format a device that is blank, for Current.
	Format *mounter.Format
	// FormatV1 allows volumes of format v1 (doublecrypt).
	FormatV1 bool
	// Instance and RejectCopy are volume.Options' Instance and Own.
	Instance   crypto.UUID
	RejectCopy bool
	// Anchor is the state that the device must hold, or one that follows from it.
	Anchor *volume.Anchor
	// AnchorFile, unless "", is a file that is kept up to date with the volume's anchor. The caller
	// has read Anchor from it.
	AnchorFile string
	// Snapshot, unless "", is the local snapshot to serve in place of the volume. It needs ReadOnly.
	Snapshot string
	// RetryNoSpace is for raw block volumes; see spaceRetry.
	RetryNoSpace bool
	// Log gets what the operator should know; nil: slog.Default().
	Log *slog.Logger
	// Level is the level of Log, which callers of the control socket may change; nil: they may not.
	Level *slog.LevelVar
}
