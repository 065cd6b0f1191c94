package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func keyShredCommand() *cobra.Command {
	var confirm string
	c := &cobra.Command{
		Use:   "shred --confirm UUID DEVICE-OR-DIR",
		Short: "Destroy a volume by erasing all its key slots",
		Long: `Destroy a volume by erasing its key slots. The slots in both copies of the header are
overwritten, discarded if the device supports it, and read back. Nothing can open the
volume afterwards, and all commands report that it was shredded. Somebody who has both
an older copy of the device and one of its keys can still read that copy. The command
prints a receipt as JSON, which lists what remains to be destroyed.

No key is needed. To prevent mistakes, the command requires the UUID of the volume
(sealvol info DEVICE). If the volume is mounted, the mount stops immediately. Unmount it
afterwards.`,
		Example: `  sealvol key shred --confirm 6e1c9c0e-5d0c-4c3f-9a53-3c1f0a8b7d11 vol.img > receipt.json`,
		Args:    args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			r, err := shred(a[0], confirm)
			if err != nil {
				return err
			}
			return writeJSON(c.OutOrStdout(), r)
		},
	}
	c.Flags().StringVar(&confirm, "confirm", "", "UUID of the volume to destroy")
	c.Flags().Bool("json", true, "the receipt is always printed as JSON")
	return c
}

func shred(target, confirm string) (*volume.ShredReceipt, error) {
	c, err := serverOf(target)
	if err != nil {
		return nil, err
	}
	if confirm == "" {
		return nil, usageError(errors.New("--confirm UUID is missing; `sealvol info` shows the UUID of the volume"))
	}
	if c != nil {
		var r volume.ShredReceipt
		return &r, c.Do(context.Background(), control.Request{Op: "key-shred", Args: volumectl.KeyShred{Volume: confirm}}, &r)
	}
	dev, err := openDevice(target, false)
	if errors.Is(err, device.ErrInUse) {
		return nil, withHint(err, "if the volume is mounted, give the directory instead of the device")
	}
	if err != nil {
		return nil, err
	}
	defer discard(dev) // Shred flushed it
	h, err := volume.ReadHeader(dev)
	if err != nil {
		return nil, volumeError(dev, target, err)
	}
	if h.ID.String() != confirm {
		return nil, fmt.Errorf("%s: --confirm: the volume is %s, not %s", target, h.ID, confirm)
	}
	r, err := volume.Shred(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	return r, nil
}
