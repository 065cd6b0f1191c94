package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Codes of unsolicited messages: enum fuse_notify_code, include/uapi/linux/fuse.h.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyStore      = 4
	notifyResend     = 7
)

// InvalInode makes the kernel drop its cached attributes of ino and, unless off is negative, length
// bytes of data at off (0 means up to the end). With a negative off, it may be called while a
// request is handled. Otherwise it must not, because the kernel may wait for a read in flight.
func (s *Server) InvalInode(ino vfs.Ino, off, length int64) error {
	b := make([]byte, 0, 24)
	b = binary.NativeEndian.AppendUint64(b, uint64(ino))
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint64(b, uint64(length))
	return s.notify(notifyInvalInode, b)
}

// InvalEntry makes the kernel look up a name again. It must not be called while a request for the
// same directory is handled, because the kernel takes the lock of the directory.
func (s *Server) InvalEntry(parent vfs.Ino, name string) error {
	b := make([]byte, 0, 17+len(name))
	b = binary.NativeEndian.AppendUint64(b, uint64(parent))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, name...)
	return s.notify(notifyInvalEntry, append(b, 0))
}

// store writes data into the kernel's cache of ino at off. The data must be within the present size
// of the file: if the kernel's size is smaller, the kernel sets it to off+len(data). store may be
// called while a request that changes the size of ino is handled. It must not be called while a
// WRITE to the same page is handled, because that may hold the lock of the page.
func (s *Server) store(ino vfs.Ino, off uint64, data []byte) error {
	b := make([]byte, 0, 24+len(data)) // struct fuse_notify_store_out
	b = binary.NativeEndian.AppendUint64(b, uint64(ino))
	b = binary.NativeEndian.AppendUint64(b, off)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return s.notify(notifyStore, append(b, data...))
}

// Resend asks the kernel (since Linux 6.9) to send all requests again that a previous server has
// read but not answered. Bit 63 of their Unique is set.
func (s *Server) Resend() error { return s.notify(notifyResend, nil) }

func (s *Server) notify(code int32, payload []byte) error {
	b := make([]byte, 0, outHeaderBytes+len(payload))
	b = binary.NativeEndian.AppendUint32(b, uint32(outHeaderBytes+len(payload)))
	b = binary.NativeEndian.AppendUint32(b, uint32(code))
	b = binary.NativeEndian.AppendUint64(b, 0) // no request
	err := s.write(append(b, payload...))
	if errors.Is(err, unix.ENOENT) {
		return nil // the kernel does not know the inode or name
	}
	if err != nil {
		return fmt.Errorf("fuse notification %d: %w", code, err)
	}
	return nil
}
