package copyout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// file copies a regular file. If the file system below supports O_TMPFILE, the file gets its name
// only when it is complete. Otherwise, it is removed on failure.
func (c *copier) file(parent int, name string, e *walk.Entry) error {
	nameless := true
	fd, err := unix.Openat(parent, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		nameless = false
		fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err = c.contents(f, e); err == nil {
		err = c.attributes(fd, e)
	}
	if err == nil && nameless {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), parent, name, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil && !nameless {
		err = errors.Join(err, unix.Unlinkat(parent, name, 0))
	}
	return err
}

// contents copies the data of a file, and keeps holes.
func (c *copier) contents(f *os.File, e *walk.Entry) error {
	ino, size := e.Attr.Ino, e.Attr.Size
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	for off := uint64(0); off < size; {
		data, err := c.fs.SeekData(ino, off)
		if errors.Is(err, vfs.ErrNoData) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := c.fs.SeekHole(ino, data)
		if err != nil {
			return err
		}
		if err := c.rangeOf(f, ino, data, min(hole, size)); err != nil {
			return err
		}
		off = max(hole, data+1) // always advance, whatever the volume returns
	}
	return nil
}

func (c *copier) rangeOf(f *os.File, ino vfs.Ino, off, end uint64) error {
	for off < end {
		n, err := c.fs.Read(ino, off, c.buf[:min(uint64(len(c.buf)), end-off)])
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		if n == 0 {
			return nil
		}
		if _, err := f.WriteAt(c.buf[:n], int64(off)); err != nil {
			return err
		}
		off += uint64(n)
		c.done += uint64(n)
		if c.opts.Progress != nil {
			c.opts.Progress(c.done, c.total)
		}
	}
	return nil
}
