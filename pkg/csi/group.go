package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// The permissions that a pod's group gets: the same as the kubelet sets for drivers without
// VOLUME_MOUNT_GROUP (pkg/volume/volume_linux.go of Kubernetes).
const (
	groupFile = 0o660
	groupDir  = 0o770 | unix.S_ISGID
)

// parseGroup reads a volume_mount_group. The kubelet sends a number; the result is -1 if there is
// none. Names are refused, because they may differ between nodes.
func parseGroup(s string) (int, error) {
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1, fmt.Errorf("%w: volume_mount_group must be a numeric group id", errInvalid)
	}
	return int(n), nil
}

// groupWalks remembers where a walk stopped when its call ended. A retry resumes there, so a tree
// that is too large for one call is finished by several, and none looks at all of it again.
type groupWalks struct {
	mu  sync.Mutex
	cut map[string]cutWalk // by volume; guarded by mu
}

// cutWalk belongs to one mount. A new mount after a crash may have lost changes, so its walk starts
// anew.
type cutWalk struct {
	gid  int
	dev  uint64
	path []string
}

func (g *groupWalks) forget(volume string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.cut, volume)
}

func (g *groupWalks) keep(volume string, c cutWalk) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut == nil {
		g.cut = map[string]cutWalk{}
	}
	g.cut[volume] = c
}

// take returns where the last walk stopped, if it had the same group and the same mount.
func (g *groupWalks) take(volume string, gid int, dev uint64) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.cut[volume]
	delete(g.cut, volume)
	if c.gid != gid || c.dev != dev {
		return nil
	}
	return c.path
}

// apply gives a staged volume to the group of the pod that is about to use it, unless the root
// directory shows that the group has it already. Without this, the kubelet would change every file
// at each republish.
//
// The walk changes each directory after everything below it, and the root last. So a root directory
// with the right group means that all of the volume has it. Files that are right already stay
// untouched. The walk never leaves the volume, whatever a pod does with it at the same time.
func (g *groupWalks) apply(ctx context.Context, volume string, dir *os.File, c *csi.VolumeCapability, readOnly bool) error {
	gid, err := parseGroup(c.GetMount().GetVolumeMountGroup())
	if err != nil || gid < 0 || readOnly {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("apply fsGroup: %w", err)
	}
	if hasGroup(&st, gid) {
		return nil
	}
	w := groupWalk{gid: gid, skip: g.take(volume, gid, st.Dev)}
	if err := w.below(ctx, dir); err != nil {
		if ctx.Err() != nil {
			g.keep(volume, cutWalk{gid, st.Dev, w.path})
		}
		return fmt.Errorf("apply fsGroup: %w", err)
	}
	return nil
}

// hasGroup tells whether a file has the group and its permissions.
func hasGroup(st *unix.Stat_t, gid int) bool {
	return int64(st.Gid) == int64(gid) && st.Mode|groupMode(st) == st.Mode
}

func groupMode(st *unix.Stat_t) uint32 {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return groupDir
	case unix.S_IFLNK:
		return 0
	}
	return groupFile
}

// maxGroupDepth bounds the descriptors of one walk, two for each level. The kubelet's own walk is
// limited by the length of paths.
const maxGroupDepth = 1000

// groupWalk is a single walk.
type groupWalk struct {
	gid  int
	path []string // current position
	skip []string // where the previous walk stopped; everything before it is done
}

// below changes everything in a directory (opened with O_PATH), and then the directory itself.
func (w *groupWalk) below(ctx context.Context, dir *os.File) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	list := os.NewFile(uintptr(fd), dir.Name())
	defer list.Close()
	from := ""
	if len(w.skip) > 0 {
		from, w.skip = w.skip[0], w.skip[1:]
	}
	for {
		names, err := list.Readdirnames(1000)
		if i := slices.Index(names, from); from != "" && i >= 0 {
			names, from = names[i:], ""
		} else if from != "" {
			names = nil
		}
		for _, n := range names {
			if err := w.one(ctx, dir, n); err != nil {
				return err
			}
			w.skip = nil
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case err != nil && from == "":
			return setGroup(dir, w.gid)
		case err != nil: // the entry is gone: start over
			from, w.skip = "", nil
			if _, err := list.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
}

// one changes one entry of a directory and everything below it. An entry that no longer exists is
// no error.
func (w *groupWalk) one(ctx context.Context, dir *os.File, name string) error {
	w.path = append(w.path, name)
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		w.path = w.path[:len(w.path)-1]
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = setGroup(f, w.gid)
	case len(w.path) > maxGroupDepth:
		err = fmt.Errorf("%w: cannot apply fsGroup: directories are nested more than %d deep", errPrecondition, maxGroupDepth)
	default:
		err = w.below(ctx, f)
	}
	if err == nil {
		w.path = w.path[:len(w.path)-1]
	}
	return err
}

// setGroup changes a file, opened with O_PATH, if necessary.
func setGroup(f *os.File, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(f.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if hasGroup(&st, gid) {
		return nil
	}
	if err := unix.Fchownat(int(f.Fd()), "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	// Restore the mode even if only the group changed: chown clears set-user-id and set-group-id.
	return unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), st.Mode&0o7777|groupMode(&st), 0)
}
