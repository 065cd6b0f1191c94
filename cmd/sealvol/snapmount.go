package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// snapshotMounts are the snapshots that a mount server serves beside its volume.
type snapshotMounts struct {
	mu    sync.Mutex
	all   map[uint32]*snapshotMount // by number of connection
	ended bool
	wg    sync.WaitGroup
}

type snapshotMount struct {
	dir  string
	done chan struct{} // closed when it is served no more, and the snapshot free
}

// mountSource is what the mount table shows as the device. A snapshot's is no
// path: who waits for the device does not wait for a snapshot.
func mountSource(device, snapshot string) string {
	if snapshot == "" {
		return device
	}
	return device + "@" + snapshot
}

// mountSnapshot serves a snapshot on the connection of a mount on dir.
func (s *mountServer) mountSnapshot(name, dir string, connection *os.File) error {
	conn, err := fusefs.ConnectionID(dir)
	if err != nil {
		return err
	}
	fs, end, err := s.vol.OpenSnapshot(name)
	if err != nil {
		return err
	}
	fd, err := unix.FcntlInt(connection.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		end()
		return fmt.Errorf("descriptor of the mount: %w", err)
	}
	f := os.NewFile(uintptr(fd), "fuse")
	srv, err := fusefs.NewServer(fusefs.Options{FS: fs, Device: f, ReadOnly: true, Logger: s.log.With("snapshot", name)})
	if err != nil {
		end()
		return errors.Join(err, f.Close())
	}
	v := &s.views
	v.mu.Lock()
	if v.ended {
		v.mu.Unlock()
		end()
		return errors.Join(errors.New("the volume is being unmounted"), f.Close())
	}
	if v.all == nil {
		v.all = map[uint32]*snapshotMount{}
	}
	m := &snapshotMount{dir, make(chan struct{})}
	v.all[conn] = m
	v.wg.Add(1)
	v.mu.Unlock()
	served := make(chan error, 1)
	go func() {
		defer v.wg.Done()
		err := srv.Serve()
		v.mu.Lock()
		delete(v.all, conn)
		v.mu.Unlock()
		end()
		close(m.done)
		served <- err
	}()
	select {
	case <-srv.Ready():
		s.log.Info("mounted a snapshot", "snapshot", name, "on", dir)
		return nil
	case err := <-served:
		return errors.Join(fmt.Errorf("serve snapshot %s", name), err)
	}
}

// unmountSnapshot ends the mount of a snapshot on dir. When it returns the
// snapshot is free.
func (s *mountServer) unmountSnapshot(ctx context.Context, dir string) error {
	v := &s.views
	v.mu.Lock()
	var m *snapshotMount
	for _, x := range v.all {
		if x.dir == dir {
			m = x
		}
	}
	v.mu.Unlock()
	if m == nil {
		return control.WithCode(volumectl.CodeNotFound, fmt.Errorf("no snapshot is mounted on %s", dir))
	}
	if err := fusefs.Unmount(dir, false); err != nil {
		if fusefs.IsBusy(err) {
			return control.WithCode(control.CodeBusy, fmt.Errorf("%s: %w", dir, errBusy))
		}
		return err
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unmountBeside unmounts a snapshot that is mounted beside its volume; asked is
// false if it is not such a mount.
func unmountBeside(m *mountinfo.Info) (asked bool, err error) {
	i := strings.LastIndexByte(m.Source, '@')
	if i < 0 {
		return false, nil
	}
	dirs, err := mountsOf(m.Source[:i])
	for _, dir := range dirs {
		c, ferr := control.Find(dir)
		if ferr != nil {
			continue
		}
		err := c.Do(context.Background(), control.Request{Op: "snapshot-unmount", Args: volumectl.SnapshotArgs{Dir: m.Mountpoint}}, nil)
		if errors.Is(err, control.ErrServer) && (control.HasCode(err, volumectl.CodeNotFound) || control.HasCode(err, control.CodeUnknown)) {
			continue
		}
		return true, err
	}
	return false, err
}

// end cuts off the snapshots that are still mounted: the volume ends.
func (v *snapshotMounts) end(log *slog.Logger) {
	v.mu.Lock()
	v.ended = true
	for conn, m := range v.all {
		log.Warn("the volume is unmounted, and with it a snapshot", "on", m.dir)
		if err := errors.Join(fusefs.AbortConnection(conn), fusefs.Unmount(m.dir, true)); err != nil {
			log.Warn("waiting until nobody uses the snapshot any more", "on", m.dir, "error", err)
		}
	}
	v.mu.Unlock()
	v.wg.Wait()
}

// liveMount returns the server of the volume that is mounted on path, nil if
// path is no mount.
func liveMount(path string) (*control.Client, error) {
	abs, err := resolveMount(path)
	if err != nil {
		return nil, nil //nolint:nilerr // opening the device says it better
	}
	m, err := mountOn(abs)
	if err != nil || m == nil {
		return nil, err
	}
	if m.FSType != fusefs.FSType {
		return nil, fmt.Errorf("%s: something else than a sealed volume is mounted there", path)
	}
	c, err := control.Find(abs)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// mountBeside mounts a snapshot of a volume that is mounted.
func mountBeside(o *mountOptions, c *control.Client, err error, target, dir string) error {
	if err != nil {
		return err
	}
	if o.foreground {
		return usageError(errors.New("--foreground: the server of the mounted volume serves the snapshot"))
	}
	if o.anchorFile != "" {
		return usageError(errors.New("--anchor-file: it is the server of the mounted volume that keeps the anchor"))
	}
	if err := o.check(); err != nil {
		return err
	}
	if err := checkKey(c, target, &o.key); err != nil {
		return err
	}
	abs, err := mountPoint(dir)
	if err != nil {
		return err
	}
	live, err := resolveMount(target)
	if err != nil {
		return err
	}
	m, err := mountOn(live)
	if err != nil {
		return err
	}
	o.mount.Source = mountSource(m.Source, o.snapshot)
	o.mount.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	f, err := fusefs.Mount(abs, o.mount)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer f.Close()
	err = c.Do(context.Background(), control.Request{Op: "snapshot-mount", Args: volumectl.SnapshotArgs{Name: o.snapshot, Dir: abs}, File: f}, nil)
	if err != nil {
		return errors.Join(err, fusefs.Unmount(abs, true))
	}
	if err := fusefs.Tune(abs); err != nil && os.Geteuid() == 0 {
		say(os.Stderr, "read-ahead stays at the kernel's default: %v\n", err)
	}
	return nil
}
