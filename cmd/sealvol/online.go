package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

// shortTime bounds questions that a server answers from memory.
func shortTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), answerTimeout)
}

// untilSignal is a context that SIGINT and SIGTERM end.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
}

// onVolume opens an unmounted volume for work on it, and commits.
func onVolume(path string, key *keyFlags, readOnly bool, work func(v *volume.Volume) error) (err error) {
	v, dev, err := openVolume(path, key, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return work(v)
}

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

func defragCommand() *cobra.Command {
	var key keyFlags
	var rate byteSize
	var asJSON bool
	c := &cobra.Command{
		Use:   "defrag [--key-file FILE] DEVICE-OR-DIR [PATH...]",
		Short: "Rewrite fragmented files in one piece",
		Long: `Rewrite the data of fragmented files so that it lies together: all of the volume, or
the given files and what is below the given directories (paths in the volume).
Contents and times stay, and the files can be used meanwhile. What is shared with
snapshots or other files is left alone.

For a mounted volume give the directory. Otherwise give the device and its key.`,
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
	c.Flags().Var(&rate, "rate", "rewrite at most that much a second")
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
		say(w, "%s: %s: %d of %d files rewritten, %s; extents %d, were %d; fragments %d, were %d\n", target, printable(p.Path), p.FilesRewritten, p.Files,
			formatSize(int64(p.BytesRewritten)), p.ExtentsAfter, p.ExtentsBefore, p.FragmentsAfter, p.FragmentsBefore)
		if n := len(p.DamagedInodes); n > 0 {
			return withHint(fmt.Errorf("%s: %s: %d files are damaged and were left as they are", target, p.Path, n), "run `sealvol scrub`, which names them")
		}
	}
	return nil
}

func trimCommand() *cobra.Command {
	var key keyFlags
	var offset, length, minLength byteSize
	var asJSON bool
	c := &cobra.Command{
		Use:   "trim [--key-file FILE] DEVICE-OR-DIR",
		Short: "Discard the free space of a volume",
		Long: `Tell the device below which parts of it are free, as fstrim(8) does: thin and flash
devices get them back, image files become sparse.

Whoever has the device then sees which parts of it are free, also if it was filled
with random bytes before.

For a mounted volume give the directory. Otherwise give the device and its key.`,
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
	f.Var(&offset, "offset", "begin there on the device")
	f.Var(&length, "length", "look at that much of the device; default: to its end")
	f.Var(&minLength, "min-length", "leave shorter runs of free space alone")
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

func freezeCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "freeze [--timeout 1m] DIR [-- COMMAND [ARG...]]",
		Short: "Bring a mounted volume to rest, to copy its device",
		Long: `Write everything to the device and hold all changes: the device then stays as it is,
byte for byte, and can be copied. Programs that change something wait; reads and
fsync go on.

With a COMMAND, the volume is frozen while it runs, and also thaws if this program
dies. Without one, the freeze ends with "sealvol thaw DIR". Either way it ends after
the timeout, at most an hour. If that comes first, a COMMAND has not copied the
state of one moment, and freeze fails.

The exit code is that of the COMMAND.`,
		Example: `  sealvol freeze /mnt -- cp vol.img copy.img
  sealvol freeze --timeout 10m /mnt`,
		Args: args(1, -1, "a DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if timeout <= 0 || timeout > time.Hour {
				return usageError(fmt.Errorf("--timeout %v: want more than nothing and at most an hour", timeout))
			}
			if n := c.ArgsLenAtDash(); len(a) > 1 && n != 1 {
				return usageError(errors.New("wants one DIR, and then -- before a COMMAND"))
			}
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal()
			defer stop()
			if err := volumectl.WriteBack(ctx, *server, a[0]); err != nil {
				return fmt.Errorf("%s: %w", a[0], err)
			}
			if len(a) == 1 {
				return server.Do(ctx, control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: timeout.Milliseconds()}}, nil)
			}
			return freezeWhile(ctx, server, a[0], timeout, a[1:])
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "thaw after that time in any case")
	return c
}

// errRan ends the conversation about a freeze, once the command has run.
var errRan = errors.New("the command has run")

// freezeWhile runs a command while a volume is frozen.
func freezeWhile(ctx context.Context, server *control.Client, dir string, timeout time.Duration, command []string) error {
	var cmdErr, thawErr error
	var thawed volumectl.Thawed
	err := server.Do(ctx, control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: timeout.Milliseconds(), Hold: true},
		Item: func(b json.RawMessage) error {
			var f volumectl.Frozen
			if err := json.Unmarshal(b, &f); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			cmdErr = cmd.Run()
			short, cancel := shortTime()
			defer cancel()
			thawErr = server.Do(short, control.Request{Op: "thaw", Args: volumectl.ThawArgs(f)}, &thawed)
			return errRan
		}}, nil)
	var exit *exec.ExitError
	switch {
	case !errors.Is(err, errRan):
		return err
	case thawErr == nil && thawed.Ended == 0: // before the command's own code, which a script may expect
		return withHint(fmt.Errorf("%s: it was thawed before the command had ended: what it copied is no state of one moment", dir), "give a longer --timeout")
	case errors.As(cmdErr, &exit) && exit.ExitCode() > 0:
		return &codeError{err: errReported, code: exit.ExitCode()}
	case cmdErr != nil:
		return fmt.Errorf("%s: %w", strings.Join(command, " "), cmdErr)
	case thawErr != nil:
		return thawErr
	}
	return nil
}

func thawCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "thaw DIR",
		Short:   "End all freezes of a mounted volume",
		Long:    `End all freezes of the volume on DIR, also those of a freeze that runs a command.`,
		Example: `  sealvol thaw /mnt`,
		Args:    args(1, 1, "one DIR"),
		RunE: func(_ *cobra.Command, a []string) error {
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, cancel := shortTime()
			defer cancel()
			var t volumectl.Thawed
			if err := server.Do(ctx, control.Request{Op: "thaw"}, &t); err != nil {
				return err
			}
			if t.Ended == 0 {
				return fmt.Errorf("%s: it is not frozen", a[0])
			}
			return nil
		},
	}
}

func logLevelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "log-level DIR debug|info|warn|error",
		Short:   "Change what the server of a mount logs",
		Long:    `Change what the server of the mount on DIR logs from now on.`,
		Example: `  sealvol log-level /mnt debug`,
		Args:    args(2, 2, "a DIR and a level"),
		RunE: func(_ *cobra.Command, a []string) error {
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, cancel := shortTime()
			defer cancel()
			err = server.Do(ctx, control.Request{Op: "loglevel", Args: volumectl.LogLevelArgs{Level: a[1]}}, nil)
			if control.HasCode(err, control.CodeMalformed) {
				return usageError(err)
			}
			return err
		},
	}
}
