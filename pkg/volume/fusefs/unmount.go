package fusefs

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The time that Unmount waits for short uses to end. A mount may be in use for a moment after
	// its last file was closed: while a process looks up a path through it, and while a starting
	// container removes the copy of the mount table in its new namespace.
	busyTime = time.Second
	busyTick = 10 * time.Millisecond
)

// Unmount unmounts dir. If dir is in use, it retries for a second. With lazy, it detaches the mount
// immediately, and the kernel unmounts it when it is no longer in use. If dir is not a mount, the
// result is an error.
func Unmount(dir string, lazy bool) error {
	if lazy {
		return unmountOnce(dir, unix.MNT_DETACH)
	}
	tick := time.NewTicker(busyTick)
	defer tick.Stop()
	return whileBusy(tick.C, int(busyTime/busyTick), func() error { return unmountOnce(dir, 0) })
}

// whileBusy tries to unmount, and tries again at each tick while the mount is in use.
func whileBusy(tick <-chan time.Time, ticks int, try func() error) error {
	err := try()
	for ; IsBusy(err) && ticks > 0; ticks-- {
		<-tick
		err = try()
	}
	return err
}

func unmountOnce(dir string, flags int) error {
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		return unmountHelper(dir, flags&unix.MNT_DETACH != 0)
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
	return nil
}

// IsBusy tells whether Unmount failed because the mount is in use. fusermount3 reports this only in
// its message.
func IsBusy(err error) bool {
	return err != nil && (errors.Is(err, unix.EBUSY) || strings.Contains(err.Error(), "Device or resource busy"))
}
