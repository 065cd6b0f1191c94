package mountserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// beyondVolume is what the process may use in addition to the volume's memory: the requests that it
// answers, with those that wait for the end of a freeze, and the program itself.
const beyondVolume = fusefs.RequestMemory + 32<<20

// Served is an open volume of either format.
type Served interface {
	volumectl.Served
	// Close commits and ends the volume. The device stays open.
	Close() error
}

// Server serves one volume. It never uses a path on its own mount, because only it could answer
// that request.
type Server struct {
	opts   Options
	log    *slog.Logger
	base   Served
	vol    *volume.Volume // base, if the format is v2
	v1     *V1            // base, if the format is v1
	name   string         // the UUID, or the name of the format
	damage damage

	fs      vfs.FS // what is mounted: the volume or a snapshot of it
	endView func() // closes the snapshot
	views   views
	workers workers
	anchor  *anchorKeeper // nil if there is none
	fuse    *fusefs.Server

	// detach ends the mount for a caller of End; nil if serving ends at once.
	detach   func() error
	stop     chan struct{}
	stopOnce sync.Once
	closing  atomic.Bool   // serving has ended
	ended    chan struct{} // closed when everything is on the device and the device is closed
	endErr   error         // set before ended is closed
}

// Open opens a volume, and limits the memory of the process. The caller then calls MountAndServe, or Attach and Serve, or Close.
func Open(ctx context.Context, o Options) (*Server, error) {
	s := &Server{opts: o, log: o.Log, stop: make(chan struct{}), ended: make(chan struct{}), endView: func() {}}
	if s.log == nil {
		s.log = slog.Default()
	}
	limitMemory(o.MemoryBytes) // before the log is replayed
	if err := s.openVolume(ctx); err != nil {
		return nil, errors.Join(err, o.Device.Close())
	}
	s.opts.Keys, s.opts.Current = nil, nil // the caller erases them
	if s.fs = s.base; o.RetryNoSpace {
		s.fs = &spaceRetry{FS: s.base}
	}
	if o.Snapshot != "" {
		fs, end, err := s.vol.OpenSnapshot(o.Snapshot)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.fs, s.endView = fs, end
	}
	if o.AnchorFile != "" && !o.ReadOnly {
		s.anchor = keepAnchor(o.AnchorFile, s.vol, s.log)
	}
	return s, nil
}

// limitMemory makes the garbage collector keep the process within the volume's memory and some
// more.
func limitMemory(volumeBytes int64) {
	if volumeBytes == 0 {
		volumeBytes = volume.DefaultMemory
	}
	debug.SetMemoryLimit(volumeBytes + beyondVolume)
}

// Name returns the name by which callers of the control socket know the volume.
func (s *Server) Name() string {
	if s.opts.Name != "" {
		return s.opts.Name
	}
	return s.name
}

// Attach takes over the FUSE connection of a mount, which may not be mounted yet. Nothing is read
// from it before Serve.
func (s *Server) Attach(fuse *os.File) (err error) {
	s.fuse, err = fusefs.NewServer(fusefs.Options{FS: s.fs, Device: fuse, ReadOnly: s.opts.ReadOnly, Logger: s.log, Damaged: s.damage.in(s.opts.Snapshot)})
	return err
}

// Mux returns the requests that the server answers on its control socket, once it is attached.
func (s *Server) Mux() control.Mux {
	if s.v1 != nil {
		return s.v1Mux()
	}
	if s.vol == nil {
		return s.readerMux()
	}
	v := &volumectl.Server{Volume: s.vol, Name: s.Name(), ReadOnly: s.opts.ReadOnly, LogLevel: s.opts.Level, Mounted: s.fuse, Conditions: s.conditions,
		End: s.End, MountSnapshot: s.mountSnapshot, UnmountSnapshot: s.unmountSnapshot}
	m := v.Mux()
	m[pacing.OpLoad] = s.sayLoad
	if s.opts.Workers {
		s.addWorkers(m)
	}
	return m
}

