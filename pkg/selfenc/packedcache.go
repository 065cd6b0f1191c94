package selfenc

import (
	"container/list"
	"context"
	"sync"
)

// nodeCache keeps decoded nodes of maps, as many as fit into its bytes. It is shared by all readers
// and updates of a PackedSealer. If several goroutines want a node, one loads it. The mutex is not
// held meanwhile. Safe for concurrent use.
type nodeCache struct {
	limit int64

	mu      sync.Mutex
	used    int64                           // guarded by mu
	entries map[packedNodeKey]*packedFlight // guarded by mu
	order   list.List                       // of *packedFlight that are loaded, most recently used first; guarded by mu
}

// packedNodeKey is what decides the result of decoding: d identifies the bytes of the node, and the
// shape what is expected of them.
type packedNodeKey struct {
	d     [32]byte
	shape packedShape
}

type packedFlight struct {
	key   packedNodeKey
	ready chan struct{} // closed when node and err are set
	node  packedNode
	err   error
	place *list.Element // guarded by the cache's mu; nil while loading
}

// packedNode is a decoded node. It is shared, and must not be changed.
type packedNode struct {
	c        [contentBytes]byte
	children []packedChild
}

func (n *packedNode) bytes() int64 {
	return int64(len(n.children))*(packedNodeHeapBytes/nodeFanout) + 512
}

// get returns a node, and loads it if it is not there.
func (n *nodeCache) get(ctx context.Context, k packedNodeKey, load func() (packedNode, error)) (packedNode, error) {
	for {
		f, mine := n.claim(k)
		if mine {
			f.node, f.err = load()
			n.loaded(f)
			close(f.ready)
			return f.node, f.err
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			return packedNode{}, context.Cause(ctx)
		}
		if f.err == nil {
			return f.node, nil
		}
		// The error of the other goroutine may be its own cancellation. Try to load the node here.
	}
}

// peek returns a node if it is there.
func (n *nodeCache) peek(k packedNodeKey) (packedNode, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.entries[k]
	if f == nil || f.place == nil {
		return packedNode{}, false
	}
	return f.node, true
}

// claim finds the entry of a key, or makes one, which the caller must load.
func (n *nodeCache) claim(k packedNodeKey) (f *packedFlight, mine bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.entries[k]; f != nil {
		if f.place != nil {
			n.order.MoveToFront(f.place)
		}
		return f, false
	}
	if n.entries == nil {
		n.entries = map[packedNodeKey]*packedFlight{}
	}
	f = &packedFlight{key: k, ready: make(chan struct{})}
	n.entries[k] = f
	return f, true
}

// loaded puts a node into the order, or removes the entry after an error, and removes the nodes
// that were not used for longest.
func (n *nodeCache) loaded(f *packedFlight) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.err != nil {
		delete(n.entries, f.key)
		return
	}
	f.place = n.order.PushFront(f)
	n.used += f.node.bytes()
	for n.used > n.limit {
		last := n.order.Remove(n.order.Back()).(*packedFlight)
		delete(n.entries, last.key)
		n.used -= last.node.bytes()
	}
}
