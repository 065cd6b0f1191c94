package mounter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// loopMajor is the major number of loop devices (Linux, Documentation/admin-guide/devices.txt).
const loopMajor = 7

// loopFile is an open loop device.
type loopFile struct{ *os.File }

func openLoop(minor uint32, flags int) (loopFile, error) {
	path := fmt.Sprintf("/dev/loop%d", minor)
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return loopFile{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != unix.Mkdev(loopMajor, minor) {
		f.Close()
		return loopFile{}, fmt.Errorf("%s is not the expected loop device", path)
	}
	return loopFile{f}, nil
}

// is tells whether the device is bound to l's file with l's mode (ours), and whether it is bound to
// anything (bound).
func (d loopFile) is(l loopDev) (ours, bound bool, err error) {
	i, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	switch {
	case errors.Is(err, unix.ENXIO):
		return false, false, nil
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EIO):
		// The kernel asks the file system about the file, and that file system is dead. Use the
		// path instead, which needs no request.
		path, ok := backingFile(l.Minor)
		return ok && filepath.Base(path) == rawFile, ok, nil
	case err != nil:
		return false, true, fmt.Errorf("status of a loop device: %w", err)
	}
	// lo_device has the kernel's huge encoding, like st_dev.
	return i.Device == l.Dev && (i.Inode == l.Ino || l.Ino == 0) && (i.Flags&unix.LO_FLAGS_READ_ONLY != 0) == l.ReadOnly, true, nil
}

// fit resizes the device to the size of its file.
func (d loopFile) fit(size int64) error {
	size = size / RawAlign * RawAlign
	n, err := d.Seek(0, io.SeekEnd)
	if err != nil || n >= size {
		return err
	}
	if err := unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("grow a loop device: %w", err)
	}
	if n, err = d.Seek(0, io.SeekEnd); err == nil && n < size {
		err = fmt.Errorf("the loop device has %d bytes, want %d", n, size)
	}
	return err
}

// maxLoopTries bounds how often other programs may take the free loop device that the kernel
// returned.
const maxLoopTries = 64

// newLoop binds a free device to f: with direct I/O and 4 KiB sectors, and without autoclear, so
// that it stays whoever closes it.
func newLoop(f *os.File, l *loopDev) (loopFile, error) {
	ctl, err := os.OpenFile("/dev/loop-control", unix.O_RDWR, 0)
	if err != nil {
		return loopFile{}, fmt.Errorf("loop devices: %w", err)
	}
	defer ctl.Close()
	for range maxLoopTries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return loopFile{}, fmt.Errorf("find a free loop device: %w", err)
		}
		l.Minor = uint32(n)
		d, err := openLoop(l.Minor, unix.O_RDWR) // otherwise the kernel makes it read-only
		if err != nil {
			return loopFile{}, fmt.Errorf("open a free loop device: %w", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Size: RawAlign, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_DIRECT_IO}}
		if l.ReadOnly {
			cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		}
		copy(cfg.Info.File_name[:], "sealvol") // what losetup shows; not used to recognise it
		err = unix.IoctlLoopConfigure(int(d.Fd()), &cfg)
		if errors.Is(err, unix.EBUSY) {
			d.Close()
			continue
		}
		if err != nil {
			d.Close()
			return loopFile{}, fmt.Errorf("configure a loop device: %w", err)
		}
		return d, checkNew(d, *l)
	}
	return loopFile{}, fmt.Errorf("%w: other programs took every free loop device", ErrBusy)
}

// checkNew verifies the configuration. Older kernels silently apply only a part of it.
func checkNew(d loopFile, l loopDev) error {
	ours, _, err := d.is(l)
	if err == nil && !ours {
		err = errors.New("the loop device was bound to something else")
	}
	if err == nil {
		var i *unix.LoopInfo64
		if i, err = unix.IoctlLoopGetStatus64(int(d.Fd())); err == nil && i.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
			err = errors.New("the kernel refuses direct I/O for a loop device on this volume")
		}
	}
	if err != nil {
		err = errors.Join(err, unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0))
		d.Close()
	}
	return err
}

// backingFile returns the file that a loop device is bound to according to sysfs. It asks no file
// system.
func backingFile(minor uint32) (string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", minor))
	return strings.TrimSuffix(string(b), "\n"), err == nil
}

// isReadOnly tells whether a device is read-only according to sysfs.
func isReadOnly(minor uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/ro", minor))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// loopsOn lists the loop devices that are bound to a path, as the path is named now.
func loopsOn(path string) ([]uint32, error) {
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var minors []uint32
	for _, f := range found {
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.Split(f, "/")[3], "loop"), 10, 20)
		if err != nil {
			continue
		}
		if p, ok := backingFile(uint32(n)); ok && p == path {
			minors = append(minors, uint32(n))
		}
	}
	return minors, nil
}