// Serve answers the kernel until the mount ends, until End, or until ctx ends. Then it closes
// everything: when it returns nil, all acknowledged writes are on the device. It calls ready once
// the file system answers.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	served := make(chan error, 1)
	go func() { served <- s.fuse.Serve() }()
	return s.wait(ctx, served, s.fuse.Ready(), ready)
}

// wait waits until serving ends, and closes everything.
func (s *Server) wait(ctx context.Context, served <-chan error, isReady <-chan struct{}, ready func()) (err error) {
	defer close(s.ended)
	for serving := true; serving; {
		select {
		case <-isReady:
			isReady = nil
			ready()
			continue
		case err = <-served:
			if errors.Is(err, fusefs.ErrAborted) {
				err = nil // the connection was aborted: acknowledged writes are committed anyway
			}
		case <-s.stop: // requests fail from here on; the connection ends with the process
		case <-ctx.Done():
		}
		serving = false
	}
	s.closing.Store(true)
	s.endErr = errors.Join(s.Close(), err)
	if s.endErr != nil {
		s.log.Error("unmounted, but the last changes were not written to the device and are lost", "volume", s.Name(), "error", s.endErr)
	} else {
		s.log.Info("unmounted, all data is on the device", "volume", s.Name())
	}
	return s.endErr
}

// Close commits and closes the device, so that another process can open it. Serve calls it itself.
func (s *Server) Close() error {
	s.views.end(s.log)
	if s.vol != nil {
		s.workers.end(func() { s.vol.Thaw() })
	}
	s.endView()
	s.anchor.end()
	err := s.closeBase()
	if failed := s.base.Failed(); err == nil && failed != nil {
		err = failed
	}
	err = errors.Join(err, s.anchor.final())
	if s.opts.Device != nil {
		err = errors.Join(err, s.opts.Device.Close())
	}
	return err
}

// closeBase commits and ends the volume. A volume with an open snapshot refuses to close and then
// commits nothing. All snapshots should be closed by now, but acknowledged data must not depend on
// that, because the process ends next.
func (s *Server) closeBase() error {
	err := s.base.Close()
	if !errors.Is(err, volume.ErrSnapshotInUse) {
		return err
	}
	s.log.Error("a snapshot is still open while the volume is unmounted; its data is committed anyway", "volume", s.Name(), "error", err)
	if s.vol != nil {
		s.vol.Thaw() // otherwise the commit may wait for the end of a freeze
	}
	return s.sync()
}

// End ends serving for a caller of the control socket. It returns when everything is on the device
// and the device is closed. If the mount is in use, it stays, and the error has the code CodeBusy,
// unless a mounter owns the mount.
func (s *Server) End(ctx context.Context) error {
	if s.detach != nil {
		if err := s.detach(); err != nil {
			return err
		}
	} else {
		s.stopOnce.Do(func() { close(s.stop) })
	}
	select {
	case <-s.ended:
	case <-ctx.Done(): // the caller hung up, or serving has ended
		select {
		case <-s.ended:
		default:
			return ctx.Err()
		}
	}
	return s.endErr
}

// ErrInUse refuses to unmount because files are in use.
var ErrInUse = errors.New("files are in use")

// errNotOurs refuses to unmount what another program has mounted over a mount of this server.
var errNotOurs = errors.New("another file system is mounted there, or nothing")

// unmountUnused unmounts the mount with a connection from dir, unless it is in use.
func unmountUnused(dir string, conn uint32) error {
	if id, err := fusefs.ConnectionID(dir); err != nil || id != conn {
		return control.WithCode(control.CodeElsewhere, fmt.Errorf("%s: %w", dir, errors.Join(errNotOurs, err)))
	}
	err := fusefs.Unmount(dir, false)
	if err != nil && fusefs.IsBusy(err) {
		return control.WithCode(control.CodeBusy, fmt.Errorf("%s: %w", dir, ErrInUse))
	}
	return err
}
