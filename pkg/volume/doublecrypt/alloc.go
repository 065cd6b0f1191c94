package doublecrypt

import "math/bits"

// allocator keeps the set of free blocks: a bitmap with summary levels above it. A bit in a summary
// means that the word below has a bit set. Each operation reads only a few words, however many
// blocks are free.
type allocator struct {
	levels [][]uint64 // levels[0] has one bit per block, which is set if the block is free
	free   uint64
	cursor uint64 // where the next search begins: next fit keeps blocks that are written together contiguous
}

// newAllocator returns an allocator of blocks 0 to total-1. All blocks are free, except for those
// in the sets. It has space for all blocks of the sets.
func newAllocator(total uint64, used, older bitset) *allocator {
	a := &allocator{cursor: firstObject}
	level := make([]uint64, len(used))
	for i := range level {
		w := ^used[i]
		if older != nil {
			w &^= older[i]
		}
		if from := uint64(i) * 64; from >= total {
			w = 0
		} else if total-from < 64 {
			w &= 1<<(total-from) - 1
		}
		level[i] = w
		a.free += uint64(bits.OnesCount64(w))
	}
	for a.levels = append(a.levels, level); len(level) > 1; a.levels = append(a.levels, level) {
		up := make([]uint64, (len(level)+63)/64)
		for i, w := range level {
			if w != 0 {
				up[i/64] |= 1 << (i % 64)
			}
		}
		level = up
	}
	return a
}

// release makes a block free.
func (a *allocator) release(id uint64) {
	if a.levels[0][id/64]&(1<<(id%64)) != 0 {
		panic("doublecrypt: a block is freed twice") // a bug of this package: the block may be in use
	}
	a.free++
	for _, level := range a.levels {
		old := level[id/64]
		level[id/64] = old | 1<<(id%64)
		if old != 0 {
			return
		}
		id /= 64
	}
}

func (a *allocator) take(id uint64) {
	a.free--
	for _, level := range a.levels {
		level[id/64] &^= 1 << (id % 64)
		if level[id/64] != 0 {
			return
		}
		id /= 64
	}
}

// next finds the first free block at or after id.
func (a *allocator) next(id uint64) (uint64, bool) {
	for l := 0; l < len(a.levels); l++ {
		level := a.levels[l]
		if id/64 >= uint64(len(level)) {
			return 0, false
		}
		if w := level[id/64] >> (id % 64) << (id % 64); w != 0 {
			id = id/64*64 + uint64(bits.TrailingZeros64(w))
			for ; l > 0; l-- {
				id = id*64 + uint64(bits.TrailingZeros64(a.levels[l-1][id]))
			}
			return id, true
		}
		id = id/64 + 1
	}
	return 0, false
}

// allocate takes the next free block after the one that it took last.
func (a *allocator) allocate() (uint64, bool) {
	id, ok := a.next(a.cursor)
	if !ok {
		if id, ok = a.next(0); !ok {
			return 0, false
		}
	}
	a.take(id)
	a.cursor = id + 1
	return id, true
}
