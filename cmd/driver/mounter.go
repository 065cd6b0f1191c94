package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// mountProgram returns the command that starts this program as a mount server.
var mountProgram = func() []string { return []string{"/proc/self/exe", "mount"} }

func mounterCommand() *cobra.Command {
	var dir string
	var s serverFlags
	c := &cobra.Command{
		Use: "mounter", Short: "Starts and supervises mount servers, one process per volume; they keep running if it ends", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := makeParent(dir); err != nil {
				return err
			}
			return mounter.Run(c.Context(), mounter.Options{StateDir: dir, Command: append(mountProgram(), logArgs...),
				LoopCommand: append(loopProgram(), logArgs...), UID: s.uid, GID: s.gid,
				WorkerCommand: append(snapshotWorkerProgram(), logArgs...), WorkerUID: s.workerUID, WorkerGID: s.workerGID,
				WorkerMemoryBytes: s.workerMemory, MaxWorkers: s.maxWorkers,
				Cgroup: s.cgroup, MemoryBytes: s.memory, RuntimeDir: control.RuntimeDir(), TakesServers: os.Getpid() == 1, Hook: hook})
		},
	}
	c.Flags().StringVar(&dir, "mounter-dir", "/var/lib/sealvol/mounter", "state directory; it has the socket mounter.sock")
	s.add(c)
	return c
}
