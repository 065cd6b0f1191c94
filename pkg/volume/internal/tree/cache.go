package tree

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Loader reads and verifies the page behind a pointer.
type Loader func(p *layout.Pointer) ([]byte, error)

// Cache holds pages as the device has them, by address. It is bounded; what
// was used least recently goes first.
type Cache struct {
	load Loader
	max  int

	mu    sync.Mutex
	nodes map[uint64]*list.Element
	lru   list.List // of *node, most recent first

	hits, misses atomic.Uint64
}

// NewCache makes a cache of about maxBytes.
func NewCache(maxBytes int, load Loader) *Cache {
	return &Cache{load: load, max: max(maxBytes/layout.NodeBytes, 64), nodes: map[uint64]*list.Element{}}
}

// get returns the page at p, if it is there.
func (c *Cache) get(addr, birth uint64) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.nodes[addr]
	if e == nil {
		return nil
	}
	n := e.Value.(*node)
	if n.ptr.Birth != birth {
		return nil // the address was used again
	}
	// Moving a page to the front for each use costs more than it helps.
	if n.uses.Add(1)&15 == 1 {
		c.lru.MoveToFront(e)
	}
	return n
}

// put adds a clean page.
func (c *Cache) put(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.nodes[n.ptr.Addr]; e != nil {
		c.lru.Remove(e)
	}
	c.nodes[n.ptr.Addr] = c.lru.PushFront(n)
	for c.lru.Len() > c.max {
		e := c.lru.Back()
		c.lru.Remove(e)
		old := e.Value.(*node)
		if c.nodes[old.ptr.Addr] == e {
			delete(c.nodes, old.ptr.Addr)
		}
	}
}

// fetch returns the page, from memory or the device.
func (c *Cache) fetch(p *layout.Pointer) (*node, error) {
	if n := c.get(p.Addr, p.Birth); n != nil {
		c.hits.Add(1)
		return n, nil
	}
	c.misses.Add(1)
	b, err := c.load(p)
	if err != nil {
		return nil, err
	}
	pg, err := layout.DecodeNode(b, p.Object, p.Level)
	if err != nil {
		return nil, err
	}
	n := &node{Node: pg, ptr: *p}
	c.put(n)
	return n, nil
}

// Page returns the page behind a pointer, to be read only: for what walks
// trees of which nothing is changed any more.
func (c *Cache) Page(p *layout.Pointer) (*layout.Node, error) {
	n, err := c.fetch(p)
	if err != nil {
		return nil, err
	}
	return &n.Node, nil
}
