package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/volume/vfs/copyout"
)

func cpCommand() *cobra.Command {
	var key keyFlags
	c := &cobra.Command{
		Use:   "cp --key-file FILE DEVICE PATH... DEST",
		Short: "Copy files and trees out of a volume without mounting it",
		Long: `Copy each PATH in the volume, with everything below it, to DEST outside the volume,
without mounting the volume. If DEST is a directory, the copies are created in it. For
the PATH /, the contents of the root directory are copied. If DEST is not a directory,
give only one PATH, and the copy gets the name DEST. Existing files are never
overwritten.

The copies keep contents, holes, modes, modification times, symbolic links and, as far
as DEST supports them, extended attributes. Root also keeps owners. The set-user-ID and
set-group-ID bits of files and file capabilities are dropped, because somebody who could
write to the volume could use them to become root. Hard links become separate files.
Device nodes are not copied.

Files are created only below DEST. No link or name in the volume can lead out of it. If
something cannot be copied, such as a damaged file, the command prints its name, copies
the rest, and fails at the end. A file gets its name only when it is complete.`,
		Example: `  sealvol cp --key-file vol.key vol.img /data/db /restore
  sealvol cp --key-file vol.key vol.img / /restore/everything`,
		Args: args(3, -1, "a DEVICE, at least one PATH and a DEST"),
		RunE: func(c *cobra.Command, a []string) error {
			v, end, err := openFS(a[0], &key)
			if err != nil {
				return err
			}
			defer end()
			bar := newProgress("copy")
			defer bar.end()
			_, err = copyout.Copy(v, a[1:len(a)-1], a[len(a)-1], copyout.Options{Progress: bar.set,
				Failed: func(path string, err error) { say(c.ErrOrStderr(), "%s: %v\n", printable(path), err) }})
			switch {
			case errors.Is(err, copyout.ErrExists):
				err = withHint(err, "give a directory, or a name that does not exist")
			case errors.Is(err, copyout.ErrNoDirectory):
				err = withHint(err, "to copy more than one PATH, create the directory first")
			}
			return err
		},
	}
	key.register(c.Flags())
	return c
}
