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

// attributes returns the mount attributes for a publish. readOnly adds to the flags. The staging
// mount has nosuid and nodev; a publication has neither unless the flags ask for it.
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
			a.Attr_clr |= unix.MOUNT_ATTR__ATIME // the atime attributes are an enumeration, not bits: mount_setattr(2)
			a.Attr_set |= attr
		}
	}
	return a
}

// sameAttributes tells whether a mount has the attributes that a publish asks for.
func sameAttributes(i *mountinfo.Info, flags []string, readOnly bool) bool {
	has := strings.Split(i.Options, ",")
	for _, o := range []string{"nosuid", "nodev", "noexec"} {
		if slices.Contains(has, o) != slices.Contains(flags, o) {
			return false
		}
	}
	return slices.Contains(has, "ro") == (readOnly || slices.Contains(flags, "ro"))
}

// bind mounts a copy of the staging mount onto target. The copy has its attributes before it is
// attached, so a read-only publication is never writable, not even briefly.
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

// detach unmounts what is mounted at parent/name. It unmounts lazily, because a lazy unmount never
// waits for a mount server. Files that are still open there keep the mount server running; unstage
// waits for them.
func detach(parent *os.File, name string) error {
	err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the target: %w", err)
	}
	return nil
}
