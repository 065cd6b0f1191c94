// Package volumectl is what a mount server that serves a *volume.Volume can be asked on its control socket: one table of requests for
// every program that serves one. The types of arguments, items and results stand beside each request, for servers and callers.
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
	Name     string // by which whoever asks knows the volume
	ReadOnly bool
	LogLevel *slog.LevelVar // of the server's log; nil if it can not be changed
	// Conditions are adverse ones that whoever serves the volume knows of; nil: none.
	Conditions func() []control.Condition
	// Mounted serves the volume to the kernel; nil: nothing does.
	Mounted Mounted
	// End makes everything durable and ends serving; see control.Handler.
	End func(ctx context.Context) error
	// MountSnapshot serves a snapshot on the FUSE connection of a mount on dir, until it is unmounted; it
	// returns once that answers. The descriptor is the caller's. Nil: it serves none.
	MountSnapshot func(name, dir string, connection *os.File) error
	// UnmountSnapshot ends such a mount, unless it is in use. Nil with MountSnapshot.
	UnmountSnapshot func(ctx context.Context, dir string) error
}

// Mux names all requests.
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

// Label answers label.
type Label struct {
	Label string `json:"label"` // "": none
}

// basic answers what every mount can be asked.
func (s *Server) basic() *Basic {
	return &Basic{FS: s.Volume, Name: s.Name, ReadOnly: s.ReadOnly, Conditions: s.Conditions, GrowBy: s.Volume.Grow, End: s.End}
}

// Status implements control.Handler.
func (s *Server) Status(ctx context.Context) (control.Status, error) { return s.basic().Status(ctx) }

// Stats implements control.Handler.
func (s *Server) Stats(ctx context.Context) (control.Stats, error) { return s.basic().Stats(ctx) }

// Sync implements control.Handler. On the root it commits, too.
func (s *Server) Sync(ctx context.Context) error { return s.basic().Sync(ctx) }

// Grow implements control.Handler.
func (s *Server) Grow(ctx context.Context) (int64, error) { return s.basic().Grow(ctx) }

// Unmount implements control.Handler.
func (s *Server) Unmount(ctx context.Context) error { return s.End(ctx) }
