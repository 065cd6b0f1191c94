package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

func freezeCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "freeze [--timeout 1m] DIR [-- COMMAND [ARG...]]",
		Short: "Freeze a mounted volume to copy its device",
		Long: `Write everything to the device and block all changes. The device then stays the same,
byte for byte, and can be copied. Programs that change something wait. Reads and fsync
continue to work.

With a COMMAND, the volume stays frozen while the command runs. It also thaws if this
program dies. Without a COMMAND, run "sealvol thaw DIR" to end the freeze. The timeout,
at most one hour, always ends it. If the timeout ends the freeze before the COMMAND
exits, the copy may be inconsistent, and freeze fails.

The exit code is that of the COMMAND, or 1 if the timeout ended the freeze.`,
		Example: `  sealvol freeze /mnt -- cp vol.img copy.img
  sealvol freeze --timeout 10m /mnt`,
		Args: args(1, -1, "a DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if timeout <= 0 || timeout > time.Hour {
				return usageError(fmt.Errorf("--timeout %v: must be more than 0 and at most 1h", timeout))
			}
			if n := c.ArgsLenAtDash(); len(a) > 1 && n != 1 {
				return usageError(errors.New("expected one DIR; separate the COMMAND from it with --"))
			}
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal()
			defer stop()
			if err := volumectl.WriteBack(ctx, *server, a[0]); err != nil {
				return fmt.Errorf("%s: %w", a[0], err)
			}
			if len(a) == 1 {
				return server.Do(ctx, control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: timeout.Milliseconds()}}, nil)
			}
			return freezeWhile(ctx, server, a[0], timeout, a[1:])
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "thaw after this time, at most 1h")
	return c
}

// errRan ends the freeze request once the command has run.
var errRan = errors.New("the command has run")

// freezeWhile runs a command while a volume is frozen.
func freezeWhile(ctx context.Context, server *control.Client, dir string, timeout time.Duration, command []string) error {
	var cmdErr, thawErr error
	var thawed volumectl.Thawed
	err := server.Do(ctx, control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: timeout.Milliseconds(), Hold: true},
		Item: func(b json.RawMessage) error {
			var f volumectl.Frozen
			if err := json.Unmarshal(b, &f); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			cmdErr = cmd.Run()
			short, cancel := shortTime()
			defer cancel()
			thawErr = server.Do(short, control.Request{Op: "thaw", Args: volumectl.ThawArgs(f)}, &thawed)
			return errRan
		}}, nil)
	var exit *exec.ExitError
	switch {
	case !errors.Is(err, errRan):
		return err
	case thawErr == nil && thawed.Ended == 0: // before the command's own code, which a script may expect
		return withHint(fmt.Errorf("%s: the volume was thawed before the command ended; its copy may be inconsistent", dir), "discard the copy, and repeat with a longer --timeout")
	case errors.As(cmdErr, &exit) && exit.ExitCode() > 0:
		return &codeError{err: errReported, code: exit.ExitCode()}
	case cmdErr != nil:
		return fmt.Errorf("%s: %w", strings.Join(command, " "), cmdErr)
	case thawErr != nil:
		return thawErr
	}
	return nil
}

func thawCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "thaw DIR",
		Short:   "Thaw a mounted volume",
		Long:    `End all freezes of the volume on DIR, including those that run a COMMAND.`,
		Example: `  sealvol thaw /mnt`,
		Args:    args(1, 1, "one DIR"),
		RunE: func(_ *cobra.Command, a []string) error {
			server, err := mountOrDevice(a[0], nil)
			if err != nil {
				return err
			}
			ctx, cancel := shortTime()
			defer cancel()
			var t volumectl.Thawed
			if err := server.Do(ctx, control.Request{Op: "thaw"}, &t); err != nil {
				return err
			}
			if t.Ended == 0 {
				return fmt.Errorf("%s: the volume is not frozen", a[0])
			}
			return nil
		},
	}
}
