package check

import (
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// lose records that a part of a tree could not be read.
func (w *walk) lose() {
	if w.snap != nil || w.left != nil || w.id == layout.TreeSnapshots {
		w.c.lostSnaps = true
	} else {
		w.c.lose(w.id)
	}
}

// walk visits a tree in the order of its keys.
type walk struct {
	c    *checker
	id   uint64
	mark bool              // first visit: report problems, count blocks
	snap *snapWalk         // if the tree is a snapshot's: parts shared with newer ones are skipped
	left *layout.Abandoned // if the tree is an abandoned head: only what is still to be freed is visited
	item func(birth uint64, k layout.Key, v []byte)
}

// fetched is a page, or the reason why it cannot be read.
type fetched struct {
	page   []byte
	first  error // of the first copy
	second error
}

func (w *walk) fetch(p *layout.Pointer) (f fetched) {
	if w.mark {
		f.page, f.first, f.second = w.c.store.NodeCopies(p)
		return f
	}
	f.page, f.first = w.c.store.ReadNode(p)
	return f
}

// prefetch is how many pages are read at once.
const prefetch = 16

// node visits the page behind p and everything below it. Its keys must lie in [lo, hi); nil means
// no bound.
func (w *walk) node(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key) {
	if w.enter(p, level, birth, lo, hi) {
		w.below(p, w.fetch(p), lo, hi)
	}
}

func (w *walk) where(p *layout.Pointer) string {
	if w.left != nil {
		return fmt.Sprintf("abandoned head, level %d, node at %d", p.Level, p.Addr)
	}
	if w.snap != nil {
		return fmt.Sprintf("snapshot %q, tree %d, level %d, node at %d", w.snap.t.name, w.id, p.Level, p.Addr)
	}
	return fmt.Sprintf("tree %d, level %d, node at %d", w.id, p.Level, p.Addr)
}

// enter checks a pointer before it is followed. A page that is already referred to is not read
// again, so the visit ends.
func (w *walk) enter(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key) bool {
	c := w.c
	if !w.mark {
		return p.Level == level && !c.refused[p.Addr]
	}
	if p.Level != level || p.Birth > birth {
		w.lostPage(p, lo, hi, "its pointer says level %d, generation %d; expected are level %d and at most generation %d", p.Level, p.Birth, level, birth)
		w.lose()
		c.refused[p.Addr] = true
		return false
	}
	if w.left != nil && (p.Birth <= w.left.Generation || hi != nil && !w.left.Next.Less(*hi)) {
		return false
	}
	if c.snap != nil && w.id == layout.TreeFS && w.left == nil && c.snap.see(p, w.where(p)) && w.snap != nil {
		return false
	}
	c.rep.Counts.Nodes++
	ok := true
	items.EachCopy(p, func(r layout.Run) {
		if w.snap != nil {
			ok = w.snap.holds(r, p.Birth, w.where(p)) && ok
		} else {
			ok = c.refer(r, w.where(p), 0) && ok
		}
	})
	if !ok {
		w.lose()
		c.refused[p.Addr] = true
	}
	return ok
}

// lostPage reports a page that cannot be used and the range of items that are lost with it.
func (w *walk) lostPage(p *layout.Pointer, lo layout.Key, hi *layout.Key, format string, args ...any) {
	x := problem{where: w.where(p), what: fmt.Sprintf(format, args...)}
	switch w.id {
	case layout.TreeSpace:
		x.what += "; maps of free space are lost"
	case layout.TreeShares:
		x.what += "; reference counts of shared blocks are lost"
	case layout.TreeFS:
		lost := items.RangeOf(lo, hi)
		x.what += "; " + lost.String()
		if w.snap == nil && w.left == nil { // otherwise the head's names do not apply
			x.lost = lost
		}
	}
	w.c.add(x)
}

func (w *walk) below(p *layout.Pointer, f fetched, lo layout.Key, hi *layout.Key) {
	c := w.c
	if w.mark {
		c.progress(layout.NodeBytes)
		switch {
		case f.page == nil:
			w.lostPage(p, lo, hi, "%v", f.first)
		case f.first != nil:
			c.problem(w.where(p), "first copy: %v; the second copy, at %d, is used", f.first, p.Addr2)
		case f.second != nil:
			c.problem(w.where(p), "second copy, at %d: %v; the first copy is used", p.Addr2, f.second)
		}
	}
	if f.page == nil {
		w.lose()
		return
	}
	n, err := layout.DecodeNode(f.page, w.id, p.Level)
	if err == nil {
		err = tree.CheckKeys(&n, lo, hi)
	}
	if err != nil {
		if w.mark {
			w.lostPage(p, lo, hi, "%v", err)
		}
		w.lose()
		return
	}
	if n.Level() == 0 {
		for i := range n.Count() {
			if w.item != nil {
				w.item(p.Birth, n.Key(i), n.Value(i))
			}
		}
		return
	}
	for i := 0; i < n.Count(); i += prefetch {
		w.children(p, &n, i, min(i+prefetch, n.Count()), lo, hi)
	}
}

// children visits children [from, to) of a page. They are read together.
func (w *walk) children(p *layout.Pointer, n *layout.Node, from, to int, lo layout.Key, hi *layout.Key) {
	type child struct {
		p      layout.Pointer
		lo     layout.Key
		hi     *layout.Key
		f      fetched
		follow bool
	}
	kids := make([]child, to-from)
	var wg sync.WaitGroup
	for i := from; i < to; i++ {
		k := &kids[i-from]
		k.lo, k.hi = lo, hi
		if i > 0 {
			k.lo = n.Key(i)
		}
		if i+1 < n.Count() {
			next := n.Key(i + 1)
			k.hi = &next
		}
		var err error
		if k.p, err = layout.GetPointer(n.PointerBytesAt(i), w.id); err == nil && k.p.IsZero() {
			err = fmt.Errorf("%w: missing pointer", layout.ErrCorrupt)
		}
		if err != nil {
			if w.mark {
				w.lostPage(p, k.lo, k.hi, "child %d: %v", i, err)
			}
			w.lose()
			continue
		}
		if k.follow = w.enter(&k.p, p.Level-1, p.Birth, k.lo, k.hi); k.follow {
			wg.Add(1)
			go func() {
				defer wg.Done()
				k.f = w.fetch(&k.p)
			}()
		}
	}
	wg.Wait()
	for i := range kids {
		if k := &kids[i]; k.follow {
			w.below(&k.p, k.f, k.lo, k.hi)
			k.f = fetched{}
		}
	}
}
