package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// maxLogBytes of a spawned mounter's log; at the next start beyond it the log is renamed to .1.
const maxLogBytes = 8 << 20

// Spawn returns a client of the mounter with this state directory, starting one with command if none
// answers. The mounter has a session of its own and a log file in the state directory, so that it outlives the caller.
func Spawn(ctx context.Context, stateDir string, command []string) (Client, error) {
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return Client{}, err
	}
	c := Client{Socket: SocketPath(stateDir)}
	if err := c.Ping(ctx); err == nil {
		return c, nil
	}
	if err := os.Mkdir(stateDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return c, err
	}
	logName := filepath.Join(stateDir, "mounter.log")
	if fi, err := os.Lstat(logName); err == nil && fi.Size() > maxLogBytes {
		_ = os.Rename(logName, logName+".1") // else it grows on: no reason to keep volumes from being mounted
	}
	log, err := os.OpenFile(logName, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return c, err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return c, fmt.Errorf("start the mounter: %w", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(gone)
	}()
	if err := c.WaitUp(ctx, gone); err != nil {
		return c, fmt.Errorf("start the mounter (see %s): %w", logName, err)
	}
	return c, nil
}
