package device

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is an image file or a block device. It uses direct I/O if the file system below supports it.
type File struct {
	f      *os.File
	block  bool
	direct bool
	size   atomic.Int64 // at the last call of Size
}

// OpenOptions are the options of Open. The zero value opens exclusively for writing.
type OpenOptions struct {
	ReadOnly bool
	// Shared takes no lock, so others may open the device, or have it open. Use it only to read what
	// nobody writes meanwhile, or what authenticates itself: the header, or a snapshot (package
	// pinned).
	Shared bool
}

// Open opens path exclusively: until Close, every other Open returns ErrInUse. It uses O_EXCL for
// block devices and an advisory lock for image files.
func Open(path string, opts OpenOptions) (*File, error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if opts.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
		}
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		if !opts.Shared {
			flags |= unix.O_EXCL // fails while it is mounted or opened exclusively
		}
	case unix.S_IFREG:
	default:
		return nil, fmt.Errorf("%s: not a block device or image file", path)
	}
	fd, err := unix.Open(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w: it is mounted, or another program has it open", path, ErrInUse)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return NewFile(os.NewFile(uintptr(fd), path), opts)
}

// NewFile takes ownership of an open descriptor, which the mounter has passed.
func NewFile(f *os.File, opts OpenOptions) (*File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	d := &File{f: f, block: st.Mode&unix.S_IFMT == unix.S_IFBLK}
	if !opts.Shared {
		how := unix.LOCK_EX | unix.LOCK_NB
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%s: %w: another process has this volume open", f.Name(), ErrInUse)
			}
			return nil, fmt.Errorf("%s: lock: %w", f.Name(), err)
		}
	}
	// Direct I/O avoids copies of the volume in the page cache, and Sync then takes only as long as
	// the device takes. tmpfs and some other file systems do not support it.
	if fl, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err == nil {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, fl|unix.O_DIRECT); err == nil {
			d.direct = true
		}
	}
	return d, nil
}

// IsBlock tells whether the file is a block device.
func (d *File) IsBlock() bool { return d.block }

// ReadAt reads whole sectors.
func (d *File) ReadAt(b []byte, off int64) (int, error) {
	if d.direct && !aligned(b) {
		t := AlignedBytes(len(b))
		n, err := d.f.ReadAt(t, off)
		copy(b, t[:n])
		return n, err
	}
	return d.f.ReadAt(b, off)
}

// check refuses a range that is not within the device. Otherwise, the kernel would enlarge an image
// file, which would then look like one that the user enlarged.
func (d *File) check(op string, off, length int64) error {
	if whole(off, length, d.limit(d.size.Load())) {
		return nil
	}
	size, err := d.Size() // the device may have grown
	if err != nil || d.block && size == 0 {
		return err // a device that was removed has no size: the kernel's error says so
	}
	if !whole(off, length, d.limit(size)) {
		return fmt.Errorf("%s: %s %d bytes at %d: %w", d.f.Name(), op, length, off, ErrRange)
	}
	return nil
}

// limit is the end of what may be written, in bytes. An image file that ends within a sector grows
// to the end of that sector: blocks of format v1 may be smaller than a sector.
func (d *File) limit(size int64) int64 {
	if d.block {
		return size
	}
	return (size + SectorBytes - 1) / SectorBytes * SectorBytes
}

// WriteAt writes whole sectors.
func (d *File) WriteAt(b []byte, off int64) (int, error) {
	if err := d.check("write", off, int64(len(b))); err != nil {
		return 0, err
	}
	if d.direct && !aligned(b) {
		t := AlignedBytes(len(b))
		copy(t, b)
		b = t
	}
	return d.f.WriteAt(b, off)
}

// Sync calls fdatasync, which also flushes the device's write cache.
func (d *File) Sync() error {
	for {
		err := unix.Fdatasync(int(d.f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return &os.PathError{Op: "fdatasync", Path: d.f.Name(), Err: err}
			}
			return nil
		}
	}
}

// Discard punches a hole into an image file, or discards blocks of a device. It returns
// ErrNotSupported if the file system or the device does not support that.
func (d *File) Discard(off, length int64) error {
	if length == 0 {
		return fmt.Errorf("%s: discard of 0 bytes: %w", d.f.Name(), ErrRange)
	}
	if err := d.check("discard", off, length); err != nil {
		return err
	}
	for {
		var err error
		if d.block {
			rng := [2]uint64{uint64(off), uint64(length)}
			err = ioctlPtr(int(d.f.Fd()), unix.BLKDISCARD, &rng)
		} else {
			err = unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY):
			return fmt.Errorf("%s: discard: %w", d.f.Name(), ErrNotSupported)
		default:
			return &os.PathError{Op: "discard", Path: d.f.Name(), Err: err}
		}
	}
}

// NextData implements Allocated for image files. A file system without holes reports the whole file
// as data (lseek(2)).
func (d *File) NextData(off int64) (from, to int64, err error) {
	if d.block {
		return 0, 0, ErrNotSupported
	}
	from, err = unix.Seek(int(d.f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		to, err = unix.Seek(int(d.f.Fd()), from, unix.SEEK_HOLE)
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "seek data", Path: d.f.Name(), Err: err}
	}
	return from, to, nil
}

// Size asks the kernel each time, because a device may grow.
func (d *File) Size() (int64, error) {
	if d.block {
		var n uint64
		if err := ioctlPtr(int(d.f.Fd()), unix.BLKGETSIZE64, &n); err != nil {
			return 0, fmt.Errorf("%s: size: %w", d.f.Name(), err)
		}
		d.size.Store(int64(n))
		return int64(n), nil
	}
	st, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	d.size.Store(st.Size())
	return st.Size(), nil
}

// Close releases the device.
func (d *File) Close() error { return d.f.Close() }
