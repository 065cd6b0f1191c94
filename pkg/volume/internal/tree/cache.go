package tree

import (
	"container/list"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Loader reads and verifies the page behind a pointer.
type Loader func(p *layout.Pointer) ([]byte, error)

// Cache holds unchanged pages. Its size is bounded, and the least recently used page is evicted. A
// page is found by the complete pointer for which it was loaded: another pointer to the same place
// must verify by itself.
type Cache struct {
	load Loader
	max  int

	mu    sync.Mutex
	nodes map[place]*list.Element
	lru   list.List // of *node, most recent first

	hits, misses atomic.Uint64
}

// NewCache makes a cache of about maxBytes.
func NewCache(maxBytes int, load Loader) *Cache {
	return &Cache{load: load, max: max(maxBytes/layout.NodeBytes, 64), nodes: map[place]*list.Element{}}
}

// place is the key of pages in the cache. It includes the nonce, so that two different pointers to
// one address do not evict each other in turn.
type place struct {
	addr  uint64
	nonce [24]byte
}

type stored = [layout.PointerBytes]byte // an encoded pointer

func placeOf(p *stored) place {
	return place{binary.LittleEndian.Uint64(p[:]), [24]byte(p[16:40])}
}

func encode(p *layout.Pointer) (b stored) {
	p.Put(b[:])
	return b
}

// get returns the page behind p if it is in the cache.
func (c *Cache) get(p *stored) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.nodes[placeOf(p)]
	if e == nil {
		return nil
	}
	n := e.Value.(*node)
	if n.stored != *p {
		return nil
	}
	// Moving a page to the front at each use costs more than it gains.
	if n.uses.Add(1)&15 == 1 {
		c.lru.MoveToFront(e)
	}
	return n
}

// put adds a clean page.
func (c *Cache) put(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.stored = encode(&n.ptr)
	at := placeOf(&n.stored)
	if e := c.nodes[at]; e != nil {
		c.lru.Remove(e)
	}
	c.nodes[at] = c.lru.PushFront(n)
	for c.lru.Len() > c.max {
		e := c.lru.Back()
		c.lru.Remove(e)
		delete(c.nodes, placeOf(&e.Value.(*node).stored))
	}
}

// fetch returns the page, from memory or the device.
func (c *Cache) fetch(p *layout.Pointer) (*node, error) {
	b := encode(p)
	if n := c.get(&b); n != nil {
		c.hits.Add(1)
		return n, nil
	}
	c.misses.Add(1)
	page, err := c.load(p)
	if err != nil {
		return nil, err
	}
	pg, err := layout.DecodeNode(page, p.Object, p.Level)
	if err != nil {
		return nil, err
	}
	n := &node{Node: pg, ptr: *p}
	c.put(n)
	return n, nil
}

// Page returns the page behind a pointer, for reading only. Its keys must be in the range. It is
// for walks over trees that do not change any more.
func (c *Cache) Page(p *layout.Pointer, in Range) (*layout.Node, error) {
	n, err := c.fetch(p)
	if err != nil {
		return nil, err
	}
	if !in.Holds(&n.Node) {
		return nil, errRange
	}
	return &n.Node, nil
}
