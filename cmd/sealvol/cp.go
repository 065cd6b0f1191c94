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
		Long: `Copy each PATH within the volume, with everything beneath, to DEST outside, without
mounting the volume. If DEST is a directory, copies are made in it (of / its
contents); otherwise there is one PATH, and DEST becomes the name of the copy.
Nothing that exists is overwritten.

Copies keep contents with their holes, modes, modification times, symbolic links and
extended attributes as far as DEST can; for root also owners. Not kept: set-user-ID
and set-group-ID of files, and file capabilities, since whoever wrote to the volume
could become root by them; hard links, which become files of their own. Device nodes
are not copied.

Files are only made beneath DEST: no link and no name in the volume leads out of it.
What can not be copied, damaged files say, is named, the rest is copied, and the
command fails at the end. A file is never left half copied under its name.`,
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
			err = copyout.Copy(v, a[1:len(a)-1], a[len(a)-1], copyout.Options{Progress: bar.set,
				Failed: func(path string, err error) { say(c.ErrOrStderr(), "%s: %v\n", printable(path), err) }})
			switch {
			case errors.Is(err, copyout.ErrExists):
				err = withHint(err, "give a directory, or a new name")
			case errors.Is(err, copyout.ErrNoDirectory):
				err = withHint(err, "more than one PATH can be copied into a directory only: make it first")
			}
			return err
		},
	}
	key.register(c.Flags())
	return c
}
