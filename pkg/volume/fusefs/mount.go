package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	// FSType is the file system type in /proc/mounts.
	FSType = "fuse.sealvol"

	readAheadKiB = 4096
	maxRatio     = 40 // percentage of the dirty limit that writes through mappings of one mount may use; the kernel's default is 1

	devicePath  = "/dev/fuse"
	controlPath = "/sys/fs/fuse/connections"
)

// MountOptions are the options of Mount. The zero value works.
type MountOptions struct {
	// Source is the device that df and /proc/mounts show. The default is "sealvol".
	Source string

	// Private denies access to all users except for the mounting user, even to root (no
	// allow_other).
	Private bool

	// Options are mount options: ro, rw, suid, nosuid, dev, nodev, exec, noexec,
	// atime, noatime, relatime, nodiratime, sync, dirsync, and SELinux's context=,
	// fscontext=, defcontext= and rootcontext=. Default: nosuid, nodev, noatime.
	// Later options override earlier ones.
	Options []string

	Logger *slog.Logger // default: slog.Default()
}

// flagOptions maps each option to the flags of mount(2) that it sets, and its opposite clears.
var flagOptions = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true}, "relatime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "diratime": {unix.MS_NODIRATIME, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false},
}

// parse returns the flags and data of mount(2).
func (o *MountOptions) parse() (flags uintptr, data []string, err error) {
	flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	data = []string{"default_permissions", "max_read=" + strconv.Itoa(MaxDataBytes)}
	if !o.Private {
		data = append(data, "allow_other")
	}
	for _, opt := range o.Options {
		if f, ok := flagOptions[opt]; ok {
			if f.clear {
				flags &^= f.flag
			} else {
				flags |= f.flag
			}
			continue
		}
		switch name, _, _ := strings.Cut(opt, "="); name {
		case "context", "fscontext", "defcontext", "rootcontext":
			data = append(data, opt)
		default:
			return 0, nil, fmt.Errorf("unknown mount option %q", name)
		}
	}
	return flags, data, nil
}

func (o *MountOptions) source() string {
	if o.Source == "" {
		return "sealvol"
	}
	return o.Source
}

// Mount mounts a file system on dir, without a server, and returns the descriptor for the server.
// Pass it to NewServer, in this process or another one. Until then, every access to dir waits. If
// the process may not mount, Mount uses fusermount3.
func Mount(dir string, o MountOptions) (*os.File, error) {
	f, err := mountDirect(dir, o)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if f, err2 := mountHelper(dir, o); err2 == nil {
			return f, nil
		} else {
			return nil, fmt.Errorf("mount: %w; %w", err, err2)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	return f, nil
}

func mountDirect(dir string, o MountOptions) (*os.File, error) {
	flags, data, err := o.parse()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: devicePath, Err: err}
	}
	data = append(data,
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", unix.S_IFDIR),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()))
	if err := unix.Mount(o.source(), dir, FSType, flags, strings.Join(data, ",")); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), devicePath), nil
}

// ConnectionID returns the number of the FUSE connection whose mount is the topmost on dir, for
// AbortConnection. It reads only the mount table, so it never waits for a server.
func ConnectionID(dir string) (uint32, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != abs, false })
	if err != nil {
		return 0, err
	}
	if len(infos) == 0 {
		return 0, fmt.Errorf("%s is not a mount point", dir)
	}
	m := infos[len(infos)-1] // the topmost; SingleEntryFilter would find the lowest
	if m.Major != 0 || !strings.HasPrefix(m.FSType, "fuse") {
		return 0, fmt.Errorf("%s is not a FUSE mount", dir)
	}
	return uint32(m.Minor), nil
}

// AbortConnection ends a connection whose server does not answer. All waiting requests and all
// later uses of the mount fail. It requires fusectl to be mounted on /sys/fs/fuse/connections.
func AbortConnection(id uint32) error {
	return os.WriteFile(filepath.Join(controlPath, strconv.FormatUint(uint64(id), 10), "abort"), []byte("1"), 0)
}

// Tune raises the kernel's read-ahead and dirty limits for the mount on dir. Call it when the
// server is ready, because the answer to INIT limits the read-ahead to 128 KiB. It requires root.
// Without Tune, the mount works, but slower.
func Tune(dir string) error {
	id, err := ConnectionID(dir)
	if err != nil {
		return err
	}
	bdi := fmt.Sprintf("/sys/class/bdi/0:%d", id)
	return errors.Join(
		os.WriteFile(filepath.Join(bdi, "read_ahead_kb"), []byte(strconv.Itoa(readAheadKiB)), 0),
		os.WriteFile(filepath.Join(bdi, "max_ratio"), []byte(strconv.Itoa(maxRatio)), 0),
	)
}
