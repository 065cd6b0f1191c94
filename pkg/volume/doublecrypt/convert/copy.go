package convert

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// converter copies one file system into another, and compares them.
type converter struct {
	src        vfs.Reader
	dst        *volume.Volume
	progress   func(done, total uint64) // nil: nobody wants to know
	buf, other []byte
	entries    int
	bytes      uint64 // of all files
	done       uint64
	walk       *walk.Walker // of all directories
}

// owner makes whoever runs this the owner of everything: format v1 knows none.
var owner = &vfs.Req{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}

// count finds out how much there is.
func (c *converter) count() error {
	e, err := walk.Lookup(c.src, "/", false)
	if err != nil {
		return err
	}
	return (&walk.Walker{FS: c.src}).Walk(e, func(e *walk.Entry) error {
		if e.Path != "/" {
			c.entries++
		}
		if e.Kind() == unix.S_IFREG {
			c.bytes += e.Attr.Size
		}
		return nil
	})
}

// step tells how far it has come; everything is read twice.
func (c *converter) step(n uint64) {
	c.done += n
	if c.progress != nil {
		c.progress(c.done, 2*c.bytes)
	}
}

// ErrOther refuses to go on with what another conversion has left.
var ErrOther = errors.New("it is the unfinished conversion of another volume, or of another state of it")

func (c *converter) copyInto(v *volume.Volume, mark string) error {
	c.dst = v
	had, err := v.GetXattr(vfs.RootIno, Mark)
	switch {
	case err == nil && string(had) != mark:
		return ErrOther
	case errors.Is(err, vfs.ErrNoXattr):
		empty := true
		err := v.ReadDir(vfs.RootIno, 0, false, func(vfs.Dirent, *vfs.Attr) bool { empty = false; return false })
		if err != nil {
			return err
		}
		if !empty {
			return fmt.Errorf("%w: it holds a Sealvol volume", volume.ErrNotEmpty)
		}
		if err := v.SetXattr(owner, vfs.RootIno, Mark, []byte(mark), 0); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if err := c.directory(vfs.RootIno, vfs.RootIno, "/"); err != nil {
		return err
	}
	return v.Sync(vfs.RootIno)
}

// walker is the one of all directories, so that it knows those that it is in.
func (c *converter) walker() *walk.Walker {
	if c.walk == nil {
		c.walk = &walk.Walker{FS: c.src}
	}
	return c.walk
}

// directory copies what is in one, and its times last.
func (c *converter) directory(from, to vfs.Ino, path string) error {
	dir, err := c.src.GetAttr(from)
	if err != nil {
		return fmt.Errorf("%s: %w", walk.Printable(path), err)
	}
	e := &walk.Entry{Path: path, Attr: dir}
	err = c.walker().Children(e, func(child *walk.Entry) error {
		if err := c.entry(child, to); err != nil {
			return fmt.Errorf("%s: %w", walk.Printable(child.Path), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.times(to, &dir)
}

// entry copies one, unless an earlier run has.
func (c *converter) entry(e *walk.Entry, parent vfs.Ino) error {
	at, err := c.dst.Lookup(parent, e.Name)
	if err == nil && at.Mode&unix.S_IFMT != e.Kind() {
		return vfs.ErrExist // nobody but us writes here
	}
	if e.Kind() == unix.S_IFDIR {
		if errors.Is(err, vfs.ErrNotExist) {
			at, err = c.dst.Mkdir(owner, parent, e.Name, 0o755)
		}
		if err != nil {
			return err
		}
		return c.directory(e.Attr.Ino, at.Ino, e.Path)
	}
	if errors.Is(err, vfs.ErrNotExist) {
		at, err = c.dst.Mknod(owner, parent, e.Name, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return err
	}
	if at.Size == e.Attr.Size && at.Mtime == e.Attr.Mtime { // its time was set last
		c.step(e.Attr.Size)
		return nil
	}
	if err := c.contents(e, at.Ino); err != nil {
		return err
	}
	return c.times(at.Ino, &e.Attr)
}

func (c *converter) times(ino vfs.Ino, a *vfs.Attr) error {
	_, err := c.dst.SetAttr(owner, ino, &vfs.SetAttr{Atime: &a.Mtime, Mtime: &a.Mtime})
	return err
}

// contents copies a file's data, and leaves holes out.
func (c *converter) contents(e *walk.Entry, to vfs.Ino) error {
	zero, size := uint64(0), e.Attr.Size
	if _, err := c.dst.SetAttr(owner, to, &vfs.SetAttr{Size: &zero}); err != nil {
		return err
	}
	if _, err := c.dst.SetAttr(owner, to, &vfs.SetAttr{Size: &size}); err != nil {
		return err
	}
	for off := uint64(0); off < size; {
		data, err := c.src.SeekData(e.Attr.Ino, off)
		if errors.Is(err, vfs.ErrNoData) {
			c.step(size - off)
			return nil
		}
		if err != nil {
			return err
		}
		c.step(data - off)
		n, err := c.src.Read(e.Attr.Ino, data, c.buf)
		if err != nil || n == 0 {
			return err
		}
		for done := 0; done < n; {
			m, err := c.dst.Write(owner, to, data+uint64(done), c.buf[done:n], false)
			if err != nil {
				return err
			}
			done += m
		}
		off = data + uint64(n)
		c.step(uint64(n))
	}
	return nil
}
