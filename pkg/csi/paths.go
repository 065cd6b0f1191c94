package csi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// root is the kubelet's directory. All paths are opened relative to it.
type root struct {
	given, real string // as configured (clean), and with links resolved, as mountinfo shows it
	dir         *os.File
}

func openRoot(dir string) (*root, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("kubelet directory %q is not absolute", dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(real, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &root{given: filepath.Clean(dir), real: real, dir: f}, nil
}

// rel returns a path relative to the root; the root itself is an error.
func (r *root) rel(what, path string) (string, error) {
	if err := checkPath(what, path); err != nil {
		return "", err
	}
	clean := filepath.Clean(path)
	for _, base := range []string{r.given, r.real} {
		if rest, ok := strings.CutPrefix(clean, strings.TrimSuffix(base, "/")+"/"); ok && rest != "" {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%w: %s is not below the kubelet's directory", errInvalid, what)
}

// inMountinfo returns a path as /proc/self/mountinfo names it, without opening it. Any string may
// be given.
func (r *root) inMountinfo(path string) string {
	clean := filepath.Clean(path)
	if rest, ok := strings.CutPrefix(clean, strings.TrimSuffix(r.given, "/")+"/"); ok {
		return filepath.Join(r.real, rest)
	}
	return clean
}

// open opens a directory below the root with O_PATH, without following links. rel "." is the root.
// A missing directory is errMissing; a link or another type of file is errInvalid.
func (r *root) open(what, rel string) (*os.File, error) {
	return openBelow(r.dir, what, rel)
}

var errMissing = fmt.Errorf("%w: no such directory", errInvalid)

func openBelow(dir *os.File, what, rel string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("%s: %w", what, errMissing)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s contains a symbolic link", errInvalid, what)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENAMETOOLONG):
		return nil, fmt.Errorf("%w: %s is not a directory below the kubelet's directory", errInvalid, what)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// sourceOf returns the source of a volume's mounts in mountinfo.
func sourceOf(id string) string { return "sealvol:" + id }

// mountsOf lists a volume's mounts.
func mountsOf(id string) ([]*mountinfo.Info, error) {
	source := sourceOf(id)
	return mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !isOurs(i, source), false
	})
}

// isOurs tells whether a mount belongs to the volume: a mount of its files or of its device nodes.
func isOurs(i *mountinfo.Info, source string) bool {
	return i.Source == source && (i.FSType == fsType || i.FSType == mounter.NodeFSType)
}

// openFileBelow opens dir/name with O_PATH. The file must have the type kind (S_IF…), so it cannot
// be a link. A regular file is created if it is missing, and must be empty.
func openFileBelow(dir *os.File, what, name string, kind uint32) (*os.File, error) {
	if kind == unix.S_IFREG {
		if err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFREG|0o600, 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", what, err)
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	if st.Mode&unix.S_IFMT != kind || kind == unix.S_IFREG && st.Size != 0 {
		f.Close()
		return nil, fmt.Errorf("%w: %s exists with an unexpected file type, or is not empty", errInvalid, what)
	}
	return f, nil
}

// topAt returns the topmost mount at a path as mountinfo names it, or nil.
func topAt(path string) (*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != path, false })
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	return infos[len(infos)-1], nil
}
