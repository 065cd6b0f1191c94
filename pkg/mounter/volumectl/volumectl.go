// Package volumectl has the requests that a mount server which serves a *volume.Volume answers on
// its control socket. All programs that serve a volume use the same table. The types of arguments,
// items and results are next to each request, for servers and callers.
package volumectl

import (
	"context"
	"log/slog"
	"os"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Server answers for one open volume.
type Server struct {
	Volume   *volume.Volume
	Name     string // the name by which callers know the volume
	ReadOnly bool
	LogLevel *slog.LevelVar // of the server's log; nil if it cannot be changed
	// Conditions returns adverse conditions that the program which serves the volume knows; nil if
	// there are none.
	Conditions func() []control.Condition
	// Mounted serves the volume to the kernel; nil if it is not mounted.
	Mounted Mounted
	// End makes everything durable and ends serving; see control.Handler.
	End func(ctx context.Context) error
	// MountSnapshot serves a snapshot on the FUSE connection of the caller's mount, until it is
	// unmounted. It returns when the mount answers. The caller closes the descriptor. Nil if the
	// server does not mount snapshots.
	MountSnapshot func(a SnapshotArgs, connection *os.File) error
	// UnmountSnapshot ends such a mount, unless it is in use. It is nil if MountSnapshot is nil.
	UnmountSnapshot func(ctx context.Context, a SnapshotArgs) error
}

// Mux returns the table of all requests.
func (s *Server) Mux() control.Mux {
	m := control.NewMux(s)
	s.addOnline(m)
	s.snapshots(m)
	s.addKeys(m)
	s.addWriteBack(m)
	m["label"] = func(context.Context, *control.Call) (any, error) {
		l, err := vfs.Label(s.Volume)
		return Label{l}, err
	}
	return m
}

// Label is the answer to label.
type Label struct {
	Label string `json:"label"` // "" for none
}

// basic returns the handler of the requests that every mount has.
func (s *Server) basic() *Basic {
	return &Basic{FS: s.Volume, Name: s.Name, ReadOnly: s.ReadOnly, Conditions: s.Conditions, GrowBy: s.Volume.Grow, End: s.End}
}

// Status implements control.Handler.
func (s *Server) Status(ctx context.Context) (control.Status, error) { return s.basic().Status(ctx) }

// Stats implements control.Handler.
func (s *Server) Stats(ctx context.Context) (control.Stats, error) { return s.basic().Stats(ctx) }

// Sync implements control.Handler. On the root directory, it also commits.
func (s *Server) Sync(ctx context.Context) error { return s.basic().Sync(ctx) }

// Grow implements control.Handler.
func (s *Server) Grow(ctx context.Context) (int64, error) { return s.basic().Grow(ctx) }

// Unmount implements control.Handler.
func (s *Server) Unmount(ctx context.Context) error { return s.End(ctx) }
