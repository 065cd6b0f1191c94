package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func keyAddCommand() *cobra.Command {
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "add [--key-file FILE] --new-key-file FILE [--json] DEVICE-OR-DIR",
		Short: "Add a key to a volume",
		Long: `Add a key that opens the volume: a key file, a passphrase, or a recovery key. For a
recovery key, the public half is sufficient (--recipient). For a DEVICE, also give a
key that opens it now. For a mounted DIR, the mount server already has the key.`,
		Example: `  sealvol key add --new-passphrase-file phrase /mnt
  sealvol key add --key-file vol.key --recipient rescue.pub vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			src, err := to.source()
			if err != nil {
				return err
			}
			from, err := deviceKey(a[0], &key)
			if err != nil {
				return err
			}
			op := keyOp[volumectl.KeyChange]{op: "key-add", sources: append(from, src),
				local: func(_ context.Context, v *volume.Volume, k *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.AddKey(v, k)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}

func printKeyChange(w io.Writer, c *volumectl.KeyChange) (err error) {
	if c.Slot >= 0 {
		what := "already there"
		if c.Added {
			what = "added"
		}
		_, err = fmt.Fprintf(w, "key slot %d: %s\n", c.Slot, what)
	}
	for _, s := range c.Removed {
		_, e := fmt.Fprintf(w, "key slot %d: removed\n", s)
		err = errors.Join(err, e)
	}
	return err
}

func keyRemoveCommand() *cobra.Command {
	var key keyFlags
	var last, asJSON bool
	c := &cobra.Command{
		Use:   "remove [--key-file FILE] [--last] [--json] DEVICE-OR-DIR SLOT",
		Short: "Remove a key from a volume",
		Long: `Remove the key in a slot (sealvol key list shows the slots). The key no longer opens
the volume, even if an old copy of the header is restored. Somebody who opened the
volume with the key before may have kept the data key. In that case, use rotate-data.

The last key is removed only with --last. Then no key opens the volume any more. To
destroy a volume and get a receipt, use sealvol key shred.`,
		Example: `  sealvol key remove /mnt 2
  sealvol key remove --key-file vol.key vol.img 0`,
		Args: args(2, 2, "DEVICE-OR-DIR and SLOT"),
		RunE: func(c *cobra.Command, a []string) error {
			slot, err := strconv.Atoi(a[1])
			if err != nil {
				return usageError(fmt.Errorf("SLOT %q is not a number", a[1]))
			}
			from, err := deviceKey(a[0], &key)
			if err != nil {
				return err
			}
			req := volumectl.KeyRemove{Slot: slot, Last: last}
			op := keyOp[volumectl.KeyChange]{op: "key-remove", args: req, sources: from,
				local: func(_ context.Context, v *volume.Volume, _ *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.RemoveKey(v, req)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&last, "last", false, "remove the key even if it is the last one; then no key opens the volume")
	jsonFlag(c, &asJSON)
	return c
}

func keyRotateCommand() *cobra.Command {
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate --key-file OLD --new-key-file NEW [--json] DEVICE-OR-DIR",
		Short: "Replace a key of a volume",
		Long: `Replace a key with another one. The new key is written to a slot and read back. Then
the slot of the old key is removed. No data is rewritten, so the command is fast for
volumes of any size. If it is interrupted, both keys open the volume: run it again.`,
		Example: `  sealvol key rotate --key-file old.key --new-key-file new.key /mnt`,
		Args:    args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if err := key.one(); err != nil {
				return err
			}
			src, err := to.source()
			if err != nil {
				return err
			}
			op := keyOp[volumectl.KeyChange]{op: "key-rotate", sources: []keySource{key.source(volumectl.KeyOld), src},
				local: func(ctx context.Context, v *volume.Volume, k *volumectl.KeySet) (volumectl.KeyChange, error) {
					return volumectl.RotateKey(ctx, v, k)
				}}
			return op.report(c.OutOrStdout(), a[0], asJSON)
		},
	}
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}
