package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/probe"
)

// IsBlank tells whether a device holds nothing, so that it may be formatted;
// otherwise what it holds. Of an image file every byte counts that was ever
// written; what is zero is taken for blank. A block device of more than 256 MiB is
// sampled: its beginning, its end, the places of everything that libblkid knows,
// and 4096 blocks at random. Who keeps elsewhere that a device was formatted
// must not ask this: a device that was wiped is blank.
func IsBlank(dev device.Device) (blank bool, what string, err error) { return probe.IsBlank(dev) }

// IsUnfinished tells whether a device holds nothing but what a Format leaves that
// was cut off: no header, and outside of the places that Format writes to nothing
// at all. Whoever asks knows that one was begun, on a device that was blank.
func IsUnfinished(dev device.Device) (bool, error) { return probe.IsUnfinished(dev) }
