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
		Short: "Verify all of a volume, and mend what has a second copy",
		Long: `Read and verify all that a volume refers to: header, roots, metadata in all copies,
and the contents of files. What has a second copy is mended: header, roots and the
top of the metadata. Of the rest the report names the files and ranges that are lost.

A mounted volume is scrubbed while it is used: give the directory. Otherwise give the
device and its key.

A scrub that is interrupted says where another one goes on (--from), also after a
remount.

Exit codes: 0 all is whole now, 4 there is damage that could not be mended.`,
		Example: `  sealvol scrub --rate 50MiB /mnt
  sealvol scrub --key-file vol.key --json vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) error { return scrub(c.OutOrStdout(), &o, a[0]) },
	}
	f := c.Flags()
	o.key.register(f)
	f.Var(&o.rate, "rate", "read at most that much a second")
	f.StringVar(&o.from, "from", "", "go on where a scrub stopped that was interrupted")
	f.BoolVar(&o.readOnly, "read-only", false, "mend nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

// scrubReport is the JSON of scrub.
type scrubReport struct {
	Target string `json:"target"`
	Done   bool   `json:"done"`
	From   string `json:"from,omitempty"` // where another one goes on
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
		return withHint(fmt.Errorf("%s: interrupted", target), "go on with --from "+rep.From)
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
			what += "; MENDED"
		}
		say(w, "%s: %s: %s\n", r.Target, where, what)
		for _, f := range d.Files {
			say(w, "%s:   it touches %s\n", r.Target, printable(f))
		}
		if d.More > 0 {
			say(w, "%s:   and %d files more\n", r.Target, d.More)
		}
	}
	if n := r.DamageCount - len(r.Damages); n > 0 {
		say(w, "%s: and %d damages more\n", r.Target, n)
	}
	if !r.Done {
		return nil
	}
	state := "all is whole"
	if r.DamageCount > 0 {
		state = fmt.Sprintf("DAMAGED in %d places, %d of them mended", r.DamageCount, r.MendedCount)
	}
	_, err := fmt.Fprintf(w, "%s: %s; %s read\n", r.Target, state, formatSize(int64(r.BytesRead)))
	return err
}

// damagePlace says where a damage is, and in which snapshot.
func damagePlace(d *volumectl.Damage) string {
	where := d.Where
	switch {
	case d.Path != "":
		where = fmt.Sprintf("%s at %d+%d", printable(d.Path), d.Offset, d.Length)
	case d.Inode != 0:
		where = fmt.Sprintf("inode %d (without a name) at %d+%d", d.Inode, d.Offset, d.Length)
	}
	switch {
	case d.Head && d.Snapshot != "":
		return fmt.Sprintf("%s (and in snapshots, the oldest is %s)", where, d.Snapshot)
	case d.Snapshot != "":
		return fmt.Sprintf("snapshot %s, %s", d.Snapshot, where)
	}
	return where
}
