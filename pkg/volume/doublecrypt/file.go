package doublecrypt

import (
	"cmp"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// get returns an existing inode. v.mu is held.
func (v *Volume) get(ino vfs.Ino) (*node, error) {
	if v.closed {
		return nil, vfs.ErrClosed
	}
	n := v.nodes[ino]
	if n == nil {
		return nil, vfs.ErrStale
	}
	return n, nil
}

// file returns a file that is not damaged.
func (v *Volume) file(ino vfs.Ino) (*node, error) {
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, vfs.ErrIsDir
	}
	return n, n.damage
}

// loadedFile returns a file with its map loaded. v.mu is held, but is released meanwhile.
func (v *Volume) loadedFile(ino vfs.Ino) (*node, error) {
	for {
		n, err := v.file(ino)
		if err != nil || n.loaded {
			if err == nil {
				v.keep(n)
			}
			return n, err
		}
		if err := v.load(n); err != nil {
			return nil, err
		}
	}
}

// extentAt finds the extent of chunk i on the device.
func (n *node) extentAt(i uint64) (extent, bool) {
	if i < uint64(len(n.extents)) && n.extents[i].index == i { // without holes before it
		return n.extents[i], true
	}
	at, ok := slices.BinarySearchFunc(n.extents, i, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	if !ok {
		return extent{}, false
	}
	return n.extents[at], true
}

// inMemory returns the content of a chunk that is not on the device yet. Missing bytes at its end
// are zeros.
func (n *node) inMemory(i uint64) ([]byte, bool) {
	if d, ok := n.chunks[i]; ok {
		return d, true
	}
	d, ok := n.flushing[i]
	return d, ok
}

func (n *node) hasChunk(i uint64) bool {
	if _, ok := n.inMemory(i); ok {
		return true
	}
	_, ok := n.extentAt(i)
	return ok
}

// throttle waits for a commit while there is too much dirty data.
func (v *Volume) throttle() error {
	v.mu.Lock()
	full := v.dirtyBytes > v.opts.Memory/2
	v.mu.Unlock()
	if full {
		return v.commit()
	}
	return nil
}

// begin takes a file's write lock.
func (v *Volume) begin(ino vfs.Ino) (*node, error) {
	v.mu.Lock()
	n, err := v.file(ino)
	if err == nil {
		err = v.writable()
	}
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n.write.Lock()
	return n, nil
}

// alive tells whether n still exists. v.mu is held.
func (v *Volume) alive(n *node) error {
	if v.nodes[n.ino] != n {
		return vfs.ErrStale
	}
	return nil
}

// Write implements vfs.FS. It keeps the data in memory until a commit. The space for it is
// reserved.
func (v *Volume) Write(_ *vfs.Req, ino vfs.Ino, off uint64, data []byte, _ bool) (int, error) {
	if err := v.throttle(); err != nil {
		return 0, err
	}
	n, err := v.begin(ino)
	if err != nil {
		return 0, err
	}
	defer n.write.Unlock()
	if len(data) == 0 {
		return 0, nil
	}
	end := off + uint64(len(data))
	if end < off || end > vfs.MaxFileBytes || v.chunk == 0 {
		return 0, &Error{Variant: DataTooLarge, Value: end, err: vfs.ErrFileTooBig}
	}
	if err := v.rewrite(n, off, end, func(at uint64, dst []byte) { copy(dst, data[at-off:]) }); err != nil {
		return 0, err
	}
	return len(data), nil
}

// rewrite changes off..end-1 of a file. put fills parts of the range. The write lock is held.
func (v *Volume) rewrite(n *node, off, end uint64, put func(at uint64, dst []byte)) error {
	first, last := off/v.chunk, (end-1)/v.chunk
	return v.changeData(n, v.partial(n, off, end), func(base map[uint64][]byte) (plan, error) {
		e := v.prepare(n, max(n.size, end), first, last+1)
		e.base = base
		return e.plan(func() {
			for i := first; i <= last; i++ {
				from, to := max(off, i*v.chunk), min(end, (i+1)*v.chunk)
				buf := e.buffer(i)
				if need := int(to - i*v.chunk); len(buf) < need {
					if cap(buf) < need {
						// Allocate the whole chunk if more data is likely to follow.
						buf = append(make([]byte, 0, v.roomFor(n, i, need)), buf...)
					}
					clear(buf[len(buf):need])
					buf = buf[:need]
				}
				v.setChunk(n, i, buf)
				put(from, buf[from-i*v.chunk:to-i*v.chunk])
			}
		})
	})
}

// roomFor returns the initial capacity of a chunk's buffer. It is small for small files.
func (v *Volume) roomFor(n *node, i uint64, need int) int {
	if i == 0 && n.size < v.chunk/4 {
		return min(2*need, int(v.chunk))
	}
	return int(v.chunk)
}

// partial lists the chunks whose present content is needed to change off..end-1, or to grow to end.
// The write lock is held, so the size does not change.
func (v *Volume) partial(n *node, off, end uint64) []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []uint64
	add := func(i uint64) {
		from, to := i*v.chunk, min((i+1)*v.chunk, n.size)
		if from < to && (off > from || end < to) && !slices.Contains(list, i) {
			list = append(list, i)
		}
	}
	if off < end {
		add(off / v.chunk)
		add((end - 1) / v.chunk)
	}
	if end > n.size && n.size%v.chunk != 0 {
		if i := n.size / v.chunk; off >= end || i < off/v.chunk {
			list = append(list, i)
		}
	}
	return list
}

// touch sets the modification time.
func (v *Volume) touch(n *node) error {
	return v.change(func() (plan, error) {
		if err := v.alive(n); err != nil {
			return plan{}, err
		}
		blocks, err := v.growth(n, 0)
		return plan{blocks: blocks, apply: func() {
			n.modified = v.seconds()
			v.mark(n, false)
		}}, err
	})
}

// copyBytes is the number of bytes that CopyRange holds in memory.
const copyBytes = 1 << 20

// CopyRange implements vfs.FS.
func (v *Volume) CopyRange(req *vfs.Req, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, length uint64) (uint64, error) {
	if srcOff+length < srcOff || dstOff+length < dstOff {
		return 0, vfs.ErrInvalid
	}
	if src == dst && srcOff < dstOff+length && dstOff < srcOff+length && length > 0 {
		return 0, vfs.ErrInvalid
	}
	v.mu.Lock()
	_, err := v.file(src)
	if err == nil {
		_, err = v.file(dst)
	}
	v.mu.Unlock()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, min(length, copyBytes))
	for done := uint64(0); ; {
		n, err := v.Read(src, srcOff+done, buf[:min(uint64(len(buf)), length-done)])
		if err == nil && n > 0 {
			n, err = v.Write(req, dst, dstOff+done, buf[:n], false)
		}
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil { // return the copied bytes; the next call returns the error
			n = 0
		}
		if done += uint64(n); n == 0 || done == length {
			return done, nil
		}
	}
}
