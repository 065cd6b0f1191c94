package device

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is an image file or a block device, with direct I/O where the
// filesystem below allows it.
type File struct {
	f      *os.File
	block  bool
	direct bool
	size   atomic.Int64 // when last asked for
}

// OpenOptions are the ways to open a File. The zero value opens for writing.
type OpenOptions struct {
	ReadOnly bool
	// Shared allows other openers: for reading a header only.
	Shared bool
}

// Open opens path and keeps every other Open of it out until Close
// (block devices by O_EXCL, image files by an advisory lock): ErrInUse.
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
			flags |= unix.O_EXCL // fails while mounted or opened so elsewhere
		}
	case unix.S_IFREG:
	default:
		return nil, fmt.Errorf("%s: not a block device or image file", path)
	}
	fd, err := unix.Open(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w: it is mounted or opened by another program", path, ErrInUse)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return NewFile(os.NewFile(uintptr(fd), path), opts)
}

// NewFile takes over an open descriptor (passed from the mounter).
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
	// Direct I/O keeps plaintext-sized copies out of the page cache and makes
	// Sync cost what the device costs. tmpfs and some others refuse it.
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

// check refuses a range that does not lie within the device. The kernel would
// make an image file longer, which then looked like one that somebody enlarged.
func (d *File) check(op string, off, length int64) error {
	if whole(off, length, d.size.Load()) {
		return nil
	}
	size, err := d.Size() // it may have grown
	if err == nil && !whole(off, length, size) {
		err = fmt.Errorf("%s: %s %d bytes at %d: %w", d.f.Name(), op, length, off, ErrRange)
	}
	return err
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

// Sync is fdatasync: it flushes the device's write cache, too.
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

// Discard punches a hole into an image file or discards device blocks.
// ErrNotSupported if that can not be done here.
func (d *File) Discard(off, length int64) error {
	if length == 0 {
		return fmt.Errorf("%s: discard nothing: %w", d.f.Name(), ErrRange)
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

// NextData implements Allocated for image files. A file system that keeps no holes
// says that all of a file is data (lseek(2)).
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

// Size asks the kernel: a device may have grown.
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
