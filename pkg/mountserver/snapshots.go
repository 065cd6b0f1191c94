package mountserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// views are the snapshots that a server serves beside its volume.
type views struct {
	mu      sync.Mutex
	all     map[*view]struct{} // guarded by mu
	ended   bool               // guarded by mu
	opening sync.WaitGroup     // snapshots that are being opened; Add is called under mu
}

// errEnding refuses to mount a snapshot of a volume that is closing.
var errEnding = errors.New("the volume is being unmounted")

// view is one mounted snapshot.
type view struct {
	dir  string
	conn uint32 // number of its connection; 0 if the mount is in another mount namespace
	srv  *fusefs.Server
	free func() // allows the snapshot to be deleted
	once sync.Once
	done chan struct{} // closed when the snapshot is released
}

// release frees the snapshot once no request uses it.
func (m *view) release() {
	m.once.Do(func() {
		m.srv.Retire()
		m.free()
		close(m.done)
	})
}

// begin announces that a snapshot is about to be opened, unless the volume is closing. The caller
// calls opening.Done when the snapshot is registered, or closed again. A volume does not close while
// a snapshot is open, so end must know of it before it is opened.
func (v *views) begin() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return false
	}
	v.opening.Add(1)
	return true
}

// add registers a view, unless the volume is closing.
func (v *views) add(m *view) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return false
	}
	if v.all == nil {
		v.all = map[*view]struct{}{}
	}
	v.all[m] = struct{}{}
	return true
}

// remove drops a view and frees its snapshot.
func (v *views) remove(m *view) {
	m.release()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, m)
}

// on returns the snapshot that is mounted on a directory, or nil.
func (v *views) on(dir string) *view {
	v.mu.Lock()
	defer v.mu.Unlock()
	for m := range v.all {
		if m.dir == dir {
			return m
		}
	}
	return nil
}

// end frees all snapshots that are still mounted, because the volume is closing. When it returns, no
// snapshot is open, and none is opened any more. It removes their mounts if this process can; other
// mounts fail from now on, until they are unmounted.
func (v *views) end(log *slog.Logger) {
	v.mu.Lock()
	v.ended = true
	v.mu.Unlock()
	v.opening.Wait() // they are registered or refused when it returns
	v.mu.Lock()
	left := make([]*view, 0, len(v.all))
	for m := range v.all {
		left = append(left, m)
	}
	v.mu.Unlock()
	for _, m := range left {
		log.Warn("unmounting a snapshot, because its volume is unmounted", "on", m.dir)
		if m.conn != 0 {
			if err := errors.Join(fusefs.AbortConnection(m.conn), fusefs.Unmount(m.dir, true)); err != nil {
				log.Warn("cannot unmount the snapshot: its mount returns errors until you unmount it", "on", m.dir, "error", err)
			}
		}
		m.release()
	}
}

// openView opens a snapshot to be served on the FUSE connection of a mount on dir.
func (s *Server) openView(name, dir string, connection *os.File) (*view, error) {
	if !s.views.begin() {
		return nil, errEnding
	}
	defer s.views.opening.Done()
	fs, free, err := s.vol.OpenSnapshot(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(connection.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		free()
		return nil, fmt.Errorf("descriptor of the mount: %w", err)
	}
	f := os.NewFile(uintptr(fd), "fuse")
	m := &view{dir: dir, free: free, done: make(chan struct{})}
	if id, err := fusefs.ConnectionID(dir); err == nil {
		m.conn = id // otherwise the caller's mount is not visible here
	}
	m.srv, err = fusefs.NewServer(fusefs.Options{FS: fs, Device: f, ReadOnly: true, Logger: s.log.With("snapshot", name), Damaged: s.damage.in(name)})
	if err == nil && !s.views.add(m) {
		err = errEnding
	}
	if err != nil {
		free()
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// mountSnapshot serves a snapshot on the FUSE connection of a mount on dir, which the caller has
// made.
func (s *Server) mountSnapshot(name, dir string, connection *os.File) error {
	m, err := s.openView(name, dir, connection)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		err := m.srv.Serve()
		s.views.remove(m)
		served <- err
	}()
	select {
	case <-m.srv.Ready():
		s.log.Info("mounted a snapshot", "snapshot", name, "on", dir)
		return nil
	case err := <-served:
		return errors.Join(fmt.Errorf("serve snapshot %s", name), err)
	}
}

// unmountSnapshot ends the mount of a snapshot on dir. When it returns nil, the snapshot is
// released. The caller must first unmount a mount in another mount namespace.
func (s *Server) unmountSnapshot(ctx context.Context, dir string) error {
	m := s.views.on(dir)
	if m == nil {
		return control.WithCode(volumectl.CodeNotFound, fmt.Errorf("no snapshot is mounted on %s", dir))
	}
	if id, err := fusefs.ConnectionID(dir); err == nil && id == m.conn {
		if err := unmountUnused(dir); err != nil {
			return err
		}
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
