package mountserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Mount describes the mount of a server that mounts on its own.
type Mount struct {
	// Dir is the mount point: the absolute path of a directory.
	Dir string
	// Options are the mount options. Their Source is what the mount table shows as the device.
	Options fusefs.MountOptions
	// Signals are those that Signals returned; nil if signals are not handled.
	Signals <-chan os.Signal
	// Ready is called once the file system answers; its error is logged. It may be nil.
	Ready func() error
}

// Signals starts to catch the signals that end a mount, and ignores SIGPIPE and SIGHUP of a log or
// terminal that is gone. A signal that comes while the volume is opened is handled when there is
// something to unmount.
func Signals() <-chan os.Signal {
	c := make(chan os.Signal, 2)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	return c
}

// MountAndServe mounts, serves until the mount ends, and closes everything. When it returns nil,
// all acknowledged writes are on the device. control.Find finds the server.
func (s *Server) MountAndServe(m Mount) error {
	m.Options.Logger = s.log
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conn, served, err := s.mount(&m)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if err := fusefs.Tune(m.Dir); err != nil && os.Geteuid() == 0 {
		s.log.Warn("cannot raise the read-ahead of the mount: reading is slower than it could be", "error", err)
	}
	s.detach = func() error {
		if err := unmountUnused(m.Dir, conn); err != nil {
			return err
		}
		return s.elsewhere(&m, conn)
	}
	defer s.startControl(ctx, conn)()
	go s.answerSignals(ctx, &m, conn)
	if m.Ready != nil {
		if err := m.Ready(); err != nil {
			s.log.Warn("cannot report that the mount is ready", "error", err)
		}
	}
	s.log.Info("mounted", "volume", s.Name(), "readOnly", s.opts.ReadOnly, "pid", os.Getpid())
	return s.wait(context.Background(), served, nil, nil)
}

// mount mounts, and serves until the file system answers.
func (s *Server) mount(m *Mount) (conn uint32, served chan error, err error) {
	fd, err := fusefs.Mount(m.Dir, m.Options)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", m.Dir, err)
	}
	if conn, err = fusefs.ConnectionID(m.Dir); err == nil {
		err = s.Attach(fd)
	}
	if err != nil {
		fd.Close()
		return 0, nil, errors.Join(err, fusefs.Unmount(m.Dir, true))
	}
	served = make(chan error, 1)
	go func() { served <- s.fuse.Serve() }()
	select {
	case <-s.fuse.Ready():
		return conn, served, nil
	case err := <-served:
		return 0, nil, errors.Join(fmt.Errorf("serve %s: %w", m.Dir, err), fusefs.Unmount(m.Dir, true))
	}
}

// startControl starts to answer on the control socket. The returned function stops that; callers of
// Unmount have their answer by then.
func (s *Server) startControl(ctx context.Context, conn uint32) (stop func()) {
	socket, err := listen(conn, s.log)
	if err != nil {
		s.log.Warn("no control socket: commands such as `sealvol grow DIR` will not reach this mount", "error", err)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := control.Serve(ctx, socket.l, s.Mux()); err != nil {
			s.log.Error("control socket failed: commands such as `sealvol grow DIR` will not reach this mount", "error", err)
		}
	}()
	return func() {
		if err := errors.Join(socket.remove(), socket.l.Close()); err != nil {
			s.log.Warn("control socket not removed", "error", err)
		}
		<-done
	}
}

// elsewhere returns an error if the volume is still mounted in this mount namespace, after it was
// unmounted from its directory. Such a mount, made by `mount --bind`, keeps the connection.
func (s *Server) elsewhere(m *Mount, conn uint32) error {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		// The source, because the kernel may have given the number to another mount by now.
		return i.Major != 0 || uint32(i.Minor) != conn || i.FSType != fusefs.FSType || i.Source != m.Options.Source, false
	})
	if err != nil || len(infos) == 0 || s.closing.Load() {
		return err
	}
	var dirs []string
	for _, i := range infos {
		dirs = append(dirs, i.Mountpoint)
	}
	return control.WithCode(control.CodeElsewhere, fmt.Errorf("%s is unmounted, but the volume is also mounted on %s", m.Dir, strings.Join(dirs, ", ")))
}

// answerSignals unmounts on the first signal and aborts the connection on the second.
func (s *Server) answerSignals(ctx context.Context, m *Mount, conn uint32) {
	select {
	case sig := <-m.Signals:
		s.log.Info("unmounting", "signal", sig.String())
	case <-ctx.Done():
		return
	}
	s.leave(m, conn)
	// Even after an unmount, the file system may still be mounted elsewhere: by a bind mount, or in
	// another mount namespace.
	select {
	case <-m.Signals:
		s.abort(conn)
	case <-ctx.Done():
	}
}

// abort aborts the connection, unless it has ended: the kernel may have given its number to another
// mount.
func (s *Server) abort(conn uint32) {
	if s.closing.Load() {
		s.log.Warn("the volume is unmounted already, and its last changes are being written: wait until this process has ended")
		return
	}
	s.log.Warn("aborting the FUSE connection: programs that still use the mount get errors")
	if err := fusefs.AbortConnection(conn); err != nil {
		s.log.Error("abort failed", "error", err)
	}
}

// leave unmounts. If files are in use, it makes everything durable and detaches the mount.
func (s *Server) leave(m *Mount, conn uint32) {
	err := unmountUnused(m.Dir, conn)
	switch {
	case err == nil:
		return
	case errors.Is(err, ErrInUse):
	case errors.Is(err, errNotOurs):
		s.log.Warn("cannot unmount: unmount what is mounted there; this process ends when the volume is mounted nowhere any more; send another signal to abort the connection", "error", err)
	default:
		s.log.Warn("unmount failed; detaching", "error", err)
	}
	if err := s.sync(); err != nil {
		s.log.Error("sync failed", "error", err)
	}
	if errors.Is(err, errNotOurs) {
		return
	}
	if err := fusefs.Unmount(m.Dir, true); err != nil {
		s.log.Error("cannot detach the mount: send another signal to abort the connection, then unmount the directory", "error", err)
		return
	}
	s.log.Warn("files are in use: the mount is detached, and this process ends when the last file is closed; send another signal to abort the connection")
}

// sync makes all acknowledged writes durable.
func (s *Server) sync() error {
	if s.opts.ReadOnly {
		return nil
	}
	return s.base.Sync(vfs.RootIno)
}
