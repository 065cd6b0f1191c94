package main

import (
	"github.com/spf13/cobra"
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
			return catFiles(v, c.OutOrStdout(), a[1:])
		},
	}
	key.register(c.Flags())
	return c
}
