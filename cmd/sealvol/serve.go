package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// beyondVolume is what the process may use besides the volume's memory: 32
// requests of 2 MiB, and the program itself.
const beyondVolume = 96 << 20

// shortTime bounds questions that a server answers from memory.
func shortTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

// servedVolume is an open volume of either format.
type servedVolume interface {
	vfs.FS
	Close() error
	Failed() error
}

// mountServer serves one mount. It never does a path operation on the mount.
type mountServer struct {
	dir      string
	readOnly bool
	log      *slog.Logger
	level    *slog.LevelVar
	dev      *device.File
	base     servedVolume
	vol      *volume.Volume // base, if it is of format v2
	v1       *v1Volume      // base, if it is of format v1
	name     string
	fs       vfs.FS // what is mounted: the volume, or a snapshot of it
	endView  func() // of the snapshot
	views    snapshotMounts
	anchor   *anchorKeeper // nil: none
	fuse     *fusefs.Server
	conn     uint32 // number of the FUSE connection

	served chan error    // what Serve returned
	ended  chan struct{} // closed when everything is on the device and that is closed
	endErr error         // set before
}

// serve mounts the volume on path on dir and serves it until it is unmounted.
// It calls ready once the file system answers.
func serve(o *mountOptions, path, dir string, ready func() error) (err error) {
	logs := newLogFile()
	defer func() { logs.end(err) }()
	level := &slog.LevelVar{}
	if o.readyFD != 0 { // who started us does not want to hear that all is well
		level.Set(slog.LevelWarn)
	}
	s := &mountServer{dir: dir, readOnly: o.readOnly, level: level, ended: make(chan struct{}), served: make(chan error, 1),
		log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level})).With("device", path, "dir", dir)}
	debug.SetMemoryLimit(int64(o.memory) + beyondVolume)
	// Signals that come while mounting wait until there is something to unmount.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE) // a terminal or log that went away is no reason to stop
	if err := s.open(o, path); err != nil {
		return err
	}
	if err := s.mount(o, path); err != nil {
		return errors.Join(err, s.close())
	}
	if err := fusefs.Tune(dir); err != nil && os.Geteuid() == 0 {
		s.log.Warn("read-ahead stays at the kernel's default: the mount is slower than it could be", "error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer s.startControl(ctx)()
	go s.signals(ctx, signals)
	if err := ready(); err != nil {
		s.log.Warn("nobody waits for the mount any more", "error", err)
	}
	if o.readyFD != 0 {
		logs.detach()
	}
	s.log.Info("mounted", "volume", s.name, "readOnly", o.readOnly, "pid", os.Getpid())
	return s.wait()
}

// wait returns when the mount has ended and everything is on the device.
func (s *mountServer) wait() error {
	serveErr := <-s.served
	s.endErr = s.close()
	if serveErr != nil && !errors.Is(serveErr, fusefs.ErrAborted) {
		s.endErr = errors.Join(s.endErr, serveErr)
	}
	if s.endErr != nil {
		s.log.Error("unmounted, and the last changes are not on the device", "error", s.endErr)
	} else {
		s.log.Info("unmounted, everything is on the device")
	}
	close(s.ended)
	return s.endErr
}

// startControl begins to answer on the control socket. The function returned
// ends that; callers of Unmount have their answer then.
func (s *mountServer) startControl(ctx context.Context) (stop func()) {
	socket, err := s.listen()
	if err != nil {
		s.log.Warn("no control socket: `sealvol grow DIR` will not reach this mount", "error", err)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := control.Serve(ctx, socket.l, s.mux()); err != nil {
			s.log.Error("control socket failed: `sealvol grow DIR` will not reach this mount", "error", err)
		}
	}()
	return func() {
		if err := errors.Join(socket.remove(), socket.l.Close()); err != nil {
			s.log.Warn("control socket not removed", "error", err)
		}
		<-done
	}
}

// control answers on the control socket.
func (s *mountServer) control() *volumectl.Server {
	return &volumectl.Server{Volume: s.vol, Name: s.name, ReadOnly: s.readOnly, LogLevel: s.level, Mounted: s.fuse, End: s.end,
		MountSnapshot: s.mountSnapshot, UnmountSnapshot: s.unmountSnapshot}
}

func (s *mountServer) mux() control.Mux {
	if s.v1 != nil {
		return (&v1Control{s.v1, s}).mux()
	}
	return s.control().Mux()
}

// sync makes everything acknowledged durable.
func (s *mountServer) sync() error {
	if s.readOnly {
		return nil
	}
	return s.base.Sync(vfs.RootIno)
}

// open opens device and volume.
func (s *mountServer) open(o *mountOptions, path string) error {
	cred, err := o.key.credential()
	if err != nil {
		return err
	}
	defer cred.Erase()
	if o.readyFD != 0 {
		unix.Close(o.readyFD + 1) // the key file; see startServer
	}
	opts := volume.Options{ReadOnly: o.readOnly, Memory: int(o.memory), Discard: o.discard, Log: s.log}
	if o.anchorFile != "" {
		if opts.Anchor, err = readAnchor(o.anchorFile); err != nil {
			return err
		}
	}
	if s.dev, err = openDevice(path, o.readOnly); err != nil {
		return err
	}
	if err = s.openVolume(o, path, cred, opts); err != nil {
		discard(s.dev)
		return o.key.explain(err)
	}
	s.fs, s.endView = s.base, func() {}
	if o.snapshot != "" {
		if s.fs, s.endView, err = s.vol.OpenSnapshot(o.snapshot); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", path, err), s.vol.Close(), s.dev.Close())
		}
	}
	if o.anchorFile != "" && !o.readOnly {
		s.anchor = keepAnchor(o.anchorFile, s.vol, s.log)
	}
	return nil
}

