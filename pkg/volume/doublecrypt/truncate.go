package doublecrypt

import (
	"cmp"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// truncate sets a file's size. The write lock is held.
func (v *Volume) truncate(n *node, size uint64) error {
	if size > vfs.MaxFileBytes || size > 0 && v.chunk == 0 {
		return &Error{Variant: DataTooLarge, Value: size, err: vfs.ErrFileTooBig}
	}
	v.mu.Lock()
	present := n.size
	v.mu.Unlock()
	grow, cut := size > present, size/max(v.chunk, 1) // the new last chunk, if it is shortened
	var needed []uint64
	if grow {
		needed = v.partial(n, size, size)
	} else if size < present && size > 0 && size%v.chunk != 0 {
		needed = []uint64{cut}
	}
	return v.changeData(n, needed, func(base map[uint64][]byte) (plan, error) {
		if grow {
			count := chunksOf(size, v.chunk)
			e := v.prepare(n, size, count, count)
			e.base = base
			return e.plan(func() {})
		}
		e := &edit{v: v, n: n, base: base, size: size, urgent: true}
		if len(needed) > 0 && n.hasChunk(cut) {
			e.from, e.to = cut, cut+1
		}
		return e.plan(func() { v.cut(e) })
	})
}

// cut drops the data beyond a file's new end. It seals the last remaining chunk again without that
// data. Otherwise, the data would reappear when the file grows.
func (v *Volume) cut(e *edit) {
	n := e.n
	count := chunksOf(e.size, v.chunk)
	for i, data := range n.chunks {
		if i >= count {
			v.dirtyBytes -= cap(data)
			v.recost(n, func() { delete(n.chunks, i) })
		}
	}
	for i, data := range n.flushing {
		if i >= count {
			v.dirtyBytes -= cap(data)
			delete(n.flushing, i)
		}
	}
	at, _ := slices.BinarySearchFunc(n.extents, count, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	for _, x := range n.extents[at:] {
		v.drop(x.block)
	}
	n.extents = slices.Clone(n.extents[:at])
	if e.from < e.to {
		data := e.buffer(e.from)
		v.setChunk(n, e.from, data[:min(len(data), int(e.size-e.from*v.chunk))])
	}
	n.recount(v)
}

// recount counts the chunks and the length of the map again.
func (n *node) recount(v *Volume) {
	n.mapBytes, n.used = 0, 0
	for i := range n.extents {
		if _, ok := n.chunks[n.extents[i].index]; !ok {
			n.mapBytes += n.extents[i].encodedLen()
		}
		n.used++
	}
	for i := range n.chunks {
		n.mapBytes += v.worst(i)
		if _, ok := n.extentAt(i); !ok {
			n.used++
		}
	}
}

// Fallocate implements vfs.FS. It stores zeros for allocated ranges, and also for punched holes.
func (v *Volume) Fallocate(_ *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	end := off + length
	if length == 0 || end < off {
		return vfs.ErrInvalid
	}
	n, err := v.begin(ino)
	if err != nil {
		return err
	}
	defer n.write.Unlock()
	if end > vfs.MaxFileBytes {
		return vfs.ErrFileTooBig
	}
	v.mu.Lock()
	size := n.size
	v.mu.Unlock()
	switch mode {
	case 0:
		if end <= size && !v.opts.Sparse {
			return v.touch(n)
		}
		if v.opts.Sparse {
			return vfs.ErrNotSupported // a hole has no reserved blocks
		}
		return v.truncate(n, end)
	case vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocZeroRange | vfs.FallocKeepSize:
		end = min(end, size)
	case vfs.FallocZeroRange:
	default:
		return vfs.ErrNotSupported
	}
	if off >= end {
		return v.touch(n)
	}
	return v.zero(n, off, end)
}

// zero writes zeros. Whole chunks use no memory.
func (v *Volume) zero(n *node, off, end uint64) error {
	return v.changeData(n, v.partial(n, off, end), func(base map[uint64][]byte) (plan, error) {
		if v.chunk == 0 || (end-1)/v.chunk-off/v.chunk > uint64(v.plain) {
			return plan{}, vfs.ErrFileTooBig
		}
		e := v.prepare(n, max(n.size, end), off/v.chunk, (end-1)/v.chunk+1)
		e.base = base
		return e.plan(func() {
			for i := e.from; i < e.to; i++ {
				from, to := max(off, i*v.chunk)-i*v.chunk, min(end, (i+1)*v.chunk)-i*v.chunk
				if from == 0 && to >= uint64(v.chunkBytes(n, i)) {
					v.setChunk(n, i, nil)
					continue
				}
				buf := e.buffer(i)
				clear(buf[min(from, uint64(len(buf))):min(to, uint64(len(buf)))])
			}
		})
	})
}
