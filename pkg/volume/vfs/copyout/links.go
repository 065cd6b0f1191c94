package copyout

import (
	"crypto/rand"
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
	return true, c.linkTo(fd, place{d, name, e.Path}, e)
}

// linkTo gives an open inode a name.
func (c *copier) linkTo(fd int, at place, e *walk.Entry) error {
	from := fmt.Sprintf("/proc/self/fd/%d", fd)
	err := unix.Linkat(unix.AT_FDCWD, from, at.dir.fd, at.name, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EEXIST) && c.isPresent(at.dir, at.name, e) {
		return c.relink(fd, from, at)
	}
	if err == nil {
		c.result.Entries++
	}
	return err
}

// relink makes a name that exists, with the same content, one of the inode.
func (c *copier) relink(fd int, from string, at place) error {
	c.result.Entries++
	c.result.Present++
	var a, b unix.Stat_t
	if err := unix.Fstat(fd, &a); err != nil {
		return err
	}
	if err := unix.Fstatat(at.dir.fd, at.name, &b, unix.AT_SYMLINK_NOFOLLOW); err != nil || a.Ino == b.Ino && a.Dev == b.Dev {
		return err
	}
	temp := ".sealvol-" + rand.Text()
	if err := unix.Linkat(unix.AT_FDCWD, from, at.dir.fd, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	err := unix.Renameat(at.dir.fd, temp, at.dir.fd, at.name)
	if err != nil {
		err = errors.Join(err, unix.Unlinkat(at.dir.fd, temp, 0))
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
