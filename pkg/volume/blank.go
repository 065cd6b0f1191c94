package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/probe"
)

// IsBlank reports whether a device holds nothing, so that it may be formatted. Otherwise what
// describes its content. All bytes of an image file that were ever written are checked. Zeros count
// as blank. A block device of more than 256 MiB is sampled: its beginning, its end, the places of
// all signatures that libblkid knows, and 4096 random blocks. A wiped device is blank: a caller
// that remembers whether a device was formatted must not use IsBlank instead.
func IsBlank(dev device.Device) (blank bool, what string, err error) { return probe.IsBlank(dev) }

// IsUnfinished reports whether a device holds nothing but the remains of an interrupted Format: it
// has no header, and nothing outside of the places that Format writes. The caller must know that a
// Format was started on the device when it was blank.
func IsUnfinished(dev device.Device) (bool, error) { return probe.IsUnfinished(dev) }
