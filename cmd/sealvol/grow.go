package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
)

func growCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "grow [--key-file FILE] DEVICE-OR-DIR",
		Short: "Let a volume use all of its device",
		Long: `Let a volume use all of its device, after the device was made larger: the disk was
resized, or the image file extended with truncate(1).

A mounted volume grows while it is used: give the directory. Otherwise give the
device and its key. A volume that uses all of its device already stays as
it is. Volumes never shrink.`,
		Example: `  truncate --size 20GiB vol.img
  sealvol grow /mnt
  sealvol grow --key-file vol.key vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			size, err := grow(a[0], &key)
			if err != nil {
				return err
			}
			return printGrown(c.OutOrStdout(), a[0], size, asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print the new size as JSON")
	return c
}

func printGrown(w io.Writer, what string, size int64, asJSON bool) error {
	if asJSON {
		return writeJSON(w, struct {
			Target    string `json:"target"`
			SizeBytes int64  `json:"sizeBytes"`
		}{what, size})
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", what, formatSize(size))
	return err
}

func grow(target string, key *keyFlags) (int64, error) {
	c, err := mountOrDevice(target, key)
	switch {
	case err != nil:
		return 0, err
	case c != nil:
		return c.Grow(context.Background())
	}
	return growDevice(target, key)
}

// mountOrDevice is the server of a mounted DIR, nil for a DEVICE. A key that is given
// for a DIR must be one of the volume's: then the server is returned with the error. With a nil key, only a DIR will do.
func mountOrDevice(target string, key *keyFlags) (*control.Client, error) {
	c, err := mounts.Server(target)
	switch {
	case err != nil:
		return nil, err
	case c == nil && key == nil:
		return nil, fmt.Errorf("%s: %w", target, mounts.ErrNotMounted)
	case c == nil:
		return nil, nil
	}
	return c, checkKey(c, target, key)
}

// checkKey has the server of a mount check a key that was given, which it does not need: scripts
// give it always, and who gives a wrong one means another volume. The key goes there as a descriptor.
func checkKey(c *control.Client, target string, key *keyFlags) error {
	if key == nil || !key.given() {
		return nil
	}
	if err := key.one(); err != nil {
		return err
	}
	f, err := keyFileOf([]keySource{key.source(volumectl.KeyOld)})
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, stop := untilSignal()
	defer stop()
	err = volumectl.FromServer(c.Do(ctx, control.Request{Op: volumectl.KeyCheck, File: f.File}, nil))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, control.ErrServer) && control.HasCode(err, control.CodeUnknown):
		return withHint(fmt.Errorf("%s: its server is of an earlier version, which can not check a key", target), "give none, or mount the volume anew")
	}
	return key.explain(fmt.Errorf("%s: %w", target, err))
}

func growDevice(path string, key *keyFlags) (size int64, err error) {
	v, dev, err := openWritable(path, key)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return v.Grow()
}
