package doublecrypt

import (
	"container/list"
	"errors"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// mapCache bounds the extent maps in memory: those of files without changes are
// dropped, the longest unused first. Volume.mu guards it.
type mapCache struct {
	order list.List // of *node, the last used first
	bytes int
	limit int
}

const extentBytes = int(unsafe.Sizeof(extent{}))

// load reads a file's map. v.mu is held, but not throughout: what the caller
// knows may be out of date.
func (v *Volume) load(n *node) error {
	if n.loaded || n.damage != nil {
		return n.damage
	}
	body, size := n.body, n.size
	var extents []extent
	if body != null {
		epoch := v.pin()
		v.mu.Unlock()
		var err error
		extents, err = readExtents(v.blk, v.key, body, size, v.chunk, v.blk.buffer(1))
		v.mu.Lock()
		v.unpin(epoch)
		if n.loaded || n.body != body {
			return nil
		}
		if size == 0 && errors.Is(err, vfs.ErrCorrupt) {
			extents, err = nil, nil // as the walk has it
		}
		if errors.Is(err, vfs.ErrCorrupt) {
			n.damage = err
		}
		if err != nil {
			return err
		}
	}
	n.loaded, n.extents, n.mapBytes = true, extents, 0
	for i := range extents {
		n.mapBytes += extents[i].encodedLen()
	}
	v.keep(n)
	return nil
}

// keep lets the map of a file without changes be dropped some time.
func (v *Volume) keep(n *node) {
	if n.dir || !n.loaded || n.orphan || n.dirty || n.inFlight {
		return
	}
	if n.lru != nil {
		v.maps.order.MoveToFront(n.lru)
		return
	}
	n.lru = v.maps.order.PushFront(n)
	v.maps.bytes += len(n.extents) * extentBytes
	for v.maps.bytes > v.maps.limit && v.maps.order.Len() > 1 {
		old := v.maps.order.Back().Value.(*node)
		v.hold(old)
		old.loaded, old.extents = false, nil
	}
}

// hold takes a map out of what may be dropped.
func (v *Volume) hold(n *node) {
	if n.lru != nil {
		v.maps.bytes -= len(n.extents) * extentBytes
		v.maps.order.Remove(n.lru)
		n.lru = nil
	}
}