// openVolume opens the volume of either format.
func (s *mountServer) openVolume(o *mountOptions, path string, cred crypto.Credential, opts volume.Options) error {
	v1, err := isV1(s.dev)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !v1 {
		if s.vol, err = openOn(s.dev, path, cred, opts); err == nil {
			s.base, s.name = s.vol, s.vol.ID().String()
		}
		return err
	}
	if o.anchorFile != "" || o.snapshot != "" || o.discard {
		return usageError(fmt.Errorf("%s: volumes of format v1 (doublecrypt) have no anchor, no snapshots and no discard", path))
	}
	s.v1, err = openV1(s.dev, path, cred, doublecrypt.Options{ReadOnly: o.readOnly, Memory: int(o.memory), CommitInterval: volume.CommitInterval, Log: s.log})
	if err == nil {
		s.base, s.name = s.v1, "doublecrypt"
		s.log.Warn(v1Warning)
	}
	return err
}

// mount mounts, and starts to serve.
func (s *mountServer) mount(o *mountOptions, path string) error {
	o.mount.Source, o.mount.Logger = mountSource(absolute(path), o.snapshot), s.log
	fd, err := fusefs.Mount(s.dir, o.mount)
	if err != nil {
		return fmt.Errorf("%s: %w", s.dir, err)
	}
	if s.conn, err = fusefs.ConnectionID(s.dir); err == nil {
		s.fuse, err = fusefs.NewServer(fusefs.Options{FS: s.fs, Device: fd, ReadOnly: o.readOnly, Logger: s.log})
	}
	if err != nil {
		fd.Close()
		return errors.Join(err, fusefs.Unmount(s.dir, true))
	}
	go func() { s.served <- s.fuse.Serve() }()
	select {
	case <-s.fuse.Ready():
		return nil
	case err := <-s.served:
		return errors.Join(fmt.Errorf("serve %s: %w", s.dir, err), fusefs.Unmount(s.dir, true))
	}
}

// close commits, and closes the device: another process can open it then.
func (s *mountServer) close() error {
	s.views.end(s.log)
	s.endView()
	s.anchor.end()
	err := s.base.Close()
	if failed := s.base.Failed(); err == nil && failed != nil {
		err = failed
	}
	return errors.Join(err, s.anchor.final(), s.dev.Close())
}

// controlSocket is where control.Find looks for this mount. The kernel gives a
// mount's number to the next mount at once, so the name may be another
// server's any time after the unmount: making and removing names happens under
// a lock on the directory.
type controlSocket struct {
	l    *net.UnixListener
	path string
	ino  uint64 // of the name we made
}

