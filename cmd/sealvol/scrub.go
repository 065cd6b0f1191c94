package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

type scrubOptions struct {
	key      keyFlags
	rate     byteSize
	from     string
	readOnly bool
	json     bool
}

func scrubCommand() *cobra.Command {
	var o scrubOptions
	c := &cobra.Command{
		Use:   "scrub [--key-file FILE] DEVICE-OR-DIR",
		Short: "Verify a volume, and repair what has a second copy",
		Long: `Read and verify everything that the volume refers to: the header, the root slots, all
copies of the metadata, and the contents of files. Scrub repairs what has a second copy:
the header, the root slots and the top levels of the metadata. For all other damage, it
lists the files and ranges that are lost.

A mounted volume is scrubbed while it is in use: give the directory. Otherwise, give
the device and its key.

If a scrub is interrupted, it prints the position to continue from with --from. The
position stays valid after a remount.

Exit codes: 0 no damage is left, 4 some damage could not be repaired.`,
		Example: `  sealvol scrub --rate 50MiB /mnt
  sealvol scrub --key-file vol.key --json vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error { return scrub(c.OutOrStdout(), &o, a[0]) },
	}
	f := c.Flags()
	o.key.register(f)
	f.Var(&o.rate, "rate", "maximum rate of reading per second, such as 50MiB")
	f.StringVar(&o.from, "from", "", "continue an interrupted scrub at this position")
	f.BoolVar(&o.readOnly, "read-only", false, "repair nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

// scrubReport is the JSON of scrub.
type scrubReport struct {
	Target string `json:"target"`
	Done   bool   `json:"done"`
	From   string `json:"from,omitempty"` // the position where another scrub can continue
	volumectl.ScrubResult
	Damages []*volumectl.Damage `json:"damages"`
}

func scrub(w io.Writer, o *scrubOptions, target string) error {
	server, err := mountOrDevice(target, &o.key)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	rep := &scrubReport{Target: target, Damages: []*volumectl.Damage{}}
	bar := newProgress("scrub")
	if server != nil {
		err = o.onMount(ctx, server, rep, bar)
	} else {
		err = o.onDevice(ctx, target, rep, bar)
	}
	bar.end()
	if err != nil && ctx.Err() == nil {
		return err
	}
	if rep.Done = err == nil; o.json {
		err = writeJSON(w, rep)
	} else {
		err = rep.text(w)
	}
	switch {
	case err != nil:
		return err
	case !rep.Done:
		return withHint(fmt.Errorf("%s: interrupted", target), "to continue, repeat the command with --from "+rep.From)
	case rep.DamageCount > rep.MendedCount:
		return &codeError{err: errReported, code: exitDamaged}
	}
	return nil
}

func (o *scrubOptions) onMount(ctx context.Context, server *control.Client, rep *scrubReport, bar *progress) error {
	rep.From = o.from
	return server.Do(ctx, control.Request{Op: "scrub", Args: volumectl.ScrubArgs{BytesPerSecond: int64(o.rate), From: o.from, ReadOnly: o.readOnly},
		Progress: func(p control.Progress) { bar.set(p.Done, p.Total) },
		Item: func(b json.RawMessage) error {
			var i volumectl.ScrubItem
			if err := json.Unmarshal(b, &i); err != nil {
				return err
			}
			if i.Damage != nil {
				rep.Damages = append(rep.Damages, i.Damage)
			} else {
				rep.From = i.Position
			}
			return nil
		}}, &rep.ScrubResult)
}

func (o *scrubOptions) onDevice(ctx context.Context, path string, rep *scrubReport, bar *progress) error {
	return onVolume(path, &o.key, o.readOnly, func(v *volume.Volume) error {
		r, err := v.Scrub(ctx, volume.ScrubOptions{BytesPerSecond: int64(o.rate), From: o.from, ReadOnly: o.readOnly, Progress: bar.set})
		if r == nil {
			return err
		}
		rep.From = r.Position
		rep.ScrubResult = volumectl.ScrubResult{BytesRead: r.Bytes, DamageCount: r.Total, MendedCount: r.Mended}
		for i := range r.Damages {
			rep.Damages = append(rep.Damages, volumectl.NewDamage(&r.Damages[i]))
		}
		return err
	})
}

func (r *scrubReport) text(w io.Writer) error {
	for _, d := range r.Damages {
		where, what := damagePlace(d), d.What
		if d.Mended {
			what += "; REPAIRED"
		}
		say(w, "%s: %s: %s\n", r.Target, where, what)
		for _, f := range d.Files {
			say(w, "%s:   affects %s\n", r.Target, printable(f))
		}
		if d.More > 0 {
			say(w, "%s:   affects %d more files\n", r.Target, d.More)
		}
	}
	if n := r.DamageCount - len(r.Damages); n > 0 {
		say(w, "%s: and %d more damaged places\n", r.Target, n)
	}
	if !r.Done {
		return nil
	}
	state := "no damage"
	if r.DamageCount > 0 {
		state = fmt.Sprintf("DAMAGED in %d places, %d of them repaired", r.DamageCount, r.MendedCount)
	}
	_, err := fmt.Fprintf(w, "%s: %s; %s read\n", r.Target, state, formatSize(int64(r.BytesRead)))
	return err
}

// damagePlace describes the location of damage, with the snapshot.
func damagePlace(d *volumectl.Damage) string {
	where := d.Where
	switch {
	case d.Path != "":
		where = fmt.Sprintf("%s at %d+%d", printable(d.Path), d.Offset, d.Length)
	case d.Inode != 0:
		where = fmt.Sprintf("inode %d (name unknown) at %d+%d", d.Inode, d.Offset, d.Length)
	}
	switch {
	case d.Head && d.Snapshot != "":
		return fmt.Sprintf("%s (also in snapshots; the oldest is %s)", where, d.Snapshot)
	case d.Snapshot != "":
		return fmt.Sprintf("snapshot %s, %s", d.Snapshot, where)
	}
	return where
}
