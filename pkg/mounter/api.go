package mounter

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// FSType is the type of the mounts, as mountinfo shows it.
const FSType = "fuse.sealvol"

// Device is what to mount; see backend.Device, which says the same.
type Device struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"sizeBytes"`
	Dev       uint64 `json:"dev,omitempty"`
	Ino       uint64 `json:"ino,omitempty"`
	Rdev      uint64 `json:"rdev,omitempty"`
}

// Format says how to format a device that is blank. One that holds anything is not formatted.
// Whoever asks knows that no volume was ever made on it: a device that was wiped is blank.
type Format struct {
	Suite string `json:"suite,omitempty"` // "": the default
	// Again says that a format was begun before, when the device was blank: what one leaves that
	// was cut off is formatted, too.
	Again bool `json:"again,omitempty"`
}

// maxAnchorBytes is far above what an anchor has.
const maxAnchorBytes = 4096

// MountRequest asks for a volume at a directory.
type MountRequest struct {
	Volume   string  `json:"volume"` // id, 1 to 128 bytes
	Source   string  `json:"source"` // the mount's source in mountinfo; marks all mounts of the volume
	Target   string  `json:"target"` // absolute path of an existing directory
	Device   Device  `json:"device"`
	ReadOnly bool    `json:"readOnly,omitempty"`
	Format   *Format `json:"format,omitempty"` // nil: a blank device is an error
	Block    *Block  `json:"block,omitempty"`  // nil: Target gets the volume's files
	// Instance is a UUID that the device gets, which is no other's: a copy's in place of the one of what it is a copy of; "": it keeps what it has.
	Instance string `json:"instance,omitempty"`
	// The three fields below have other names in JSON than in Go: mounters and plugins of earlier
	// versions, which run beside this one during an upgrade, know them by these.

	// RejectCopy refuses a device that is another instance already, a copy, with ErrCopy.
	RejectCopy bool `json:"own,omitempty"`
	// ReplaceKey gives the keys to a server that is found serving: the current one is to open the
	// volume from now on. Without it they are not looked at then.
	ReplaceKey bool `json:"rekey,omitempty"`
	// RequireRunning asks for a server that was seen serving: should it have died since, nothing is
	// mounted, and the error is ErrDead.
	RequireRunning bool `json:"living,omitempty"`
	// Anchor is what the device must not be older than, as the volume's engine writes it; "": none is known. A device that does not hold that state, or one
	// that follows from it, is refused with ErrRolledBack, and is not formatted if it is blank.
	Anchor string `json:"anchor,omitempty"`

	Keys Keys `json:"-"`
}

// Block asks for a raw block device in place of a file system: Target gets a directory with the device nodes NodeRW and NodeRO, and the
// volume's one file is out of sight.
type Block struct {
	SizeBytes int64 `json:"sizeBytes"` // of the device; RawBytes of what the volume's device has
	// ReadOnlyToo asks for NodeRO beside NodeRW. A volume that is mounted read-only has NodeRO alone.
	ReadOnlyToo bool `json:"readOnlyToo,omitempty"`
}

// Names of the device nodes at the target of a raw block volume.
const (
	NodeRW = "rw"
	NodeRO = "ro"
)

// NodeFSType is the type of the mount that holds the device nodes. Its source is the volume's, as of all its mounts.
const NodeFSType = "tmpfs"

// UnmountRequest takes it away.
type UnmountRequest struct {
	Volume string `json:"volume"`
	Source string `json:"source"`
	Target string `json:"target"`
}

// Info describes a volume of the mounter.
type Info struct {
	Volume     string              `json:"volume"`
	Target     string              `json:"target"`
	PID        int                 `json:"pid"`
	Alive      bool                `json:"alive"`
	Adopted    bool                `json:"adopted,omitempty"`    // by a later mounter than the one that started it
	HoldsFuse  bool                `json:"holdsFuse"`            // the mounter holds its descriptors
	BlockBytes int64               `json:"blockBytes,omitempty"` // size of the raw block device; 0: it is mounted as a file system
	Conditions []control.Condition `json:"conditions,omitempty"` // Health only
}

func (r MountRequest) check() error {
	if err := checkTarget(r.Volume, r.Source, r.Target); err != nil {
		return err
	}
	d := r.Device
	if !filepath.IsAbs(d.Path) || d.SizeBytes <= 0 || (d.Ino == 0) == (d.Rdev == 0) {
		return fmt.Errorf("%w: device", ErrInvalid)
	}
	if len(r.Anchor) > maxAnchorBytes {
		return fmt.Errorf("%w: anchor", ErrInvalid)
	}
	if b := r.Block; b != nil && (b.SizeBytes < RawAlign || b.SizeBytes%RawAlign != 0) {
		return fmt.Errorf("%w: size of the raw block device", ErrInvalid)
	}
	return nil
}

func checkTarget(volume, source, target string) error {
	switch {
	case volume == "" || len(volume) > 128:
		return fmt.Errorf("%w: volume id", ErrInvalid)
	case source == "" || len(source) > 256 || strings.ContainsAny(source, " \t\n\\,"):
		return fmt.Errorf("%w: source", ErrInvalid)
	case !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" || strings.ContainsRune(target, 0) || len(target) >= 4096:
		return fmt.Errorf("%w: target path", ErrInvalid)
	}
	return nil
}
