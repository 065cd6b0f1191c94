package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// What a pod's group is given: as the kubelet does it for drivers that do not (pkg/volume/volume_linux.go of Kubernetes).
const (
	groupFile = 0o660
	groupDir  = 0o770 | unix.S_ISGID
)

// parseGroup reads a volume_mount_group: a number, as the kubelet has it; -1 for none. There are no names that would mean the same on every node.
func parseGroup(s string) (int, error) {
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1, fmt.Errorf("%w: volume_mount_group is not the number of a group", errInvalid)
	}
	return int(n), nil
}

// groupFor gives a staged volume to the group of a pod that is about to get it; one that has it already is not asked again. The kubelet, left to it, would
// change every file at each republication.
func groupFor(ctx context.Context, staged *os.File, c *csi.VolumeCapability, readOnly bool) error {
	gid, err := parseGroup(c.GetMount().GetVolumeMountGroup())
	if err != nil || gid < 0 || readOnly {
		return err
	}
	return applyGroup(ctx, staged, gid)
}

// applyGroup lets a group read and write all that is below a directory, if that does not say that it was done: the directory comes last. What is right already is left
// alone, so that a repetition goes on where a call was cut off. Nothing is followed out of the volume, whatever a pod does with it meanwhile.
func applyGroup(ctx context.Context, dir *os.File, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("apply fsGroup: %w", err)
	}
	if hasGroup(&st, gid) {
		return nil
	}
	if err := groupBelow(ctx, dir, gid); err != nil {
		return fmt.Errorf("apply fsGroup: %w", err)
	}
	return nil
}

// hasGroup tells whether a file is as a group needs it.
func hasGroup(st *unix.Stat_t, gid int) bool {
	return int64(st.Gid) == int64(gid) && st.Mode|groupMode(st) == st.Mode
}

func groupMode(st *unix.Stat_t) uint32 {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return groupDir
	case unix.S_IFLNK:
		return 0
	}
	return groupFile
}

// groupBelow changes all that is in a directory (opened with O_PATH), and then the directory.
func groupBelow(ctx context.Context, dir *os.File, gid int) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	list := os.NewFile(uintptr(fd), dir.Name())
	defer list.Close()
	for {
		names, err := list.Readdirnames(1000)
		for _, n := range names {
			if err := groupOne(ctx, dir, n, gid); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return setGroup(dir, gid)
		}
		if err != nil {
			return err
		}
	}
}

// groupOne changes one entry of a directory, and what is below it. One that has just gone is no error.
func groupOne(ctx context.Context, dir *os.File, name string, gid int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return groupBelow(ctx, f, gid)
	}
	return setGroup(f, gid)
}

// setGroup changes one file, opened with O_PATH, if it must be.
func setGroup(f *os.File, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(f.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if hasGroup(&st, gid) {
		return nil
	}
	if err := unix.Fchownat(int(f.Fd()), "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	// Also where the group alone was changed: that clears set-user-id and set-group-id.
	return unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), st.Mode&0o7777|groupMode(&st), 0)
}
