package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func defragCommand() *cobra.Command {
	var key keyFlags
	var rate byteSize
	var asJSON bool
	c := &cobra.Command{
		Use:   "defrag [--key-file FILE] DEVICE-OR-DIR [PATH...]",
		Short: "Defragment files",
		Long: `Rewrite fragmented files so that their data is contiguous on the device. Without a
PATH, the command defragments the whole volume. Each PATH is a file or directory in the
volume. Contents and times do not change, and the files can be used meanwhile. Data that
is shared with snapshots or other files is not moved.

For a mounted volume, give the directory. Otherwise, give the device and its key.`,
		Example: `  sealvol defrag --rate 20MiB /mnt
  sealvol defrag --key-file vol.key vol.img /var/lib/db`,
		Args: args(1, -1, "a DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			paths := a[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			return defrag(c.OutOrStdout(), a[0], paths, &key, int64(rate), asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().Var(&rate, "rate", "maximum rate per second, such as 20MiB")
	c.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return c
}

// defragReport is the JSON of defrag.
type defragReport struct {
	Target string       `json:"target"`
	Paths  []defragPath `json:"paths"`
}

type defragPath struct {
	Path string `json:"path"`
	*volumectl.Defragged
}

func defrag(w io.Writer, target string, paths []string, key *keyFlags, rate int64, asJSON bool) error {
	server, err := mountOrDevice(target, key)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	rep := defragReport{Target: target}
	all := func(one func(a volumectl.DefragArgs) (*volumectl.Defragged, error)) error {
		for _, p := range paths {
			d, err := one(volumectl.DefragArgs{Path: p, BytesPerSecond: rate})
			if err != nil {
				return err
			}
			rep.Paths = append(rep.Paths, defragPath{p, d})
		}
		return nil
	}
	if server != nil {
		err = all(func(a volumectl.DefragArgs) (*volumectl.Defragged, error) {
			d := &volumectl.Defragged{}
			return d, server.Do(ctx, control.Request{Op: "defrag", Args: a}, d)
		})
	} else {
		err = onVolume(target, key, false, func(v *volume.Volume) error {
			return all(func(a volumectl.DefragArgs) (*volumectl.Defragged, error) { return volumectl.Defrag(ctx, v, a, nil) })
		})
	}
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(w, &rep)
	}
	for _, p := range rep.Paths {
		say(w, "%s: %s: %d of %d files rewritten, %s; extents: %d, before: %d; fragments: %d, before: %d\n", target, printable(p.Path), p.FilesRewritten, p.Files,
			formatSize(int64(p.BytesRewritten)), p.ExtentsAfter, p.ExtentsBefore, p.FragmentsAfter, p.FragmentsBefore)
		if n := len(p.DamagedInodes); n > 0 {
			return withHint(fmt.Errorf("%s: %s: %d files are damaged and were not rewritten", target, p.Path, n), "run `sealvol scrub` to list them")
		}
	}
	return nil
}
