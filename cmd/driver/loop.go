package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// loopProgram returns the command that starts this program as the helper for loop devices.
var loopProgram = func() []string { return []string{"/proc/self/exe", "loop"} }

func loopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "loop", Short: "Binds loop devices; started by the mounter only", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error { return mounter.RunLoop(os.Stdin, os.Stdout) },
	}
}
