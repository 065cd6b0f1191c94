package vfstest

import (
	"fmt"
	"math"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const (
	blockBytes = 4096 // unit of allocation
	chunkBytes = 16 * blockBytes
)

// capacityBlocks prevents a faulty test from using all memory.
const capacityBlocks = 8 << 30 / blockBytes

func (m *MemFS) checkSpace(length uint64) error {
	if need := length/blockBytes + 2; need > uint64(capacityBlocks-m.blocks) {
		return fmt.Errorf("%d bytes: %w", length, vfs.ErrNoSpace)
	}
	return nil
}

// data is the sparse content of a file. Blocks that are not allocated, and bytes beyond the size,
// are zeros.
type data struct {
	chunks map[uint64]*chunk
	blocks int64 // allocated
}

type chunk struct {
	bytes     [chunkBytes]byte
	allocated uint32 // one bit per block
	written   uint32 // the blocks with data; the others are reserved holes
}

// account changes the data of n, and updates the count of blocks.
func (m *MemFS) account(n *node, change func()) {
	before := n.data.blocks
	change()
	m.blocks += n.data.blocks - before
}

// pieces splits [off, off+length) at multiples of unit, a divisor of chunkBytes. It calls fn for
// each piece with the chunk, the offset in the chunk, and the bytes.
func pieces(off, length, unit uint64, fn func(chunk, start, n uint64)) {
	for length > 0 {
		start := off % chunkBytes
		n := min(length, unit-off%unit)
		fn(off/chunkBytes, start, n)
		off += n
		length -= n
	}
}

func (d *data) read(off uint64, dst []byte) {
	pieces(off, uint64(len(dst)), chunkBytes, func(i, start, n uint64) {
		if c := d.chunks[i]; c != nil {
			copy(dst[:n], c.bytes[start:])
		} else {
			clear(dst[:n])
		}
		dst = dst[n:]
	})
}

func (d *data) write(off uint64, src []byte) {
	d.allocate(off, uint64(len(src)))
	pieces(off, uint64(len(src)), blockBytes, func(i, start, n uint64) {
		c := d.chunks[i]
		copy(c.bytes[start:], src[:n])
		c.written |= 1 << (start / blockBytes)
		src = src[n:]
	})
}

func (d *data) allocate(off, length uint64) {
	if d.chunks == nil {
		d.chunks = make(map[uint64]*chunk)
	}
	pieces(off, length, blockBytes, func(i, start, _ uint64) {
		c := d.chunks[i]
		if c == nil {
			c = new(chunk)
			d.chunks[i] = c
		}
		if bit := uint32(1) << (start / blockBytes); c.allocated&bit == 0 {
			c.allocated |= bit
			d.blocks++
		}
	})
}

// punch frees whole blocks and zeroes the rest of the range.
func (d *data) punch(off, length uint64) {
	first, last := off/chunkBytes, (off+length-1)/chunkBytes
	if length == 0 {
		return
	}
	if last-first < uint64(len(d.chunks)) {
		for i := first; i <= last; i++ {
			d.punchChunk(i, off, length)
		}
		return
	}
	for i := range d.chunks { // a long range of a sparse file
		if first <= i && i <= last {
			d.punchChunk(i, off, length)
		}
	}
}

// punchChunk punches the part of [off, off+length) in chunk i.
func (d *data) punchChunk(i, off, length uint64) {
	c := d.chunks[i]
	if c == nil {
		return
	}
	base := i * chunkBytes
	start, end := max(off, base), min(off+length, base+chunkBytes)
	pieces(start, end-start, blockBytes, func(_, start, n uint64) {
		clear(c.bytes[start : start+n])
		if bit := uint32(1) << (start / blockBytes); n == blockBytes && c.allocated&bit != 0 {
			c.allocated &^= bit
			c.written &^= bit
			d.blocks--
		}
	})
	if c.allocated == 0 {
		delete(d.chunks, i)
	}
}

// truncate frees all blocks after size, and zeroes the rest of the block that contains size.
func (d *data) truncate(size uint64) { d.punch(size, math.MaxUint64-size) }

// seek finds the first offset at or after off and below size that is (or is not) in a written
// block.
func (d *data) seek(off, size uint64, written bool) (uint64, bool) {
	for off < size {
		c := d.chunks[off/chunkBytes]
		have := c != nil && c.written&(1<<(off%chunkBytes/blockBytes)) != 0
		if have == written {
			return off, true
		}
		if c == nil {
			off = (off/chunkBytes + 1) * chunkBytes
			if len(d.chunks) == 0 {
				return size, false
			}
			if off < size && d.chunks[off/chunkBytes] == nil {
				off = d.nextChunk(off / chunkBytes)
			}
		} else {
			off = (off/blockBytes + 1) * blockBytes
		}
	}
	return size, false
}

// nextChunk returns the offset of the first chunk at or after i, or a very large offset if there is
// none.
func (d *data) nextChunk(i uint64) uint64 {
	next := uint64(math.MaxUint64 / chunkBytes)
	for j := range d.chunks {
		if j >= i {
			next = min(next, j)
		}
	}
	return next * chunkBytes
}

// Read is vfs.FS.Read.
func (m *MemFS) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.fileNode(ino)
	if err != nil {
		return 0, err
	}
	if off >= n.attr.Size {
		return 0, nil
	}
	dst = dst[:min(uint64(len(dst)), n.attr.Size-off)]
	n.data.read(off, dst)
	return len(dst), nil
}

