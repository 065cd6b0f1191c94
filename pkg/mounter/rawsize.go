package mounter

// RawAlign is the logical sector of a raw block device; sizes are multiples of it.
const RawAlign = 4096

// What a volume needs beside the one file of a raw block device, so that the file can be overwritten for ever, in any pattern, at any
// size of write, without running full: docs/adr/0021. A change here changes what existing volumes offer.
const (
	rawFixedBytes = 96 << 20 // log, header, reserve of small volumes, what is being written while its predecessor waits
	rawFraction   = 8        // one eighth of the file: its records when each sector is an extent of its own, reserve
)

// RawDeviceBytes returns how large the device of a volume must be to offer a raw block device of so many bytes, rounded up
// to RawAlign.
func RawDeviceBytes(raw int64) int64 {
	raw = (raw + RawAlign - 1) / RawAlign * RawAlign
	return (raw + raw/rawFraction + rawFixedBytes + RawAlign - 1) / RawAlign * RawAlign
}

// RawBytes returns how large a raw block device a volume on a device of so many bytes offers, 0 if the device is too small.
// It is the greatest size for which RawDeviceBytes fits.
func RawBytes(device int64) int64 {
	if device < rawFixedBytes+2*RawAlign {
		return 0
	}
	// raw + raw/8 ≤ d rounds down to this or at most one sector more.
	raw := (device - rawFixedBytes) / (rawFraction + 1) * rawFraction / RawAlign * RawAlign
	for RawDeviceBytes(raw+RawAlign) <= device {
		raw += RawAlign
	}
	for raw > 0 && RawDeviceBytes(raw) > device {
		raw -= RawAlign
	}
	return raw
}
