package volume

import (
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// freeSpacePage frees a page of the space tree that the commit replaced.
func (c *committer) freeSpacePage(p *layout.Pointer) { items.EachCopy(p, c.sc.Drop) }

// listRuns is how many runs one piece of a free list holds: one node slot.
const listRuns = 1300

// writeTrees writes the pages of a frozen generation and completes its root.
func (c *committer) writeTrees(g *frozen) error {
	for _, t := range g.trees {
		nodeSlots, err := g.space.Take(t.Copies())
		if err != nil {
			return err
		}
		var pages []*tree.Page
		g.root.Trees[t.ID()], pages, err = t.Write(c.pageWriter(t.ID(), g.gen, nodeSlots))
		if err != nil {
			return err
		}
		g.pages = append(g.pages, pages)
	}
	// The space tree describes itself: its items are placed first, then its pages and the free
	// list. Only then are the values final.
	if err := c.putSpace(g.space.Keys); err != nil {
		return err
	}
	nodeSlots, err := g.space.Take(c.spaces.Pending())
	if err != nil {
		return err
	}
	freed := g.space.Freed()
	places, err := g.space.Take((len(freed) + listRuns - 1) / listRuns)
	if err != nil {
		return err
	}
	err = g.space.Finish(func(k layout.Key, val []byte) error {
		return c.spaces.Update(func(w *tree.Writer) error { return w.Put(k, val) })
	})
	if err != nil {
		return err
	}
	g.spaces = c.spaces.Freeze()
	g.root.Trees[layout.TreeSpace], g.spaced, err = g.spaces.Write(c.pageWriter(layout.TreeSpace, g.gen, nodeSlots))
	if err != nil {
		return err
	}
	if g.list, err = c.writeList(g.gen, freed, places); err != nil {
		return err
	}
	g.root.FreeLists = [2]layout.Pointer2{g.list.ptr, c.lists[0].ptr}
	g.root.FreeBlocks, g.root.AllocHint = g.space.Free, g.space.Hint
	return nil
}

// putSpace makes room for the items that a commit stores.
func (c *committer) putSpace(keys func(fn func(k layout.Key, size int) error) error) error {
	blank := make([]byte, layout.MaxValue)
	return c.spaces.Update(func(w *tree.Writer) error {
		return keys(func(k layout.Key, size int) error {
			old, ok, err := w.Get(k)
			if err != nil {
				return err
			}
			if ok && len(old) == size {
				return w.Put(k, slices.Clone(old)) // dirties its page
			}
			return w.Put(k, blank[:size])
		})
	})
}

// writeList writes the runs that a generation freed, one piece per node slot. Each piece refers to
// the next, so the last one is sealed first.
func (c *committer) writeList(gen uint64, freed, places []layout.Run) (l listPlace, err error) {
	v := c.v
	var at []layout.Run
	for _, p := range places {
		for o := uint32(0); o < p.Count; o += layout.NodeBlocks {
			at = append(at, layout.Run{Start: p.Start + uint64(o), Count: layout.NodeBlocks})
		}
	}
	total := uint64(0)
	for _, r := range freed {
		total += uint64(r.Count)
	}
	for i := len(at) - 1; i >= 0; i-- {
		runs := freed[i*listRuns : min(len(freed), (i+1)*listRuns)]
		rec, ct, err := v.store.SealFreeList(gen, layout.EncodeFreeList(runs, &l.ptr))
		if err != nil {
			return l, err
		}
		rec.Addr = at[i].Start * layout.BlockBytes
		// A piece takes its whole node slot. The rest is padding.
		if err := v.store.Write(ct, rec.Addr); err != nil {
			return l, err
		}
		l.ptr = layout.Pointer2{Record: rec, Blocks: total}
	}
	l.pieces = at
	return l, nil
}

// pageWriter returns a function for tree.Frozen.Write. It writes pages one after another into the
// given node slots, in large writes. Second copies take slots from the end.
func (c *committer) pageWriter(id, gen uint64, nodeSlots []layout.Run) func(int, []*tree.Page) error {
	v := c.v
	var places []uint64 // byte addresses
	for _, r := range nodeSlots {
		for o := uint64(0); o < uint64(r.Count); o += layout.NodeBlocks {
			places = append(places, (r.Start+o)*layout.BlockBytes)
		}
	}
	const perWrite = txn.WriteBytes / layout.NodeBytes
	return func(level int, pages []*tree.Page) error {
		var g errgroup.Group
		g.SetLimit(2 * runtime.GOMAXPROCS(0))
		for len(pages) > 0 {
			n := 1
			for n < min(len(pages), perWrite) && places[n] == places[n-1]+layout.NodeBytes {
				n++
			}
			group, addrs := pages[:n], places[:n]
			pages, places = pages[n:], places[n:]
			seconds := make([]uint64, n)
			for i, p := range group {
				if p.Second {
					seconds[i] = places[len(places)-1]
					places = places[:len(places)-1]
				}
			}
			g.Go(func() error {
				buf := txn.GetBuffer()
				defer txn.PutBuffer(buf)
				for i, p := range group {
					b := (*buf)[i*layout.NodeBytes : (i+1)*layout.NodeBytes]
					rec, err := v.store.SealNode(id, uint8(level), gen, p.Bytes, b)
					if err != nil {
						return err
					}
					rec.Addr = addrs[i]
					p.Pointer = layout.Pointer{Record: rec, Addr2: seconds[i]}
					if seconds[i] != 0 {
						if err := v.store.Write(b, seconds[i]); err != nil {
							return err
						}
					}
				}
				return v.store.Write((*buf)[:n*layout.NodeBytes], addrs[0])
			})
		}
		return g.Wait()
	}
}

// listPlace is the location of a generation's free list.
type listPlace struct {
	ptr    layout.Pointer2
	pieces []layout.Run
}
