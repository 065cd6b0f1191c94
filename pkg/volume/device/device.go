package device

import (
	"errors"
	"io"
	"unsafe"
)

// SectorBytes is the unit of allocation and alignment.
const SectorBytes = 4096

// Errors of devices.
var (
	ErrInUse    = errors.New("device is in use")
	ErrNotFound = errors.New("no such device")
	// ErrNotSupported means that a device does not support Discard, or does not know what was
	// written.
	ErrNotSupported = errors.New("not supported by the device")
	// ErrRange is the error of a write or discard whose range is not whole sectors within the
	// device.
	ErrRange = errors.New("range is not whole sectors within the device")
)

// Device is a random access store; see the package comment for its promises.
// Its methods may be called concurrently. Offsets and lengths are in bytes and
// multiples of SectorBytes. Writes and discards must lie within the device
// (ErrRange); reads end at its end, with io.EOF.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync is the barrier: see the package comment.
	Sync() error
	// Discard tells the device that the content of a range is no longer needed. It is a hint: later
	// reads of the range return undefined data.
	Discard(off, length int64) error
	// Size is the present size in bytes; it may grow, never shrink.
	Size() (int64, error)
	// Close releases the device. It does not flush it.
	Close() error
}

// Allocated is implemented by a Device that knows which of its ranges were ever written.
type Allocated interface {
	// NextData returns the first range at or after off that may contain nonzero data, or io.EOF if
	// there is none. The range need not be aligned to SectorBytes. If the device does not know its
	// ranges, the error is ErrNotSupported.
	NextData(off int64) (from, to int64, err error)
}

// AlignedBytes allocates n bytes that start at a page boundary, which direct I/O requires.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+SectorBytes)
	off := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (SectorBytes - 1)); r != 0 {
		off = SectorBytes - r
	}
	return b[off : off+n : off+n]
}

// whole tells whether length bytes at off are whole sectors within a device of the given size.
func whole(off, length, size int64) bool {
	return off >= 0 && length >= 0 && off%SectorBytes == 0 && length%SectorBytes == 0 && length <= size && off <= size-length
}

func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(SectorBytes-1) == 0
}
