package mountserver

import (
	"log/slog"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// Options say which volume to open and how. Device and Keys are required.
type Options struct {
	// Device is open exclusively. Open closes it if it fails; otherwise the server closes it when
	// it ends.
	Device *device.File
	// Name is the name by which callers of the control socket know the volume; "" means its UUID.
	Name string
	// Keys open the volume; the first one that works is used. The caller erases them after Open has
	// returned.
	Keys []crypto.Credential
	// Current, if not nil, is the key that must open the volume from now on: the first of Keys. The
	// others are removed from the volume.
	Current crypto.Recipient
	// ReadOnly writes nothing to the device, not even to replay its log.
	ReadOnly bool
	// Discard tells the device which space is free, in batches.
	Discard bool
	// MemoryBytes limits what the volume keeps in memory; 0 means volume.DefaultMemory.
	MemoryBytes int64
	// Format, if not nil, allows formatting a blank device for Current.
	Format *mounter.Format
	// FormatV1 allows volumes of format v1 (doublecrypt).
	FormatV1 bool
	// Instance and RejectCopy are Instance and Own of volume.Options.
	Instance   crypto.UUID
	RejectCopy bool
	// Anchor is the state that the device must hold, or a newer one that follows from it.
	Anchor *volume.Anchor
	// AnchorFile, unless "", is a file that the server updates with the volume's anchor. The caller
	// has read Anchor from it.
	AnchorFile string
	// Snapshot, unless "", is the local snapshot to serve instead of the volume. It requires
	// ReadOnly.
	Snapshot string
	// Workers answers requests that hand the data keys to snapshot workers; see addWorkers.
	Workers bool
	// RetryNoSpace is for raw block volumes; see spaceRetry.
	RetryNoSpace bool
	// Log gets the log lines; nil means slog.Default().
	Log *slog.Logger
	// Level is the level of Log, which callers of the control socket may change; nil if they may
	// not.
	Level *slog.LevelVar
}
