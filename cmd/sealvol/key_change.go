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
		Short: "Let one more key open a volume",
		Long: `Let one more key open a volume: a key file, a passphrase, or a recovery key, of which
the public half is enough (--recipient). A DEVICE needs a key that opens it now; the
server of a mounted DIR has it.`,
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
		what := "was there already"
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
		Short: "Let a key open a volume no more",
		Long: `Remove the key in a slot (sealvol key list shows them): it opens the volume no more,
also if an old copy of the header is put back. Somebody who opened the volume with it
before may have kept the data key: see rotate-data.

The last key is removed with --last only: then nothing opens the volume any more.
To destroy a volume for good use sealvol key shred, which gives a receipt.`,
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
	c.Flags().BoolVar(&last, "last", false, "remove it even if it is the last one: nothing opens the volume then")
	jsonFlag(c, &asJSON)
	return c
}

func keyRotateCommand() *cobra.Command {
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate --key-file OLD --new-key-file NEW [--json] DEVICE-OR-DIR",
		Short: "Replace a key by another",
		Long: `Replace a key by another: the new one gets a slot, is read back, and then the slot of
the old one is removed. Data is not written again, so it takes a moment for any
volume. If it is interrupted, repeat it: until it has ended both keys open the volume.`,
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
