package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

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
		Short: "Grow a volume to the size of its device",
		Long: `Grow a volume to the size of its device. Enlarge the device first: resize the disk, or
extend the image file with truncate(1).

A mounted volume grows while it is in use: give the directory. Otherwise, give the
device and its key. If the volume already uses the whole device, the command changes
nothing. A volume cannot shrink.`,
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

// serverOf returns the server of a mounted DIR, and nil for a DEVICE. If the server of a mount
// cannot be found, it says what to do.
func serverOf(target string) (*control.Client, error) {
	c, err := mounts.Server(target)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, withHint(fmt.Errorf("%s: cannot find the server of this mount", target),
			"run the command as the user who mounted the volume, such as root; if the server has died, run `sealvol umount "+target+"` and mount the volume again")
	}
	return c, err
}

// mountOrDevice returns the server of a mounted DIR, and nil for a DEVICE. If a key is given for a
// DIR and is not one of the volume's, it returns the server with the error. If key is nil, only a
// DIR is allowed.
func mountOrDevice(target string, key *keyFlags) (*control.Client, error) {
	c, err := serverOf(target)
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

// checkKey asks the server of a mount to check the key that was given. The server does not need it,
// but scripts may always give one, and a wrong key means that the user wants another volume. The
// key is sent as a file descriptor.
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
		return withHint(fmt.Errorf("%s: the mount server has an earlier version, which cannot check a key", target), "give no key, or unmount the volume and mount it again")
	}
	return explainLines(f.Lines, fmt.Errorf("%s: %w", target, err))
}

func growDevice(path string, key *keyFlags) (size int64, err error) {
	v, dev, err := openWritable(path, key)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return v.Grow()
}
