package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
)

func snapshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Make, list, compare and delete local snapshots of a volume",
		Long: `Local snapshots keep a volume as it was, within the volume itself. Making one takes
no time and no space; what is changed or deleted afterwards stays on the device for
as long as a snapshot holds it.

A volume that is mounted is named by its directory: its server does it, and needs no
key. Otherwise give the device and its key. Snapshots are read with
` + "`sealvol mount --snapshot NAME`" + `, also beside the mounted volume.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usageError(fmt.Errorf("unknown command %q", a[0]))
			}
			return c.Help()
		},
	}
	c.AddCommand(snapshotCreateCommand(), snapshotListCommand(), snapshotShowCommand(), snapshotDeleteCommand(), snapshotRollbackCommand(), snapshotDiffCommand())
	for _, name := range []string{"ls", "cat", "restore", "mount", "verify", "forget", "prune"} {
		c.AddCommand(laterCommand(name)) // of chunk stores
	}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			laterFlag(sub.Flags(), "store")
		}
	}
	return c
}

// snapshotTarget is a volume whose snapshots are worked on: mounted, or open here.
type snapshotTarget struct {
	name string
	live *control.Client // nil: not mounted
	vol  *volume.Volume
	dev  io.Closer
}

// openTarget opens a volume, or finds its server.
func openTarget(c *cobra.Command, path string, key *keyFlags, readOnly bool) (*snapshotTarget, error) {
	if err := checkLater(c.Flags(), "store"); err != nil {
		return nil, err
	}
	live, err := mounts.Server(path)
	if err != nil {
		return nil, err
	}
	if live != nil {
		if err := checkKey(live, path, key); err != nil {
			return nil, err
		}
		return &snapshotTarget{name: path, live: live}, nil
	}
	v, dev, err := openVolume(path, key, readOnly)
	if err != nil {
		return nil, err
	}
	return &snapshotTarget{name: path, vol: v, dev: dev}, nil
}

// end closes the volume.
func (t *snapshotTarget) end(err *error) {
	if t.vol != nil {
		*err = errors.Join(*err, t.vol.Close(), t.dev.Close())
	}
}

func (t *snapshotTarget) list() ([]volumectl.Snapshot, error) {
	if t.live != nil {
		return volumectl.Snapshots(context.Background(), *t.live)
	}
	infos, err := t.vol.Snapshots()
	list := make([]volumectl.Snapshot, 0, len(infos))
	for _, i := range infos {
		list = append(list, volumectl.SnapshotOf(i))
	}
	return list, err
}

func (t *snapshotTarget) create(name string) (s volumectl.Snapshot, err error) {
	if t.live != nil {
		if err := volumectl.WriteBack(context.Background(), *t.live, t.name); err != nil {
			return s, err
		}
		return s, t.live.Do(context.Background(), control.Request{Op: "snapshot-create", Args: volumectl.SnapshotArgs{Name: name}}, &s)
	}
	i, err := t.vol.CreateSnapshot(name)
	return volumectl.SnapshotOf(i), err
}

func (t *snapshotTarget) delete(name string) error {
	if t.live != nil {
		return t.live.Do(context.Background(), control.Request{Op: "snapshot-delete", Args: volumectl.SnapshotArgs{Name: name}}, nil)
	}
	return t.vol.DeleteSnapshot(name)
}

// wrap says which volume an error is about.
func (t *snapshotTarget) wrap(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", t.name, err)
	switch {
	case errors.Is(err, volume.ErrNoSnapshot) || control.HasCode(err, volumectl.CodeNotFound):
		return withHint(err, "`sealvol snapshot list` shows those that there are")
	case errors.Is(err, volume.ErrSnapshotInUse) || control.HasCode(err, volumectl.CodeInUse):
		return withHint(err, "unmount it first")
	case errors.Is(err, volume.ErrNewerSnapshots):
		return withHint(err, "--delete-newer deletes them as well")
	}
	return err
}

func snapshotCreateCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "create [--key-file FILE] DEVICE-OR-DIR NAME...",
		Short: "Make snapshots",
		Long: `Make a snapshot of everything that was written before. It is durable when the command
