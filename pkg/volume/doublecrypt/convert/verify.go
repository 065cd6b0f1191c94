package convert

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// ErrDiffers means that the copy differs from its source.
var ErrDiffers = errors.New("the copy differs from its source; run the command again to copy it once more")

// verify compares everything, and then marks the volume as finished.
func (c *converter) verify(v *volume.Volume) error {
	c.dst = v
	if err := c.same(vfs.RootIno, vfs.RootIno, "/"); err != nil {
		return err
	}
	if err := v.RemoveXattr(owner, vfs.RootIno, Mark); err != nil {
		return err
	}
	return v.Sync(vfs.RootIno)
}

// same compares two directories.
func (c *converter) same(a, b vfs.Ino, path string) error {
	names := 0
	e := &walk.Entry{Path: path}
	var err error
	if e.Attr, err = c.src.GetAttr(a); err != nil {
		return err
	}
	err = c.walker().Children(e, func(child *walk.Entry) error {
		names++
		at, err := c.dst.Lookup(b, child.Name)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", walk.Printable(child.Path), err)
		case at.Mode&unix.S_IFMT != child.Kind() || at.Mtime != child.Attr.Mtime:
			return fmt.Errorf("%s: %w", walk.Printable(child.Path), ErrDiffers)
		case child.Kind() == unix.S_IFDIR:
			return c.same(child.Attr.Ino, at.Ino, child.Path)
		}
		return c.sameFile(child, &at)
	})
	if err != nil {
		return err
	}
	err = c.dst.ReadDir(b, 0, false, func(vfs.Dirent, *vfs.Attr) bool { names--; return true })
	if err == nil && names != 0 {
		err = fmt.Errorf("%s: %w", walk.Printable(path), ErrDiffers)
	}
	return err
}

func (c *converter) sameFile(e *walk.Entry, at *vfs.Attr) error {
	differs := at.Size != e.Attr.Size
	for off := uint64(0); off < e.Attr.Size && !differs; {
		n, err := c.src.Read(e.Attr.Ino, off, c.buf)
		if err != nil {
			return fmt.Errorf("%s: %w", walk.Printable(e.Path), err)
		}
		m, err := c.dst.Read(at.Ino, off, c.other[:n])
		if err != nil {
			return fmt.Errorf("%s: %w", walk.Printable(e.Path), err)
		}
		differs = n == 0 || m != n || !bytes.Equal(c.buf[:n], c.other[:m])
		off += uint64(n)
		c.step(uint64(n))
	}
	if !differs {
		return nil
	}
	// Change the time of the copy, so that the next run copies the file again.
	return errors.Join(fmt.Errorf("%s: %w", walk.Printable(e.Path), ErrDiffers), c.times(at.Ino, &vfs.Attr{Mtime: vfs.Timespec{Nsec: 1}}))
}
