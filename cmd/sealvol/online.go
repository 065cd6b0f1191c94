package main

import (
	"context"
	"errors"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

// shortTime limits requests that a server answers from memory.
func shortTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), answerTimeout)
}

// untilSignal returns a context that SIGINT and SIGTERM cancel.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
}

// onVolume opens an unmounted volume, runs work on it, and commits.
func onVolume(path string, key *keyFlags, readOnly bool, work func(v *volume.Volume) error) (err error) {
	v, dev, err := openVolume(path, key, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close(), dev.Close()) }()
	return work(v)
}

func logLevelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "log-level DIR debug|info|warn|error",
		Short:   "Change the log level of a mount server",
		Long:    `Change the log level of the server of the mount on DIR.`,
		Example: `  sealvol log-level /mnt debug`,
		Args:    args(2, 2, "a DIR and a level"),
		RunE: func(_ *cobra.Command, a []string) error {
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, cancel := shortTime()
			defer cancel()
			err = server.Do(ctx, control.Request{Op: "loglevel", Args: volumectl.LogLevelArgs{Level: a[1]}}, nil)
			if control.HasCode(err, control.CodeMalformed) {
				return usageError(err)
			}
			return err
		},
	}
}
