package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

// writeBackProgram starts this program as the helper that opens files of a mount.
var writeBackProgram = func() []string { return []string{"/proc/self/exe", "writeback"} }

// writeBackTimeout bounds the writing back of mapped files before a volume is brought to rest.
const writeBackTimeout = 2 * time.Minute

func writeBackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "writeback SOCKET DIR", Short: "Has the kernel write back mapped files; started by the node service, never by hand", Args: cobra.ExactArgs(2), Hidden: true,
		RunE: func(c *cobra.Command, a []string) error {
			return volumectl.WriteBack(c.Context(), control.Client{Path: a[0]}, a[1])
		},
	}
}

// writeBack has the kernel write back what programs have stored through mappings of a volume's
// files. A process of its own does so, since the kernel does not let go of one that waits for a
// server that hangs. A raw block volume has no such files: its loop device keeps nothing cached.
func writeBack(ctx context.Context, stateDir, id string) error {
	ctx, cancel := context.WithTimeout(ctx, writeBackTimeout)
	defer cancel()
	info, err := mounter.Client{Socket: mounter.SocketPath(stateDir)}.Health(ctx, id)
	if err != nil {
		return fmt.Errorf("write back mapped files: %w", err)
	}
	if info.BlockBytes > 0 {
		return nil
	}
	var out strings.Builder
	program := writeBackProgram()
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], mounter.ControlPath(stateDir, id), info.Target)...)
	cmd.Dir, cmd.Env = "/", os.Environ()
	cmd.Stderr = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("write back mapped files: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("write back mapped files: %w: %s", err, strings.TrimSpace(out.String()))
		}
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), errors.New("mapped files are not written back in time: the mount server does not answer the kernel, or the volume is frozen"))
	}
}
