package mounts

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/sys/mountinfo"

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
	err = c.Do(ctx, control.Request{Op: "snapshot-mount", Args: volumectl.SnapshotArgs{Name: name, Dir: dir}, File: f}, nil)
	if err != nil {
		return nil, errors.Join(err, fusefs.Unmount(dir, true))
	}
	return fusefs.Tune(dir), nil
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
		err = c.Do(ctx, control.Request{Op: "snapshot-unmount", Args: volumectl.SnapshotArgs{Dir: m.Mountpoint}}, nil)
		if err == nil || ctx.Err() != nil {
			return true, err
		}
	}
	return true, nil // no server has that snapshot mounted any more
}
