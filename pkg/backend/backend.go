package backend

import (
	"context"
	"errors"
	"time"
)

// Errors that every backend returns, wrapped with what it knows (never with parameters' values).
var (
	// ErrInvalid: the request itself is wrong and can never succeed.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: no such volume.
	ErrNotFound = errors.New("volume not found")
	// ErrSnapshotNotFound: no such snapshot.
	ErrSnapshotNotFound = errors.New("snapshot not found")
	// ErrNodeNotFound: no such node.
	ErrNodeNotFound = errors.New("node not found")
	// ErrExists: a volume of this name exists and differs from what is asked for.
	ErrExists = errors.New("one of this name exists with another specification")
	// ErrNoSpace: the backend has not enough space or quota left.
	ErrNoSpace = errors.New("not enough space")
	// ErrTopology: the backend cannot make a volume that is accessible from where it is asked for.
	ErrTopology = errors.New("cannot provision in the required topology")
	// ErrOutOfRange: the size is one the backend cannot make (alignment, minimum, maximum, shrinking).
	ErrOutOfRange = errors.New("size out of range")
	// ErrBusy: the volume is attached, so that the call would pull it from under its user.
	ErrBusy = errors.New("volume is in use")
	// ErrAttachedElsewhere: attached to another node; detach there first.
	ErrAttachedElsewhere = errors.New("volume is attached to another node")
	// ErrAttachedOtherwise: attached to this node with another read-only flag.
	ErrAttachedOtherwise = errors.New("volume is attached with another mode")
	// ErrNotAttached: the volume is not attached to this node, so that it has no device here.
	ErrNotAttached = errors.New("volume is not attached to this node")
	// ErrTooManyAttached: the node holds as many volumes as it can.
	ErrTooManyAttached = errors.New("the node has its maximum of volumes attached")
	// ErrBadToken: a page token that this backend did not give out.
	ErrBadToken = errors.New("invalid page token")
	// ErrQuota: the backend's owner has used up what he may do for now; it becomes possible again by itself.
	ErrQuota = errors.New("quota used up for now")
	// ErrUnavailable: the backend does not answer, or cannot do this at the moment. Repeat it.
	ErrUnavailable = errors.New("the backend is not available")
	// ErrDenied: the backend's owner does not let this driver do it, and nothing was done. Somebody
	// must allow it.
	ErrDenied = errors.New("not allowed")
	// ErrDamaged: the volume's device or its record is missing, foreign or not what it should be.
	// Nothing is repaired by guessing.
	ErrDamaged = errors.New("volume is damaged")
)

// Segments is one place of a topology: keys and values as Kubernetes has them on nodes.
type Segments map[string]string

// Spec is what a volume is asked to be.
type Spec struct {
	// Name makes Create idempotent. Any UTF-8 of 1 to 128 bytes.
	Name string
	// RequiredBytes is the least size, 0 for the backend's default; LimitBytes the greatest, 0 for none.
	RequiredBytes, LimitBytes int64
	// Parameters stay with the volume unchanged; the backend does not read them.
	Parameters map[string]string
	// Class are parameters of the backend's own, and Mutable those of them that Modify can change, which win over Class. Tunable.
	Class, Mutable map[string]string
	// For names what it is made for. It makes no difference to what is made.
	For Purpose
	// Requisite lists places of which at least one must reach the volume; Preferred, in order, those
	// to try first. Empty: anywhere.
	Requisite, Preferred []Segments
	// Source is what the volume begins as a copy of, nil for an empty one. It is never smaller than that.
	Source *Source
}

// Purpose names objects of Kubernetes that a volume or snapshot is made for, by kind and field ("pvc/namespace"), for people who look at what the
// backend has. A backend may ignore it.
type Purpose map[string]string

// Source names what a volume or snapshot is a copy of: one of the two.
type Source struct {
	Volume   string `json:"volume,omitempty"`   // id
	Snapshot string `json:"snapshot,omitempty"` // id
}

// Attachment says where a volume is attached.
type Attachment struct {
	Node     string
	ReadOnly bool
}

