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

const mountHelp = `Mount the volume on DEVICE on the directory DIR. The command returns once the file
system answers, and leaves a process behind that serves it until it is unmounted.
With --foreground the command itself serves.

Everything that was synced is there after a crash of the process, the machine or
its power: the next mount replays the log. A mount that such a crash left on DIR
is removed.

SIGTERM and SIGINT unmount cleanly; while files are in use the mount is detached,
synced and served on until the last is closed, or until a second signal cuts it off.
If the device fails, the volume stays readable and refuses changes; the log says so.

Mount options (-o, separated by commas): ro rw suid nosuid dev nodev exec noexec
atime noatime relatime diratime nodiratime sync async dirsync, SELinux's context=
fscontext= defcontext= rootcontext=, and allow_other, the default for root only.
With discard, freed space is discarded in batches: thin and flash devices get it
back, and whoever has the device sees which parts of it are free. Default: nodiscard.
Permissions are always checked. Default: nosuid,nodev,noatime.

With --anchor-file the mount keeps an anchor of the volume in that file: at once, every
30 seconds while something changes, and at the end. A device that holds an older state
than the file's, or another history, is refused from then on, and so is one that was
overwritten. Keep the file where whoever can change the device can not reach. A file
that does not exist is made; with --read-only it is only compared.

Logs go to standard error. If that is a pipe, a process in the background lets go
of it once the file system answers, and logs to /run/sealvol/mount-PID.log
($XDG_RUNTIME_DIR/sealvol without root); only logs of mounts that failed stay.

With --snapshot a local snapshot is mounted instead of the volume. While the volume is
mounted, give the directory where it is in place of DEVICE: its server serves the
snapshot as well, until either is unmounted.

Without root, fusermount3 does the mounting; others can use the mount with -o
allow_other alone, which needs user_allow_other in /etc/fuse.conf.`

func mountCommand() *cobra.Command {
	o := &mountOptions{memory: volume.DefaultMemory}
	c := &cobra.Command{
		Use:   "mount --key-file FILE [flags] DEVICE DIR",
		Short: "Mount a volume on a directory",
		Long:  mountHelp,
		Example: `  sealvol mount --key-file vol.key vol.img /mnt
  sealvol mount --key-file vol.key --read-only -o noexec /dev/nvme1n1 /mnt
  sealvol mount --key-file vol.key --foreground --memory 1GiB vol.img /mnt
  sealvol mount --snapshot nightly /mnt /mnt2`,
		Args: args(2, 2, "DEVICE and DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if o.snapshot != "" {
				if c, err := mounts.Server(a[0]); err != nil || c != nil {
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
				return serveForParent(o, a[0], a[1])
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
	f.BoolVar(&o.readOnly, "read-only", false, "write nothing to the device, not even to replay its log")
	f.StringVar(&o.snapshot, "snapshot", "", "mount this snapshot, to be read only; DEVICE may be the directory where the volume is mounted")
	f.BoolVar(&o.foreground, "foreground", false, "serve in this process and return when it is unmounted")
	f.Var(&o.memory, "memory", "bound of what the volume keeps in memory, at least 32MiB")
	f.StringVar(&o.anchorFile, "anchor-file", "", "file that keeps the volume's anchor, away from its device")
	f.StringArrayVarP(&o.options, "options", "o", nil, "mount options, separated by commas")
	f.IntVar(&o.readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err)
	}
	return c
}

// mountPoint checks the directory to mount on, and removes what a dead server left there.
func mountPoint(dir string) (string, error) {
	abs, err := mounts.Prepare(dir)
	switch {
	case errors.Is(err, mounts.ErrMounted):
		err = withHint(err, "choose another directory, or unmount it: sealvol umount "+dir)
	case errors.Is(err, mounts.ErrNoDir):
		err = withHint(err, "make the directory first")
	}
	return abs, err
}

// mountBeside mounts a snapshot of a volume that is mounted.
func mountBeside(o *mountOptions, c *control.Client, err error, target, dir string) error {
	if err != nil {
		return err
	}
	if o.foreground {
		return usageError(errors.New("--foreground: the server of the mounted volume serves the snapshot"))
	}
	if o.anchorFile != "" {
		return usageError(errors.New("--anchor-file: it is the server of the mounted volume that keeps the anchor"))
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
		say(os.Stderr, "read-ahead stays at the kernel's default: %v\n", slow)
	}
	return err
}
