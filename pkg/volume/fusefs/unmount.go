package fusefs

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How long Unmount waits for those who are just going. A mount counts as in use for a moment after its last file was
	// closed: while some process looks up a path through it, and while a container that starts takes away the copy
	// of the mount table that its namespace began with.
	busyTime = time.Second
	busyTick = 10 * time.Millisecond
)

// Unmount unmounts dir; if that is in use it tries again for a second. Lazy detaches it
// at once and leaves the rest until nobody uses it. Unmounting what is not a mount is an error.
func Unmount(dir string, lazy bool) error {
	if lazy {
		return unmountOnce(dir, unix.MNT_DETACH)
	}
	tick := time.NewTicker(busyTick)
	defer tick.Stop()
	return whileBusy(tick.C, int(busyTime/busyTick), func() error { return unmountOnce(dir, 0) })
}

// whileBusy tries once and, while the mount is in use, again at each tick.
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

// IsBusy tells that Unmount failed because the mount is in use; fusermount3 says so in words only.
func IsBusy(err error) bool {
	return err != nil && (errors.Is(err, unix.EBUSY) || strings.Contains(err.Error(), "Device or resource busy"))
}
