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

// releaseTime is how long a server may take to release its device or a snapshot after the unmount.
const releaseTime = 2 * time.Minute

var (
	// ErrInUse means that files of the mount are in use, so it stays.
	ErrInUse = errors.New("files are in use")
	// ErrElsewhere means that the volume is also mounted in another place, so it stays in use.
	ErrElsewhere = errors.New("the volume is still mounted")
	// ErrServerLost means that the server ended unexpectedly while it unmounted.
	ErrServerLost = errors.New("the mount server ended unexpectedly while unmounting")
	// ErrNotReleased means that a snapshot is unmounted, but its server has not confirmed that it released it.
	ErrNotReleased = errors.New("unmounted, but the mount server of the volume has not confirmed that it released the snapshot")
)

// Unmount unmounts the volume or snapshot on dir, and waits until everything is on the device and
// its server has released it. It removes the mount of a dead server. An error that wraps
// control.ErrServer, and neither ErrNotReleased nor ErrElsewhere, comes from the server: it could not write the last
// changes.
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
	// A running server answers a status request from memory. Without an answer the server is dead,
	// is just ending, or cannot be found.
	c, err := control.Find(abs)
	if err != nil || Status(abs) != nil {
		if beside, err := unmountSnapshot(ctx, m, dir); beside {
			return err
		}
		return unmountAlone(m, dir)
	}
	err = c.Unmount(ctx) // takes as long as the device needs for the last commit
	switch {
	case err == nil:
		return nil
	case control.HasCode(err, control.CodeBusy):
		return inUse(dir)
	case control.HasCode(err, control.CodeElsewhere):
		return fmt.Errorf("%w: %w", ErrElsewhere, err)
	case errors.Is(err, control.ErrServer):
		return err
	}
	if now, merr := On(m.Mountpoint); merr == nil && now != nil && now.ID == m.ID {
		return unmountAlone(m, dir) // it ended before it did anything: it was killed, or its connection was aborted
	}
	return errors.Join(fmt.Errorf("%s: %w: %w", dir, ErrServerLost, err), unmountAlone(m, dir))
}

func inUse(dir string) error { return fmt.Errorf("%s: %w", dir, ErrInUse) }

// unmountAlone unmounts without the help of a server.
func unmountAlone(m *mountinfo.Info, dir string) error {
	err := fusefs.Unmount(m.Mountpoint, false)
	if err != nil && fusefs.IsBusy(err) {
		if !IsDead(m.Mountpoint) {
			return inUse(dir)
		}
		// Data of open files is lost already: no server answers.
		err = fusefs.Unmount(m.Mountpoint, true)
	}
	if err != nil {
		if now, err := On(m.Mountpoint); err == nil && (now == nil || now.ID != m.ID) {
			return waitReleased(m.Source) // its server unmounted it
		}
		return err
	}
	return waitReleased(m.Source)
}

// waitReleased waits until no process holds the lock on a device.
func waitReleased(device string) error {
	f, err := os.Open(device)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil // it is gone or not accessible: there is nothing to wait for
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
		return fmt.Errorf("unmounted, but the mount server still has %s open; wait until it has ended before you use the device", device)
	}
}