// Volume is a volume that exists.
type Volume struct {
	ID         string
	Name       string
	SizeBytes  int64
	Parameters map[string]string
	Topology   []Segments
	// Attachment is nil while the volume is detached. A volume has at most one.
	Attachment *Attachment
	// Source is as in Spec. What it names may be gone.
	Source *Source
	// Origin is the volume at the beginning of a chain of copies, which was no copy itself; "" if this one is none. Copies have the
	// keys of their origin.
	Origin string
}

// SnapshotState is how far a snapshot is. One that is not even cut is not there yet: no call returns it.
type SnapshotState string

// States of a snapshot: it is cut and still being processed; volumes can be made of it; it never will be ready, delete it.
const (
	SnapshotPending SnapshotState = "pending"
	SnapshotReady   SnapshotState = "ready"
	SnapshotFailed  SnapshotState = "failed"
)

// SnapshotSpec is what a snapshot is asked to be.
type SnapshotSpec struct {
	Name   string // makes CreateSnapshot idempotent; as a volume's
	Volume string // id of the source
	For    Purpose
}

// Snapshot is the content of a volume at one moment: all that was acknowledged to be durable by then.
type Snapshot struct {
	ID        string
	Name      string
	Volume    string // id of the source, which may be gone
	SizeBytes int64  // of the source then: the least size of a volume made of it
	Created   time.Time
	State     SnapshotState
	Message   string // why it failed
	// Parameters and Origin are the source's; Origin is the source itself if that is no copy.
	Parameters map[string]string
	Origin     string
}

// Capacity is what a backend can still promise.
type Capacity struct {
	AvailableBytes int64 // sum of volumes that may still be made
	MinVolumeBytes int64
	MaxVolumeBytes int64
}

// Condition is an adverse state of a volume; Health returns none for a healthy one.
type Condition struct {
	// Lost: data is gone for certain or very likely. Otherwise the volume is inaccessible if
	// Inaccessible, else degraded.
	Lost, Inaccessible bool
	Reason             string // one CamelCase word for machines
	Message            string // for people
}

// Device is an attached volume's block device or image file on this node, with what identifies it:
// whoever opens Path compares the rest with fstat and refuses a difference, so that a device that
// changed its name in between is never mounted.
type Device struct {
	Path      string
	SizeBytes int64  // the least size that it must have
	Dev, Ino  uint64 // st_dev and st_ino of an image file; 0, 0 for a block device
	Rdev      uint64 // st_rdev of a block device; 0 for an image file
	ReadOnly  bool   // attached read-only: must not be written, nor formatted
}

// NodeInfo describes the node that this process runs on.
type NodeInfo struct {
	ID         string
	Topology   Segments
	MaxVolumes int64 // 0: no limit known
}

// Snapshotter is what a Controller also is if its backend has snapshots, and copies of volumes (Spec.Source).
type Snapshotter interface {
	// CreateSnapshot cuts a snapshot or returns the one that this name made before. It returns when the snapshot is cut, ready or not;
	// repeat it to learn of its progress. Work that outlives ctx goes on, and is joined by a repetition.
	// ErrNotFound (the volume), ErrExists, ErrNoSpace, ErrBusy (the volume is in use in a way that allows none), ErrInvalid.
	CreateSnapshot(ctx context.Context, spec SnapshotSpec) (Snapshot, error)
	// DeleteSnapshot removes a snapshot. An absent or malformed id is no error. ErrBusy while a volume is being made of it.
	DeleteSnapshot(ctx context.Context, id string) error
	// GetSnapshot returns one snapshot. ErrSnapshotNotFound, also for a malformed id.
	GetSnapshot(ctx context.Context, id string) (Snapshot, error)
	// ListSnapshots is as List, of the snapshots of one volume or, volume being "", of all.
	ListSnapshots(ctx context.Context, volume, token string, max int) ([]Snapshot, string, error)
}

// Tunable is what a Controller also is if it has parameters of its own.
type Tunable interface {
	// Parameter tells whether a key is one of them, and whether Modify can change it.
	Parameter(key string) (own, mutable bool)
	// Modify changes mutable parameters of a volume, attached or not; those not named stay. It returns when they are in effect.
	// ErrNotFound, ErrInvalid, ErrQuota, ErrUnavailable.
	Modify(ctx context.Context, id string, mutable map[string]string) error
}

