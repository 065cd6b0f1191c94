package doublecrypt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Limits of the block size, in bytes. Smaller blocks hold no data. Volumes with larger blocks do
// not exist.
const (
	minBlock = 256
	maxBlock = 16 << 20
)

// ioBytes is the number of bytes that are read or written at once if blocks are contiguous.
const ioBytes = 1 << 20

// blocks is a device as an array of blocks.
type blocks struct {
	dev   device.Device
	size  int    // of a block
	count uint64 // blocks on the device
}

func newBlocks(dev device.Device, size int) (*blocks, error) {
	if size < minBlock || size > maxBlock {
		return nil, &Error{Variant: InvalidSuperblock, err: fmt.Errorf("invalid block size of %d bytes: %w", size, vfs.ErrCorrupt)}
	}
	n, err := dev.Size()
	if err != nil {
		return nil, ioError(err)
	}
	return &blocks{dev, size, uint64(n) / uint64(size)}, nil
}

func ioError(err error) error { return &Error{Variant: IO, err: fmt.Errorf("%w: %w", vfs.ErrIO, err)} }

// whole tells whether blocks are whole sectors, so that writing one does not change others.
func (b *blocks) whole() bool { return b.size%device.SectorBytes == 0 }

// span returns the range of whole sectors that contains n blocks from id, and the offset of the
// blocks in it.
func (b *blocks) span(id uint64, n int) (off int64, length, skip int) {
	from := int64(id) * int64(b.size)
	off = from / device.SectorBytes * device.SectorBytes
	skip = int(from - off)
	length = (skip + n*b.size + device.SectorBytes - 1) / device.SectorBytes * device.SectorBytes
	return off, length, skip
}

// buffer returns memory for n blocks, aligned so that the device need not copy it.
func (b *blocks) buffer(n int) []byte { return device.AlignedBytes(n * b.size) }

// read reads whole blocks, starting with id, into buf.
func (b *blocks) read(id uint64, buf []byte) error {
	n := len(buf) / b.size
	if id >= b.count || uint64(n) > b.count-id {
		return &Error{Variant: BlockOutOfRange, Value: id, err: vfs.ErrCorrupt}
	}
	off, length, skip := b.span(id, n)
	if skip == 0 && length == len(buf) {
		return readFull(b.dev, buf, off, len(buf))
	}
	t := device.AlignedBytes(length)
	if err := readFull(b.dev, t, off, skip+len(buf)); err != nil {
		return err
	}
	copy(buf, t[skip:])
	return nil
}

// readFull fills buf. Only need bytes must exist, because the last sector of a file may be
// incomplete.
func readFull(dev device.Device, buf []byte, off int64, need int) error {
	n, err := dev.ReadAt(buf, off)
	if n >= need && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return ioError(err)
}

// write writes whole blocks, starting with id. If blocks are not whole sectors, it rewrites their
// neighbours unchanged, and must not be called concurrently. A file that ends within a sector grows
// to the end of that sector.
func (b *blocks) write(id uint64, buf []byte) error {
	n := len(buf) / b.size
	if id >= b.count || uint64(n) > b.count-id {
		return &Error{Variant: BlockOutOfRange, Value: id}
	}
	off, length, skip := b.span(id, n)
	if skip != 0 || length != len(buf) {
		t := device.AlignedBytes(length)
		if n, err := b.dev.ReadAt(t, off); err != nil && (!errors.Is(err, io.EOF) || n < skip) {
			return ioError(err)
		}
		copy(t[skip:], buf)
		buf = t
	}
	if _, err := b.dev.WriteAt(buf, off); err != nil {
		return ioError(err)
	}
	return nil
}

func (b *blocks) sync() error {
	if err := b.dev.Sync(); err != nil {
		return ioError(err)
	}
	return nil
}

// object reads one object into buf, which has the size of a block, and returns its plaintext as a
// slice of buf.
func (b *blocks) object(id uint64, key *crypto.DoublecryptKey, k kind, buf []byte) ([]byte, error) {
	if id < firstObject || id >= b.count {
		return nil, &Error{Variant: BlockOutOfRange, Value: id, err: vfs.ErrCorrupt}
	}
	if err := b.read(id, buf); err != nil {
		return nil, err
	}
	return openObject(buf, id, key, k)
}

// plainBlock frames a payload that is not sealed. The padding is random, as in the reference
// implementation.
func (b *blocks) plainBlock(payload []byte, random io.Reader) ([]byte, error) {
	buf := b.buffer(1)
	if _, err := io.ReadFull(random, buf); err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(buf, uint32(len(payload)))
	copy(buf[frameBytes:], payload)
	return buf, nil
}
