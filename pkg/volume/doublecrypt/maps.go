package doublecrypt

import (
	"container/list"
	"errors"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// mapCache limits the extent maps in memory. It drops maps of files without changes, the least
// recently used first. Volume.mu guards it.
type mapCache struct {
	order list.List // of *node, most recently used first
	bytes int
	limit int
}

const extentBytes = int(unsafe.Sizeof(extent{}))

// load reads a file's map. v.mu is held, but is released meanwhile, so the caller must check its
// state again.
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
			extents, err = nil, nil // as the walk found it
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

// keep allows the map of a file without changes to be dropped later.
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

// hold prevents a map from being dropped.
func (v *Volume) hold(n *node) {
	if n.lru != nil {
		v.maps.bytes -= len(n.extents) * extentBytes
		v.maps.order.Remove(n.lru)
		n.lru = nil
	}
}
