package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// maxSocketPath is the size of sun_path of unix(7) without the NUL.
const maxSocketPath = 107

// Listen creates a unix socket of mode 0600 at path. It replaces a socket that a dead process left.
// The caller makes sure that only one process does so (with a lock beside it). Paths may have any
// length.
func Listen(path string) (*net.UnixListener, error) {
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen on %s: a file that is not a socket already exists there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	// The mode must be right from the start. The umask belongs to the whole process, so use fchmod
	// before listen: until then, nobody can connect.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // by then, the path may belong to another server
	return ul, nil
}

// DialSocket connects to a unix socket; the path may have any length.
func DialSocket(ctx context.Context, path string) (*net.UnixConn, error) {
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", short)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// shorten returns a name that fits into sun_path. It goes through a descriptor of the directory.
func shorten(path string) (string, func(), error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	d, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	short := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path))
	if len(short) > maxSocketPath {
		d.Close()
		return "", nil, fmt.Errorf("socket name %s is too long", filepath.Base(path))
	}
	return short, func() { d.Close() }, nil
}

// PeerUID returns the user at the other end of a unix connection.
func PeerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}

// RuntimeDir returns the directory with the control sockets of this user's mounts: /run/sealvol for
// root, otherwise sealvol in $XDG_RUNTIME_DIR. It is "" if there is no such directory.
func RuntimeDir() string {
	if os.Geteuid() == 0 {
		return "/run/sealvol"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "sealvol")
	}
	return ""
}

// SocketIn returns the path of the control socket (or of a link to it) of the mount with a device
// number, as mountinfo shows it.
func SocketIn(dir string, major, minor int) string {
	return filepath.Join(dir, fmt.Sprintf("%d-%d.sock", major, minor))
}

// LockNames runs fn while no other process creates or removes names in a runtime directory. The
// kernel reuses the device number of a mount at once, so after the end of a mount its name may
// belong to another server.
func LockNames(dir string, fn func() error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	return fn()
}

// Find returns the client of the server that serves the mount at a path. It does not look into the
// mount.
func Find(mountpoint string) (Client, error) {
	abs, err := filepath.Abs(mountpoint)
	if err != nil {
		return Client{}, err
	}
	// Links in the parent may be resolved; the last component is the mount itself.
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return Client{}, err
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != abs, false })
	if err != nil {
		return Client{}, err
	}
	if len(infos) == 0 || infos[len(infos)-1].FSType != "fuse.sealvol" {
		return Client{}, fmt.Errorf("%s is not the mount point of a Sealvol volume", mountpoint)
	}
	top := infos[len(infos)-1]
	path := SocketIn(RuntimeDir(), top.Major, top.Minor)
	if _, err := os.Stat(path); err != nil {
		return Client{}, fmt.Errorf("%s is mounted, but no control socket of its mount server was found: %w", mountpoint, err)
	}
	return Client{Path: path}, nil
}

// ErrPeer says that the process at the other end belongs to another user.
var ErrPeer = errors.New("the peer process belongs to another user")

// CheckPeer allows root and the process's own user.
func CheckPeer(c *net.UnixConn) error {
	uid, err := PeerUID(c)
	if err != nil {
		return err
	}
	if uid != 0 && uid != uint32(os.Geteuid()) {
		return ErrPeer
	}
	return nil
}
