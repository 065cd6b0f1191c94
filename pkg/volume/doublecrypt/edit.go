package doublecrypt

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// base reads the given chunks that are only on the device, up to the end of the file. The caller
// holds the file's write lock, so they do not change. v.mu is not held.
func (v *Volume) base(ino vfs.Ino, indexes []uint64) (map[uint64][]byte, error) {
	v.mu.Lock()
	n, err := v.loadedFile(ino)
	if err != nil {
		v.mu.Unlock()
		return nil, err
	}
	var list []fetch
	base := map[uint64][]byte{}
	for _, i := range indexes {
		if _, ok := n.inMemory(i); ok || i*v.chunk >= n.size {
			continue
		}
		if e, ok := n.extentAt(i); ok {
			base[i] = make([]byte, v.chunkBytes(n, i), v.chunk)
			list = append(list, fetch{e, 0, base[i]})
		}
	}
	if len(list) == 0 {
		v.mu.Unlock()
		return nil, nil
	}
	return base, v.fetchUnlocked(list)
}

// errAgain means that a commit has removed content from memory meanwhile.
var errAgain = errors.New("a commit removed the content from memory: read it again")

// changeData makes a change of a file's data that depends on the present content of some chunks.
// The caller holds the file's write lock, so only commits can interfere.
func (v *Volume) changeData(n *node, needed []uint64, make func(base map[uint64][]byte) (plan, error)) error {
	for {
		base, err := v.base(n.ino, needed)
		if err != nil {
			return err
		}
		err = v.change(func() (plan, error) {
			switch {
			case v.nodes[n.ino] != n:
				return plan{}, vfs.ErrStale
			case n.damage != nil:
				return plan{}, n.damage
			case !n.loaded:
				return plan{load: n}, nil
			}
			for _, i := range needed {
				if _, ok := n.inMemory(i); ok || base[i] != nil {
					continue
				}
				if _, ok := n.extentAt(i); ok {
					return plan{}, errAgain
				}
			}
			return make(base)
		})
		if !errors.Is(err, errAgain) {
			return err
		}
	}
}

// edit is a change of a file's data.
type edit struct {
	v       *Volume
	n       *node
	base    map[uint64][]byte
	size    uint64 // after the change
	from    uint64 // chunks from..to-1 get content
	to      uint64
	tail    bool // the chunk at the present end also gets content, because it is no longer the last one
	gapFrom uint64
	zero    bool // the gap before from is filled with zeros
	urgent  bool
}

// prepare returns the edit that enlarges a file to size, with content for chunks from..to-1.
func (v *Volume) prepare(n *node, size, from, to uint64) *edit {
	e := &edit{v: v, n: n, size: size, from: from, to: to}
	if size > n.size {
		present := chunksOf(n.size, v.chunk)
		e.tail = n.size%v.chunk != 0 && (present-1 < from || present-1 >= to)
		e.gapFrom, e.zero = present, !v.opts.Sparse
	}
	return e
}

// fresh yields the chunks that the edit makes dirty.
func (e *edit) fresh(yield func(i uint64) bool) {
	if e.tail {
		if i := e.n.size / e.v.chunk; e.n.hasChunk(i) && !yield(i) {
			return
		}
	}
	if e.zero {
		for i := e.gapFrom; i < e.from; i++ {
			if !yield(i) {
				return
			}
		}
	}
	for i := e.from; i < e.to; i++ {
		if !yield(i) {
			return
		}
	}
}

// plan returns the blocks that the edit needs, or an error if the map has no space.
func (e *edit) plan(apply func()) (plan, error) {
	v, n := e.v, e.n
	count, bytes := n.used, n.mapBytes
	p := plan{urgent: e.urgent}
	tooBig := &Error{Variant: DataTooLarge, Value: e.size, Max: uint64(v.plain), err: vfs.ErrFileTooBig}
	if v.chunk == 0 || e.zero && e.from > e.gapFrom && e.from-e.gapFrom > uint64(v.plain) {
		return plan{}, tooBig
	}
	e.fresh(func(i uint64) bool {
		if _, ok := n.chunks[i]; ok {
			return true
		}
		p.blocks++
		old, ok := n.extentAt(i)
		if ok {
			bytes -= old.encodedLen()
		} else if _, ok := n.flushing[i]; !ok {
			count++
		}
		bytes += v.worst(i)
		return varintLen(count)+bytes <= v.plain
	})
	if varintLen(count)+bytes > v.plain && !n.orphan && p.blocks > 0 {
		return plan{}, tooBig
	}
	more, err := v.growth(n, 0)
	if err != nil {
		return plan{}, err
	}
	p.blocks += more
	p.apply = func() {
		v.mark(n, true)
		if e.tail {
			if i := n.size / v.chunk; n.hasChunk(i) {
				e.buffer(i)
			}
		}
		if e.zero {
			for i := e.gapFrom; i < e.from; i++ {
				v.setChunk(n, i, nil)
			}
		}
		n.size, n.modified = e.size, v.seconds()
		apply()
	}
	return p, nil
}

// worst returns the maximum length of the extent of chunk i in a map.
func (v *Volume) worst(i uint64) int { return varintLen(i) + v.ref + varintLen(v.chunk) }

// buffer returns a chunk's content for a change.
func (e *edit) buffer(i uint64) []byte {
	v, n := e.v, e.n
	data, ok := n.chunks[i]
	if !ok {
		if old, ok := n.flushing[i]; ok {
			data = append(make([]byte, 0, v.chunk), old...)
		} else {
			data = e.base[i]
		}
		v.setChunk(n, i, data)
	}
	return data
}

// setChunk sets the content of a chunk to data.
func (v *Volume) setChunk(n *node, i uint64, data []byte) {
	if old, ok := n.chunks[i]; ok {
		v.dirtyBytes -= cap(old)
	} else {
		if old, ok := n.extentAt(i); ok {
			n.mapBytes -= old.encodedLen()
		}
		n.mapBytes += v.worst(i)
		if !n.hasChunk(i) {
			n.used++
		}
	}
	v.recost(n, func() {
		if n.chunks == nil {
			n.chunks = map[uint64][]byte{}
		}
		n.chunks[i] = data
	})
	v.dirtyBytes += cap(data)
}
