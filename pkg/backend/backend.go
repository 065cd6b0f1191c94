package backend

import (
	"context"
	"errors"
	"time"
)

// Errors that every backend returns, wrapped with details (but never with the values of
// parameters).
var (
	// ErrInvalid: the request itself is wrong and can never succeed.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: the volume does not exist.
	ErrNotFound = errors.New("volume not found")
	// ErrSnapshotNotFound: the snapshot does not exist.
	ErrSnapshotNotFound = errors.New("snapshot not found")
	// ErrNodeNotFound: the node does not exist.
	ErrNodeNotFound = errors.New("node not found")
	// ErrExists: a volume or snapshot of this name exists, and differs from the requested one.
	ErrExists = errors.New("the name is already used with another specification")
	// ErrNoSpace: the backend does not have enough space or quota.
	ErrNoSpace = errors.New("not enough space")
	// ErrTopology: the backend cannot create a volume that is accessible from the requested place.
	ErrTopology = errors.New("cannot provision in the required topology")
	// ErrOutOfRange: the backend cannot create this size (alignment, minimum, maximum, shrinking).
	ErrOutOfRange = errors.New("size out of range")
	// ErrBusy: the volume is attached or otherwise in use, so the call must not touch it now.
	ErrBusy = errors.New("volume is in use")
	// ErrAttachedElsewhere: the volume is attached to another node; detach it there first.
	ErrAttachedElsewhere = errors.New("volume is attached to another node")
	// ErrAttachedOtherwise: the volume is attached to this node with another read-only flag.
	ErrAttachedOtherwise = errors.New("volume is attached with another mode")
	// ErrNotAttached: the volume is not attached to this node, so it has no device here.
	ErrNotAttached = errors.New("volume is not attached to this node")
	// ErrTooManyAttached: the node cannot have more volumes.
	ErrTooManyAttached = errors.New("the node already has its maximum number of attached volumes")
	// ErrBadToken: this backend did not issue the page token.
	ErrBadToken = errors.New("invalid page token")
	// ErrQuota: a rate limit or quota is exhausted for now; a later retry succeeds.
	ErrQuota = errors.New("quota exhausted for now; try again later")
	// ErrUnavailable: the backend does not answer, or cannot do this at the moment. Retry.
	ErrUnavailable = errors.New("the backend is not available")
	// ErrDenied: the backend denies this operation to the driver, and nothing was done. Somebody
	// must grant the permission.
	ErrDenied = errors.New("permission denied by the backend")
	// ErrDamaged: the volume's device or its record is missing, belongs to something else, or is
	// inconsistent. The backend does not try to repair it.
	ErrDamaged = errors.New("volume is damaged")
)

// Segments is one place of a topology: keys and values of labels of Kubernetes nodes.
type Segments map[string]string

// Spec describes a volume to create.
type Spec struct {
	// Name makes Create idempotent. Any UTF-8 of 1 to 128 bytes.
	Name string
	// RequiredBytes is the minimum size, 0 for the backend's default. LimitBytes is the maximum
	// size, 0 for none.
	RequiredBytes, LimitBytes int64
	// Parameters are stored with the volume unchanged; the backend does not interpret them.
	Parameters map[string]string
	// Class has the backend's own parameters. Mutable has those of them that Modify can change;
	// they take precedence over Class. Both are for a Tunable.
	Class, Mutable map[string]string
	// For names the objects that the volume is created for. It does not affect the result.
	For Purpose
	// Requisite lists places; at least one of them must reach the volume. Preferred lists the
	// places to try first, in order. Empty lists mean anywhere.
	Requisite, Preferred []Segments
	// Source is what the volume is a copy of, or nil for an empty volume. The volume is at least as
	// large as its source.
	Source *Source
}

// Purpose names the Kubernetes objects that a volume or snapshot is created for, by kind and field
// ("pvc/namespace"). It is for people who look at the resources in the backend. A backend may
// ignore it.
type Purpose map[string]string

// Source names what a volume or snapshot is a copy of: exactly one field is set.
type Source struct {
	Volume   string `json:"volume,omitempty"`   // id
	Snapshot string `json:"snapshot,omitempty"` // id
}

// Attachment says where a volume is attached.
type Attachment struct {
	Node     string
	ReadOnly bool
}

