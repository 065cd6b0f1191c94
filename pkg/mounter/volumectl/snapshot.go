package volumectl

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
)

// The codes of requests about snapshots.
const (
	CodeExists   = "exists"   // a snapshot of that name exists
	CodeNotFound = "notFound" // no snapshot has that name
	CodeInUse    = "inUse"    // the snapshot is open
	CodeInvalid  = "invalid"  // the name is not valid for a snapshot
)

// Snapshot describes a local snapshot.
type Snapshot struct {
	Name            string    `json:"name"`
	Created         time.Time `json:"created"`
	Generation      uint64    `json:"generation"`
	UniqueBytes     int64     `json:"uniqueBytes"`     // what deleting it would free
	ReferencedBytes int64     `json:"referencedBytes"` // what it holds, whether shared or not
	Inodes          uint64    `json:"inodes"`
	KeyEpoch        uint32    `json:"keyEpoch"` // the oldest that it may need
	Deleting        bool      `json:"deleting,omitempty"`
	Open            bool      `json:"open,omitempty"`
}

// SnapshotOf converts a snapshot.
func SnapshotOf(i volume.SnapshotInfo) Snapshot {
	return Snapshot{Name: i.Name, Created: i.Created.UTC(), Generation: i.Generation, UniqueBytes: i.UniqueBytes, ReferencedBytes: i.ReferencedBytes,
		Inodes: i.Inodes, KeyEpoch: i.KeyEpoch, Deleting: i.Deleting, Open: i.Open}
}

// Change is one difference between two states of a volume.
type Change struct {
	Kind    string      `json:"kind"` // volume.ChangeKind as text
	Path    string      `json:"path"`
	OldPath string      `json:"oldPath,omitempty"`
	Inode   uint64      `json:"inode"`
	Mode    uint32      `json:"type"` // S_IFMT bits
	Ranges  [][2]uint64 `json:"ranges,omitempty"`
}

// ChangeOf converts a change.
func ChangeOf(c volume.Change) Change {
	x := Change{Kind: c.Kind.String(), Path: c.Path, OldPath: c.OldPath, Inode: uint64(c.Ino), Mode: c.Type}
	for _, r := range c.Ranges {
		x.Ranges = append(x.Ranges, [2]uint64{r.Off, r.Len})
	}
	return x
}

// SnapshotArgs name a snapshot. A request to mount it also has Dir and Connection, and sends the
// descriptor of a FUSE mount on Dir.
type SnapshotArgs struct {
	Name string `json:"name"`
	Dir  string `json:"dir,omitempty"`
	// Connection is fusefs.ConnectionID of Dir for the caller. The caller may be in another mount
	// namespace, where the path means another mount than it does to the server; this number means
	// the same in all of them. Older callers do not send it: 0.
	Connection uint32 `json:"connection,omitempty"`
}

// DiffArgs are the arguments of snapshot-diff.
type DiffArgs struct {
	From   string `json:"from"`
	To     string `json:"to,omitempty"` // "": the present state of the volume
	Ranges bool   `json:"ranges,omitempty"`
}

// errCaller ends a list whose caller hung up.
var errCaller = errors.New("the caller hung up")

// snapshots adds the requests about local snapshots to a table.
func (s *Server) snapshots(m control.Mux) {
	m["snapshot-create"] = func(_ context.Context, c *control.Call) (any, error) {
		var a SnapshotArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		i, err := s.Volume.CreateSnapshot(a.Name)
		return SnapshotOf(i), SnapshotError(err)
	}
	m["snapshot-delete"] = func(_ context.Context, c *control.Call) (any, error) {
		var a SnapshotArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		return nil, SnapshotError(s.Volume.DeleteSnapshot(a.Name))
	}
	m["snapshot-list"] = func(_ context.Context, c *control.Call) (any, error) {
		infos, err := s.Volume.Snapshots()
		for _, i := range infos {
			if err == nil {
				err = c.Item(SnapshotOf(i))
			}
		}
		return nil, err
	}
	m["snapshot-diff"] = func(ctx context.Context, c *control.Call) (any, error) {
		var a DiffArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		return nil, SnapshotError(s.Volume.Diff(a.From, a.To, volume.DiffOptions{Ranges: a.Ranges}, func(x volume.Change) error {
			if ctx.Err() != nil {
				return errCaller
			}
			return c.Item(ChangeOf(x))
		}))
	}
	m["snapshot-mount"] = func(_ context.Context, c *control.Call) (any, error) {
		var a SnapshotArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		if c.File() == nil || a.Dir == "" {
			return nil, control.WithCode(control.CodeMalformed, errors.New("the request needs the directory and the descriptor of the mount"))
		}
		if s.MountSnapshot == nil {
			return nil, errors.New("this mount server does not mount snapshots")
		}
		return nil, SnapshotError(s.MountSnapshot(a, c.File()))
	}
	m["snapshot-unmount"] = func(ctx context.Context, c *control.Call) (any, error) {
		var a SnapshotArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		if s.UnmountSnapshot == nil {
			return nil, control.WithCode(CodeNotFound, errors.New("this mount server does not mount snapshots"))
		}
		return nil, s.UnmountSnapshot(ctx, a)
	}
}

// SnapshotError gives an error about a local snapshot the code by which callers recognise it.
func SnapshotError(err error) error {
	for code, target := range map[string]error{CodeExists: volume.ErrSnapshotExists, CodeNotFound: volume.ErrNoSnapshot,
		CodeInUse: volume.ErrSnapshotInUse, CodeInvalid: volume.ErrSnapshotName} {
		if errors.Is(err, target) {
			return control.WithCode(code, err)
		}
	}
	return err
}

// Snapshots asks for the list of snapshots.
func Snapshots(ctx context.Context, c control.Client) (list []Snapshot, err error) {
	err = c.Do(ctx, control.Request{Op: "snapshot-list", Item: func(b json.RawMessage) error {
		var x Snapshot
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		list = append(list, x)
		return nil
	}}, nil)
	return list, err
}

// Diff asks for the differences between two states.
func Diff(ctx context.Context, c control.Client, a DiffArgs, fn func(Change) error) error {
	return c.Do(ctx, control.Request{Op: "snapshot-diff", Args: a, Item: func(b json.RawMessage) error {
		var x Change
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		return fn(x)
	}}, nil)
}
