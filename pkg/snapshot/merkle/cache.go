package merkle

import (
	"container/list"
	"context"
	"sync"
)

// cache holds decoded nodes up to a number of bytes, those used last. If several goroutines want a
// node that is not there, one loads it. The mutex is not held while loading.
type cache struct {
	max int

	mu      sync.Mutex
	bytes   int                        // guarded by mu
	entries map[[32]byte]*list.Element // guarded by mu; by the d of the reference: the hash of all bytes
	recent  list.List                  // of *entry, used last in front; guarded by mu
	loading map[[32]byte]*loading      // guarded by mu
}

type entry struct {
	d [32]byte
	n *node
}

type loading struct {
	ready chan struct{} // closed when the others are set
	n     *node
	err   error
}

func newCache(max int) *cache {
	return &cache{max: max, entries: map[[32]byte]*list.Element{}, loading: map[[32]byte]*loading{}}
}

// get returns the node of d, which load loads.
func (c *cache) get(ctx context.Context, d [32]byte, load func() (*node, error)) (*node, error) {
	for {
		n, l, mine := c.claim(d)
		if n != nil {
			return n, nil
		}
		if mine {
			l.n, l.err = load()
			c.loaded(d, l)
			return l.n, l.err
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if l.err == nil {
			return l.n, nil
		}
		// The error may be that the other goroutine was canceled.
	}
}

func (c *cache) claim(d [32]byte) (n *node, l *loading, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[d]; e != nil {
		c.recent.MoveToFront(e)
		return e.Value.(*entry).n, nil, false
	}
	if l := c.loading[d]; l != nil {
		return nil, l, false
	}
	l = &loading{ready: make(chan struct{})}
	c.loading[d] = l
	return nil, l, true
}

// loaded takes what was loaded, and wakes whoever waits for it.
func (c *cache) loaded(d [32]byte, l *loading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(l.ready)
	delete(c.loading, d)
	if l.err != nil || l.n.memory() > c.max {
		return
	}
	c.entries[d] = c.recent.PushFront(&entry{d, l.n})
	c.bytes += l.n.memory()
	for c.bytes > c.max {
		e := c.recent.Back()
		old := c.recent.Remove(e).(*entry)
		delete(c.entries, old.d)
		c.bytes -= old.n.memory()
	}
}
