package tree

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Frozen is a tree as of the end of a generation, while it is written to the device.
type Frozen struct {
	t     *Tree
	root  *node
	ptr   layout.Pointer
	nodes [][]*node // dirty pages by level
}

// Freeze ends the open generation; the next one is gen+1. It passes to Config.Free the pages that
// the generation dropped while its predecessor was being committed.
func (t *Tree) Freeze() *Frozen {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.dropped {
		t.cfg.Free(&n.ptr)
	}
	t.dropped = nil
	f := &Frozen{t: t, root: t.root, ptr: t.ptr}
	t.gen++
	if f.root != nil && !f.root.committed() {
		f.collect(f.root)
	}
	return f
}

// ID is the tree's number.
func (f *Frozen) ID() uint64 { return f.t.cfg.ID }

func (f *Frozen) collect(n *node) {
	for _, k := range n.kids {
		if k != nil && !k.committed() {
			f.collect(k)
		}
	}
	l := int(n.Level())
	for len(f.nodes) <= l {
		f.nodes = append(f.nodes, nil)
	}
	f.nodes[l] = append(f.nodes[l], n)
}

// Page is a dirty page to be written. The writer fills Pointer.
type Page struct {
	n       *node
	Pointer layout.Pointer
	Bytes   []byte // canonical plaintext, complete once the level below is written
	Second  bool   // it gets a second copy
}

// Pages is the number of dirty pages.
func (f *Frozen) Pages() (n int) {
	for _, l := range f.nodes {
		n += len(l)
	}
	return n
}

// Copies is the number of page writes. The top two levels are written twice.
func (f *Frozen) Copies() int {
	n := f.Pages()
	for l, nodes := range f.nodes {
		if f.second(l) {
			n += len(nodes)
		}
	}
	return n
}

// second reports whether pages of a level have a second copy: the root, and the inner pages
// directly below it.
func (f *Frozen) second(level int) bool {
	top := int(f.root.Level())
	return level == top || (level == top-1 && level > 0)
}

// Write passes the dirty pages to write, one level at a time, from the leaves up. write must fill
// in the Pointers. Write returns the pointer to the root.
func (f *Frozen) Write(write func(level int, pages []*Page) error) (layout.Pointer, []*Page, error) {
	if f.root == nil {
		return f.ptr, nil, nil
	}
	if f.root.committed() {
		return f.root.ptr, nil, nil
	}
	byNode := make(map[*node]*Page, f.Pages())
	var all []*Page
	for l, nodes := range f.nodes {
		pages := make([]*Page, len(nodes))
		for i, n := range nodes {
			p := &Page{n: n, Bytes: n.Canonical(), Second: f.second(l)}
			for s, k := range n.kids {
				if k == nil {
					continue
				}
				kp := &k.ptr
				if w := byNode[k]; w != nil {
					kp = &w.Pointer
				}
				c := layout.FromCanonical(p.Bytes)
				kp.Put(c.PointerBytesAt(s))
			}
			byNode[n] = p
			pages[i] = p
		}
		if len(pages) == 0 {
			continue
		}
		if err := write(l, pages); err != nil {
			return layout.Pointer{}, nil, err
		}
		all = append(all, pages...)
	}
	return byNode[f.root].Pointer, all, nil
}

// Install makes the written pages clean. The root that reaches them must be durable.
func (f *Frozen) Install(pages []*Page) {
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range pages {
		n := p.n
		n.Node = layout.FromCanonical(p.Bytes)
		n.ptr = p.Pointer
		n.kids = nil
		t.cfg.Cache.put(n)
	}
	if t.root != nil && t.root.committed() {
		t.ptr, t.root = t.root.ptr, nil
		t.stored = encode(&t.ptr)
	}
}
