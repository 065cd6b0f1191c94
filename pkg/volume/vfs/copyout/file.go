package copyout

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// pendingFile is a file whose content is being copied.
type pendingFile struct {
	e        *walk.Entry
	f        *os.File
	nameless bool    // it has no name yet
	names    []place // the first, and others that the walk has met
	err      error   // of its content
}

// file copies a regular file. If the file system below supports O_TMPFILE, the file gets its name
// only when it is complete. Otherwise, it is removed on failure.
func (c *copier) file(d *directory, name string, e *walk.Entry) error {
	if c.opts.All { // before all its content is read for nothing
		if err := c.present(d, name, e, unix.EEXIST); err == nil || exists(d.fd, name) {
			return err
		}
	}
	p := &pendingFile{e: e, nameless: true, names: []place{{d, name, e.Path}}}
	fd, err := unix.Openat(d.fd, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		p.nameless = false
		fd, err = unix.Openat(d.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return err
	}
	p.f = os.NewFile(uintptr(fd), walk.Printable(name)) // errors contain the name
	d.pending++
	if c.opts.Fetch != nil && e.Attr.Size > 0 {
		return c.enqueue(p)
	}
	p.err = c.contents(p.f, e)
	return c.finish(p)
}

func exists(dir int, name string) bool {
	var st unix.Stat_t
	return !errors.Is(unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT)
}

// finish gives a file its attributes and names, or removes it if its content is not complete.
func (c *copier) finish(p *pendingFile) (err error) {
	defer func() {
		for _, n := range p.names {
			n.dir.pending--
			if derr := c.endDirectory(n.dir); derr != nil {
				c.fail(n.dir.e.Path, derr)
			}
		}
	}()
	defer p.f.Close()
	first := p.names[0]
	fd := int(p.f.Fd())
	if err = p.err; err == nil {
		err = c.attributes(fd, p.e)
	}
	if err == nil && p.nameless {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), first.dir.fd, first.name, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil && !p.nameless {
		err = errors.Join(err, unix.Unlinkat(first.dir.fd, first.name, 0))
	}
	if err == nil {
		c.made(first.dir, first.name, p.e)
	} else if l := c.links[p.e.Attr.Ino]; l != nil {
		l.pending = nil
	}
	for _, n := range p.names[1:] {
		lerr := err
		if lerr == nil {
			lerr = c.linkTo(fd, n, p.e)
		}
		if lerr != nil {
			c.fail(n.path, lerr)
		}
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
		c.queue.copied(uint64(n))
	}
	return nil
}

// holeBytes is the least length of zeros that become a hole.
const holeBytes = 4096

var zeros [holeBytes]byte

// writeData writes content to a file that has nothing but zeros, and leaves zeros out.
func writeData(f *os.File, p []byte, off uint64) error {
	begin, at := 0, 0 // p[begin:at] is to be written
	flush := func() error {
		if begin == at {
			return nil
		}
		_, err := f.WriteAt(p[begin:at], int64(off)+int64(begin))
		return err
	}
	for at < len(p) {
		n := min(holeBytes, len(p)-at)
		if !bytes.Equal(p[at:at+n], zeros[:n]) {
			at += n
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		at += n
		begin = at
	}
	return flush()
}