// Volume describes an existing volume.
type Volume struct {
	ID         string
	Name       string
	SizeBytes  int64
	Parameters map[string]string
	Topology   []Segments
	// Attachment is nil while the volume is detached. A volume has at most one attachment.
	Attachment *Attachment
	// Source is the Source of its Spec. It may no longer exist.
	Source *Source
	// Origin is the volume at the start of a chain of copies, or "" if this volume is not a copy.
	// Copies have the keys of their origin.
	Origin string
}

// SnapshotState is the state of a snapshot. Calls only return a snapshot after its content is
// fixed.
type SnapshotState string

// States of a snapshot: its content is fixed but still being processed; volumes can be created from
// it; it has failed for good and must be deleted.
const (
	SnapshotPending SnapshotState = "pending"
	SnapshotReady   SnapshotState = "ready"
	SnapshotFailed  SnapshotState = "failed"
)

// SnapshotSpec describes a snapshot to create.
type SnapshotSpec struct {
	Name   string // makes CreateSnapshot idempotent, like the name of a volume
	Volume string // id of the source
	For    Purpose
}

// Snapshot is the content of a volume at one moment: everything that was durable by then.
type Snapshot struct {
	ID        string
	Name      string
	Volume    string // id of the source, which may no longer exist
	SizeBytes int64  // of the source at that time: the minimum size of a volume created from it
	Created   time.Time
	State     SnapshotState
	Message   string // why it failed
	// Parameters and Origin are those of the source. If the source is not a copy, Origin is the
	// source itself.
	Parameters map[string]string
	Origin     string
}

// Capacity is what a backend can still provide.
type Capacity struct {
	AvailableBytes int64 // sum of the sizes of volumes that can still be created
	MinVolumeBytes int64
	MaxVolumeBytes int64
}

// Condition is an adverse state of a volume; Health returns none for a healthy one.
type Condition struct {
	// Lost: data is lost, certainly or very likely. Otherwise, Inaccessible says that the volume
	// cannot be used; without both, it is degraded.
	Lost, Inaccessible bool
	Reason             string // one CamelCase word for machines
	Message            string // for people
}

// Device is the block device or image file of an attached volume on this node. After opening Path,
// compare the other fields with fstat and refuse a difference, so that a device whose name changed
// in the meantime is never mounted.
type Device struct {
	Path      string
	SizeBytes int64  // the device must have at least this size
	Dev, Ino  uint64 // st_dev and st_ino of an image file; 0, 0 for a block device
	Rdev      uint64 // st_rdev of a block device; 0 for an image file
	ReadOnly  bool   // attached read-only: it must not be written or formatted
}

// NodeInfo describes the node that this process runs on.
type NodeInfo struct {
	ID         string
	Topology   Segments
	MaxVolumes int64 // 0: no known limit
}

// Snapshotter is an optional interface of a Controller whose backend has snapshots and copies of
// volumes (Spec.Source).
type Snapshotter interface {
	// CreateSnapshot creates a snapshot, or returns the one that an earlier call created with this
	// name. It returns when the content is fixed, even if the snapshot is not ready; repeat the
	// call to see its progress. Work that takes longer than ctx continues, and the repeated call
	// joins it. Errors: ErrNotFound (the volume), ErrExists, ErrNoSpace, ErrBusy (the volume is in
	// use in a way that prevents a snapshot), ErrInvalid.
	CreateSnapshot(ctx context.Context, spec SnapshotSpec) (Snapshot, error)
	// DeleteSnapshot removes a snapshot. It is no error if the id is absent or malformed. ErrBusy
	// while a volume is being created from it.
	DeleteSnapshot(ctx context.Context, id string) error
	// GetSnapshot returns one snapshot. ErrSnapshotNotFound, also for a malformed id.
	GetSnapshot(ctx context.Context, id string) (Snapshot, error)
	// ListSnapshots works like List for the snapshots of one volume or, if volume is "", of all
	// volumes.
	ListSnapshots(ctx context.Context, volume, token string, max int) ([]Snapshot, string, error)
}

