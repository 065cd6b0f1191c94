package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

type snapshotRestore struct {
	storedFlags
	key         keyFlags
	to          newKeyFlags
	suite       string
	size        byteSize
	force, json bool
	made        bool // the image file did not exist
	paths       []string
	privileged  bool
}

const restoreHelp = `Restore a stored snapshot.

To a DEVICE: make a new volume on a block device or in an image file, with everything
that is in the snapshot. Its size need not be that of the original. The key that you
give for the snapshot becomes the key of the new volume, unless one of the flags --new-…
gives another one; --recipient adds a recovery key. The recovery keys of the original do
not open it. If the command is interrupted, run it again: it resumes. Until it has
finished, nothing else opens the volume.

To a DIRECTORY: copy the files there. If it does not exist, end its name with / to create
it. --path chooses files or directories of the snapshot; without it, everything is
copied. The copies keep owners (for root), modes, times, links, hard links, holes,
extended attributes and ACLs. Whatever the target refuses is listed, and the command
fails at the end. Existing files are not overwritten; a file of the same size and time
counts as restored, so an interrupted command can be repeated. With --privileged,
set-user-ID and set-group-ID bits, file capabilities and device nodes are restored as
well: use it only if you trust all who could write to the volume, since these can give
them the rights of root on this machine.`

func snapshotRestoreCommand() *cobra.Command {
	var o snapshotRestore
	c := &cobra.Command{
		Use:   "restore --store URL --tenant-file FILE --key-file FILE SNAPSHOT DEVICE|DIRECTORY",
		Short: "Restore a stored snapshot to a device or a directory",
		Long:  restoreHelp,
		Example: `  sealvol snapshot restore --store file:///backup --tenant-file tenant.key --key-file vol.key --size 10GiB latest new.img
  sealvol snapshot restore --store file:///backup --recovery-key-file rescue.key --new-key-file new.key --recipient rescue.pub latest /dev/nvme2n1
  sealvol snapshot restore --store file:///backup --tenant-file tenant.key --key-file vol.key --path /etc nightly /tmp/etc`,
		Args: args(2, 2, "a SNAPSHOT and a DEVICE or DIRECTORY"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			toDir, err := o.toDirectory(a[1])
			if err != nil {
				return err
			}
			return readStored(ctx, &o.storedFlags, &o.key, a[0], func(s *stored, r *reading.Snapshot, sn *snapstore.Snapshot) error {
				if toDir {
					return o.directory(ctx, c.OutOrStdout(), s, r, sn, a[1])
				}
				return o.device(ctx, c.OutOrStdout(), s, r, sn, a[1])
			})
		},
	}
	f := c.Flags()
	o.register(f)
	o.key.register(f)
	o.to.register(c)
	o.rate.registerDownload(f)
	f.StringVar(&o.suite, "suite", "", "cipher of the new volume: xchacha20poly1305 or xaes256gcm (default: that of the snapshot)")
	f.Var(&o.size, "size", "size of the new volume, such as 10GiB; creates an image file if DEVICE does not exist")
	f.BoolVar(&o.force, "force", false, "overwrite the data on the device; it cannot be recovered")
	f.StringArrayVar(&o.paths, "path", nil, "with a DIRECTORY: restore this file or directory of the snapshot; may be repeated")
	f.BoolVar(&o.privileged, "privileged", false, "with a DIRECTORY: also restore set-user-ID bits, file capabilities and device nodes")
	f.BoolVar(&o.json, "json", false, "print one event per line, as JSON")
	return c
}

// toDirectory decides what the target is, and checks the flags.
func (o *snapshotRestore) toDirectory(target string) (bool, error) {
	fi, err := os.Stat(target)
	dir := err == nil && fi.IsDir() || strings.HasSuffix(target, "/") || len(o.paths) > 0
	volume := o.to.given() || o.to.recipient != "" || o.suite != "" || o.size != 0 || o.force
	switch {
	case dir && volume:
		return false, usageError(fmt.Errorf("%s is a directory: --size, --suite, --force, --recipient and --new-… are for a new volume", target))
	case dir && err == nil && !fi.IsDir():
		return false, withHint(usageError(fmt.Errorf("%s exists and is not a directory; existing files are not overwritten", target)),
			"give --path with a directory, or with a name that does not exist")
	case !dir && o.privileged:
		return false, usageError(errors.New("--privileged is for restoring to a directory; a new volume keeps everything"))
	}
	return dir, nil
}

// volumeKey returns the key of the new volume. erase is nil if it is that of the snapshot.
func (o *snapshotRestore) volumeKey(s *stored) (cred crypto.Credential, to crypto.Recipient, erase func(), err error) {
	cred, erase = s.cred, func() {}
	if o.to.given() {
		if cred, err = o.to.credential(); err != nil {
			return nil, nil, nil, err
		}
		erase = cred.Erase
		if o.to.lines {
			err = fmt.Errorf("read the passphrase: %w", crypto.ErrPassphraseLines)
		}
	}
	if secret, ok := cred.(*crypto.RecoverySecret); ok && err == nil {
		to, err = secret.Recipient()
	} else if err == nil {
		to = cred.(crypto.Recipient) // keys other than recovery keys are both
	}
	if err != nil {
		erase()
	}
	return cred, to, erase, err
}
