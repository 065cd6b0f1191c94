package mounts

import (
	"path/filepath"

	"github.com/moby/sys/mountinfo"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// On returns the topmost mount on an absolute path, or nil.
func On(dir string) (*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != dir, false })
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	return infos[len(infos)-1], nil
}

// Resolve makes a mount point absolute without touching what is mounted there.
func Resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	if m, err := On(abs); err != nil || m != nil {
		return abs, err
	}
	return filepath.EvalSymlinks(abs)
}

// Of lists the mount points of a device in this mount namespace.
func Of(device string) (dirs []string, err error) {
	source := Absolute(device)
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(fusefs.FSType))
	for _, m := range infos {
		if m.Source == source {
			dirs = append(dirs, m.Mountpoint)
		}
	}
	return dirs, err
}

// Absolute returns a device's name as the mount table shows it.
func Absolute(device string) string {
	if p, err := filepath.EvalSymlinks(device); err == nil {
		device = p
	}
	if p, err := filepath.Abs(device); err == nil {
		device = p
	}
	return device
}

// Source returns what the mount table shows as the device of a mount of a volume or of its
// snapshot. For a snapshot it is not a path, so that waiting for the device does not wait for a
// snapshot.
func Source(device, snapshot string) string {
	if snapshot == "" {
		return device
	}
	return device + "@" + snapshot
}
