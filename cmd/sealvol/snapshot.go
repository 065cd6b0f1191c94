package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

func snapshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Create, list, compare and delete snapshots, local or in a store",
		Long: `There are two kinds of snapshots.

A local snapshot keeps the state of a volume, within the volume itself. Creating one is
fast and takes no space. Data that is changed or deleted afterwards stays on the device
as long as a snapshot refers to it. Commands take a DEVICE-OR-DIR: for a mounted volume,
the directory, and no key is needed; otherwise, the device and its key. To read a
snapshot, mount it with ` + "`sealvol mount --snapshot NAME`" + `. The volume may be mounted at
the same time.

A stored snapshot is an encrypted copy in a store, which is a directory or a bucket of
S3. It outlives the volume. Commands take --store URL, and --tenant-file for the secret
that all snapshots of the store depend on. Stored snapshots are forgotten and then
pruned, local ones are deleted.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usageError(fmt.Errorf("unknown command %q", a[0]))
			}
			return c.Help()
		},
	}
	create, diff, remove, rollback := snapshotCreateCommand(), snapshotDiffCommand(), snapshotDeleteCommand(), snapshotRollbackCommand()
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"both", "For local and stored snapshots:", []*cobra.Command{create, snapshotListCommand(), snapshotShowCommand(), diff}},
		{"local", "For local snapshots:", []*cobra.Command{remove, rollback}},
		{"stored", "For stored snapshots (--store):", []*cobra.Command{snapshotInitCommand(), snapshotForgetCommand(), snapshotUndeleteCommand(),
			snapshotPruneCommand(), snapshotKeyCommand(), snapshotLsCommand(), snapshotCatCommand(), snapshotVerifyCommand(), snapshotRestoreCommand(), snapshotMountCommand()}},
	} {
		c.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, sub := range g.commands {
			sub.GroupID = g.id
			c.AddCommand(sub)
		}
	}
	localOnly(remove, "stored snapshots are forgotten, not deleted", "use `sealvol snapshot forget --store URL`")
	localOnly(rollback, "a volume is rolled back to a local snapshot", "restore a stored snapshot to another device")
	return c
}

// localOnly makes a command that is for local snapshots alone explain that to whoever gives --store.
func localOnly(c *cobra.Command, why, instead string) {
	c.Flags().String("store", "", "")
	if err := c.Flags().MarkHidden("store"); err != nil {
		panic(err) // cannot happen: it was defined in the line before
	}
	check := c.Args
	c.Args = func(c *cobra.Command, a []string) error {
		if c.Flags().Changed("store") {
			return withHint(usageError(errors.New("--store is not for this command: "+why)), instead)
		}
		return check(c, a)
	}
}

// snapshotTarget is the volume of a snapshot command: mounted, or opened by this process.
type snapshotTarget struct {
	name string
	live *control.Client // nil if it is not mounted
	vol  *volume.Volume
	dev  io.Closer
}

// openTarget opens the volume on a device, or finds the server of a mount.
func openTarget(path string, key *keyFlags, readOnly bool) (*snapshotTarget, error) {
	live, err := serverOf(path)
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

// wrap adds the volume and a hint to an error.
func (t *snapshotTarget) wrap(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", t.name, err)
	switch {
	case errors.Is(err, volume.ErrNoSnapshot) || control.HasCode(err, volumectl.CodeNotFound):
		return withHint(err, "run `sealvol snapshot list` to see the snapshots of the volume")
	case errors.Is(err, volume.ErrSnapshotInUse) || control.HasCode(err, volumectl.CodeInUse):
		return withHint(err, "unmount the snapshot first, and wait for commands that read it")
	case errors.Is(err, volume.ErrNewerSnapshots):
		return withHint(err, "use --delete-newer to delete them as well")
	}
	return err
}

func snapshotDeleteCommand() *cobra.Command {
	var key keyFlags
	c := &cobra.Command{
		Use:   "delete [--key-file FILE] DEVICE-OR-DIR NAME...",
		Short: "Delete local snapshots",
		Long: `Delete snapshots. Data that only they refer to becomes free space. On an unmounted
volume, the command frees it. On a mounted volume, the server frees it in the
background; after a crash, the next mount continues. A snapshot that is mounted or being
read cannot be deleted.`,
		Example: `  sealvol snapshot delete /mnt monday tuesday`,
		Args:    args(2, -1, "a DEVICE-OR-DIR and at least one NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(a[0], &key, false)
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
		Short: "Roll a volume back to a local snapshot",
		Long: `Roll a volume back to the state of a snapshot. Everything written after the snapshot is
lost. If there are newer snapshots, the command fails, unless --delete-newer deletes
them as well. The snapshot itself is kept.

The volume must not be mounted. If the command is interrupted, the volume is either
unchanged or rolled back.`,
		Example: `  sealvol umount /mnt
  sealvol snapshot rollback --key-file vol.key vol.img before-upgrade`,
		Args: args(2, 2, "a DEVICE and a NAME"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			t, err := openTarget(a[0], &key, false)
			if err != nil {
				return err
			}
			if t.live != nil {
				return withHint(fmt.Errorf("%s: a mounted volume cannot be rolled back", a[0]), "unmount it first (sealvol umount "+a[0]+"), then give the device")
			}
			if err := t.vol.Rollback(a[1], newer); err != nil {
				err = t.wrap(err)
				t.end(&err)
				return err
			}
			if err := t.dev.Close(); err != nil {
				return err
			}
			// Free the space now, so that the next mount does not have to.
			if t, err = openTarget(a[0], &key, false); err != nil {
				return fmt.Errorf("the volume was rolled back, but freeing its space failed: %w", err)
			}
			defer t.end(&err)
			return t.wrap(t.vol.WaitFreed())
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&newer, "delete-newer", false, "also delete the snapshots that are newer")
	return c
}
