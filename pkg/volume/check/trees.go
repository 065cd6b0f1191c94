package check

import (
	"fmt"
	"runtime"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// checkTrees checks everything that the root refers to, and then the maps of free space.
func (c *checker) checkTrees() {
	c.data.slots = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	var low layout.Key
	// Shared blocks must be known before references are counted.
	for _, id := range [layout.Trees]int{layout.TreeShares, 0, layout.TreeFS, layout.TreeSpace, layout.TreeSnapshots, layout.TreeAnchors, 6, 7} {
		p := &c.root.Trees[id]
		if p.IsZero() {
			if id == layout.TreeFS || id == layout.TreeSpace {
				c.problem("root", "it has no pointer to tree %d", id)
				c.lose(uint64(id))
			}
			continue
		}
		w := walk{c: c, id: uint64(id), mark: true}
		switch id {
		case layout.TreeFS:
			w.item = c.fsItem
		case layout.TreeShares:
			w.item = c.shareItem
		case layout.TreeSnapshots:
			w.item = c.snap.item
		case layout.TreeAnchors:
			w.item = c.anchorItem
		}
		w.node(p, p.Level, c.root.Generation, low, nil)
	}
	c.endInode()
	c.endPosition()
	c.checkReserved()
	if c.snap != nil {
		c.snap.finish()
	}
	c.data.flush(c)
	c.data.wg.Wait()
	c.nameShared()
	if !c.lostFS {
		c.checkLinks()
	}
	for i := range c.root.FreeLists {
		c.checkFreeList(i)
	}
	c.checkShares()
	c.checkSpace()
}

// anchorItem checks an item of tree 5.
func (c *checker) anchorItem(_ uint64, k layout.Key, v []byte) {
	err := fmt.Errorf("%w: key %v", layout.ErrCorrupt, k)
	switch {
	case k.Obj == 0 && k.Type == layout.KeyAnchor:
		_, err = layout.DecodeAnchored(v)
	case k.Obj == 0 && k.Type == layout.KeyNextSlot && k.Sub < crypto.Slots:
		_, err = layout.DecodeNextSlot(v)
	}
	if err != nil {
		c.problem("tree of anchors", "%v", err)
	}
}

func (c *checker) lose(tree uint64) {
	if tree == layout.TreeFS {
		c.lostFS = true
		return
	}
	c.lostSpace = true
	c.shares.lost = c.shares.lost || tree == layout.TreeShares
}
