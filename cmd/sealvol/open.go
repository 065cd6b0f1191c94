package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// openReadOnly opens a volume and writes nothing to its device. end closes both.
func openReadOnly(path string, key *keyFlags) (v *volume.Volume, end func(), err error) {
	v, dev, err := openVolume(path, key, true)
	if err != nil {
		return nil, nil, err
	}
	return v, func() {
		discard(v)
		discard(dev)
	}, nil
}

// openWritable opens a volume for writing. The caller closes the volume and the device.
func openWritable(path string, key *keyFlags) (*volume.Volume, *device.File, error) {
	return openVolume(path, key, false)
}

func openVolume(path string, key *keyFlags, readOnly bool) (*volume.Volume, *device.File, error) {
	cred, err := key.credential()
	if err != nil {
		return nil, nil, err
	}
	defer cred.Erase()
	dev, err := openDevice(path, readOnly)
	if err != nil {
		return nil, nil, err
	}
	v, err := openOn(dev, path, cred, volume.Options{ReadOnly: readOnly})
	if err != nil {
		discard(dev)
		return nil, nil, key.explain(err)
	}
	return v, dev, nil
}

func openOn(dev device.Device, path string, cred crypto.Credential, opts volume.Options) (*volume.Volume, error) {
	opts.Credential = cred
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	v, err := volume.Open(dev, opts)
	if err != nil {
		return nil, volumeError(dev, path, err)
	}
	return v, nil
}

// volumeError adds the path to an error of opening a volume. If the device holds no volume, it adds
// what the device holds.
func volumeError(dev device.Device, path string, err error) error {
	return fmt.Errorf("%s: %w", path, mountserver.WithContents(dev, err))
}

// openDevice opens a device exclusively.
func openDevice(path string, readOnly bool) (*device.File, error) {
	dev, err := mounts.OpenDevice(path, readOnly)
	var behind *mounts.BehindLoopError
	if errors.As(err, &behind) {
		err = withHint(err, "use "+behind.Loop+" instead of the file, or detach it: losetup --detach "+behind.Loop)
	}
	return dev, err
}
