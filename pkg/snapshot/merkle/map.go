package merkle

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Map reads a map. All methods may be called at once. Values that they return are shared and must
// not be changed.
type Map struct {
	config Config
	root   Root
	cache  *cache
	reads  atomic.Int64
}

// Open returns the map of a root. It reads nothing.
func Open(c Config, r Root) *Map {
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	return &Map{config: c, root: r, cache: newCache(c.CacheBytes)}
}

// Root returns what the map was opened with.
func (m *Map) Root() Root { return m.root }

// Reads returns how many nodes were read so far.
func (m *Map) Reads() int64 { return m.reads.Load() }

// expected is what is known of a node before it is read.
type expected struct {
	child
	level int
	root  bool
	first logical.Key  // unless root
	end   *logical.Key // below which its keys are; nil: it is the last node of its level
}

// expectRoot describes the root of a map that is not empty.
func (m *Map) expectRoot() expected {
	return expected{child: child{m.root.Content, m.root.Ref}, level: int(m.root.Height), root: true}
}

// below describes child i of a node.
func (x *expected) below(n *node, i int) (expected, error) {
	c, _, err := decodeChild(n.payload(i))
	if err != nil {
		return expected{}, err
	}
	e := expected{child: c, level: n.level - 1, first: n.key(i), end: x.end}
	if i+1 < n.count() {
		k := n.key(i + 1)
		e.end = &k
	}
	return e, nil
}

// load returns a node, verified.
func (m *Map) load(ctx context.Context, x *expected) (*node, error) {
	if err := checkRef(&x.ref); err != nil {
		return nil, x.wrap(err)
	}
	n, err := m.cache.get(ctx, x.ref.D, func() (*node, error) {
		m.reads.Add(1)
		raw, err := m.config.Nodes.Get(ctx, &x.ref)
		if err != nil {
			return nil, err
		}
		if len(raw) != int(x.ref.Length) {
			return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrInvalid, len(raw), x.ref.Length)
		}
		return m.config.decodeNode(raw)
	})
	if err == nil {
		err = x.check(n)
	}
	if err != nil {
		return nil, x.wrap(err)
	}
	return n, nil
}

func (x *expected) wrap(err error) error {
	if x.root {
		return fmt.Errorf("map of the snapshot: root, of level %d: %w", x.level, err)
	}
	return fmt.Errorf("map of the snapshot: node of level %d at inode %d, fact %d/%#x: %w", x.level, x.first.Ino, x.first.Type, x.first.Sub, err)
}

// check compares a node with what its parent says.
func (x *expected) check(n *node) error {
	switch {
	case n.level != x.level:
		return fmt.Errorf("%w: its level is %d", ErrInvalid, n.level)
	case n.content != x.content:
		return fmt.Errorf("%w: its content is not what the node above says", ErrInvalid)
	case !x.root && n.key(0) != x.first:
		return fmt.Errorf("%w: it begins at another key", ErrInvalid)
	case x.end != nil && n.key(n.count()-1).Compare(*x.end) >= 0:
		return fmt.Errorf("%w: its keys overlap those of the next node", ErrInvalid)
	case x.end != nil && !n.ended:
		return fmt.Errorf("%w: it ends too early, and is not the last of its level", ErrInvalid)
	case x.root && n.level > 0 && n.count() == 1:
		return fmt.Errorf("%w: it has one child, which should be the root", ErrInvalid)
	}
	return nil
}

// descend loads the leaf that contains the last key that is not above k. If there is none, it loads
// the first leaf.
func (m *Map) descend(ctx context.Context, k logical.Key) (*node, error) {
	x := m.expectRoot()
	for {
		n, err := m.load(ctx, &x)
		if err != nil || n.level == 0 {
			return n, err
		}
		if x, err = x.below(n, max(n.floor(k), 0)); err != nil {
			return nil, err
		}
	}
}

// Get returns the value of a key. ok is false if there is none.
func (m *Map) Get(ctx context.Context, k logical.Key) (value []byte, ok bool, err error) {
	it, ok, err := m.Floor(ctx, k)
	if err != nil || !ok || it.Key != k {
		return nil, false, err
	}
	return it.Value, true, nil
}

// Floor returns the item with the greatest key that is not above k. ok is false if there is none.
func (m *Map) Floor(ctx context.Context, k logical.Key) (it Item, ok bool, err error) {
	if m.root.Empty() {
		return Item{}, false, nil
	}
	n, err := m.descend(ctx, k)
	if err != nil {
		return Item{}, false, err
	}
	i := n.floor(k)
	if i < 0 {
		return Item{}, false, nil
	}
	return Item{n.key(i), n.payload(i)}, true, nil
}
