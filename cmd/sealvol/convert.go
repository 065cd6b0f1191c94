package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

type convertOptions struct {
	old, new keyFlags
	bytes    byteSize
}

func convertCommand() *cobra.Command {
	o := convertOptions{new: keyFlags{prefix: "new-"}}
	c := &cobra.Command{
		Use:   "convert --key-file OLD --new-key-file NEW [--size SIZE] V1DEVICE V2DEVICE",
		Short: "Copy a doublecrypt volume (format v1) into a new v2 volume",
		Long: `Copy everything in the volume of format v1 on V1DEVICE into a new volume of format
v2 on V2DEVICE, which is made with the new key, and compare both byte by byte.
V1DEVICE is not changed. Format v1 knows names, contents, holes and modification
times; owners are whoever runs this.

V2DEVICE must be blank, or hold what an earlier run of the same conversion left:
interrupted anywhere, it is gone on with by the same command. With --size an image
file is made. Until the comparison has ended, the volume says that it is unfinished:
its root directory has the attribute ` + convertMark + `.`,
		Example: `  sealvol convert --key-file old.key --new-key-file new.key --size 20GiB old.img new.img`,
		Args:    args(2, 2, "V1DEVICE and V2DEVICE"),
		RunE:    func(c *cobra.Command, a []string) error { return convert(c.OutOrStdout(), &o, a[0], a[1]) },
	}
	o.old.register(c.Flags())
	o.new.register(c.Flags())
	c.Flags().Var(&o.bytes, "size", "size of the new volume, such as 10GiB; makes an image file if V2DEVICE does not exist")
	return c
}

// convertMark is an attribute of the root directory while a conversion is
// unfinished; its value is the state of the volume that is converted.
const convertMark = "trusted.sealvol.convert"

func convert(w io.Writer, o *convertOptions, from, to string) (err error) {
	if err := errors.Join(o.old.one(), o.new.one()); err != nil {
		return err
	}
	src, end, err := openConvertSource(o, from)
	if err != nil {
		return err
	}
	defer end()
	if _, err := (&mkfsOptions{bytes: o.bytes}).image(to); err != nil {
		return err
	}
	dev, err := openDevice(to, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	report := src.Opened()
	mark := hex.EncodeToString(report.Checksum[:])
	if err := o.prepare(dev, to); err != nil {
		return err
	}
	bar := newProgress("convert")
	defer bar.end()
	c := &converter{src: src, bar: bar, buf: make([]byte, readBytes), other: make([]byte, readBytes)}
	if err := c.count(); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := o.with(dev, to, func(v *volume.Volume) error { return c.copyInto(v, mark) }); err != nil {
		return err
	}
	// Opened anew, so that what is compared comes from the device.
	if err := o.with(dev, to, c.verify); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s: %d files and directories with %s converted to format v2, and verified\n", to, c.entries, formatSize(int64(c.bytes)))
	return err
}

func openConvertSource(o *convertOptions, path string) (*mountserver.V1, func(), error) {
	cred, err := o.old.credential()
	if err != nil {
		return nil, nil, err
	}
	defer cred.Erase()
	dev, err := openDevice(path, true)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*mountserver.V1, func(), error) {
		discard(dev)
		return nil, nil, err
	}
	if v1, err := isV1(dev); err != nil {
		return fail(fmt.Errorf("%s: %w", path, err))
	} else if !v1 {
		return fail(withHint(fmt.Errorf("%s: not a volume of format v1 (doublecrypt)", path), "give the volume that is to be converted first"))
	}
	v, err := openV1(dev, path, cred)
	if err != nil {
		return fail(err)
	}
	r := v.Opened()
	switch {
	case r.DamageCount > 0:
		err = withHint(fmt.Errorf("%s: the volume is damaged: it can not be converted whole", path), "`sealvol fsck` names the damage; copy out what is whole: sealvol cp")
	case r.Hidden > 0:
		err = fmt.Errorf("%s: %d entries are named \".\" or \"..\", which no other file system can hold: rename them with a program built on doublecrypt-core", path, r.Hidden)
	}
	if err != nil {
		discard(v)
		return fail(err)
	}
	return v, func() {
		discard(v)
		discard(dev)
	}, nil
}

