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

// converter copies one file system to another, and compares them.
type converter struct {
	src        vfs.Reader
	dst        *volume.Volume
	progress   func(done, total uint64) // may be nil
	buf, other []byte
	entries    int
	bytes      uint64 // of all files
	done       uint64
	walk       *walk.Walker // of all directories
}

// owner is the user who runs the conversion. The user becomes the owner of all files, because
// format v1 stores no owners.
var owner = &vfs.Req{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}

// count counts the entries and bytes of the source.
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

// step reports progress. Everything is read twice.
func (c *converter) step(n uint64) {
	c.done += n
	if c.progress != nil {
		c.progress(c.done, 2*c.bytes)
	}
}

// ErrOther means that the device contains an unfinished conversion of another volume.
var ErrOther = errors.New("the device holds an unfinished conversion of another volume, or of another state of this volume")

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

// walker is shared by all directories, so that it detects directories that contain themselves.
func (c *converter) walker() *walk.Walker {
	if c.walk == nil {
		c.walk = &walk.Walker{FS: c.src}
	}
	return c.walk
}

// directory copies the entries of a directory, and then sets its times.
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

// entry copies an entry, unless an earlier run has copied it.
func (c *converter) entry(e *walk.Entry, parent vfs.Ino) error {
	at, err := c.dst.Lookup(parent, e.Name)
	if err == nil && at.Mode&unix.S_IFMT != e.Kind() {
		return vfs.ErrExist // no other process writes to the new volume
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
	if at.Size == e.Attr.Size && at.Mtime == e.Attr.Mtime { // its time is set last, so it is complete
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

// contents copies the data of a file, and keeps holes.
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
