package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

var (
	// ErrNotMounted means that no volume is mounted on the directory.
	ErrNotMounted = errors.New("no sealed volume is mounted there")
	// ErrMounted means that a volume is already mounted on the directory.
	ErrMounted = errors.New("a volume is already mounted there")
	// ErrNoDir means that the mount point does not exist.
	ErrNoDir = errors.New("does not exist")
)

// answerTime bounds requests that a server answers from memory.
const answerTime = 10 * time.Second

// Server returns the server of the volume that is mounted on target. It returns nil if target is
// not a directory and not mounted, because it may be a device.
func Server(target string) (*control.Client, error) {
	abs, err := Resolve(target)
	if err != nil {
		return nil, nil //nolint:nilerr // opening it as a device returns a better error
	}
	m, err := On(abs)
	if err != nil {
		return nil, err
	}
	switch {
	case m == nil:
		if fi, err := os.Stat(abs); err == nil && fi.IsDir() {
			return nil, fmt.Errorf("%s: %w", target, ErrNotMounted)
		}
		return nil, nil
	case m.FSType != fusefs.FSType:
		return nil, fmt.Errorf("%s: %w, but a file system of type %s", target, ErrNotMounted, m.FSType)
	}
	c, err := control.Find(abs)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// Prepare checks the directory to mount on, and removes the mount that a dead server left there. It
// returns the directory's absolute path.
func Prepare(dir string) (string, error) {
	abs, err := Resolve(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("mount point %s %w", dir, ErrNoDir)
	}
	if err != nil {
		return "", err
	}
	if m, err := On(abs); err != nil {
		return "", err
	} else if m != nil && m.FSType == fusefs.FSType {
		if !IsDead(abs) {
			return "", fmt.Errorf("%s: %w: %s", dir, ErrMounted, strconv.Quote(m.Source))
		}
		if err := fusefs.Unmount(abs, true); err != nil {
			return "", fmt.Errorf("remove the mount of a dead mount server: %w", err)
		}
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return "", err
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("mount point %s is not a directory", dir)
	}
	return abs, nil
}

// IsDead tells whether the server of the FUSE mount on dir has ended. A running server holds its
// control socket.
func IsDead(dir string) bool {
	if Status(dir) == nil {
		return false
	}
	// The kernel caches attributes for long; statfs always asks the server.
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
}

// Status asks the server of a mount whether it is running.
func Status(dir string) error {
	c, err := control.Find(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	_, err = c.Status(ctx)
	return err
}
