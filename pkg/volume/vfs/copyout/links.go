package copyout

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// linked is an inode with several names, of which one has been met.
type linked struct {
	left    uint32       // names that have not been met
	at      string       // a name that it has, below the destination; "": none
	pending *pendingFile // it gets its first name when its content is there
}

// place is a name in a directory.
type place struct {
	dir  *directory
	name string
	path string // in the volume
}

// link makes another name of an inode that was copied under its first one. done is false if this is
// the first.
func (c *copier) link(d *directory, name string, e *walk.Entry) (done bool, err error) {
	l := c.links[e.Attr.Ino]
	if l == nil {
		c.links[e.Attr.Ino] = &linked{left: e.Attr.Nlink - 1}
		return false, nil
	}
	if l.left--; l.left == 0 {
		delete(c.links, e.Attr.Ino)
	}
	switch {
	case l.pending != nil:
		l.pending.names = append(l.pending.names, place{d, name, e.Path})
		d.pending++
		return true, nil
	case l.at == "":
		return true, errors.New("another name of it was not copied")
	}
	fd, err := unix.Openat2(c.base.fd, l.at, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return true, fmt.Errorf("open its other name: %w", err)
	}
	defer unix.Close(fd)
	return true, c.linkTo(fd, d, name)
}

// linkTo gives an open inode a name.
func (c *copier) linkTo(fd int, d *directory, name string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), d.fd, name, unix.AT_SYMLINK_FOLLOW)
	if err == nil {
		c.result.Entries++
		return nil
	}
	if c.opts.All && errors.Is(err, unix.EEXIST) {
		var a, b unix.Stat_t
		if unix.Fstat(fd, &a) == nil && unix.Fstatat(d.fd, name, &b, unix.AT_SYMLINK_NOFOLLOW) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
			c.result.Present++
			return nil
		}
	}
	return err
}

// made notes that an inode has a name.
func (c *copier) made(d *directory, name string, e *walk.Entry) {
	c.result.Entries++
	if l := c.links[e.Attr.Ino]; l != nil {
		l.at, l.pending = d.below(name), nil
	}
}
