package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

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
	err := mounts.Unmount(context.Background(), dir)
	switch {
	case errors.Is(err, mounts.ErrNotMounted):
		return withHint(err, "`findmnt -t "+fusefs.FSType+"` lists those that are")
	case errors.Is(err, mounts.ErrInUse):
		return withHint(err, "`fuser -vm "+dir+"` lists who uses it")
	case errors.Is(err, mounts.ErrServerLost):
		return withHint(err, "mount it again: what was synced is replayed")
	case errors.Is(err, control.ErrServer):
		return withHint(err, "if the mount is gone: what was synced before is safe; check the device, then run `sealvol fsck`")
	}
	return err
}