returns. Names have up to 128 letters, digits and . _ - : + @, and begin with a
letter, a digit or _.`,
		Example: `  sealvol snapshot create /mnt before-upgrade
  sealvol snapshot create --key-file vol.key vol.img monday`,
		Args: args(2, -1, "a DEVICE-OR-DIR and at least one NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(c, a[0], &key, false)
			if err != nil {
				return err
			}
			defer t.end(&err)
			var made []volumectl.Snapshot
			for _, name := range a[1:] {
				s, err := t.create(name)
				if err != nil {
					return t.wrap(err)
				}
				made = append(made, s)
			}
			return printSnapshots(c.OutOrStdout(), made, asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return c
}

func snapshotListCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [--key-file FILE] [--json] DEVICE-OR-DIR",
		Short: "List the snapshots of a volume",
		Long: `List the snapshots of a volume, the oldest first. UNIQUE is what deleting the snapshot
would free, REFERENCED what files and metadata took when it was made.`,
		Example: `  sealvol snapshot list /mnt
  sealvol snapshot list --key-file vol.key --json vol.img`,
		Args: args(1, 1, "one DEVICE-OR-DIR"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(c, a[0], &key, true)
			if err != nil {
				return err
			}
			defer t.end(&err)
			list, err := t.list()
			if err != nil {
				return t.wrap(err)
			}
			return printSnapshots(c.OutOrStdout(), list, asJSON)
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return c
}

func printSnapshots(w io.Writer, list []volumectl.Snapshot, asJSON bool) error {
	if asJSON {
		if list == nil {
			list = []volumectl.Snapshot{}
		}
		return writeJSON(w, struct {
			Snapshots []volumectl.Snapshot `json:"snapshots"`
		}{list})
	}
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	say(t, "NAME\tCREATED\tGENERATION\tUNIQUE\tREFERENCED\n")
	for _, s := range list {
		name := s.Name
		if s.Deleting {
			name += " (being deleted)"
		}
		say(t, "%s\t%s\t%d\t%s\t%s\n", name, s.Created.Local().Format(time.DateTime), s.Generation, formatSize(s.UniqueBytes), formatSize(s.ReferencedBytes))
	}
	return t.Flush()
}

func snapshotShowCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [--key-file FILE] [--json] DEVICE-OR-DIR NAME...",
		Short: "Show what is known of snapshots",
		Long: `Show what is known of each snapshot, the oldest key epoch included that its data may
need: a rotation of the data key keeps that epoch until the snapshot is deleted.`,
		Example: `  sealvol snapshot show /mnt before-upgrade`,
		Args:    args(2, -1, "a DEVICE-OR-DIR and at least one NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(c, a[0], &key, true)
			if err != nil {
				return err
			}
			defer t.end(&err)
			list, err := t.list()
			if err != nil {
				return t.wrap(err)
			}
			var found []volumectl.Snapshot
			for _, name := range a[1:] {
				s, ok := findSnapshot(list, name)
				if !ok {
					return t.wrap(fmt.Errorf("%w: %s", volume.ErrNoSnapshot, printable(name)))
				}
				found = append(found, s)
			}
			if asJSON {
				return printSnapshots(c.OutOrStdout(), found, true)
			}
			for i, s := range found {
				if i > 0 {
					say(c.OutOrStdout(), "\n")
				}
				showSnapshot(c.OutOrStdout(), s)
			}
			return nil
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return c
}

func findSnapshot(list []volumectl.Snapshot, name string) (volumectl.Snapshot, bool) {
	for _, s := range list {
		if s.Name == name && !s.Deleting {
			return s, true
		}
	}
	return volumectl.Snapshot{}, false
}

func showSnapshot(w io.Writer, s volumectl.Snapshot) {
	line := func(name, format string, args ...any) { say(w, "%-12s %s\n", name+":", fmt.Sprintf(format, args...)) }
	line("Name", "%s", s.Name)
	line("Created", "%s", s.Created.Local().Format(time.RFC3339Nano))
	line("Generation", "%d", s.Generation)
	line("Unique", "%s (%d bytes)", formatSize(s.UniqueBytes), s.UniqueBytes)
	line("Referenced", "%s (%d bytes)", formatSize(s.ReferencedBytes), s.ReferencedBytes)
	line("Inodes", "%d", s.Inodes)
	line("Key epoch", "%d", s.KeyEpoch)
	if s.Open {
		line("In use", "yes, it is mounted or read")
	}
}

func snapshotDeleteCommand() *cobra.Command {
	var key keyFlags
	c := &cobra.Command{
		Use:   "delete [--key-file FILE] DEVICE-OR-DIR NAME...",
		Short: "Delete snapshots",
		Long: `Delete snapshots. What only they held becomes free space: at once of a volume that is
