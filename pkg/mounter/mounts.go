package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsOf lists the mount points of a volume in this namespace, the topmost last.
func mountsOf(source string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !isOurs(i, source), false
	})
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, i := range infos {
		paths = append(paths, i.Mountpoint)
	}
	return paths, nil
}

// isNodes tells whether a mount holds the device nodes of a raw block volume.
func isNodes(i *mountinfo.Info, source string) bool {
	return i.Source == source && i.FSType == NodeFSType
}

// isOurs tells whether a mount belongs to the volume.
func isOurs(i *mountinfo.Info, source string) bool {
	return i.Source == source && (i.FSType == FSType || i.FSType == NodeFSType)
}

// at returns the topmost mount at a path, or nil.
func at(path string) (*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != path, false })
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	return infos[len(infos)-1], nil
}

// The same values as in pkg/volume/fusefs/mount.go, which this package must not import.
const (
	maxReadBytes = 1 << 20
	readAheadKiB = 4096
	maxRatio     = 40 // percent
)

// tune raises the read-ahead and dirty limits of a mount whose INIT has been answered. The mount
// also works without it, but is slower, so a failure is no error (sysfs may be read-only in a
// container).
func tune(target string) {
	top, err := at(target)
	if err != nil || top == nil {
		return
	}
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d/", top.Major, top.Minor)
	_ = os.WriteFile(bdi+"read_ahead_kb", []byte(strconv.Itoa(readAheadKiB)), 0)
	_ = os.WriteFile(bdi+"max_ratio", []byte(strconv.Itoa(maxRatio)), 0)
}

// mountFuse mounts the volume. It opens the target first, so that it mounts on exactly what was
// checked. A volume may be hostile, so only publications allow set-user-ID programs and devices,
// and a hidden mount allows no programs at all.
func mountFuse(fuse *os.File, source, target string, readOnly, hidden bool) error {
	fd, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return fmt.Errorf("open mount point: %w", err)
	}
	defer unix.Close(fd)
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if hidden {
		flags |= unix.MS_NOEXEC
	}
	// allow_other: pods run as any user; default_permissions: the kernel checks modes and ACLs.
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,default_permissions,max_read=%d", fuse.Fd(), os.Getuid(), os.Getgid(), maxReadBytes)
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", fd), FSType, flags, data); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// unmountLazily removes all mounts of the volume at target. It never hangs.
func unmountLazily(source, target string) error {
	for {
		i, err := at(target)
		if err != nil {
			return err
		}
		if i == nil || !isOurs(i, source) {
			return nil
		}
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				return nil
			}
			return fmt.Errorf("unmount: %w", err)
		}
	}
}

// A mount may still count as in use shortly after its last file was closed: while a process looks
// up a path through it, and while a starting container discards the copy of the mount table that
// its namespace began with.
const (
	busyTime = time.Second
	busyTick = 10 * time.Millisecond
)

// unmount is umount(2) with a deadline, because it may wait for a hanging server. The system call
// itself cannot be cancelled; its goroutine ends when the connection is aborted. If the mount is in
// use, unmount retries for a second.
func unmount(ctx context.Context, target string) error {
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(busyTick)
		defer tick.Stop()
		done <- whileBusy(ctx, tick.C, int(busyTime/busyTick), func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
	}()
	select {
	case err := <-done:
		switch {
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("%w: a process uses a file or directory below the staging directory", ErrBusy)
		case err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("unmount: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: unmount does not return: %w", ErrBusy, ctx.Err())
	}
}

// whileBusy calls try once, and then at each tick while the mount is in use.
func whileBusy(ctx context.Context, tick <-chan time.Time, ticks int, try func() error) error {
	err := try()
	for ; errors.Is(err, unix.EBUSY) && ticks > 0; ticks-- {
		select {
		case <-tick:
		case <-ctx.Done():
			return err
		}
		err = try()
	}
	return err
}

// openDevice opens exactly the requested device, or fails.
func openDevice(d Device, readOnly bool) (*os.File, error) {
	flags := unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_RDWR
	if readOnly {
		flags = flags&^unix.O_RDWR | unix.O_RDONLY
	}
	if d.Rdev != 0 {
		flags |= unix.O_EXCL // claims a block device, open(2)
	}
	fd, err := unix.Open(d.Path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: another program has the device open exclusively", ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	f := os.NewFile(uintptr(fd), d.Path)
	if err := checkDevice(fd, d); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkDevice(fd int, d Device) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if d.Ino == 0 || st.Dev != d.Dev || st.Ino != d.Ino || st.Size < d.SizeBytes {
			return fmt.Errorf("%w: the image at this path is not the expected one", ErrForeign)
		}
	case unix.S_IFBLK:
		size, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			return err
		}
		if d.Rdev == 0 || st.Rdev != d.Rdev || size < d.SizeBytes {
			return fmt.Errorf("%w: the block device at this path is not the expected one", ErrForeign)
		}
	default:
		return fmt.Errorf("%w: the path is neither a block device nor an image file", ErrForeign)
	}
	return nil
}

// await waits until a channel is closed, for at most d.
func await(ctx context.Context, c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}
