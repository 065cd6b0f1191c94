package main

import (
	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/worker"
	"github.com/sealvol/sealvol/pkg/snapshot/job"
)

// snapshotWorkerProgram returns the command that starts this program as a snapshot worker.
var snapshotWorkerProgram = func() []string { return []string{"/proc/self/exe", "snapshot-worker"} }

// snapshotJob is what a snapshot worker does.
var snapshotJob worker.Job = job.Run

func snapshotWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "snapshot-worker", Short: "Stores one snapshot; started by the mounter only", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error { return worker.Run(c.Context(), snapshotJob) },
	}
}
