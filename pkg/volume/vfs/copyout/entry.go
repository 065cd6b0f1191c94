package copyout

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// directory is an open directory of the destination.
type directory struct {
	fd      int
	path    string      // below the destination
	e       *walk.Entry // what it is a copy of; nil: it existed, and keeps its attributes
	pending int         // files that get their name in it
	walked  bool        // nothing more comes
}

// below returns the path of a name below the destination.
func (d *directory) below(name string) string { return path.Join(d.path, name) }

// errExists means that a name is taken at the destination.
var errExists = errors.New("the name exists at the destination; existing files are not overwritten")

// errDiffers means that a file is present without an attribute.
var errDiffers = errors.New("the file at the destination is there, but does not have that of the original")

// entry copies one inode and everything below it. It returns an error only if continuing is
// useless.
func (c *copier) entry(d *directory, name string, e *walk.Entry) error {
	if c.opts.Interrupted != nil {
		if err := c.opts.Interrupted(); err != nil {
			return &endError{err}
		}
	}
	err := c.make(d, name, e)
	if isFull(err) {
		if e.Kind() == unix.S_IFDIR {
			return err // the entries below were reported already
		}
		return fmt.Errorf("%s: %w", walk.Printable(e.Path), err)
	}
	if ends(err) {
		return err
	}
	if errors.Is(err, unix.EEXIST) {
		err = errExists
	}
	if err != nil {
		c.fail(e.Path, err)
	}
	return nil
}

func (c *copier) make(d *directory, name string, e *walk.Entry) error {
	if c.opts.All && e.Kind() != unix.S_IFDIR && e.Attr.Nlink > 1 {
		if done, err := c.link(d, name, e); done || err != nil {
			return err
		}
	}
	switch kind := e.Kind(); kind {
	case unix.S_IFDIR:
		return c.directory(d, name, e)
	case unix.S_IFREG:
		return c.file(d, name, e)
	case unix.S_IFLNK:
		return c.symlink(d, name, e)
	case unix.S_IFIFO, unix.S_IFSOCK:
		return c.special(d, name, e, 0)
	case unix.S_IFBLK, unix.S_IFCHR:
		if c.opts.Privileged {
			return c.special(d, name, e, int(e.Attr.Rdev))
		}
		return ErrDevice
	default:
		return fmt.Errorf("%ss are not copied", walk.KindName(e.Kind()))
	}
}

// isFull tells whether the destination is full, so that continuing is useless.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func (c *copier) directory(parent *directory, name string, e *walk.Entry) error {
	err := unix.Mkdirat(parent.fd, name, 0o700)
	if err != nil && !(c.opts.All && errors.Is(err, unix.EEXIST)) {
		return err
	}
	fd, err := unix.Openat(parent.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errExists
	}
	if err != nil {
		return err
	}
	c.result.Entries++
	d := &directory{fd: fd, path: parent.below(name), e: e}
	err = c.walker.Children(e, func(child *walk.Entry) error { return c.entry(d, child.Name, child) })
	d.walked = true
	if ends(err) {
		d.e = nil
	}
	return errors.Join(err, c.endDirectory(d))
}

// endError ends the copy.
type endError struct{ error }

func (e *endError) Unwrap() error { return e.error }

// ends tells whether an error ends the copy.
func ends(err error) bool {
	var e *endError
	return isFull(err) || errors.As(err, &e)
}

// endDirectory closes a directory whose last entry is there. Its attributes come last, because
// creating entries changes the time, and the mode may forbid it.
func (c *copier) endDirectory(d *directory) (err error) {
	if !d.walked || d.pending > 0 {
		return nil
	}
	if d.e != nil {
		err = c.attributes(d.fd, d.e)
	}
	return errors.Join(err, unix.Close(d.fd))
}

func (c *copier) symlink(d *directory, name string, e *walk.Entry) error {
	target, err := c.fs.Readlink(e.Attr.Ino)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, d.fd, name); err != nil {
		return c.present(d, name, e, err)
	}
	c.made(d, name, e)
	return c.attributesAt(d.fd, name, e, false)
}

// special makes a fifo, a socket or a device node.
func (c *copier) special(d *directory, name string, e *walk.Entry, rdev int) error {
	if err := unix.Mknodat(d.fd, name, e.Kind()|0o600, rdev); err != nil {
		return c.present(d, name, e, err)
	}
	c.made(d, name, e)
	return c.attributesAt(d.fd, name, e, true)
}

// present returns nil if the name exists already and is what an earlier copy made; otherwise err,
// which is about creating it.
func (c *copier) present(d *directory, name string, e *walk.Entry, err error) error {
	if !errors.Is(err, unix.EEXIST) || !c.isPresent(d, name, e) {
		return err
	}
	c.result.Present++
	c.made(d, name, e)
	return c.compare(d, name, e)
}

// compare fails an entry that is present without attributes of the original, such as when the
// destination has refused them before: else a repeated copy would count as complete.
func (c *copier) compare(d *directory, name string, e *walk.Entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if c.root && (st.Uid != e.Attr.UID || st.Gid != e.Attr.GID) {
		c.fail(e.Path, fmt.Errorf("owner: %w", errDiffers))
	}
	if e.Kind() != unix.S_IFLNK && st.Mode&0o7777 != c.keptMode(e) {
		c.fail(e.Path, fmt.Errorf("mode: %w", errDiffers))
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name)
	return c.xattrs(d.fd, e, func(name string, value []byte) error {
		got := make([]byte, len(value)+1) // a longer one differs
		if n, err := unix.Lgetxattr(path, name, got); err != nil || string(got[:n]) != string(value) {
			return errDiffers
		}
		return nil
	})
}

// isPresent reports whether a name exists and is what an earlier copy made, by its kind, size and
// time. With Options.All only.
func (c *copier) isPresent(d *directory, name string, e *walk.Entry) bool {
	var st unix.Stat_t
	if !c.opts.All || unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != e.Kind() {
		return false
	}
	switch e.Kind() {
	case unix.S_IFLNK:
		target, err := c.fs.Readlink(e.Attr.Ino)
		b := make([]byte, len(target)+1)
		n, rerr := unix.Readlinkat(d.fd, name, b)
		return err == nil && rerr == nil && string(b[:n]) == target
	case unix.S_IFREG:
		if uint64(st.Size) != e.Attr.Size {
			return false
		}
	}
	return st.Mtim == unix.Timespec{Sec: e.Attr.Mtime.Sec, Nsec: int64(e.Attr.Mtime.Nsec)}
}
