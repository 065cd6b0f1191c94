package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func keyShredCommand() *cobra.Command {
	var confirm string
	c := &cobra.Command{
		Use:   "shred --confirm UUID DEVICE-OR-DIR",
		Short: "Destroy a volume by erasing all its keys",
		Long: `Destroy a volume: all key slots are overwritten in both copies of the header,
discarded where the device can do that, and read back. Nothing opens the volume any
more, and it says so. What the volume is worth to somebody who holds another copy of
the device and a key of that time, only you know: the receipt, which is printed as
JSON, says what is left to do.

It needs no key. The UUID (sealvol info DEVICE) is asked for, so that no other volume
is hit. A mount stops at once; unmount it afterwards.`,
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
	c.Flags().Bool("json", true, "the receipt is JSON always")
	return c
}

func shred(target, confirm string) (*volume.ShredReceipt, error) {
	c, err := mounts.Server(target)
	if err != nil {
		return nil, err
	}
	if confirm == "" {
		return nil, usageError(errors.New("say which volume is to be destroyed: --confirm UUID; `sealvol info` shows it"))
	}
	if c != nil {
		var r volume.ShredReceipt
		return &r, c.Do(context.Background(), control.Request{Op: "key-shred", Args: volumectl.KeyShred{Volume: confirm}}, &r)
	}
	dev, err := openDevice(target, false)
	if errors.Is(err, device.ErrInUse) {
		return nil, withHint(err, "if it is mounted, give the directory in place of the device")
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
		return nil, fmt.Errorf("%s: the volume is %s, not %s", target, h.ID, confirm)
	}
	r, err := volume.Shred(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	return r, nil
}