func checkRange(off, length uint64) error {
	if off > vfs.MaxFileBytes || length > vfs.MaxFileBytes-off {
		return fmt.Errorf("%d bytes at %d: %w", length, off, vfs.ErrFileTooBig)
	}
	return nil
}

// Write is vfs.FS.Write.
func (m *MemFS) Write(_ *vfs.Req, ino vfs.Ino, off uint64, src []byte, kill bool) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileNode(ino)
	if err != nil {
		return 0, err
	}
	if len(src) == 0 {
		return 0, nil
	}
	if err := checkRange(off, uint64(len(src))); err != nil {
		return 0, err
	}
	if err := m.checkSpace(uint64(len(src))); err != nil {
		return 0, err
	}
	if kill {
		n.kill()
	}
	m.account(n, func() { n.data.write(off, src) })
	n.attr.Size = max(n.attr.Size, off+uint64(len(src)))
	n.modified()
	return len(src), nil
}

// Fallocate is vfs.FS.Fallocate.
func (m *MemFS) Fallocate(_ *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileNode(ino)
	if err != nil {
		return err
	}
	if length == 0 {
		return fmt.Errorf("fallocate of 0 bytes: %w", vfs.ErrInvalid)
	}
	if err := checkRange(off, length); err != nil {
		return err
	}
	if mode&vfs.FallocPunchHole == 0 {
		if err := m.checkSpace(length); err != nil {
			return err
		}
	}
	keep := mode&vfs.FallocKeepSize != 0
	switch mode &^ vfs.FallocKeepSize {
	case 0:
		m.account(n, func() { n.data.allocate(off, length) })
	case vfs.FallocZeroRange:
		m.account(n, func() {
			n.data.punch(off, length)
			n.data.allocate(off, length)
		})
	case vfs.FallocPunchHole:
		if !keep {
			return fmt.Errorf("punch without keep size: %w", vfs.ErrNotSupported)
		}
		m.account(n, func() { n.data.punch(off, length) })
	default:
		return fmt.Errorf("fallocate mode %#x: %w", mode, vfs.ErrNotSupported)
	}
	if !keep {
		n.attr.Size = max(n.attr.Size, off+length)
	}
	n.modified()
	return nil
}

// CopyRange is vfs.FS.CopyRange.
func (m *MemFS) CopyRange(_ *vfs.Req, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, length uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, err := m.fileNode(src)
	if err != nil {
		return 0, err
	}
	to, err := m.fileNode(dst)
	if err != nil {
		return 0, err
	}
	if srcOff >= from.attr.Size {
		return 0, nil
	}
	length = min(length, from.attr.Size-srcOff)
	if err := checkRange(dstOff, length); err != nil {
		return 0, err
	}
	if src == dst && srcOff < dstOff+length && dstOff < srcOff+length {
		return 0, fmt.Errorf("copy of a range onto itself: %w", vfs.ErrInvalid)
	}
	if length == 0 {
		return 0, nil
	}
	if err := m.checkSpace(length); err != nil {
		return 0, err
	}
	m.account(to, func() {
		buf := make([]byte, chunkBytes)
		for done := uint64(0); done < length; {
			b := buf[:min(uint64(len(buf)), length-done)]
			from.data.read(srcOff+done, b)
			to.data.write(dstOff+done, b)
			done += uint64(len(b))
		}
	})
	to.attr.Size = max(to.attr.Size, dstOff+length)
	to.modified()
	return length, nil
}

// SeekData is vfs.FS.SeekData.
func (m *MemFS) SeekData(ino vfs.Ino, off uint64) (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.fileNode(ino)
	if err != nil {
		return 0, err
	}
	at, ok := n.data.seek(off, n.attr.Size, true)
	if !ok {
		return 0, fmt.Errorf("inode %d from %d: %w", ino, off, vfs.ErrNoData)
	}
	return at, nil
}

// SeekHole is vfs.FS.SeekHole.
func (m *MemFS) SeekHole(ino vfs.Ino, off uint64) (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.fileNode(ino)
	if err != nil {
		return 0, err
	}
	if off >= n.attr.Size {
		return 0, fmt.Errorf("inode %d from %d: %w", ino, off, vfs.ErrNoData)
	}
	at, _ := n.data.seek(off, n.attr.Size, false)
	return at, nil
}
