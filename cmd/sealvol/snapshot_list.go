package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func snapshotListCommand() *cobra.Command {
	var key keyFlags
	var from storedFlags
	var filter filterFlags
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "list [--key-file FILE] [--json] DEVICE-OR-DIR | --store URL --tenant-file FILE",
		Short: "List the snapshots of a volume or of a store",
		Long: `List snapshots, oldest first.

Of a volume (DEVICE-OR-DIR): its local snapshots. UNIQUE is what deleting the snapshot
would free. REFERENCED is what files and metadata used when it was created.

Of a store (--store): the stored snapshots of a tenant. SIZE is the size of all files,
STORED what the snapshot added to the store. --all also shows unfinished and forgotten
ones. Instead of --tenant-file, give a key that opens the copy of the tenant secret in
the store, such as --recovery-key-file.`,
		Example: `  sealvol snapshot list /mnt
  sealvol snapshot list --key-file vol.key --json vol.img
  sealvol snapshot list --store file:///backup --tenant-file tenant.key`,
		Args: args(0, 1, "one DEVICE-OR-DIR or --store"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			if isStored, err := from.isStored(c, len(a), 0); err != nil {
				return err
			} else if isStored {
				ctx, cancel := interruptible(c)
				defer cancel()
				return listStored(ctx, &from, &key, c.OutOrStdout(), c.ErrOrStderr(), &filter, all, asJSON)
			}
			t, err := openTarget(a[0], &key, true)
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
	from.register(c.Flags())
	filter.register(c.Flags())
	c.Flags().BoolVar(&all, "all", false, "with --store: also show unfinished and forgotten snapshots")
	c.Flags().BoolVar(&asJSON, "json", false, "print the snapshots as JSON")
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
	var from storedFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [--key-file FILE] [--json] DEVICE-OR-DIR NAME... | --store URL --tenant-file FILE SNAPSHOT...",
		Short: "Show the details of snapshots",
		Long: `Show the details of each snapshot.

Of a local snapshot, key epoch is the oldest data key that the snapshot may need. A
rotation of the data key keeps that key until the snapshot is deleted.

A stored snapshot (--store) is named by its handle, its id or the first digits of it,
its name, or "latest", "latest:VOLUME", "latest:NAMESPACE/CLAIM". With a key of the
snapshot, its manifest is checked, too.`,
		Example: `  sealvol snapshot show /mnt before-upgrade
  sealvol snapshot show --store file:///backup --tenant-file tenant.key --key-file vol.key latest`,
		Args: args(1, -1, "a DEVICE-OR-DIR or --store, and at least one snapshot"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			if isStored, err := from.isStored(c, len(a), -1); err != nil {
				return err
			} else if isStored {
				ctx, cancel := interruptible(c)
				defer cancel()
				return showStored(ctx, &from, &key, c.OutOrStdout(), a, asJSON)
			}
			return showLocal(c, a, &key, asJSON)
		},
	}
	key.register(c.Flags())
	from.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return c
}

// showLocal prints the details of local snapshots.
func showLocal(c *cobra.Command, a []string, key *keyFlags, asJSON bool) (err error) {
	if err := args(2, -1, "a DEVICE-OR-DIR and at least one NAME")(c, a); err != nil {
		return err
	}
	t, err := openTarget(a[0], key, true)
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
		line("In use", "yes, it is mounted or being read")
	}
}