// prepare makes the new volume, unless an earlier run has.
func (o *convertOptions) prepare(dev device.Device, path string) error {
	blank, what, err := volume.IsBlank(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !blank {
		if _, err := volume.ReadHeader(dev); err != nil {
			return fmt.Errorf("%s: %w: it holds %s", path, volume.ErrNotEmpty, what)
		}
		return nil
	}
	recipient, erase, err := o.new.recipient()
	if err != nil {
		return err
	}
	defer erase()
	if err := volume.Format(dev, volume.FormatOptions{Recipient: recipient, SizeBytes: int64(o.bytes),
		RootUID: uint32(os.Geteuid()), RootGID: uint32(os.Getegid())}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// with opens the new volume for f.
func (o *convertOptions) with(dev device.Device, path string, f func(v *volume.Volume) error) error {
	cred, err := o.new.credential()
	if err != nil {
		return err
	}
	defer cred.Erase()
	v, err := openOn(dev, path, cred, volume.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := errors.Join(f(v), v.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// converter copies one file system into another, and compares them.
type converter struct {
	src        vfs.FS
	dst        *volume.Volume
	bar        *progress
	buf, other []byte
	entries    int
	bytes      uint64 // of all files
	done       uint64
	walk       *walker // of all directories
}

var convertReq = &vfs.Req{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}

// count finds out how much there is.
func (c *converter) count() error {
	e, err := lookup(c.src, "/", false)
	if err != nil {
		return err
	}
	return (&walker{fs: c.src}).walk(e, func(e *entry) error {
		if e.path != "/" {
			c.entries++
		}
		if e.kind() == unix.S_IFREG {
			c.bytes += e.attr.Size
		}
		return nil
	})
}

// step tells how far it has come; everything is read twice.
func (c *converter) step(n uint64) {
	c.done += n
	c.bar.set(c.done, 2*c.bytes)
}

var errOtherConversion = errors.New("it is the unfinished conversion of another volume, or of another state of it")

func (c *converter) copyInto(v *volume.Volume, mark string) error {
	c.dst = v
	had, err := v.GetXattr(vfs.RootIno, convertMark)
	switch {
	case err == nil && string(had) != mark:
		return withHint(errOtherConversion, "make the device blank, and begin again")
	case errors.Is(err, vfs.ErrNoXattr):
		empty := true
		err := v.ReadDir(vfs.RootIno, 0, false, func(vfs.Dirent, *vfs.Attr) bool { empty = false; return false })
		if err != nil {
			return err
		}
		if !empty {
			return fmt.Errorf("%w: it holds a Sealvol volume", volume.ErrNotEmpty)
		}
		if err := v.SetXattr(convertReq, vfs.RootIno, convertMark, []byte(mark), 0); err != nil {
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
func (c *converter) walker() *walker {
	if c.walk == nil {
		c.walk = &walker{fs: c.src}
	}
	return c.walk
}

// directory copies what is in one, and its times last.
func (c *converter) directory(from, to vfs.Ino, path string) error {
	dir, err := c.src.GetAttr(from)
	if err != nil {
		return fmt.Errorf("%s: %w", printable(path), err)
	}
	e := &entry{path: path, attr: dir}
	err = c.walker().children(e, func(child *entry) error {
		if err := c.entry(child, to); err != nil {
			return fmt.Errorf("%s: %w", printable(child.path), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.times(to, &dir)
}

// entry copies one, unless an earlier run has.
func (c *converter) entry(e *entry, parent vfs.Ino) error {
	at, err := c.dst.Lookup(parent, e.name)
	if err == nil && at.Mode&unix.S_IFMT != e.kind() {
		return vfs.ErrExist // nobody but us writes here
	}
	if e.kind() == unix.S_IFDIR {
		if errors.Is(err, vfs.ErrNotExist) {
			at, err = c.dst.Mkdir(convertReq, parent, e.name, 0o755)
		}
		if err != nil {
			return err
		}
		return c.directory(e.attr.Ino, at.Ino, e.path)
	}
	if errors.Is(err, vfs.ErrNotExist) {
		at, err = c.dst.Mknod(convertReq, parent, e.name, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return err
	}
	if at.Size == e.attr.Size && at.Mtime == e.attr.Mtime { // its time was set last
		c.step(e.attr.Size)
		return nil
	}
	if err := c.contents(e, at.Ino); err != nil {
		return err
	}
	return c.times(at.Ino, &e.attr)
}

func (c *converter) times(ino vfs.Ino, a *vfs.Attr) error {
	_, err := c.dst.SetAttr(convertReq, ino, &vfs.SetAttr{Atime: &a.Mtime, Mtime: &a.Mtime})
	return err
}

// contents copies a file's data, and leaves holes out.
func (c *converter) contents(e *entry, to vfs.Ino) error {
	zero, size := uint64(0), e.attr.Size
	if _, err := c.dst.SetAttr(convertReq, to, &vfs.SetAttr{Size: &zero}); err != nil {
		return err
	}
	if _, err := c.dst.SetAttr(convertReq, to, &vfs.SetAttr{Size: &size}); err != nil {
		return err
	}
	for off := uint64(0); off < size; {
		data, err := c.src.SeekData(e.attr.Ino, off)
		if errors.Is(err, vfs.ErrNoData) {
			c.step(size - off)
			return nil
		}
		if err != nil {
			return err
		}
		c.step(data - off)
		n, err := c.src.Read(e.attr.Ino, data, c.buf)
		if err != nil || n == 0 {
			return err
		}
		for done := 0; done < n; {
			m, err := c.dst.Write(convertReq, to, data+uint64(done), c.buf[done:n], false)
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

var errDiffers = errors.New("the copy differs: run the command again")

// verify compares everything, and then declares the volume finished.
func (c *converter) verify(v *volume.Volume) error {
	c.dst = v
	if err := c.same(vfs.RootIno, vfs.RootIno, "/"); err != nil {
		return err
	}
	if err := v.RemoveXattr(convertReq, vfs.RootIno, convertMark); err != nil {
		return err
	}
	return v.Sync(vfs.RootIno)
}

// same compares two directories.
func (c *converter) same(a, b vfs.Ino, path string) error {
	names := 0
	e := &entry{path: path}
	var err error
	if e.attr, err = c.src.GetAttr(a); err != nil {
		return err
	}
	err = c.walker().children(e, func(child *entry) error {
		names++
		at, err := c.dst.Lookup(b, child.name)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", printable(child.path), err)
		case at.Mode&unix.S_IFMT != child.kind() || at.Mtime != child.attr.Mtime:
			return fmt.Errorf("%s: %w", printable(child.path), errDiffers)
		case child.kind() == unix.S_IFDIR:
			return c.same(child.attr.Ino, at.Ino, child.path)
		}
		return c.sameFile(child, &at)
	})
	if err != nil {
		return err
	}
	err = c.dst.ReadDir(b, 0, false, func(vfs.Dirent, *vfs.Attr) bool { names--; return true })
	if err == nil && names != 0 {
		err = fmt.Errorf("%s: %w", printable(path), errDiffers)
	}
	return err
}

func (c *converter) sameFile(e *entry, at *vfs.Attr) error {
	differs := at.Size != e.attr.Size
	for off := uint64(0); off < e.attr.Size && !differs; {
		n, err := c.src.Read(e.attr.Ino, off, c.buf)
		if err != nil {
			return fmt.Errorf("%s: %w", printable(e.path), err)
		}
		m, err := c.dst.Read(at.Ino, off, c.other[:n])
		if err != nil {
			return fmt.Errorf("%s: %w", printable(e.path), err)
		}
		differs = n == 0 || m != n || !bytes.Equal(c.buf[:n], c.other[:m])
		off += uint64(n)
		c.step(uint64(n))
	}
	if !differs {
		return nil
	}
	// Its time says no longer that it is done, so that the next run copies it anew.
	return errors.Join(fmt.Errorf("%s: %w", printable(e.path), errDiffers), c.times(at.Ino, &vfs.Attr{Mtime: vfs.Timespec{Nsec: 1}}))
}
