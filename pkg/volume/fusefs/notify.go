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

// InvalInode makes the kernel drop what it has cached of ino: attributes and,
// unless off is negative, the data of length bytes from off (0: to the end). With a
// negative off it may be called while a request is being answered; otherwise not
// (the kernel may wait for a read in flight).
func (s *Server) InvalInode(ino vfs.Ino, off, length int64) error {
	b := make([]byte, 0, 24)
	b = binary.NativeEndian.AppendUint64(b, uint64(ino))
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint64(b, uint64(length))
	return s.notify(notifyInvalInode, b)
}

// InvalEntry makes the kernel look a name up anew. It must not be called while a
// request of the same directory is being answered: the kernel takes the directory's lock.
func (s *Server) InvalEntry(parent vfs.Ino, name string) error {
	b := make([]byte, 0, 17+len(name))
	b = binary.NativeEndian.AppendUint64(b, uint64(parent))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, name...)
	return s.notify(notifyInvalEntry, append(b, 0))
}

// store puts data into what the kernel has cached of ino, from off on. The data must be content
// of the file that the kernel may know already: it takes off+len(data) for the size if its own is
// smaller. It may be called while a request that changes ino's size is being answered; not while a
// WRITE to the same page is, which may hold the page's lock.
func (s *Server) store(ino vfs.Ino, off uint64, data []byte) error {
	b := make([]byte, 0, 24+len(data)) // struct fuse_notify_store_out
	b = binary.NativeEndian.AppendUint64(b, uint64(ino))
	b = binary.NativeEndian.AppendUint64(b, off)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return s.notify(notifyStore, append(b, data...))
}

// Resend asks the kernel (Linux 6.9) to send again every request that a server
// before this one took and did not answer. Their Unique has bit 63 set.
func (s *Server) Resend() error { return s.notify(notifyResend, nil) }

func (s *Server) notify(code int32, payload []byte) error {
	b := make([]byte, 0, outHeaderBytes+len(payload))
	b = binary.NativeEndian.AppendUint32(b, uint32(outHeaderBytes+len(payload)))
	b = binary.NativeEndian.AppendUint32(b, uint32(code))
	b = binary.NativeEndian.AppendUint64(b, 0) // no request
	err := s.write(append(b, payload...))
	if errors.Is(err, unix.ENOENT) {
		return nil // the kernel knows no such inode or name
	}
	if err != nil {
		return fmt.Errorf("fuse notification %d: %w", code, err)
	}
	return nil
}
