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

// maxLogBytes is when a spawned mounter's log is renamed to .1 at the next start.
const maxLogBytes = 8 << 20

// Spawn returns a client of the mounter with this state directory, and starts one with command if
// none answers. The mounter gets a session of its own and a log file in the state directory, so it
// survives the caller.
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
		_ = os.Rename(logName, logName+".1") // if this fails, the log keeps growing, which must not prevent mounts
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
		_ = cmd.Wait() // its log says why it ended
		close(gone)
	}()
	if err := c.WaitUp(ctx, gone); err != nil {
		return c, fmt.Errorf("start the mounter: %w (its log is %s)", err, logName)
	}
	return c, nil
}
