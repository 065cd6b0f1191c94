package check

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

func (c *checker) lookup() *items.Lookup {
	return c.lookupAt(c.root.Trees[layout.TreeFS], c.root.Generation)
}

// lookupAt reads the head's tree as of a generation.
func (c *checker) lookupAt(p layout.Pointer, gen uint64) *items.Lookup {
	cache := tree.NewCache(4<<20, c.store.ReadNode)
	return &items.Lookup{Tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: cache}, p, gen+1)}
}

// findNames looks up the paths of the inodes of all problems. It reads all names once more, and
// then follows parents up to the root.
func (c *checker) findNames() *items.NameFinder {
	f := items.NewNameFinder()
	for _, p := range c.found {
		f.Add(p.ino)
		f.AddRange(p.lost)
	}
	if f.Empty() || c.root == nil || c.root.Trees[layout.TreeFS].IsZero() {
		return f
	}
	w := walk{c: c, id: layout.TreeFS, item: func(_ uint64, k layout.Key, v []byte) { f.See(k, v) }}
	p := &c.root.Trees[layout.TreeFS]
	w.node(p, p.Level, c.root.Generation, layout.Key{}, nil)
	f.Resolve(c.lookup())
	return f
}
