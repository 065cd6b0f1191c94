package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

type mkfsOptions struct {
	key               keyFlags
	format, suite     string
	recordSize, bytes byteSize
	blockSize         byteSize // of format v1
	force, fill, json bool
}

func mkfsCommand() *cobra.Command {
	var o mkfsOptions
	c := &cobra.Command{
		Use:   "mkfs --key-file FILE [flags] DEVICE",
		Short: "Create a volume",
		Long: `Create an empty volume on a block device or in an image file. The key that you give
becomes the first key of the volume.

DEVICE is a block device or an existing file. With --size, it may also be the name of a
new image file, which is created as a sparse file with mode 0600. Without --size, the
volume uses the whole device. If the device holds data, the command fails, unless you
give --force. If the device is mounted, the command always fails.

mkfs writes only a few MiB, whatever the size. A volume needs at least 64 MiB.`,
		Example: `  sealvol key generate vol.key
  sealvol mkfs --key-file vol.key --size 10GiB vol.img
  sealvol mkfs --passphrase-file phrase --suite xaes256gcm /dev/nvme1n1`,
		Args: args(1, 1, "one DEVICE"),
		RunE: func(c *cobra.Command, a []string) error { return mkfs(c.OutOrStdout(), &o, a[0]) },
	}
	f := c.Flags()
	o.key.register(f)
	o.recordSize, o.blockSize = volume.RecordBytes, doublecrypt.DefaultBlock
	f.StringVar(&o.format, "format", "v2", "v2, or doublecrypt (format v1, for programs built on doublecrypt-core; it does not protect against somebody who can write to the device)")
	f.Var(&o.recordSize, "record-size", "maximum size of a record, the unit of encryption; only 64KiB is supported")
	f.Var(&o.blockSize, "block-size", "block size of format doublecrypt, a power of two from 512B to 1MiB")
	f.BoolVar(&o.fill, "random-fill", false, "format doublecrypt: fill the device with random bytes first, like the reference implementation")
	f.StringVar(&o.suite, "suite", crypto.SuiteXChaCha20Poly1305.String(), "cipher: xchacha20poly1305, or xaes256gcm if regulations require AES")
	f.Var(&o.bytes, "size", "size of the volume, such as 10GiB; creates an image file if DEVICE does not exist")
	f.BoolVar(&o.force, "force", false, "overwrite the data on the device; it cannot be recovered")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

func (o *mkfsOptions) check() (crypto.Suite, error) {
	switch o.format {
	case "v2":
	case "doublecrypt":
		if n := o.blockSize; n < 512 || n > 1<<20 || n&(n-1) != 0 {
			return 0, usageError(fmt.Errorf("--block-size %s: must be a power of two from 512B to 1MiB", n.String()))
		}
		return 0, o.key.one()
	default:
		return 0, usageError(fmt.Errorf("--format %s: must be v2 or doublecrypt", o.format))
	}
	if o.recordSize != volume.RecordBytes {
		return 0, usageError(fmt.Errorf("--record-size %s: this version supports only 64KiB", o.recordSize.String()))
	}
	suite, err := crypto.ParseSuite(o.suite)
	if err != nil {
		return 0, usageError(fmt.Errorf("--suite %s: must be xchacha20poly1305 or xaes256gcm", o.suite))
	}
	return suite, o.key.one()
}

func mkfs(w io.Writer, o *mkfsOptions, path string) (err error) {
	suite, err := o.check()
	if err != nil {
		return err
	}
	if o.format == "doublecrypt" {
		return mkfsV1(w, o, path)
	}
	recipient, erase, err := o.key.recipient()
	if err != nil {
		return err
	}
	defer erase()
	var h *volume.HeaderInfo
	var size int64
	err = o.create(path, func(dev device.Device) error {
		return volume.Format(dev, volume.FormatOptions{Recipient: recipient, Suite: suite, Force: o.force, SizeBytes: int64(o.bytes),
			RootUID: uint32(os.Geteuid()), RootGID: uint32(os.Getegid())})
	}, func(dev device.Device) (err error) {
		if h, err = volume.ReadHeader(dev); err != nil {
			return err
		}
		size, err = dev.Size()
		return err
	})
	if err != nil {
		return err
	}
	if o.bytes != 0 {
		size = int64(o.bytes)
	}
	if o.json {
		return writeJSON(w, struct {
			Device      string `json:"device"`
			UUID        string `json:"uuid"`
			Format      string `json:"format"`
			Suite       string `json:"suite"`
			SizeBytes   int64  `json:"sizeBytes"`
			RecordBytes int64  `json:"recordBytes"`
		}{path, h.ID.String(), "v2", h.Suite.String(), size, volume.RecordBytes})
	}
	_, err = fmt.Fprintf(w, "%s: new volume %s, %s, %s\n", path, h.ID, formatSize(size), h.Suite)
	return err
}

// create formats a device, or an image file that it creates if it does not exist. format leaves
// everything flushed. Then readBack reads what was written. If anything fails, a new image file is
// removed.
func (o *mkfsOptions) create(path string, format, readBack func(device.Device) error) (err error) {
	made, err := o.image(path)
	if err != nil {
		return err
	}
	defer func() {
		if made && err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	dev, err := openDevice(path, false)
	if err != nil {
		return err
	}
	defer discard(dev) // format flushed it
	if err := format(dev); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if made {
		if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	if err := readBack(dev); err != nil {
		return fmt.Errorf("%s: read the new volume back: %w", path, err)
	}
	return nil
}

// image creates the image file if it does not exist, and sets the size of an empty file.
func (o *mkfsOptions) image(path string) (made bool, err error) {
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.Mode().IsRegular() && fi.Size() == 0 && o.bytes != 0:
		return false, os.Truncate(path, int64(o.bytes))
	case err == nil:
		return false, nil
	case !errors.Is(err, os.ErrNotExist):
		return false, err
	case o.bytes == 0:
		return false, withHint(fmt.Errorf("%s: %w", path, device.ErrNotFound), "check the path, or give --size to create an image file there")
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := f.Truncate(int64(o.bytes)); err != nil {
		return false, errors.Join(fmt.Errorf("create an image of %s: %w", formatSize(int64(o.bytes)), err), os.Remove(path))
	}
	return true, nil
}