// listen opens the control socket. Without one the mount works: only grow and
// umount can do less.
func (s *mountServer) listen() (*controlSocket, error) {
	dir := control.RuntimeDir()
	if dir == "" {
		return nil, errors.New("XDG_RUNTIME_DIR is not set")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("%s is not a directory that only we can write to", dir)
	}
	c := &controlSocket{path: control.SocketIn(dir, 0, int(s.conn))} // FUSE's device numbers have major 0
	err := control.LockNames(dir, func() (err error) {
		if to, err := os.Readlink(c.path); err == nil { // of a mount of the driver that had our number
			s.log.Debug("replacing an old link", "to", to)
			if err := os.Remove(c.path); err != nil {
				return err
			}
		}
		if c.l, err = control.Listen(c.path); err != nil {
			return err
		}
		err = unix.Lstat(c.path, &st)
		c.ino = st.Ino
		return err
	})
	return c, err
}

// remove removes the name, if it is ours still.
func (c *controlSocket) remove() error {
	return control.LockNames(filepath.Dir(c.path), func() error {
		var st unix.Stat_t
		err := unix.Lstat(c.path, &st)
		if err != nil || st.Ino != c.ino {
			return err
		}
		return os.Remove(c.path)
	})
}

// signals unmounts on the first signal and cuts the connection on the second.
func (s *mountServer) signals(ctx context.Context, c <-chan os.Signal) {
	select {
	case sig := <-c:
		s.log.Info("unmounting", "signal", sig.String())
	case <-ctx.Done():
		return
	}
	if err := fusefs.Unmount(s.dir, false); err == nil {
		return
	} else if !fusefs.IsBusy(err) {
		s.log.Warn("unmount failed; detaching", "error", err)
	}
	if err := s.sync(); err != nil {
		s.log.Error("sync failed", "error", err)
	}
	if err := fusefs.Unmount(s.dir, true); err != nil {
		s.log.Error("the mount can not be detached", "error", err)
	} else {
		s.log.Warn("files are in use: the mount is detached, its process ends when the last of them is closed; another signal cuts it off")
	}
	select {
	case <-c:
		s.log.Warn("cutting off who still uses the mount")
		if err := fusefs.AbortConnection(s.conn); err != nil {
			s.log.Error("abort failed", "error", err)
		}
	case <-ctx.Done():
	}
}

// end ends serving for a caller of the control socket: it returns when the device is closed. A
// mount in use stays, with an error.
func (s *mountServer) end(ctx context.Context) error {
	if err := fusefs.Unmount(s.dir, false); err != nil {
		if fusefs.IsBusy(err) {
			return control.WithCode(control.CodeBusy, fmt.Errorf("%s: %w", s.dir, errBusy))
		}
		return err
	}
	select {
	case <-s.ended:
	case <-ctx.Done(): // only when serve returns, having ended, or when the caller went away
		select {
		case <-s.ended:
		default:
			return ctx.Err()
		}
	}
	return s.endErr
}

var errBusy = errors.New("files of it are in use")

// logFile is standard error, until it has to be let go of.
type logFile struct {
	mu   sync.Mutex
	f    *os.File
	path string // of a file of its own
}

func newLogFile() *logFile { return &logFile{f: os.Stderr} }

// Write implements io.Writer.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(b)
}

// detach leaves a pipe that whoever started us may be reading to its end.
// Terminals, files and the sockets of service managers stay.
func (l *logFile) detach() {
	fi, err := os.Stderr.Stat()
	if err != nil || fi.Mode().Type() != os.ModeNamedPipe {
		return
	}
	path := os.DevNull
	if dir := control.RuntimeDir(); dir != "" {
		removeOldLogs(dir)
		path = filepath.Join(dir, fmt.Sprintf("mount-%d.log", os.Getpid()))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	// Standard error itself, so that a crash of the runtime is told there, too.
	if unix.Dup2(int(f.Fd()), int(os.Stderr.Fd())) == nil && path != os.DevNull {
		l.path = path
	}
}

// removeOldLogs removes what killed servers left without having said anything.
func removeOldLogs(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "mount-*.log")) // the pattern is well-formed
	for _, n := range names {
		var pid int
		fi, err := os.Lstat(n)
		if _, serr := fmt.Sscanf(filepath.Base(n), "mount-%d.log", &pid); serr != nil || err != nil || fi.Size() > 0 {
			continue
		}
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.Remove(n) // the next one tries again
		}
	}
}

// end removes a log that nobody will want to read.
func (l *logFile) end(err error) {
	if l.path != "" && err == nil {
		_ = os.Remove(l.path) // it can stay
	}
}
