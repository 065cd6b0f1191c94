package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// releaseTime is how long a server that can not be asked may take to let go of
// its device.
const releaseTime = 2 * time.Minute

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount a volume",
		Long: `Unmount the volume on DIR, and wait until everything is on the device and its server
has let go of it: when the command returns, the device can be opened again.

A mount whose files are in use stays as it is, if they still are after a second. A
mount whose server died is removed all the same. If the last changes could not be written, the mount is
gone, and the command says so and fails.`,
		Example: `  sealvol umount /mnt`,
		Args:    args(1, 1, "one DIR"),
		RunE:    func(_ *cobra.Command, a []string) error { return umount(a[0]) },
	}
}

func umount(dir string) error {
	abs, err := resolveMount(dir)
	if err != nil {
		return err
	}
	m, err := mountOn(abs)
	if err != nil {
		return err
	}
	if m == nil || m.FSType != fusefs.FSType {
		return withHint(fmt.Errorf("%s: no sealed volume is mounted there", dir), "`findmnt -t "+fusefs.FSType+"` lists those that are")
	}
	// A server that lives answers its status from memory. Without an answer it is
	// dead, or ending just now, or can not be found.
	c, err := control.Find(abs)
	if err != nil || status(abs) != nil {
		switch asked, err := unmountBeside(m); {
		case control.HasCode(err, control.CodeBusy):
			return busy(dir)
		case asked && err == nil:
			return nil
		}
		return umountAlone(m, dir)
	}
	err = c.Unmount(context.Background()) // as long as the device takes for the last commit
	switch {
	case err == nil:
		return nil
	case control.HasCode(err, control.CodeBusy):
		return busy(dir)
	case errors.Is(err, control.ErrServer):
		return withHint(err, "if the mount is gone: what was synced before is safe; check the device, then run `sealvol fsck`")
	}
	if now, merr := mountOn(m.Mountpoint); merr == nil && now != nil && now.ID == m.ID {
		return umountAlone(m, dir) // it ended before it did anything: killed, or cut off
	}
	return errors.Join(withHint(fmt.Errorf("%s: the server went away while unmounting: %w", dir, err), "mount it again: what was synced is replayed"),
		umountAlone(m, dir))
}

// umountAlone unmounts without a server's help.
func umountAlone(m *mountinfo.Info, dir string) error {
	err := fusefs.Unmount(m.Mountpoint, false)
	if err != nil && fusefs.IsBusy(err) {
		if !isDead(m.Mountpoint) {
			return busy(dir)
		}
		// What is open there is lost already: nothing answers it.
		err = fusefs.Unmount(m.Mountpoint, true)
	}
	if err != nil {
		if now, err := mountOn(m.Mountpoint); err == nil && (now == nil || now.ID != m.ID) {
			return waitReleased(m.Source) // its server did it
		}
		return err
	}
	return waitReleased(m.Source)
}

func busy(dir string) error {
	return withHint(fmt.Errorf("%s: %w", dir, errBusy), "`fuser -vm "+dir+"` lists who uses it")
}

// waitReleased waits until nobody holds the lock on a device.
func waitReleased(path string) error {
	f, err := os.Open(path)
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
		return fmt.Errorf("unmounted, but its server has %s open still", path)
	}
}