// Tunable is an optional interface of a Controller that has parameters of its own.
type Tunable interface {
	// Parameter tells whether a key is one of them, and whether Modify can change it.
	Parameter(key string) (own, mutable bool)
	// Modify changes mutable parameters of a volume, which may be attached. Parameters that are not
	// named stay. It returns when the change is in effect. Errors: ErrNotFound, ErrInvalid,
	// ErrQuota, ErrUnavailable.
	Modify(ctx context.Context, id string, mutable map[string]string) error
}

// Meter is an optional interface of a Controller that knows its free capacity.
type Meter interface {
	// Capacity returns what can still be created in a place (nil: anywhere).
	Capacity(ctx context.Context, where Segments) (Capacity, error)
}

// Quiesce freezes a volume that a mount server has open: everything acknowledged is on its device,
// and nothing is written to it until release is called. release fails if the volume did not stay
// frozen all the time. ErrNotAttached: no mount server has the volume open.
type Quiesce func(ctx context.Context, volume string) (release func() error, err error)

// Controller creates, deletes, attaches and grows volumes.
type Controller interface {
	// Create creates a volume, or returns the one that an earlier call created with this name.
	// Errors: ErrExists, ErrNoSpace, ErrTopology, ErrOutOfRange, ErrInvalid; with a Source also
	// those of CreateSnapshot and ErrSnapshotNotFound.
	Create(ctx context.Context, spec Spec) (Volume, error)
	// Delete removes a volume with its data. It is no error if the id is absent or malformed.
	// ErrBusy while attached.
	Delete(ctx context.Context, id string) error
	// Get returns one volume. ErrNotFound, also for a malformed id.
	Get(ctx context.Context, id string) (Volume, error)
	// List returns up to max volumes (0: all) in a stable order, starting at token ("" for the
	// start), and the token of the next page ("" at the end). Volumes that are created or deleted
	// between pages neither repeat nor hide others. ErrBadToken.
	List(ctx context.Context, token string, max int) ([]Volume, string, error)
	// Attach attaches a volume exclusively to a node. The map is passed to the node unchanged
	// (Device). Errors: ErrNotFound, ErrNodeNotFound, ErrAttachedElsewhere, ErrAttachedOtherwise,
	// ErrTooManyAttached.
	Attach(ctx context.Context, id, node string, readOnly bool) (map[string]string, error)
	// Detach detaches a volume; node "" means from any node. It is no error if it is not attached
	// there or does not exist.
	Detach(ctx context.Context, id, node string) error
	// Expand grows a volume, which may be attached, to at least requiredBytes and at most
	// limitBytes (0: no limit), and returns the new size. It never shrinks a volume. Errors:
	// ErrNotFound, ErrNoSpace, ErrOutOfRange.
	Expand(ctx context.Context, id string, requiredBytes, limitBytes int64) (int64, error)
	// Health returns the volume's adverse conditions. ErrNotFound.
	Health(ctx context.Context, id string) ([]Condition, error)
}

// Node finds the devices of volumes that are attached to this node. It may not know other volumes.
type Node interface {
	// Info describes this node.
	Info(ctx context.Context) (NodeInfo, error)
	// Device finds the device of a volume, given what Attach returned. It fails closed: if it is
	// not certain that the device belongs to the volume, the error is ErrDamaged. Other errors:
	// ErrNotFound (or ErrNotAttached from a node that cannot know), ErrNotAttached.
	Device(ctx context.Context, id string, attached map[string]string) (Device, error)
}

// FormatState says how far a volume's device has been formatted, according to a record that is kept
// outside of the device.
type FormatState string

// The states advance in this order and never go back.
const (
	FormatNone  FormatState = ""           // no record: never begun, or before such records existed
	FormatBegun FormatState = "formatting" // begun on a blank device; no stored data was acknowledged yet
	FormatDone  FormatState = "formatted"  // the device has held a volume: it is never formatted again
)

// FormatKeeper records the format state of a volume in a place that is independent of its device. A
// Node may implement it.
type FormatKeeper interface {
	// FormatState returns the recorded state. After an error, the state is unknown. Errors:
	// ErrNotFound (the volume), ErrUnavailable.
	FormatState(ctx context.Context, id string) (FormatState, error)
	// KeepFormat records FormatBegun or FormatDone durably. It ignores a state that is less
	// advanced than the recorded one.
	KeepFormat(ctx context.Context, id string, s FormatState) error
}

// Backend combines Controller and Node.
type Backend interface {
	Controller
	Node
}
