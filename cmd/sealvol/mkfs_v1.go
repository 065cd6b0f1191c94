package main

import (
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

// mkfsV1 creates a volume of format v1.
func mkfsV1(w io.Writer, o *mkfsOptions, path string) (err error) {
	cred, err := o.key.credential()
	if err != nil {
		return err
	}
	defer cred.Erase()
	key, err := crypto.DoublecryptKeyOf(cred)
	if err != nil {
		return usageError(err)
	}
	defer key.Erase()
	var info *doublecrypt.Info
	err = o.create(path, func(dev device.Device) error {
		if !o.force {
			if blank, what, err := volume.IsBlank(dev); err != nil {
				return err
			} else if !blank {
				return fmt.Errorf("%w: it holds %s", volume.ErrNotEmpty, what)
			}
		}
		if err := wipe(dev, o.fill); err != nil {
			return err
		}
		return doublecrypt.Format(dev, key, int(o.blockSize), uint64(o.bytes)/uint64(o.blockSize), doublecrypt.Options{})
	}, func(dev device.Device) (err error) {
		info, err = doublecrypt.ReadInfo(dev)
		return err
	})
	if err != nil {
		return err
	}
	size := int64(info.TotalBlocks) * int64(info.BlockBytes)
	if o.json {
		return writeJSON(w, struct {
			Device     string `json:"device"`
			Format     string `json:"format"`
			SizeBytes  int64  `json:"sizeBytes"`
			BlockBytes int    `json:"blockBytes"`
		}{path, "doublecrypt", size, info.BlockBytes})
	}
	_, err = fmt.Fprintf(w, "%s: new volume of format v1 (doublecrypt), %s in blocks of %s\n", path, formatSize(size), formatSize(int64(info.BlockBytes)))
	return err
}

// wipe overwrites both headers of an earlier volume of format v2, because it could still be opened
// with the second one. With fill, it fills the whole device with random bytes.
func wipe(dev device.Device, fill bool) error {
	if fill {
		bar := newProgress("fill")
		defer bar.end()
		return doublecrypt.FillRandom(dev, nil, bar.set)
	}
	size, err := dev.Size()
	if err != nil {
		return err
	}
	zeros := device.AlignedBytes(int(min(size, 4<<20)) / device.SectorBytes * device.SectorBytes)
	if _, err := dev.WriteAt(zeros, 0); err != nil {
		return err
	}
	return dev.Sync()
}
