package local

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
)

// disk has all reads and changes of this package in one directory, so that a test can make each of
// them fail.
type disk struct {
	dir  *os.File
	hook func(step string) error // for tests: called before every step; an error ends the step
}

func (d disk) step(s string) error {
	if d.hook == nil {
		return nil
	}
	return d.hook(s)
}

func (d disk) openat(name string, flags int, perm uint32) (*os.File, error) {
	fd, err := unix.Openat(int(d.dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read returns a file of at most max bytes.
func (d disk) read(name string, max int64) ([]byte, error) {
	f, err := d.openat(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, max)
	}
	return b, nil
}

// replace writes a complete file durably: after a crash it has the old or the new content.
func (d disk) replace(name string, content []byte) error {
	return atomicfile.Write(name, content, atomicfile.Options{FS: diskFS{d}, Temp: name + ".tmp", Step: d.hook})
}

// diskFS provides the names in the directory to atomicfile.
type diskFS struct{ d disk }

// OpenFile implements atomicfile.FS.
func (f diskFS) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return f.d.openat(name, flag, uint32(perm))
}

// Rename implements atomicfile.FS.
func (f diskFS) Rename(from, to string) error {
	if err := unix.Renameat(int(f.d.dir.Fd()), from, int(f.d.dir.Fd()), to); err != nil {
		return &os.PathError{Op: "rename", Path: from, Err: err}
	}
	return nil
}

// Link implements atomicfile.FS. This package does not use it.
func (diskFS) Link(_, _ string) error { return errors.ErrUnsupported }

// Remove implements atomicfile.FS.
func (f diskFS) Remove(name string) error { return unix.Unlinkat(int(f.d.dir.Fd()), name, 0) }

// remove unlinks a file durably; it is no error if the file is absent.
func (d disk) remove(name string) error {
	if err := d.step("unlink " + name); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(d.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	return d.sync()
}

func (d disk) sync() error {
	if err := d.step("fsync dir"); err != nil {
		return err
	}
	return d.dir.Sync()
}

// extend grows a file to at least size bytes, durably, and creates it if create is set. It never
// shrinks a file.
func (d disk) extend(name string, size int64, create bool) error {
	flags := unix.O_RDWR
	if create {
		flags |= unix.O_CREAT
	}
	if err := d.step("open " + name); err != nil {
		return err
	}
	f, err := d.openat(name, flags, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", name)
	}
	if fi.Size() < size {
		if err := d.step("truncate " + name); err != nil {
			return err
		}
		if err := f.Truncate(size); err != nil {
			return err
		}
		if err := d.step("fsync " + name); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if create {
		return d.sync()
	}
	return nil
}

// copyChunk is how much of an image is in memory at a time.
const copyChunk = 1 << 20

// clone creates a file from the first size bytes of another. Its content is durable, its name is
// not. It shares blocks if the file system can; otherwise it copies everything except holes. src
// must not change meanwhile. progress is called from time to time; its error ends the copy.
func (d disk) clone(src *os.File, name string, size int64, progress func() error) error {
	if err := d.step("create " + name); err != nil {
		return err
	}
	f, err := d.openat(name, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.step("clone " + name); err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(f.Fd()), int(src.Fd())); err != nil {
		if err := copySparse(f, src, size, progress); err != nil {
			return err
		}
	}
	if fi, err := f.Stat(); err != nil || fi.Size() < size {
		if err = errors.Join(err, f.Truncate(size)); err != nil {
			return err
		}
	}
	if err := d.step("fsync " + name); err != nil {
		return err
	}
	return f.Sync()
}

// refusesClone tells whether the file system refuses to share blocks between files. An attempt that
// fails for another reason, such as a full disk, does not count. The files of the attempt have no
// names.
func (d disk) refusesClone() bool {
	var f [2]*os.File
	for i := range f {
		fd, err := unix.Openat(int(d.dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return false
		}
		f[i] = os.NewFile(uintptr(fd), "a file without a name")
		defer f[i].Close()
	}
	if _, err := f[0].Write(make([]byte, 4096)); err != nil {
		return false
	}
	err := unix.IoctlFileClone(int(f[1].Fd()), int(f[0].Fd()))
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}

// copySparse copies the data, but not the holes, of the first size bytes to an empty file.
func copySparse(dst, src *os.File, size int64, progress func() error) error {
	buf := make([]byte, copyChunk)
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= size {
			return nil
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		for off = data; off < min(hole, size); {
			if err := progress(); err != nil {
				return err
			}
			n, err := src.ReadAt(buf[:min(copyChunk, min(hole, size)-off)], off)
			if n == 0 {
				return fmt.Errorf("read at %d: %w", off, err)
			}
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return nil
}
