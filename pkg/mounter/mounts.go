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

// mountsOf lists where a volume is mounted in this namespace, the topmost last.
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

// isNodes tells whether a mount holds device nodes of a raw block volume.
func isNodes(i *mountinfo.Info, source string) bool {
	return i.Source == source && i.FSType == NodeFSType
}

// isOurs tells whether a mount is one of the volume's.
func isOurs(i *mountinfo.Info, source string) bool {
	return i.Source == source && (i.FSType == FSType || i.FSType == NodeFSType)
}

// at returns what is mounted at a path, the topmost, or nil.
func at(path string) (*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil {
		return nil, err
	}
	infos2, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != path, false })
	if err != nil || len(infos) == 0 || len(infos2) == 0 {
		return nil, err
	}
	return infos2[len(infos2)-1], nil
}

// As pkg/volume/fusefs has them for mounts of its own (mount.go there; this package stands beside it).
const (
	maxReadBytes = 1 << 20
	readAheadKiB = 4096
	maxRatio     = 40 // percent
)

// tune raises read-ahead and dirty limits of a mount whose INIT has been answered. Without it the mount
// works, slower, so that a refusal (sysfs may be read-only in a container) is no error.
func tune(target string) {
	top, err := at(target)
	if err != nil || top == nil {
		return
	}
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d/", top.Major, top.Minor)
	_ = os.WriteFile(bdi+"read_ahead_kb", []byte(strconv.Itoa(readAheadKiB)), 0)
	_ = os.WriteFile(bdi+"max_ratio", []byte(strconv.Itoa(maxRatio)), 0)
}

// mountFuse makes the mount. The target is opened first so that what was checked is what is mounted
// on. Nobody but a publication needs set-user-ID programs or devices of a volume, which may be hostile,
// and nobody runs programs from a hidden mount.
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

// unmountLazily takes the volume's mounts at target away, however many lie there, and never hangs.
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

// A mount counts as in use for a moment after its last file was closed: while some process looks up a path through it,
// and while a container that starts takes away the copy of the mount table that its namespace began with.
const (
	busyTime = time.Second
	busyTick = 10 * time.Millisecond
)

// unmount is umount(2) with a deadline: it may wait for a server that hangs. The call itself cannot be
// taken back; its goroutine ends when the connection is aborted. What is in use is tried again for a second.
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
			return fmt.Errorf("%w: somebody works in the staging directory", ErrBusy)
		case err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("unmount: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: unmount hangs: %w", ErrBusy, ctx.Err())
	}
}

// whileBusy tries once and, while the mount is in use, again at each tick.
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

// openDevice opens exactly the device that was asked for, or nothing.
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
		return nil, fmt.Errorf("%w: the device is claimed", ErrBusy)
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
			return fmt.Errorf("%w: the image is not the one that was asked for", ErrForeign)
		}
	case unix.S_IFBLK:
		size, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			return err
		}
		if d.Rdev == 0 || st.Rdev != d.Rdev || size < d.SizeBytes {
			return fmt.Errorf("%w: the block device is not the one that was asked for", ErrForeign)
		}
	default:
		return fmt.Errorf("%w: neither a block device nor an image", ErrForeign)
	}
	return nil
}

// await waits for a channel, at most d.
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
