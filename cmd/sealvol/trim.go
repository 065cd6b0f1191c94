package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func trimCommand() *cobra.Command {
	var key keyFlags
	var offset, length, minLength byteSize
	var asJSON bool
	c := &cobra.Command{
		Use:   "trim [--key-file FILE] DEVICE-OR-DIR",
		Short: "Discard the free space of a volume",
		Long: `Discard the free space of a volume, like fstrim(8). Thin and flash devices can then
reuse it, and image files become sparse.

Afterwards, anybody who has the device can see which parts of it are free, even if the
device was filled with random bytes before.

For a mounted volume, give the directory. Otherwise, give the device and its key.`,
		Example: `  sealvol trim /mnt
  sealvol trim --min-length 1MiB --key-file vol.key vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			n, err := trim(a[0], &key, volumectl.TrimArgs{Offset: int64(offset), Length: int64(length), MinLength: int64(minLength)})
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), struct {
					Target string `json:"target"`
					volumectl.Trimmed
				}{a[0], volumectl.Trimmed{TrimmedBytes: n}})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s trimmed\n", a[0], formatSize(int64(n)))
			return err
		},
	}
	f := c.Flags()
	key.register(f)
	f.Var(&offset, "offset", "start at this offset on the device")
	f.Var(&length, "length", "length of the range to search (default: to the end of the device)")
	f.Var(&minLength, "min-length", "skip shorter ranges of free space")
	f.BoolVar(&asJSON, "json", false, "print the number of bytes as JSON")
	return c
}

func trim(target string, key *keyFlags, a volumectl.TrimArgs) (uint64, error) {
	server, err := mountOrDevice(target, key)
	if err != nil {
		return 0, err
	}
	ctx, stop := untilSignal()
	defer stop()
	bar := newProgress("trim")
	defer bar.end()
	if server != nil {
		var t volumectl.Trimmed
		err := server.Do(ctx, control.Request{Op: "trim", Args: a, Progress: func(p control.Progress) { bar.set(p.Done, p.Total) }}, &t)
		return t.TrimmedBytes, err
	}
	var n uint64
	err = onVolume(target, key, false, func(v *volume.Volume) (err error) {
		n, err = v.Trim(ctx, volume.TrimOptions{Offset: a.Offset, Length: a.Length, MinLength: a.MinLength, Progress: bar.set})
		return err
	})
	return n, err
}
