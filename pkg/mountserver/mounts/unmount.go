package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// releaseTime is how long a server that can not be asked may take to let go of its device.
const releaseTime = 2 * time.Minute

var (
	// ErrInUse is of a mount whose files are in use; it stays.
	ErrInUse = errors.New("files of it are in use")
	// ErrServerLost is of a server that went away while it unmounted.
	ErrServerLost = errors.New("the server went away while unmounting")
)

// Unmount unmounts the volume or snapshot on dir, and waits until everything is on the device and
// its server has let go of it. The mount of a dead server is removed. An error that is
// control.ErrServer is the server's: the last changes could not be written.
func Unmount(ctx context.Context, dir string) error {
	abs, err := Resolve(dir)
	if err != nil {
		return err
	}
	m, err := On(abs)
	if err != nil {
		return err
	}
	if m == nil || m.FSType != fusefs.FSType {
		return fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	// A server that lives answers its status from memory. Without an answer it is dead, or ending
	// just now, or can not be found.
	c, err := control.Find(abs)
	if err != nil || Status(abs) != nil {
		if beside, err := unmountSnapshot(ctx, m, dir); beside {
			return err
		}
		return unmountAlone(m, dir)
	}
	err = c.Unmount(ctx) // as long as the device takes for the last commit
	switch {
	case err == nil:
		return nil
	case control.HasCode(err, control.CodeBusy):
		return inUse(dir)
	case errors.Is(err, control.ErrServer):
		return err
	}
	if now, merr := On(m.Mountpoint); merr == nil && now != nil && now.ID == m.ID {
		return unmountAlone(m, dir) // it ended before it did anything: killed, or cut off
	}
	return errors.Join(fmt.Errorf("%s: %w: %w", dir, ErrServerLost, err), unmountAlone(m, dir))
}

func inUse(dir string) error { return fmt.Errorf("%s: %w", dir, ErrInUse) }

// unmountAlone unmounts without a server's help.
func unmountAlone(m *mountinfo.Info, dir string) error {
	err := fusefs.Unmount(m.Mountpoint, false)
	if err != nil && fusefs.IsBusy(err) {
		if !IsDead(m.Mountpoint) {
			return inUse(dir)
		}
		// What is open there is lost already: nothing answers it.
		err = fusefs.Unmount(m.Mountpoint, true)
	}
	if err != nil {
		if now, err := On(m.Mountpoint); err == nil && (now == nil || now.ID != m.ID) {
			return waitReleased(m.Source) // its server did it
		}
		return err
	}
	return waitReleased(m.Source)
}

// waitReleased waits until nobody holds the lock on a device.
func waitReleased(device string) error {
	f, err := os.Open(device)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil // it is not there any more, or not for us: nothing to wait for
	}
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer f.Close()
		done <- unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(releaseTime):
		return fmt.Errorf("unmounted, but its server still has %s open", device)
	}
}
