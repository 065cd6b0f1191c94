package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt/convert"
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
		Long: `Create a v2 volume with the new key on V2DEVICE, copy everything from the volume of
format v1 on V1DEVICE into it, and compare both byte by byte. V1DEVICE is not changed.
Format v1 stores names, contents, holes and modification times. The user who runs the
command becomes the owner of all files.

V2DEVICE must be blank or hold an unfinished conversion of the same volume. If the
command is interrupted, run it again to continue. With --size, it creates an image
file. Until the comparison has succeeded, the root directory of the new volume has the
attribute ` + convert.Mark + `.`,
		Example: `  sealvol convert --key-file old.key --new-key-file new.key --size 20GiB old.img new.img`,
		Args:    args(2, 2, "V1DEVICE and V2DEVICE"),
		RunE:    func(c *cobra.Command, a []string) error { return convertVolume(c.OutOrStdout(), &o, a[0], a[1]) },
	}
	o.old.register(c.Flags())
	o.new.register(c.Flags())
	c.Flags().Var(&o.bytes, "size", "size of the new volume, such as 10GiB; creates an image file if V2DEVICE does not exist")
	return c
}

func convertVolume(w io.Writer, o *convertOptions, from, to string) (err error) {
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
	bar := newProgress("convert")
	defer bar.end()
	r, err := convert.Convert(src.Volume, dev, convert.Options{Recipient: o.new.recipient, Credential: o.new.credential,
		SizeBytes: int64(o.bytes), Progress: bar.set})
	if errors.Is(err, convert.ErrOther) {
		err = withHint(err, "erase the new device, or give another one, and start the conversion again")
	}
	if errors.Is(err, volume.ErrNotEmpty) { // convert has no --force
		err = withHint(err, "if it is the finished conversion, use it; otherwise give a blank device, or the name of a new image file")
	}
	if err != nil {
		return volumeError(dev, to, err)
	}
	_, err = fmt.Fprintf(w, "%s: %d files and directories with %s converted to format v2 and verified\n", to, r.Entries, formatSize(int64(r.Bytes)))
	return err
}

// openConvertSource opens the volume to convert. end closes it.
func openConvertSource(o *convertOptions, path string) (v *mountserver.V1, end func(), err error) {
	cred, err := o.old.credential()
	if err != nil {
		return nil, nil, err
	}
	defer cred.Erase()
	dev, err := openDevice(path, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			discard(dev)
		}
	}()
	if v1, err := isV1(dev); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	} else if !v1 {
		return nil, nil, withHint(fmt.Errorf("%s: not a volume of format v1 (doublecrypt)", path), "give the v1 volume as the first argument and the new volume as the second")
	}
	if v, err = openV1(dev, path, cred); err != nil {
		return nil, nil, o.old.explain(err)
	}
	if err := convert.Check(v.Volume); err != nil {
		discard(v)
		err = fmt.Errorf("%s: %w", path, err)
		if errors.Is(err, convert.ErrDamaged) {
			err = withHint(err, "run `sealvol fsck` to list the damage, and `sealvol cp` to copy out the intact files")
		}
		return nil, nil, err
	}
	return v, func() {
		discard(v)
		discard(dev)
	}, nil
}
