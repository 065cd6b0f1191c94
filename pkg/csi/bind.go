package csi

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// attributes of a mount that a publish sets. readOnly adds to the flags. The staging mount allows
// neither set-user-ID programs nor devices; a publication allows both unless the flags say otherwise.
func attributes(flags []string, readOnly bool) *unix.MountAttr {
	a := &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if readOnly || slices.Contains(flags, "ro") {
		a.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	for flag, attr := range map[string]uint64{"nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
		"noexec": unix.MOUNT_ATTR_NOEXEC, "nodiratime": unix.MOUNT_ATTR_NODIRATIME} {
		if slices.Contains(flags, flag) {
			a.Attr_set |= attr
		}
	}
	for flag, attr := range map[string]uint64{"noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME, "relatime": unix.MOUNT_ATTR_RELATIME} {
		if slices.Contains(flags, flag) {
			a.Attr_clr |= unix.MOUNT_ATTR__ATIME // a field of values, not bits: mount_setattr(2)
			a.Attr_set |= attr
		}
	}
	return a
}

// sameAttributes compares a mount with what a publish asks for.
func sameAttributes(i *mountinfo.Info, flags []string, readOnly bool) bool {
	has := strings.Split(i.Options, ",")
	for _, o := range []string{"nosuid", "nodev", "noexec"} {
		if slices.Contains(has, o) != slices.Contains(flags, o) {
			return false
		}
	}
	return slices.Contains(has, "ro") == (readOnly || slices.Contains(flags, "ro"))
}

// bind puts a copy of the mount at staging onto target, with its attributes from the start: no moment in which
// a read-only publication can be written.
func bind(staging, target *os.File, attr *unix.MountAttr) error {
	tree, err := unix.OpenTree(int(staging.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone the staging mount: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return fmt.Errorf("set mount attributes: %w", err)
	}
	if err := unix.MoveMount(tree, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at the target: %w", err)
	}
	return nil
}

// detach takes away what is mounted at parent/name. Lazily, since that never waits for a server; who still has
// files open there keeps the volume's server, and unstage waits for that.
func detach(parent *os.File, name string) error {
	err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the target: %w", err)
	}
	return nil
}
