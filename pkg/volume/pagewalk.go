package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// pinRoot returns the newest durable root. Nothing that it reaches is reused until release is
// called. Commits wait for that before they free space, so release must be called soon.
func (v *Volume) pinRoot() (root *layout.Root, release func()) {
	for {
		gen := v.durable.generation()
		v.space.PinAt(gen + 1)
		v.durable.mu.Lock()
		root := v.durable.root
		v.durable.mu.Unlock()
		// What gen+1 frees becomes reusable after root gen+2 was published.
		if root.Generation == gen {
			return root, func() { v.space.Unpin(gen + 1) }
		}
		v.space.Unpin(gen + 1)
	}
}

// pageWalk visits a tree of a root in key order, in steps. Between two steps the root may be
// replaced by a newer one; the walk continues at its key. It reads from the device, both copies of
// each page.
type pageWalk struct {
	store *txn.Store
	tree  uint64
	since uint64     // pages of this generation and older ones are skipped
	next  layout.Key // first key that was not visited
	end   bool
	spent int // bytes read in this step; item adds to it

	// page is called for each page that is read. lo and hi bound its keys (hi nil: no bound). err
	// is set if the page cannot be used, first and second if a copy is damaged.
	page func(r *pageRead)
	item func(k layout.Key, v []byte)

	held []heldPage // by level: the path of the last step, so that it is not read again
}

type heldPage struct {
	p layout.Pointer
	n layout.Node
}

// pageRead is the result of reading a page.
type pageRead struct {
	p             *layout.Pointer
	err           error // the page cannot be used
	first, second error // errors of its copies
	lo            layout.Key
	hi            *layout.Key
}

// where describes the place of a page.
func (r *pageRead) where(tree uint64) string {
	return fmt.Sprintf("tree %d, level %d, node at %d", tree, r.p.Level, r.p.Addr)
}

// step visits the tree behind p, of a root of generation gen, from w.next on, until it has read
// budget bytes or reached the end.
func (w *pageWalk) step(p *layout.Pointer, gen uint64, budget int) {
	w.spent = 0
	if p.IsZero() || p.Birth <= w.since || !w.visit(p, p.Level, gen, layout.Key{}, nil, budget) {
		w.end = true
	}
}

func (w *pageWalk) advance(k layout.Key) {
	if w.next.Less(k) {
		w.next = k
	}
}

// visit visits the page behind p and everything below it. It returns true if the budget is used up
// and something is left.
func (w *pageWalk) visit(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key, budget int) (stop bool) {
	n, ok := w.load(p, level, birth, lo, hi)
	if !ok {
		if hi != nil {
			w.advance(*hi)
		}
		return hi != nil && w.spent >= budget
	}
	if n.Level() == 0 {
		i, _ := n.Search(w.next)
		for ; i < n.Count(); i++ {
			k := n.Key(i)
			w.item(k, n.Value(i))
			next, more := k.Next()
			w.advance(next)
			if !more {
				return false
			}
			if w.spent >= budget {
				return true
			}
		}
		if hi != nil {
			w.advance(*hi)
		}
		return hi != nil && w.spent >= budget
	}
	i, eq := n.Search(w.next)
	if !eq && i > 0 {
		i--
	}
	for ; i < n.Count(); i++ {
		clo, chi := lo, hi
		if i > 0 {
			clo = n.Key(i)
		}
		if i+1 < n.Count() {
			k := n.Key(i + 1)
			chi = &k
		}
		if chi != nil && !w.next.Less(*chi) {
			continue
		}
		c, err := layout.GetPointer(n.PointerBytesAt(i), w.tree)
		if err == nil && c.IsZero() {
			err = fmt.Errorf("%w: missing pointer", layout.ErrCorrupt)
		}
		if err != nil {
			w.page(&pageRead{p: p, err: fmt.Errorf("child %d: %w", i, err), lo: clo, hi: chi})
			if chi != nil {
				w.advance(*chi)
			}
			continue
		}
		if c.Birth <= w.since {
			if chi != nil {
				w.advance(*chi)
			}
			continue
		}
		if w.visit(&c, n.Level()-1, p.Birth, clo, chi, budget) {
			return true
		}
	}
	return false
}

// load returns the page behind p, unless it is damaged.
func (w *pageWalk) load(p *layout.Pointer, level uint8, birth uint64, lo layout.Key, hi *layout.Key) (n layout.Node, ok bool) {
	r := &pageRead{p: p, lo: lo, hi: hi}
	if p.Level != level || p.Birth > birth {
		r.err = fmt.Errorf("%w: its pointer says level %d, generation %d; expected are level %d and at most generation %d",
			layout.ErrCorrupt, p.Level, p.Birth, level, birth)
		w.page(r)
		return n, false
	}
	if int(level) < len(w.held) {
		if h := &w.held[level]; h.p.Addr == p.Addr && h.p.Addr2 == p.Addr2 && h.p.Birth == p.Birth && h.p.Nonce == p.Nonce && tree.CheckKeys(&h.n, lo, hi) == nil {
			return h.n, true
		}
	}
	var b []byte
	b, r.first, r.second = w.store.NodeCopies(p)
	w.spent += layout.NodeBytes
	if p.Addr2 != 0 {
		w.spent += layout.NodeBytes
	}
	if r.err = r.first; b != nil {
		if n, r.err = layout.DecodeNode(b, w.tree, level); r.err == nil {
			r.err = tree.CheckKeys(&n, lo, hi)
		}
	}
	w.page(r)
	if r.err != nil {
		return n, false
	}
	for len(w.held) <= int(level) {
		w.held = append(w.held, heldPage{})
	}
	w.held[level] = heldPage{*p, n}
	return n, true
}
