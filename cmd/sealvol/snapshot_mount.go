package main

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

type snapshotMount struct {
	storedFlags
	key   keyFlags
	mount mountOptions
}

func snapshotMountCommand() *cobra.Command {
	o := &snapshotMount{mount: mountOptions{readOnly: true, memory: minMemory}}
	c := &cobra.Command{
		Use:   "mount --store URL --tenant-file FILE --key-file FILE [flags] SNAPSHOT DIR",
		Short: "Mount a stored snapshot, read-only",
		Long: `Mount a stored snapshot at the directory DIR, read-only. The command returns when the
file system answers; nothing but a few objects is read from the store before that. What
is opened is read then, and verified. A background process serves the mount until it is
unmounted (sealvol umount DIR). With --foreground, the command itself is the server.

While it is mounted, nobody can prune the snapshot. If the store cannot be reached,
programs get I/O errors, and can try again.

Mount options (-o) are those of sealvol mount. SIGTERM and SIGINT unmount.`,
		Example: `  sealvol snapshot mount --store file:///backup --tenant-file tenant.key --key-file vol.key latest /mnt`,
		Args:    args(2, 2, "a SNAPSHOT and a DIR"),
		RunE: func(_ *cobra.Command, a []string) error {
			if err := o.wantStore(""); err != nil {
				return err
			}
			if err := o.key.one(); err != nil {
				return err
			}
			if err := o.mount.check(); err != nil {
				return err
			}
			if fd := o.mount.readyFD; fd != 0 {
				return forParent(fd, func(ready func() error) error { return o.serve(a[0], a[1], ready) })
			}
			dir, err := mountPoint(a[1])
			if err != nil {
				return err
			}
			if o.mount.foreground {
				return o.serve(a[0], dir, func() error { return nil })
			}
			return o.start(a[0], dir)
		},
	}
	f := c.Flags()
	o.register(f)
	o.key.register(f)
	o.rate.registerDownload(f)
	f.BoolVar(&o.mount.foreground, "foreground", false, "run the mount server in this process, and return when the snapshot is unmounted")
	f.StringArrayVarP(&o.mount.options, "options", "o", nil, "mount options, separated by commas")
	f.IntVar(&o.mount.readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err) // cannot happen: it was defined in the line before
	}
	return c
}

// start starts the server in the background. This process reads no secret.
func (o *snapshotMount) start(name, dir string) error {
	b := &background{}
	defer b.close()
	if err := b.secret(o.key.chosen()); err != nil {
		return err
	}
	if o.tenantFile != "" {
		if err := b.secret("tenant-file", o.tenantFile); err != nil {
			return err
		}
	}
	argv := []string{"--store", o.store}
	if o.tenant != "" {
		argv = append(argv, "--tenant", o.tenant)
	}
	if o.rate.download != 0 {
		argv = append(argv, "--limit-download", strconv.FormatInt(int64(o.rate.download), 10))
	}
	for _, opt := range o.mount.options {
		argv = append(argv, "-o", opt)
	}
	return b.start([]string{"snapshot", "mount"}, append(argv, "--", name, dir)...)
}

// serve mounts, and serves until the mount ends.
func (o *snapshotMount) serve(name, dir string, ready func() error) (err error) {
	logs := mountserver.NewLogFile()
	defer func() { logs.End(err) }()
	level := &slog.LevelVar{}
	if o.mount.readyFD != 0 { // the process that started us needs only warnings and errors
		level.Set(slog.LevelWarn)
	}
	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level})).With("store", o.place(), "dir", dir)
	signals := mountserver.Signals()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return readStored(ctx, &o.storedFlags, &o.key, name, func(s *stored, r *reading.Snapshot, sn *snapstore.Snapshot) error {
		s.cred.Erase()                      // reading takes the tenant's keys alone
		if fd := o.mount.readyFD; fd != 0 { // the secrets have been read; see background
			unix.Close(fd + 1)
			if o.tenantFile != "" {
				unix.Close(fd + 2)
			}
		}
		o.mount.mount.Source = o.place() + "@" + sn.ID.String()
		server := mountserver.OpenReader(r.View(ctx), mountserver.ReaderOptions{Name: sn.ID.String(), Log: log,
			Damaged: "some data of the stored snapshot is damaged or lost in its store, and reading it returns I/O errors; `sealvol snapshot verify` lists what is affected"})
		return server.MountAndServe(mountserver.Mount{Dir: dir, Options: o.mount.mount, Signals: signals, Ready: func() error {
			err := ready()
			if o.mount.readyFD != 0 {
				logs.Detach()
			}
			return err
		}})
	})
}
