package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount a volume",
		Long: `Unmount the volume on DIR, and wait until everything is on the device and the server has
closed it. When the command returns, the device can be opened again.

If files are still in use after a second, the command fails and the volume stays
mounted. If the server has died, its mount is removed. If the last changes cannot be
written, the volume is unmounted, and the command reports the error and fails.`,
		Example: `  sealvol umount /mnt`,
		Args:    args(1, 1, "one DIR"),
		RunE:    func(_ *cobra.Command, a []string) error { return umount(a[0]) },
	}
}

func umount(dir string) error {
	err := mounts.Unmount(context.Background(), dir)
	switch {
	case errors.Is(err, mounts.ErrNotMounted):
		return withHint(err, "`findmnt -t "+fusefs.FSType+"` lists the mounted volumes")
	case errors.Is(err, mounts.ErrInUse):
		return withHint(err, "`fuser -vm "+dir+"` lists the processes that use it; stop them and try again")
	case errors.Is(err, mounts.ErrElsewhere):
		return withHint(err, "unmount it there, too: umount(8) for a bind mount; then everything is written to the device")
	case errors.Is(err, mounts.ErrServerLost):
		return withHint(err, "mount the volume again: the mount replays all synced changes")
	case errors.Is(err, mounts.ErrNotReleased):
		return withHint(err, "no data is lost; until the server has released the snapshot, it cannot be deleted; read the log of the volume's mount server")
	case errors.Is(err, control.ErrServer):
		return withHint(err, "data that was synced before is safe; check the kernel log for errors of the device, or free space on the disk that holds the image; then run `sealvol fsck`")
	case err != nil && os.Geteuid() != 0:
		return withHint(err, "run the command as the user who mounted the volume, such as root")
	}
	return err
}
