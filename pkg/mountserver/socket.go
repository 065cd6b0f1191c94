package mountserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// controlSocket is where control.Find looks for this mount. The kernel gives a mount's number to
// the next mount at once, so after the unmount the name may belong to another server. Therefore
// names are created and removed under a lock on the directory.
type controlSocket struct {
	l    *net.UnixListener
	path string
	ino  uint64 // of the name that this server created
}

// listen opens the control socket of the mount with a connection. The mount also works without it,
// but grow, umount and similar commands are limited.
func listen(conn uint32, log *slog.Logger) (*controlSocket, error) {
	dir := control.RuntimeDir()
	if dir == "" {
		return nil, errors.New("XDG_RUNTIME_DIR is not set")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("%s is not a directory that only this user can write to", dir)
	}
	c := &controlSocket{path: control.SocketIn(dir, 0, int(conn))} // FUSE's device numbers have major 0
	err := control.LockNames(dir, func() (err error) {
		if to, err := os.Readlink(c.path); err == nil { // of a mount of the driver that had the same number
			log.Debug("replacing an old link", "to", to)
			if err := os.Remove(c.path); err != nil {
				return err
			}
		}
		if c.l, err = control.Listen(c.path); err != nil {
			return err
		}
		err = unix.Lstat(c.path, &st)
		c.ino = st.Ino
		return err
	})
	return c, err
}

// remove removes the name, if it still belongs to this server.
func (c *controlSocket) remove() error {
	return control.LockNames(filepath.Dir(c.path), func() error {
		var st unix.Stat_t
		err := unix.Lstat(c.path, &st)
		if err != nil || st.Ino != c.ino {
			return err
		}
		return os.Remove(c.path)
	})
}
