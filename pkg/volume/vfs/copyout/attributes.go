package copyout

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

const setBits = unix.S_ISUID | unix.S_ISGID

// capability is the attribute of file capabilities.
const capability = "security.capability"

// keptMode returns the part of a mode that a copy may have. Set-user-ID files are dangerous:
// somebody who could write to the volume could use them to become root on this machine.
func (c *copier) keptMode(e *walk.Entry) uint32 {
	mode := e.Attr.Mode & 0o7777
	if !c.opts.Privileged && (e.Kind() != unix.S_IFDIR || !c.root) {
		mode &^= setBits
	}
	return mode
}

// refused judges that the destination refuses an attribute. Without Options.All, that is an error.
func (c *copier) refused(e *walk.Entry, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case !c.opts.All || isFull(err):
		return err
	}
	c.fail(e.Path, fmt.Errorf("%s: %w", what, err))
	return nil
}

// strip counts files that have lost privileges.
func (c *copier) strip(e *walk.Entry) {
	if e.Kind() != unix.S_IFDIR && e.Attr.Mode&0o7777 != c.keptMode(e) {
		c.result.Stripped++
	}
}

// attributes sets owner, attributes, mode and times of an open file.
func (c *copier) attributes(fd int, e *walk.Entry) error {
	c.strip(e)
	if c.root {
		if err := c.refused(e, "owner", unix.Fchown(fd, int(e.Attr.UID), int(e.Attr.GID))); err != nil {
			return err
		}
	}
	err := c.xattrs(fd, e, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	if err := c.refused(e, "mode", unix.Fchmod(fd, c.keptMode(e))); err != nil {
		return err
	}
	return c.refused(e, "times", c.times(fd, "", e))
}

// attributesAt does the same for files that cannot be opened. A link has no mode.
func (c *copier) attributesAt(parent int, name string, e *walk.Entry, mode bool) error {
	c.strip(e)
	if c.root {
		if err := c.refused(e, "owner", unix.Fchownat(parent, name, int(e.Attr.UID), int(e.Attr.GID), unix.AT_SYMLINK_NOFOLLOW)); err != nil {
			return err
		}
	}
	if c.opts.All {
		path := fmt.Sprintf("/proc/self/fd/%d/%s", parent, name)
		err := c.xattrs(parent, e, func(name string, value []byte) error { return unix.Lsetxattr(path, name, value, 0) })
		if err != nil {
			return err
		}
	}
	if mode {
		if err := c.refused(e, "mode", unix.Fchmodat(parent, name, c.keptMode(e), 0)); err != nil {
			return err
		}
	}
	return c.refused(e, "times", c.times(parent, name, e))
}

func (c *copier) times(fd int, name string, e *walk.Entry) error {
	ts := []unix.Timespec{
		{Sec: e.Attr.Atime.Sec, Nsec: int64(e.Attr.Atime.Nsec)},
		{Sec: e.Attr.Mtime.Sec, Nsec: int64(e.Attr.Mtime.Nsec)},
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(fd, name, ts, flags)
}

// xattrs copies the extended attributes, ACLs included. Without Options.All, only those that the
// destination accepts: it may not support attributes, or may not allow this process to set them.
func (c *copier) xattrs(fd int, e *walk.Entry, set func(name string, value []byte) error) error {
	names, err := c.fs.ListXattr(e.Attr.Ino)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == capability && !c.opts.Privileged {
			if e.Attr.Mode&0o7777 == c.keptMode(e) { // else it is counted already
				c.result.Stripped++
			}
			continue
		}
		if !c.root && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.") {
			continue // like owners, only root can set them
		}
		value, err := c.fs.GetXattr(e.Attr.Ino, name)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", walk.Printable(name), err)
		}
		err = setError(fd, len(value), set(name, value))
		if !c.opts.All && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG) || errors.Is(err, errFewAttributes)) {
			continue
		}
		if err := c.refused(e, "attribute "+walk.Printable(name), err); err != nil {
			return fmt.Errorf("attribute %s: %w", walk.Printable(name), err)
		}
	}
	return nil
}

var errFewAttributes = errors.New("the file system of the destination has no room for it among the attributes of one file")

// setError is the error of setting an attribute of n bytes. fd is open in the destination. ext4
// keeps the attributes of a file in little more than one block, and fails with ENOSPC beyond that,
// as if the disk were full: then this file loses an attribute, and the copy goes on.
func setError(fd, n int, err error) error {
	var st unix.Statfs_t
	if !errors.Is(err, unix.ENOSPC) || unix.Fstatfs(fd, &st) != nil {
		return err
	}
	if room := uint64(n) + roomBytes; st.Bavail > room/uint64(st.Bsize) {
		return errFewAttributes
	}
	return err
}

// roomBytes is how much space a disk that is not full has left.
const roomBytes = 1 << 20
