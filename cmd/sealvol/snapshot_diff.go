package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/snapshot/diff"
	"github.com/sealvol/sealvol/pkg/volume"
)

type snapshotDiff struct {
	storedFlags
	key          keyFlags
	json, ranges bool
}

func snapshotDiffCommand() *cobra.Command {
	var o snapshotDiff
	c := &cobra.Command{
		Use:   "diff [--key-file FILE] [--ranges] [--json] DEVICE-OR-DIR FROM [TO] | --store URL --tenant-file FILE --key-file FILE FROM TO",
		Short: "List the differences of two snapshots",
		Long: `List the differences between snapshot FROM and snapshot TO. Only changed parts are read.
Each line has a sign and a path:

  +  created        -  removed         R  renamed, from -> to
  L  link added     U  link removed    M  content modified    A  attributes changed

Without --store, FROM and TO are local snapshots of a volume. Without TO, FROM is
compared with the present state of the volume.

With --store, FROM and TO are stored snapshots of the same volume, or of one that was
restored from it. No content of files is read from the store.

With --json, each line is one object.`,
		Example: `  sealvol snapshot diff /mnt before-upgrade
  sealvol snapshot diff --key-file vol.key --ranges vol.img monday tuesday
  sealvol snapshot diff --store file:///backup --tenant-file tenant.key --key-file vol.key monday tuesday`,
		Args: args(1, 3, "a DEVICE-OR-DIR and one or two NAMEs, or --store and two SNAPSHOTs"),
		RunE: func(c *cobra.Command, a []string) error {
			isStored, err := o.isStored(c, len(a), 2)
			switch {
			case err != nil:
				return err
			case isStored && len(a) != 2:
				return usageError(errors.New("with --store, give two SNAPSHOTs"))
			case isStored:
				ctx, cancel := interruptible(c)
				defer cancel()
				return o.stored(ctx, c.OutOrStdout(), a[0], a[1])
			case len(a) < 2:
				return usageError(errors.New("expected a DEVICE-OR-DIR and one or two NAMEs, got 1 arguments"))
			}
			return o.local(c.OutOrStdout(), a)
		},
	}
	f := c.Flags()
	o.key.register(f)
	o.register(f)
	o.rate.registerDownload(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object per line")
	f.BoolVar(&o.ranges, "ranges", false, "also print the modified ranges of files")
	return c
}

// local compares local snapshots.
func (o *snapshotDiff) local(w io.Writer, a []string) (err error) {
	to := ""
	if len(a) == 3 {
		to = a[2]
	}
	t, err := openTarget(a[0], &o.key, to != "") // the present state needs the log replayed
	if err != nil {
		return err
	}
	defer t.end(&err)
	return t.wrap(t.diff(volumectl.DiffArgs{From: a[1], To: to, Ranges: o.ranges}, func(x volumectl.Change) error { return printChange(w, x, o.json) }))
}

// stored compares stored snapshots.
func (o *snapshotDiff) stored(ctx context.Context, w io.Writer, from, to string) error {
	s, err := o.open(ctx, &o.key)
	if err != nil {
		return err
	}
	defer s.end()
	a, _, err := s.read(ctx, &o.key, from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, _, err := s.read(ctx, &o.key, to)
	if err != nil {
		return err
	}
	defer b.Close()
	err = diff.Snapshots(ctx, a.DiffSource(), b.DiffSource(), diff.Options{Ranges: o.ranges}, func(x volume.Change) error {
		return printChange(w, volumectl.ChangeOf(x), o.json)
	})
	return explainRead(o.wrap(err))
}

func (t *snapshotTarget) diff(a volumectl.DiffArgs, fn func(volumectl.Change) error) error {
	if t.live != nil {
		if a.To == "" { // the present state
			if err := volumectl.WriteBack(context.Background(), *t.live, t.name); err != nil {
				return err
			}
		}
		return volumectl.Diff(context.Background(), *t.live, a, fn)
	}
	return t.vol.Diff(a.From, a.To, volume.DiffOptions{Ranges: a.Ranges}, func(c volume.Change) error { return fn(volumectl.ChangeOf(c)) })
}

var changeSigns = map[string]string{"created": "+", "removed": "-", "renamed": "R", "linked": "L", "unlinked": "U", "modified": "M", "changed": "A"}

func printChange(w io.Writer, x volumectl.Change, asJSON bool) error {
	if asJSON {
		return writeLine(w, x)
	}
	line := changeSigns[x.Kind] + "  "
	if x.OldPath != "" {
		line += printable(x.OldPath) + " -> "
	}
	line += printable(x.Path)
	for _, r := range x.Ranges {
		line += fmt.Sprintf(" %d+%d", r[0], r[1])
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
