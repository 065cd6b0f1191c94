package txn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Ring holds the operations since the last commit, in order, in memory that survives the process (a
// memfd that the mounter keeps). Positions count bytes from the start of the mount and only
// increase.
//
// A record is a length (u32, of the rest) and the encoded operation. A record that would cross the
// end of the buffer begins at its start instead; the length skip marks this.
type Ring struct {
	buf []byte
	fd  int

	readMu sync.Mutex // held while records are read: Trim waits

	mu   sync.Mutex
	head uint64 // next position
	tail uint64 // first position still needed
}

const skip = ^uint32(0)

// ErrRingFull means that a commit is needed.
var ErrRingFull = errors.New("operation ring is full")

// NewRing makes a ring of size bytes.
func NewRing(sizeBytes int) (*Ring, error) {
	fd, err := unix.MemfdCreate("sealvol-ring", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("operation ring: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(sizeBytes)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("operation ring: %w", err)
	}
	b, err := unix.Mmap(fd, 0, sizeBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("operation ring: %w", err)
	}
	// Plaintext must not reach a core dump. This fails only on an old kernel.
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil {
		unix.Munmap(b)
		unix.Close(fd)
		return nil, fmt.Errorf("operation ring: %w", err)
	}
	return &Ring{buf: b, fd: fd}, nil
}

// Close releases the memory.
func (r *Ring) Close() error {
	r.readMu.Lock()
	defer r.readMu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tail = r.head // later readers find nothing
	clear(r.buf[:min(len(r.buf), int(r.head))])
	return errors.Join(unix.Munmap(r.buf), unix.Close(r.fd))
}

// Used is the number of bytes in use.
func (r *Ring) Used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.head - r.tail)
}

// Size is the capacity in bytes.
func (r *Ring) Size() int { return len(r.buf) }

// Head is the position after the last record.
func (r *Ring) Head() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

// Tail is the first position that is still needed.
func (r *Ring) Tail() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tail
}

// Locked calls fn while no record is being appended.
func (r *Ring) Locked(fn func(head uint64)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.head)
}

// Append reserves room for a record of n bytes and calls fill to write it. fill gets an empty slice
// of capacity n, and returns it with the appended data. It runs under the ring's lock, so that
// records are in the order of their numbers.
func (r *Ring) Append(n int, fill func(b []byte) []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := uint64(len(r.buf))
	need := uint64(n+4+7) &^ 7
	at := r.head % size
	pad := uint64(0)
	if at+need > size {
		pad = size - at
	}
	if r.head+pad+need-r.tail > size {
		return ErrRingFull
	}
	if pad >= 4 {
		binary.LittleEndian.PutUint32(r.buf[at:], skip)
	}
	if pad > 0 {
		at = 0
	}
	b := fill(r.buf[at+4 : at+4 : at+4+uint64(n)])
	if len(b) > n {
		panic("txn: operation is larger than announced")
	}
	binary.LittleEndian.PutUint32(r.buf[at:], uint32(len(b)))
	r.head += pad + (uint64(len(b)+4+7) &^ 7)
	return nil
}

// Read calls fn for the records in [from, to), which were appended and not trimmed. Trim waits for
// it.
func (r *Ring) Read(from, to uint64, fn func(rec []byte) error) error {
	r.readMu.Lock()
	defer r.readMu.Unlock()
	r.mu.Lock()
	from = max(from, r.tail)
	r.mu.Unlock()
	size := uint64(len(r.buf))
	for from < to {
		at := from % size
		if size-at < 4 {
			from += size - at
			continue
		}
		n := binary.LittleEndian.Uint32(r.buf[at:])
		if n == skip {
			from += size - at
			continue
		}
		if err := fn(r.buf[at+4 : at+4+uint64(n)]); err != nil {
			return err
		}
		from += (uint64(n) + 4 + 7) &^ 7
	}
	return nil
}

// Trim frees everything before pos, because a durable root covers it.
func (r *Ring) Trim(pos uint64) {
	r.readMu.Lock()
	defer r.readMu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tail = max(r.tail, pos)
}
