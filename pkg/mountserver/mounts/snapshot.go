package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// MountSnapshot mounts a snapshot of the volume that is mounted on volumeDir, on the directory dir,
// which Prepare has checked. The volume's server serves it. tune is the error of fusefs.Tune; the
// mount also works without tuning.
func MountSnapshot(ctx context.Context, c *control.Client, volumeDir, name, dir string, o fusefs.MountOptions) (tune, err error) {
	abs, err := Resolve(volumeDir)
	if err != nil {
		return nil, err
	}
	m, err := On(abs)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("%s: %w", volumeDir, ErrNotMounted)
	}
	o.Source = Source(m.Source, name)
	f, err := fusefs.Mount(dir, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	defer f.Close()
	a := volumectl.SnapshotArgs{Name: name, Dir: dir}
	if a.Connection, err = fusefs.ConnectionID(dir); err == nil {
		err = doSnapshot(ctx, *c, "snapshot-mount", a, f)
	}
	if err != nil {
		return nil, errors.Join(err, fusefs.Unmount(dir, true))
	}
	return fusefs.Tune(dir), nil
}

// doSnapshot sends a request about the mount of a snapshot. A server of an older version refuses
// arguments that it does not know: it gets the request without the connection.
func doSnapshot(ctx context.Context, c control.Client, op string, a volumectl.SnapshotArgs, f *os.File) error {
	err := c.Do(ctx, control.Request{Op: op, Args: a, File: f}, nil)
	if control.HasCode(err, control.CodeMalformed) && a.Connection != 0 {
		a.Connection = 0
		err = c.Do(ctx, control.Request{Op: op, Args: a, File: f}, nil)
	}
	return err
}

// unmountSnapshot unmounts a snapshot that is mounted beside its volume, and waits until it is
// released. beside is false if dir has no such mount. The server may be in another mount namespace
// and not privileged, so it is only asked to wait once the mount is gone.
func unmountSnapshot(ctx context.Context, m *mountinfo.Info, dir string) (beside bool, err error) {
	i := strings.LastIndexByte(m.Source, '@')
	if i < 0 {
		return false, nil
	}
	dirs, err := Of(m.Source[:i])
	if err != nil || len(dirs) == 0 {
		return false, err
	}
	if err := fusefs.Unmount(m.Mountpoint, false); fusefs.IsBusy(err) {
		if IsDead(m.Mountpoint) {
			return false, nil
		}
		return true, inUse(dir)
	} else if err != nil {
		return true, err
	}
	for _, volumeDir := range dirs {
		c, err := control.Find(volumeDir)
		if err != nil {
			continue
		}
		a := volumectl.SnapshotArgs{Dir: m.Mountpoint, Connection: uint32(m.Minor)} // FUSE's device numbers have major 0
		if asked, err := waitSnapshotReleased(ctx, c, a, releaseTime); asked {
			return true, err
		}
	}
	return true, nil // no server has that snapshot mounted any more
}

// waitSnapshotReleased waits until a server has released a snapshot that is unmounted already. asked
// is false if the server does not have it mounted, or has ended.
func waitSnapshotReleased(ctx context.Context, c control.Client, a volumectl.SnapshotArgs, limit time.Duration) (asked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = doSnapshot(ctx, c, "snapshot-unmount", a, nil)
	switch {
	case err == nil:
		return true, nil
	case control.HasCode(err, volumectl.CodeNotFound), control.HasCode(err, control.CodeUnknown):
		return false, nil
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT): // nobody listens
		return false, nil
	}
	return true, fmt.Errorf("%s: %w: %w", a.Dir, ErrNotReleased, err)
}
