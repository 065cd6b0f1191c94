package mounter

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// FSType is the type of the mounts, as mountinfo shows it.
const FSType = "fuse.sealvol"

// Device is the device to mount; it has the same fields as backend.Device.
type Device struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"sizeBytes"`
	Dev       uint64 `json:"dev,omitempty"`
	Ino       uint64 `json:"ino,omitempty"`
	Rdev      uint64 `json:"rdev,omitempty"`
}

// Format says how to format a blank device. A device that holds anything is not formatted. The
// caller must know that no volume was ever formatted on the device: a wiped device is blank, too.
type Format struct {
	Suite string `json:"suite,omitempty"` // "": the default
	// Again says that a format of the blank device was begun before: what an interrupted format
	// leaves is formatted, too.
	Again bool `json:"again,omitempty"`
}

// maxAnchorBytes is far above the size of an anchor.
const maxAnchorBytes = 4096

// MountRequest asks to mount a volume at a directory.
type MountRequest struct {
	Volume   string  `json:"volume"` // id, 1 to 128 bytes
	Source   string  `json:"source"` // the mount's source in mountinfo; identifies all mounts of the volume
	Target   string  `json:"target"` // absolute path of an existing directory
	Device   Device  `json:"device"`
	ReadOnly bool    `json:"readOnly,omitempty"`
	Format   *Format `json:"format,omitempty"` // nil: a blank device is an error
	Block    *Block  `json:"block,omitempty"`  // nil: Target gets the volume's files
	// Instance is the UUID that the device gets, so that a copy differs from its source; "" keeps
	// the present one.
	Instance string `json:"instance,omitempty"`
	// The next three fields have other names in JSON than in Go. Mounters and plugins of earlier
	// versions, which run beside this one during an upgrade, use the JSON names.

	// RejectCopy refuses a device that already has another instance ID, which makes it a copy, with
	// ErrCopy.
	RejectCopy bool `json:"own,omitempty"`
	// ReplaceKey passes the keys to a server that is already running: the current key must open the
	// volume from now on. Without ReplaceKey, a running server ignores the keys.
	ReplaceKey bool `json:"rekey,omitempty"`
	// RequireRunning asks for a server that was seen running. If it has died since, nothing is
	// mounted, and the error is ErrDead.
	RequireRunning bool `json:"living,omitempty"`
	// Anchor is the anchor of the volume as the engine writes it, or "" if there is none. The
	// device must hold that state or a newer one that follows from it. Otherwise it is refused with
	// ErrRolledBack, and is not formatted if it is blank.
	Anchor string `json:"anchor,omitempty"`

	Keys Keys `json:"-"`
}

// Block asks for a raw block device instead of a file system. Target gets a directory with the
// device nodes NodeRW and NodeRO, and the volume's only file is hidden.
type Block struct {
	SizeBytes int64 `json:"sizeBytes"` // of the raw block device: RawBytes of the size of the volume's device
	// ReadOnlyToo asks for NodeRO beside NodeRW. A volume that is mounted read-only has only
	// NodeRO.
	ReadOnlyToo bool `json:"readOnlyToo,omitempty"`
}

// Names of the device nodes at the target of a raw block volume.
const (
	NodeRW = "rw"
	NodeRO = "ro"
)

// NodeFSType is the type of the mount that holds the device nodes. Like all mounts of the volume,
// it has the volume as its source.
const NodeFSType = "tmpfs"

// UnmountRequest asks to unmount a volume.
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
	Adopted    bool                `json:"adopted,omitempty"`    // by a later mounter than the one that started the server
	HoldsFuse  bool                `json:"holdsFuse"`            // the mounter holds duplicates of its descriptors
	BlockBytes int64               `json:"blockBytes,omitempty"` // size of the raw block device; 0: it is mounted as a file system
	Conditions []control.Condition `json:"conditions,omitempty"` // set only by Health
}

func (r MountRequest) check() error {
	if err := checkTarget(r.Volume, r.Source, r.Target); err != nil {
		return err
	}
	d := r.Device
	if !filepath.IsAbs(d.Path) || d.SizeBytes <= 0 || (d.Ino == 0) == (d.Rdev == 0) {
		return fmt.Errorf("%w: malformed device", ErrInvalid)
	}
	if len(r.Anchor) > maxAnchorBytes {
		return fmt.Errorf("%w: the anchor is too long", ErrInvalid)
	}
	if b := r.Block; b != nil && (b.SizeBytes < RawAlign || b.SizeBytes%RawAlign != 0) {
		return fmt.Errorf("%w: bad size of the raw block device", ErrInvalid)
	}
	return nil
}

func checkTarget(volume, source, target string) error {
	switch {
	case volume == "" || len(volume) > 128:
		return fmt.Errorf("%w: malformed volume id", ErrInvalid)
	case source == "" || len(source) > 256 || strings.ContainsAny(source, " \t\n\\,"):
		return fmt.Errorf("%w: malformed mount source", ErrInvalid)
	case !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" || strings.ContainsRune(target, 0) || len(target) >= 4096:
		return fmt.Errorf("%w: malformed target path", ErrInvalid)
	}
	return nil
}
