package mounter

// RawAlign is the logical sector size of a raw block device; sizes are multiples of it.
const RawAlign = 4096

// These constants are what a volume needs in addition to the file of a raw block device, so that
// the file can be overwritten any number of times, in any pattern and with any write size, without
// running out of space: docs/adr/0007. A change here changes the size of existing devices.
const (
	rawFixedBytes = 96 << 20 // log, header, reserve of small volumes, and blocks being written while the old ones are still needed
	rawFraction   = 8        // one eighth of the file: its records if each sector is an extent of its own, and the reserve
)

// RawDeviceBytes returns how large the device of a volume must be to offer a raw block device of
// the given size, rounded up to RawAlign.
func RawDeviceBytes(raw int64) int64 {
	raw = (raw + RawAlign - 1) / RawAlign * RawAlign
	return (raw + raw/rawFraction + rawFixedBytes + RawAlign - 1) / RawAlign * RawAlign
}

// RawBytes returns how large a raw block device a volume on a device of the given size offers, or 0
// if the device is too small. It is the greatest size for which RawDeviceBytes fits.
func RawBytes(device int64) int64 {
	if device < rawFixedBytes+2*RawAlign {
		return 0
	}
	// raw + raw/8 ≤ d rounds down to this, or to one sector more.
	raw := (device - rawFixedBytes) / (rawFraction + 1) * rawFraction / RawAlign * RawAlign
	for RawDeviceBytes(raw+RawAlign) <= device {
		raw += RawAlign
	}
	for raw > 0 && RawDeviceBytes(raw) > device {
		raw -= RawAlign
	}
	return raw
}
