package copyout

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// keptMode returns the part of a mode that a copy may have. Set-user-ID files are dangerous:
// somebody who could write to the volume could use them to become root on this machine.
func (c *copier) keptMode(e *walk.Entry) uint32 {
	mode := e.Attr.Mode & 0o7777
	if e.Kind() != unix.S_IFDIR || !c.root {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	return mode
}

// attributes sets owner, attributes, mode and times of an open file.
func (c *copier) attributes(fd int, e *walk.Entry) error {
	if c.root {
		if err := unix.Fchown(fd, int(e.Attr.UID), int(e.Attr.GID)); err != nil {
			return err
		}
	}
	if err := c.xattrs(fd, e); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, c.keptMode(e)); err != nil {
		return err
	}
	return c.times(fd, "", e)
}

// attributesAt does the same for files that cannot be opened. A link has no mode.
func (c *copier) attributesAt(parent int, name string, e *walk.Entry, mode bool) error {
	if c.root {
		if err := unix.Fchownat(parent, name, int(e.Attr.UID), int(e.Attr.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if mode {
		if err := unix.Fchmodat(parent, name, c.keptMode(e), 0); err != nil {
			return err
		}
	}
	return c.times(parent, name, e)
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

// xattrs copies the extended attributes that the destination accepts. The destination may not
// support attributes, or may not allow this process to set them.
func (c *copier) xattrs(fd int, e *walk.Entry) error {
	names, err := c.fs.ListXattr(e.Attr.Ino)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "security.capability" {
			continue // dangerous, like set-user-ID
		}
		value, err := c.fs.GetXattr(e.Attr.Ino, name)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", walk.Printable(name), err)
		}
		switch err := unix.Fsetxattr(fd, name, value, 0); {
		case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.E2BIG):
		default:
			return fmt.Errorf("attribute %s: %w", walk.Printable(name), err)
		}
	}
	return nil
}
