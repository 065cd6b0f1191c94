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

// writeBackProgram returns the command that starts this program as the helper that opens files of a
// mount.
var writeBackProgram = func() []string { return []string{"/proc/self/exe", "writeback"} }

// writeBackTimeout limits writing back mapped files before a volume is frozen.
const writeBackTimeout = 2 * time.Minute

func writeBackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "writeback SOCKET DIR", Short: "Makes the kernel write back mapped files; started by the node service only", Args: cobra.ExactArgs(2), Hidden: true,
		RunE: func(c *cobra.Command, a []string) error {
			return volumectl.WriteBack(c.Context(), control.Client{Path: a[0]}, a[1])
		},
	}
}

// writeBack makes the kernel write back what programs have stored through mappings of a volume's
// files. It uses a separate process, because the kernel does not release a process that waits for a
// hanging server. A raw block volume needs none of this: its loop device caches nothing.
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
		return errors.Join(ctx.Err(), errors.New("mapped files were not written back in time: the mount server does not answer the kernel, or the volume is frozen"))
	}
}