not mounted; otherwise in the background, and after a crash by the next mount. A
snapshot that is mounted or read can not be deleted.`,
		Example: `  sealvol snapshot delete /mnt monday tuesday`,
		Args:    args(2, -1, "a DEVICE-OR-DIR and at least one NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(c, a[0], &key, false)
			if err != nil {
				return err
			}
			defer t.end(&err)
			for _, name := range a[1:] {
				if err := t.delete(name); err != nil {
					return t.wrap(err)
				}
			}
			if t.live == nil {
				return t.wrap(t.vol.WaitFreed())
			}
			return nil
		},
	}
	key.register(c.Flags())
	return c
}

func snapshotRollbackCommand() *cobra.Command {
	var key keyFlags
	var newer bool
	c := &cobra.Command{
		Use:   "rollback --key-file FILE [--delete-newer] DEVICE NAME",
		Short: "Make a volume what it was at a snapshot",
		Long: `Make a volume what it was when the snapshot was made. Everything that was written
since is lost. Snapshots newer than that stand in the way, unless --delete-newer
deletes them as well. The snapshot itself stays.

The volume must not be mounted. A crash leaves it as it was, or rolled back.`,
		Example: `  sealvol umount /mnt
  sealvol snapshot rollback --key-file vol.key vol.img before-upgrade`,
		Args: args(2, 2, "a DEVICE and a NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(c, a[0], &key, false)
			if err != nil {
				return err
			}
			if t.live != nil {
				return withHint(fmt.Errorf("%s is mounted: programs would see files change under them", a[0]), "unmount it first: sealvol umount "+a[0])
			}
			if err := t.vol.Rollback(a[1], newer); err != nil {
				err = t.wrap(err)
				t.end(&err)
				return err
			}
			if err := t.dev.Close(); err != nil {
				return err
			}
			// What is not needed any more is freed now: the next mount need not.
			if t, err = openTarget(c, a[0], &key, false); err != nil {
				return fmt.Errorf("rolled back; then: %w", err)
			}
			defer t.end(&err)
			return t.wrap(t.vol.WaitFreed())
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&newer, "delete-newer", false, "delete the snapshots that are newer")
	return c
}

func snapshotDiffCommand() *cobra.Command {
	var key keyFlags
	var asJSON, ranges bool
	c := &cobra.Command{
		Use:   "diff [--key-file FILE] [--ranges] [--json] DEVICE-OR-DIR FROM [TO]",
		Short: "List what changed since a snapshot",
		Long: `List what is different in snapshot TO, or in the volume as it is, against snapshot FROM.
Only what changed is read. Each line has a sign and a path:

  +  created        -  removed         R  renamed, from -> to
  L  one more name  U  one name less   M  content modified    A  attributes changed

With --json there is one object on each line.`,
		Example: `  sealvol snapshot diff /mnt before-upgrade
  sealvol snapshot diff --key-file vol.key --ranges vol.img monday tuesday`,
		Args: args(2, 3, "a DEVICE-OR-DIR and one or two NAMEs"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			to := ""
			if len(a) == 3 {
				to = a[2]
			}
			t, err := openTarget(c, a[0], &key, to != "") // the volume as it is needs its log replayed
			if err != nil {
				return err
			}
			defer t.end(&err)
			return t.wrap(t.diff(volumectl.DiffArgs{From: a[1], To: to, Ranges: ranges}, func(x volumectl.Change) error {
				return printChange(c.OutOrStdout(), x, asJSON)
			}))
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	c.Flags().BoolVar(&ranges, "ranges", false, "tell which bytes of files were modified")
	return c
}

func (t *snapshotTarget) diff(a volumectl.DiffArgs, fn func(volumectl.Change) error) error {
	if t.live != nil {
		if a.To == "" { // the volume as it is
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