// Meter is what a Controller also is if it knows how much room there is.
type Meter interface {
	// Capacity tells what can still be made in a place (nil: anywhere).
	Capacity(ctx context.Context, where Segments) (Capacity, error)
}

// Quiesce brings a volume to rest that a mount server has open: everything that was acknowledged is on its device, and nothing is
// written to it until release, which fails if that was not so all the time. ErrNotAttached: no server has it.
type Quiesce func(ctx context.Context, volume string) (release func() error, err error)

// Controller makes and moves volumes.
type Controller interface {
	// Create makes a volume or returns the one that this name made before.
	// ErrExists, ErrNoSpace, ErrTopology, ErrOutOfRange, ErrInvalid; with a Source as CreateSnapshot, and ErrSnapshotNotFound.
	Create(ctx context.Context, spec Spec) (Volume, error)
	// Delete removes a volume with its data. An absent or malformed id is no error. ErrBusy while attached.
	Delete(ctx context.Context, id string) error
	// Get returns one volume. ErrNotFound, also for a malformed id.
	Get(ctx context.Context, id string) (Volume, error)
	// List returns up to max volumes (0: all) in a stable order, from token on ("" for the start), and
	// the token of the next page ("" at the end). Volumes made or deleted between pages neither repeat
	// nor hide others. ErrBadToken.
	List(ctx context.Context, token string, max int) ([]Volume, string, error)
	// Attach gives a volume to a node, exclusively. The map goes to the node unchanged (Device).
	// ErrNotFound, ErrNodeNotFound, ErrAttachedElsewhere, ErrAttachedOtherwise, ErrTooManyAttached.
	Attach(ctx context.Context, id, node string, readOnly bool) (map[string]string, error)
	// Detach takes it back; node "" means from wherever it is. Not attached there, or no such volume: no error.
	Detach(ctx context.Context, id, node string) error
	// Expand grows a volume, attached or not, to at least requiredBytes and at most limitBytes (0: no
	// limit) and returns the size it has then. Never shrinks. ErrNotFound, ErrNoSpace, ErrOutOfRange.
	Expand(ctx context.Context, id string, requiredBytes, limitBytes int64) (int64, error)
	// Health returns the volume's adverse conditions. ErrNotFound.
	Health(ctx context.Context, id string) ([]Condition, error)
}

// Node finds the devices of volumes that are attached to this node. It may not know more volumes than those.
type Node interface {
	// Info describes this node.
	Info(ctx context.Context) (NodeInfo, error)
	// Device finds the device of a volume, given what Attach returned. It fails closed: a device that is
	// not certainly this volume's is ErrDamaged. ErrNotFound (or, of a node that cannot know, ErrNotAttached), ErrNotAttached.
	Device(ctx context.Context, id string, attached map[string]string) (Device, error)
}

// FormatState says how far it has come that a volume was made on a device, as far as that is kept
// outside of the device.
type FormatState string

// The states. They follow each other; none ever goes back.
const (
	FormatNone  FormatState = ""           // nothing is kept: it was never begun, or before anybody kept that
	FormatBegun FormatState = "formatting" // begun, on a device that was blank; nothing that was stored was acknowledged yet
	FormatDone  FormatState = "formatted"  // the device has held a volume: it is never formatted again
)

// FormatKeeper keeps the state of a volume's device where whoever has the device can not reach it.
// A Node may be one.
type FormatKeeper interface {
	// FormatState returns what is kept. ErrNotFound (the volume), ErrUnavailable; after an error
	// nothing is known.
	FormatState(ctx context.Context, id string) (FormatState, error)
	// KeepFormat keeps FormatBegun or FormatDone; when it returns nil, that is durable. A state
	// that is behind the one that is kept changes nothing.
	KeepFormat(ctx context.Context, id string, s FormatState) error
}

// Backend is both halves.
type Backend interface {
	Controller
	Node
}
