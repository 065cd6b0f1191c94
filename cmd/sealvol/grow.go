package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

func growCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "grow [--key-file FILE] DEVICE-OR-DIR",
		Short: "Let a volume use all of its device",
		Long: `Let a volume use all of its device, after the device was made larger: the disk was
resized, or the image file extended with truncate(1).

A mounted volume grows while it is used: give the directory, and no key. Otherwise
give the device and its key. A volume that uses all of its device already stays as
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
	c, mounted, err := serverOf(target)
	if err != nil {
		return 0, err
	}
	if mounted {
		if key.given() {
			return 0, usageError(fmt.Errorf("%s is a mount: its server has the key, give none", target))
		}
		return c.Grow(context.Background())
	}
	return growDevice(target, key)
}

// serverOf finds the server of a mounted DIR; mounted is false for a DEVICE.
func serverOf(target string) (c control.Client, mounted bool, err error) {
	abs, err := resolveMount(target)
	if err != nil {
		return c, false, err
	}
	m, err := mountOn(abs)
	if err != nil {
		return c, false, err
	}
	if m != nil {
		c, err = control.Find(abs)
		return c, true, err
	}
	if fi, err := os.Stat(abs); err == nil && fi.IsDir() {
		return c, false, fmt.Errorf("%s: no sealed volume is mounted there", target)
	}
	return c, false, nil
}

// mountOrDevice is the server of a mounted DIR, whose key is not given then; nil for a
// DEVICE. With a nil key, only a DIR will do.
func mountOrDevice(target string, key *keyFlags) (*control.Client, error) {
	c, mounted, err := serverOf(target)
	switch {
	case err != nil:
		return nil, err
	case !mounted && key == nil:
		return nil, fmt.Errorf("%s: no sealed volume is mounted there", target)
	case !mounted:
		return nil, nil
	case key != nil && key.given():
		return nil, usageError(fmt.Errorf("%s is a mount: its server has the key, give none", target))
	}
	return &c, nil
}

func growDevice(path string, key *keyFlags) (size int64, err error) {
	v, dev, err := openWritable(path, key)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return v.Grow()
}
