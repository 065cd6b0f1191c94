package main

import (
	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mountserver"
)

func mountCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mount", Short: "Serves one volume; started by the mounter only", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return mounter.RunServer(c.Context(), mountserver.ForMounter(&logLevel))
		},
	}
}
