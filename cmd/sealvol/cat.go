package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

func catCommand() *cobra.Command {
	var key keyFlags
	c := &cobra.Command{
		Use:   "cat --key-file FILE DEVICE PATH...",
		Short: "Print files of a volume without mounting it",
		Long: `Print the contents of each PATH in the volume, without mounting it. Symbolic links
are followed inside the volume. Only verified bytes are printed. If a file is damaged,
the command stops there and fails.`,
		Example: `  sealvol cat --key-file vol.key vol.img /etc/app.conf`,
		Args:    args(2, -1, "a DEVICE and at least one PATH"),
		RunE: func(c *cobra.Command, a []string) error {
			v, end, err := openFS(a[0], &key)
			if err != nil {
				return err
			}
			defer end()
			buf := make([]byte, walk.ReadBytes)
			for _, p := range a[1:] {
				e, err := walk.Lookup(v, p, true)
				if err != nil {
					return err
				}
				switch e.Kind() {
				case unix.S_IFREG:
				case unix.S_IFDIR:
					return fmt.Errorf("%s: %w", printable(p), vfs.ErrIsDir)
				default:
					return fmt.Errorf("%s: not a regular file", printable(p))
				}
				if err := walk.ReadFile(v, e.Attr.Ino, c.OutOrStdout(), buf); err != nil {
					return fmt.Errorf("%s: %w", printable(p), err)
				}
			}
			return nil
		},
	}
	key.register(c.Flags())
	return c
}
