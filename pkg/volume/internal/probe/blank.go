package probe

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// IsBlank reports whether a device holds nothing, so that it may be formatted. Otherwise what
// describes its content. All bytes of an image file that were ever written are checked. Zeros count
// as blank. A block device of more than 256 MiB is sampled: its beginning, its end, the places of
// all signatures that libblkid knows, and 4096 random blocks. A wiped device is blank: a caller
// that remembers whether a device was formatted must not use IsBlank instead.
func IsBlank(dev device.Device) (blank bool, what string, err error) {
	what, err = Find(dev)
	return what == "" && err == nil, what, err
}

// IsUnfinished reports whether a device holds nothing but the remains of an interrupted Format: it
// has no header, and nothing outside of the places that Format writes. The caller must know that a
// Format was started on the device when it was blank.
func IsUnfinished(dev device.Device) (bool, error) {
	hs, err := header.Read(dev)
	if err != nil {
		return false, err
	}
	if hs.Copy[0] != nil || hs.Copy[1] != nil || errors.Is(errors.Join(hs.Err[:]...), layout.ErrNewerFormat) {
		return false, nil
	}
	size, err := dev.Size()
	if err != nil {
		return false, err
	}
	// Format leaves zeros, or a torn header, where small structures of other formats may be: a
	// partition table, a swap header.
	small := slices.DeleteFunc(slices.Clone(marks), func(m mark) bool { return m.off < 0 || m.off >= layout.HeaderBytes })
	if what, err := named(dev, size, small); what != "" || err != nil {
		return false, err
	}
	off, err := (&prober{dev: dev, size: size, skip: formatPlaces(size)}).find()
	return off < 0 && err == nil, err
}

// Find describes what a device holds; "" if it is blank.
func Find(dev device.Device) (what string, err error) {
	size, err := dev.Size()
	if err != nil {
		return "", err
	}
	off, err := (&prober{dev: dev, size: size}).find()
	if off < 0 || err != nil {
		return "", err
	}
	if what, err = named(dev, size, ours); what != "" || err != nil {
		return what, err
	}
	if what, err = foreign(dev, size); what != "" || err != nil {
		return what, err
	}
	return fmt.Sprintf("unknown data, for example at byte %d", off), nil
}
