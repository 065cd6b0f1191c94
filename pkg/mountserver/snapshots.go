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
	dir  string // in the mount namespace of whoever mounted it
	conn uint32 // number of its connection; 0 if an older caller did not send it
	srv  *fusefs.Server
	free func() // allows the snapshot to be deleted
	once sync.Once
	done chan struct{} // closed when the snapshot is released
}

// isHere tells whether the snapshot is what this process sees mounted on the directory. In the mount
// namespace of whoever mounted it, the same path may be another directory.
func (m *view) isHere() bool {
	id, err := fusefs.ConnectionID(m.dir)
	return err == nil && m.conn != 0 && id == m.conn
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

// on returns the snapshot that is mounted on a directory, or nil. Snapshots may be mounted on equal
// paths in several mount namespaces: their connections tell them apart. If one side does not know the
// connection, the path decides.
func (v *views) on(dir string, conn uint32) (found *view) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for m := range v.all {
		switch {
		case m.dir != dir:
		case m.conn == conn:
			return m
		case m.conn == 0 || conn == 0:
			found = m
		}
	}
	return found
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
		if m.isHere() {
			log.Warn("unmounting a snapshot, because its volume is unmounted", "on", m.dir)
			if err := errors.Join(fusefs.AbortConnection(m.conn), fusefs.Unmount(m.dir, true)); err != nil {
				log.Warn("cannot unmount the snapshot: its mount returns errors until you unmount it", "on", m.dir, "error", err)
			}
		} else {
			log.Warn("a mounted snapshot ends with its volume: its mount, in another mount namespace, returns errors until you unmount it", "on", m.dir)
		}
		m.release()
	}
}

// openView opens a snapshot to be served on the FUSE connection of the caller's mount.
func (s *Server) openView(a volumectl.SnapshotArgs, connection *os.File) (*view, error) {
	if !s.views.begin() {
		return nil, errEnding
	}
	defer s.views.opening.Done()
	fs, free, err := s.vol.OpenSnapshot(a.Name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(connection.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		free()
		return nil, fmt.Errorf("descriptor of the mount: %w", err)
	}
	f := os.NewFile(uintptr(fd), "fuse")
	m := &view{dir: a.Dir, conn: a.Connection, free: free, done: make(chan struct{})}
	m.srv, err = fusefs.NewServer(fusefs.Options{FS: fs, Device: f, ReadOnly: true, Logger: s.log.With("snapshot", a.Name), Damaged: s.damage.in(a.Name)})
	if err == nil && !s.views.add(m) {
		err = errEnding
	}
	if err != nil {
		free()
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// mountSnapshot serves a snapshot on the FUSE connection of a mount that the caller has made.
func (s *Server) mountSnapshot(a volumectl.SnapshotArgs, connection *os.File) error {
	m, err := s.openView(a, connection)
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
		s.log.Info("mounted a snapshot", "snapshot", a.Name, "on", a.Dir)
		return nil
	case err := <-served:
		return errors.Join(fmt.Errorf("serve snapshot %s", a.Name), err)
	}
}

// unmountSnapshot ends the mount of a snapshot on a directory. When it returns nil, the snapshot is
// released. The caller must first unmount a mount in another mount namespace.
func (s *Server) unmountSnapshot(ctx context.Context, a volumectl.SnapshotArgs) error {
	m := s.views.on(a.Dir, a.Connection)
	if m == nil {
		return control.WithCode(volumectl.CodeNotFound, fmt.Errorf("no snapshot is mounted on %s", a.Dir))
	}
	if m.isHere() {
		if err := unmountUnused(m.dir, m.conn); err != nil {
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
