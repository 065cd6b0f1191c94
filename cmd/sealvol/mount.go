package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
)

const mountHelp = `Mount the volume on DEVICE at the directory DIR. The command returns when the file
system answers. A background process, the mount server, serves it until it is
unmounted. With --foreground, the command itself is the server.

Synced data survives a crash of the server or the machine and a power failure: the next
mount replays the log. If such a crash left a dead mount on DIR, it is removed.

SIGTERM and SIGINT unmount cleanly. If files are in use, the server detaches and syncs
the mount, and serves it until the last file is closed. A second signal disconnects the
remaining users. If the device fails, the volume becomes read-only, and the server logs
an error.

Mount options (-o, separated by commas): ro rw suid nosuid dev nodev exec noexec
atime noatime relatime diratime nodiratime sync async dirsync, SELinux's context=
fscontext= defcontext= rootcontext=, and allow_other, the default for root only.
With discard, freed space is discarded in batches, so that thin and flash devices can
reuse it. Then anybody who has the device can see which parts of it are free. The
default is nodiscard. Permissions are always checked. Default: nosuid,nodev,noatime.

With --anchor-file, the server keeps an anchor of the volume in that file. It updates
the file after mounting, every 30 seconds while something changes, and when unmounting.
A later mount with this file refuses a device that was rolled back, forked or
overwritten. Keep the file where nobody who can change the device can change the file.
If the file does not exist, it is created. With --read-only, the file is only compared.

Logs go to standard error. If standard error is a pipe, a background server closes it
when the file system answers, and then logs to /run/sealvol/mount-PID.log (without root,
in $XDG_RUNTIME_DIR/sealvol). The log file is kept only if the mount ends with an error.

With --snapshot, the command mounts a local snapshot instead of the volume. If the
volume is mounted, give its directory instead of DEVICE. Then the server of the volume
also serves the snapshot, until the snapshot or the volume is unmounted.

Without root, fusermount3 mounts the volume. Other users can use the mount only with
-o allow_other, which requires user_allow_other in /etc/fuse.conf.`

func mountCommand() *cobra.Command {
	o := &mountOptions{memory: volume.DefaultMemory}
	c := &cobra.Command{
		Use:   "mount --key-file FILE [flags] DEVICE DIR",
		Short: "Mount a volume",
		Long:  mountHelp,
		Example: `  sealvol mount --key-file vol.key vol.img /mnt
  sealvol mount --key-file vol.key --read-only -o noexec /dev/nvme1n1 /mnt
  sealvol mount --key-file vol.key --foreground --memory 1GiB vol.img /mnt
  sealvol mount --snapshot nightly /mnt /mnt2`,
		Args: args(2, 2, "DEVICE and DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if o.snapshot != "" {
				if c, err := serverOf(a[0]); err != nil || c != nil {
					return mountBeside(o, c, err, a[0], a[1])
				}
			}
			if err := o.key.one(); err != nil {
				return err
			}
			if err := o.check(); err != nil {
				return err
			}
			if o.readyFD != 0 {
				return forParent(o.readyFD, func(ready func() error) error { return serve(o, a[0], a[1], ready) })
			}
			dir, err := mountPoint(a[1])
			if err != nil {
				return err
			}
			if o.foreground {
				return serve(o, a[0], dir, func() error { return nil })
			}
			return startServer(o, a[0], dir)
		},
	}
	f := c.Flags()
	o.key.register(f)
	f.BoolVar(&o.readOnly, "read-only", false, "write nothing to the device, not even to replay the log")
	f.StringVar(&o.snapshot, "snapshot", "", "mount this snapshot read-only; DEVICE may be the directory where the volume is mounted")
	f.BoolVar(&o.foreground, "foreground", false, "run the mount server in this process, and return when the volume is unmounted")
	f.Var(&o.memory, "memory", "limit of the memory that the volume uses, at least 32MiB")
	f.StringVar(&o.anchorFile, "anchor-file", "", "file for the volume's anchor; keep it on another device")
	f.StringArrayVarP(&o.options, "options", "o", nil, "mount options, separated by commas")
	f.IntVar(&o.readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err)
	}
	return c
}

// mountPoint checks the directory to mount on, and removes the mount that a dead server left there.
func mountPoint(dir string) (string, error) {
	abs, err := mounts.Prepare(dir)
	switch {
	case errors.Is(err, mounts.ErrMounted):
		err = withHint(err, "choose another directory, or unmount the volume: sealvol umount "+dir)
	case errors.Is(err, mounts.ErrNoDir):
		err = withHint(err, "create the directory first")
	}
	return abs, err
}

// mountBeside mounts a snapshot of a mounted volume.
func mountBeside(o *mountOptions, c *control.Client, err error, target, dir string) error {
	if err != nil {
		return err
	}
	if o.foreground {
		return usageError(errors.New("--foreground is not possible here: the server of the mounted volume serves the snapshot"))
	}
	if o.anchorFile != "" {
		return usageError(errors.New("--anchor-file is not possible here: the server of the mounted volume keeps the anchor"))
	}
	if err := o.check(); err != nil {
		return err
	}
	if err := checkKey(c, target, &o.key); err != nil {
		return err
	}
	abs, err := mountPoint(dir)
	if err != nil {
		return err
	}
	o.mount.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	slow, err := mounts.MountSnapshot(context.Background(), c, target, o.snapshot, abs, o.mount)
	if slow != nil && os.Geteuid() == 0 {
		say(os.Stderr, "cannot set read-ahead, reading may be slower: %v\n", slow)
	}
	return err
}
