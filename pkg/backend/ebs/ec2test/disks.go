package ec2test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disks stores the data of volumes, and gives attached volumes a block device.
type disks struct {
	dir   string
	loops map[string]*loop // by volume
	err   error            // the first error that could not be returned
}

type loop struct {
	dev   *os.File
	minor int
	dir   string // of the instance
	sysfs string
	link  string
}

func newDisks(dir string) (*disks, error) {
	for _, d := range []string{"data", "sys/class/block", "dev/disk/by-id"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return &disks{dir: dir, loops: map[string]*loop{}}, nil
}

func (d *disks) data(id string) string { return filepath.Join(d.dir, "data", id) }

// create creates data of a size, as a copy of another volume's data if from is not "".
func (d *disks) create(id string, size int64, from string) (err error) {
	f, err := os.OpenFile(d.data(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if from != "" {
		src, err := os.Open(d.data(from))
		if err != nil {
			return err
		}
		defer src.Close()
		if err := copySparse(f, src); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// copySparse copies the data and skips holes.
func copySparse(dst, src *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	for off := int64(0); ; {
		begin, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, begin), io.NewSectionReader(src, begin, end-begin)); err != nil {
			return err
		}
		off = end
	}
}

func (d *disks) remove(id string) { d.note(os.Remove(d.data(id))) }

func (d *disks) note(err error) {
	if d.err == nil {
		d.err = err
	}
}

// attach binds a loop device and writes what sysfs would show for an NVMe device.
func (d *disks) attach(id, machine string) {
	l, err := d.bind(id)
	if err != nil {
		d.note(fmt.Errorf("attach %s: %w", id, err))
		return
	}
	if l.dir = machine; machine == "" {
		l.dir = d.dir
	}
	d.loops[id] = l
	d.note(d.describe(id, l))
}

func (d *disks) bind(id string) (*loop, error) {
	back, err := os.OpenFile(d.data(id), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for range 100 { // other programs take devices, too
		minor, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		path := fmt.Sprint("/dev/loop", minor)
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(minor)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		cfg := unix.LoopConfig{Fd: uint32(back.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		copy(cfg.Info.File_name[:], "ec2test "+id)
		if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err == nil {
			return &loop{dev: dev, minor: minor}, nil
		} else if !errors.Is(err, unix.EBUSY) {
			return nil, errors.Join(err, dev.Close())
		}
		dev.Close()
	}
	return nil, errors.New("no free loop device")
}

// describe writes the sysfs directory and the link that udev creates.
func (d *disks) describe(id string, l *loop) error {
	st, err := os.Stat(d.data(id))
	if err != nil {
		return err
	}
	name := fmt.Sprint("loop", l.minor)
	l.sysfs = filepath.Join(l.dir, "sys/class/block", name)
	l.link = filepath.Join(l.dir, "dev/disk/by-id", "nvme-Amazon_Elastic_Block_Store_"+strings.ReplaceAll(id, "-", ""))
	if err := errors.Join(os.MkdirAll(filepath.Join(l.sysfs, "device"), 0o755), os.MkdirAll(filepath.Dir(l.link), 0o755)); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(l.sysfs, "size"), fmt.Appendln(nil, st.Size()/512), 0o644),
		os.WriteFile(filepath.Join(l.sysfs, "dev"), fmt.Appendf(nil, "7:%d\n", l.minor), 0o644),
		os.WriteFile(filepath.Join(l.sysfs, "device/model"), []byte("Amazon Elastic Block Store              \n"), 0o644),
		os.WriteFile(filepath.Join(l.sysfs, "device/serial"), []byte(strings.ReplaceAll(id, "-", "")+"\n"), 0o644), // last, because the driver looks for it
		replaceLink("/dev/"+name, l.link))
}

func replaceLink(to, link string) error {
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(to, link)
}

func (d *disks) detach(id string) {
	l := d.loops[id]
	if l == nil {
		return
	}
	delete(d.loops, id)
	d.note(errors.Join(os.RemoveAll(l.sysfs), os.Remove(l.link), l.unbind()))
}

// cut makes every read and write fail from now on, even through open descriptors: after a detach,
// an instance cannot write to the volume.
func (l *loop) cut() error {
	info, err := unix.IoctlLoopGetStatus64(int(l.dev.Fd()))
	if err != nil {
		return err
	}
	info.Offset = 1 << 62 // beyond the end of the file: the device has no bytes, like an NVMe device that was pulled out
	for range 100 {
		if err = unix.IoctlLoopSetStatus64(int(l.dev.Fd()), info); !errors.Is(err, unix.EAGAIN) { // a read through the page cache is running
			return err
		}
	}
	return err
}

// unbind releases the device. A program that still has it open keeps what cut left, until it closes
// the device.
func (l *loop) unbind() error {
	return errors.Join(l.dev.Sync(), l.cut(), unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_CLR_FD, 0), l.dev.Close())
}

// cut is for an instance that was stopped.
func (d *disks) cut(id string) {
	if l := d.loops[id]; l != nil {
		d.note(l.cut())
	}
}

func (d *disks) grow(id string, size int64) {
	d.note(os.Truncate(d.data(id), size))
	if l := d.loops[id]; l != nil {
		d.note(errors.Join(unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_SET_CAPACITY, 0), d.describe(id, l)))
	}
}

func (d *disks) close() error {
	for id := range d.loops {
		d.detach(id)
	}
	return d.err
}
