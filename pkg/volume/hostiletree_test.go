package volume

import (
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// cells is what a page holds.
type cells struct {
	level uint8
	tree  uint64
	keys  []layout.Key
	vals  [][]byte // pointers in an inner page
}

func cellsOf(n *layout.Node, tree uint64) *cells {
	c := &cells{level: n.Level(), tree: tree}
	for i := range n.Count() {
		v := n.PointerBytesAt
		if c.level == 0 {
			v = n.Value
		}
		c.keys, c.vals = append(c.keys, n.Key(i)), append(c.vals, slices.Clone(v(i)))
	}
	return c
}

// page encodes as many cells as fit.
func (c *cells) page() []byte {
	n := layout.NewNode(c.tree, c.level)
	for i, k := range c.keys {
		v := c.vals[i]
		if len(v) > layout.MaxValue || !n.Fits(len(v)) {
			continue
		}
		n.Insert(n.Count(), k, v)
	}
	return n.Canonical()
}

// tree changes a page of the tree behind p and all that lead to it.
func (f *forge) tree(p *layout.Pointer, birth uint64) bool {
	if f.one(12) {
		return f.tower(p, birth)
	}
	return f.below(p, birth, uint8(f.rng.IntN(int(p.Level)+1)), nil)
}

func (f *forge) below(p *layout.Pointer, birth uint64, level uint8, path []layout.Pointer) bool {
	n, okay := f.read(p)
	if !okay || n.Count() == 0 {
		return false
	}
	path = append(path, *p)
	tree, at := p.Object, p.Level
	if p.Level > level {
		i := f.rng.IntN(n.Count())
		c, err := layout.GetPointer(n.PointerBytesAt(i), tree)
		if err != nil || c.IsZero() || !f.below(&c, birth, level, path) {
			return false
		}
		c.Put(n.PointerBytesAt(i))
		*p = f.seal(tree, at, birth, n.Page)
		return true
	}
	c := cellsOf(&n, tree)
	var page []byte
	if f.one(12) {
		f.note("tree %d level %d: raw bytes of a page", tree, at)
		page = f.rawPage(n.Page)
	} else {
		if level == 0 {
			f.leaf(c)
		} else {
			f.inner(c, birth, path)
		}
		page = c.page()
	}
	*p = f.seal(tree, at, birth, page)
	return true
}

// rawPage changes the header, the offsets or anything.
func (f *forge) rawPage(p []byte) []byte {
	p = slices.Clone(p)
	for range 1 + f.rng.IntN(3) {
		switch i := f.rng.IntN(len(p)); f.rng.IntN(3) {
		case 0:
			p[f.rng.IntN(32)] = byte(f.rng.Uint32())
		case 1:
			p[32+f.rng.IntN(200)] = byte(f.rng.Uint32())
		default:
			p[i] ^= 1 << f.rng.IntN(8)
		}
	}
	return p
}

// inner changes an inner page.
func (f *forge) inner(c *cells, birth uint64, path []layout.Pointer) {
	i, j := f.rng.IntN(len(c.keys)), f.rng.IntN(len(c.keys))
	put := func(p layout.Pointer) { p.Put(c.vals[i]) }
	switch f.rng.IntN(12) {
	case 0:
		f.note("tree %d level %d: two slots lead to one page", c.tree, c.level)
		copy(c.vals[i], c.vals[j])
	case 1:
		f.note("tree %d level %d: swapped children", c.tree, c.level)
		c.vals[i], c.vals[j] = c.vals[j], c.vals[i]
	case 2, 3:
		p := path[f.rng.IntN(len(path))]
		p.Level = c.level - 1
		f.note("tree %d level %d: a child has the address of an ancestor", c.tree, c.level)
		put(p)
	case 4:
		f.note("tree %d level %d: an empty child", c.tree, c.level)
		put(f.seal(c.tree, c.level-1, birth, layout.NewNode(c.tree, c.level-1).Page))
	case 5, 6:
		f.fan(c, birth)
	case 7:
		f.key(c)
	case 8:
		f.note("tree %d level %d: slots are missing", c.tree, c.level)
		c.keys, c.vals = slices.Delete(c.keys, i, i+1), slices.Delete(c.vals, i, i+1)
	case 9:
		all := f.root.Trees[1:6]
		p := all[f.rng.IntN(len(all))]
		f.note("tree %d level %d: a child of tree %d", c.tree, c.level, p.Object)
		p.Object, p.Level = c.tree, c.level-1
		put(p)
	case 10:
		f.note("tree %d level %d: fields of a pointer", c.tree, c.level)
		p, err := layout.GetPointer(c.vals[i], c.tree)
		if err == nil {
			f.pointer(&p)
			put(p)
		}
	default:
		f.note("tree %d level %d: bytes of a pointer", c.tree, c.level)
		copy(c.vals[i], f.spoil(c.vals[i]))
	}
}

// pointer changes a field of a pointer.
func (f *forge) pointer(p *layout.Pointer) {
	switch f.rng.IntN(6) {
	case 0:
		p.Addr = f.address()
	case 1:
		p.Addr2 = f.address()
	case 2:
		p.Addr, p.Addr2 = f.address(), p.Addr // the second copy is the whole one
	case 3:
		p.Birth = f.number(p.Birth)
	case 4:
		p.Level = uint8(f.number(uint64(p.Level)))
	case 5:
		p.Epoch = uint32(f.number(uint64(p.Epoch)))
	}
}

// address is a multiple of a block, of anything.
func (f *forge) address() uint64 {
	places := []uint64{4096, 65536, 2 << 20, 66 << 20, 1 << 30, 4<<30 - 4096, 4 << 30, 1 << 40, 1<<62 - 4096, f.root.Trees[layout.TreeFS].Addr, f.root.Trees[layout.TreeSpace].Addr}
	return max(4096, places[f.rng.IntN(len(places))]+uint64(f.rng.IntN(3))*4096)
}

// fan makes the last child a tower of pages, each with as many slots as fit that
// all lead to the same page below.
func (f *forge) fan(c *cells, birth uint64) {
	last := len(c.keys) - 1
	low := c.keys[last]
	leaf := &cells{tree: c.tree}
	if what := f.rng.IntN(3); what > 0 {
		k := low
		for range what {
			k, _ = k.Next()
			leaf.keys, leaf.vals = append(leaf.keys, k), append(leaf.vals, nil)
		}
	}
	same := f.one(2) // the keys of all its levels; else each level has later ones
	p := f.seal(c.tree, 0, birth, leaf.page())
	for level := uint8(1); level < c.level; level++ {
		if !same {
			low.Sub += 1 << 20
		}
		p = f.seal(c.tree, level, birth, fanPage(c.tree, level, low, &p))
	}
	if c.level == 1 || f.one(2) { // the page itself, too
		for range 120 {
			low, _ = low.Next()
			c.keys, c.vals = append(c.keys, low), append(c.vals, slices.Clone(c.vals[last]))
		}
		for i := last; i < len(c.vals); i++ {
			p.Put(c.vals[i])
		}
	} else {
		p.Put(c.vals[last])
	}
	if f.one(2) && c.level > 0 { // and everything before it
		for i := range c.vals {
			p.Put(c.vals[i])
		}
	}
	f.note("tree %d level %d: a tower of pages with many parents, leaf of %d", c.tree, c.level, len(leaf.keys))
}

// tower gives a tree a higher root. From a key on, all that is below is a tower of pages,
// each with as many slots as fit that all lead to the same page.
func (f *forge) tower(p *layout.Pointer, birth uint64) bool {
	low := layout.Key{Type: 1, Sub: uint64(f.rng.IntN(3))}
	if n, okay := f.read(p); okay && f.one(2) {
		low = n.Key(f.rng.IntN(n.Count()))
	}
	low, _ = low.Next()
	leaf := &cells{tree: p.Object}
	for range f.rng.IntN(3) {
		leaf.keys, leaf.vals = append(leaf.keys, low), append(leaf.vals, nil)
	}
	height, level := p.Level+1+uint8(f.rng.IntN(14)), p.Level
	q := f.seal(p.Object, 0, birth, leaf.page())
	for l := uint8(1); l <= level; l++ {
		q = f.seal(p.Object, l, birth, fanPage(p.Object, l, low, &q))
	}
	for level++; level <= height; level++ {
		n := layout.NewNode(p.Object, level)
		var b [layout.PointerBytes]byte
		p.Put(b[:])
		n.Insert(0, layout.Key{}, b[:])
		q.Put(b[:])
		for k := low; n.Fits(0); k, _ = k.Next() {
			n.Insert(n.Count(), k, b[:])
		}
		*p = f.seal(p.Object, level, birth, n.Canonical())
		q = f.seal(p.Object, level, birth, fanPage(p.Object, level, low, &q))
	}
	return f.note("tree %d: a tower of pages with many parents, %d levels, leaf of %d", p.Object, height, len(leaf.keys))
}

func fanPage(tree uint64, level uint8, low layout.Key, p *layout.Pointer) []byte {
	n := layout.NewNode(tree, level)
	var b [layout.PointerBytes]byte
	p.Put(b[:])
	for n.Fits(0) {
		n.Insert(n.Count(), low, b[:])
		low, _ = low.Next()
	}
	return n.Canonical()
}

// key changes a key, in order or not.
func (f *forge) key(c *cells) {
	if len(c.keys) == 0 {
		return
	}
	f.note("tree %d level %d: a key", c.tree, c.level)
	k := &c.keys[f.rng.IntN(len(c.keys))]
	switch f.rng.IntN(3) {
	case 0:
		k.Obj = f.number(k.Obj)
	case 1:
		k.Type = uint8(f.number(uint64(k.Type)))
	default:
		k.Sub = f.number(k.Sub)
	}
	if f.one(2) {
		c.sort()
	}
}

func (c *cells) sort() {
	order := make([]int, len(c.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return c.keys[a].Compare(c.keys[b]) })
	keys, vals := slices.Clone(c.keys), slices.Clone(c.vals)
	c.keys, c.vals = c.keys[:0], c.vals[:0]
	for _, i := range order {
		if n := len(c.keys); n > 0 && c.keys[n-1] == keys[i] {
			continue
		}
		c.keys, c.vals = append(c.keys, keys[i]), append(c.vals, vals[i])
	}
}

// leaf changes a leaf.
func (f *forge) leaf(c *cells) {
	if len(c.keys) == 0 {
		return
	}
	i := f.rng.IntN(len(c.keys))
	switch f.rng.IntN(12) {
	case 0:
		f.note("tree %d: an empty leaf", c.tree)
		c.keys, c.vals = nil, nil
	case 1:
		f.key(c)
	case 2:
		f.note("tree %d: an item less", c.tree)
		c.keys, c.vals = slices.Delete(c.keys, i, i+1), slices.Delete(c.vals, i, i+1)
	case 3:
		f.note("tree %d: an item that was invented", c.tree)
		k := c.keys[i]
		k.Type, k.Sub = []uint8{1, 2, 3, 8, 0x10, 0x11, 0x12, 0x20, 0x28, 0x30, 0x40, 0x50}[f.rng.IntN(12)], f.number(k.Sub)
		if f.one(4) {
			k.Obj = f.number(k.Obj)
		}
		c.keys, c.vals = append(c.keys, k), append(c.vals, f.spoil(c.vals[i]))
		c.sort()
	case 4:
		f.note("tree %d: the value of another item", c.tree)
		c.vals[i] = c.vals[f.rng.IntN(len(c.vals))]
	case 5, 6, 7, 8:
		if f.typed(c) {
			return
		}
		fallthrough
	default:
		f.note("tree %d: value of item %v", c.tree, c.keys[i])
		c.vals[i] = f.spoil(c.vals[i])
	}
}

// typed changes a field of an item of a random type.
func (f *forge) typed(c *cells) bool {
	for _, i := range f.rng.Perm(len(c.keys)) {
		k, v := c.keys[i], c.vals[i]
		switch {
		case c.tree == layout.TreeFS && k.Type == layout.KeyInode:
			n, err := layout.DecodeInode(v)
			if err != nil {
				return false
			}
			f.inode(&n, k.Obj)
			c.vals[i] = n.Append(nil)
		case c.tree == layout.TreeFS && k.Type == layout.KeyName:
			n, err := layout.DecodeName(v)
			if err != nil {
				return false
			}
			f.name(&n, k.Obj)
			c.vals[i] = n.Append(nil)
		case c.tree == layout.TreeFS && k.Type == layout.KeyExtent:
			e, err := layout.DecodeFileExtent(v)
			if err != nil {
				return false
			}
			f.extent(&e)
			c.vals[i] = e.Append(nil)
		case c.tree == layout.TreeFS && k.Type == layout.KeyReserved:
			n, err := layout.DecodeReserved(k.Sub, v)
			if err != nil {
				return false
			}
			c.vals[i] = layout.AppendReserved(nil, f.number(n))
		default:
			continue
		}
		return f.note("tree %d: fields of item %v", c.tree, k)
	}
	return false
}

func (f *forge) inode(n *layout.Inode, ino uint64) {
	switch f.rng.IntN(10) {
	case 0:
		n.Size = f.number(n.Size)
	case 1:
		n.Nlink = uint32(f.number(uint64(n.Nlink)))
	case 2:
		n.Parent = ino
	case 3:
		n.Parent = 1 + f.rng.Uint64N(max(1, f.root.NextIno))
	case 4:
		n.Mode = n.Mode&0o7777 | []uint32{items.ModeDir, items.ModeReg, items.ModeLink, 0o010000, 0o020000, 0o140000}[f.rng.IntN(6)]
	case 5:
		n.Flags ^= 1 << f.rng.IntN(10)
	case 6:
		n.Blocks = f.number(n.Blocks)
	case 7:
		n.NameSub = f.number(n.NameSub)
	case 8:
		n.Vacant = f.number(n.Vacant)
	default:
		n.Atime.Sec = int64(f.number(0))
	}
}

func (f *forge) name(n *layout.Name, dir uint64) {
	switch f.rng.IntN(5) {
	case 0:
		n.Ino = dir // a directory in itself
	case 1:
		n.Ino = 1
	case 2:
		n.Ino = 1 + f.rng.Uint64N(max(1, f.root.NextIno))
	case 3:
		n.Name = hostileNames[f.rng.IntN(len(hostileNames))]
	default:
		n.Type = []uint32{items.ModeDir, items.ModeReg, items.ModeLink, 0o030000}[f.rng.IntN(4)]
	}
}

var hostileNames = []string{"", ".", "..", "/", "a/b", "../../etc", "nul\x00", "\xff\xfe", "big2"}

func (f *forge) extent(e *layout.FileExtent) {
	switch f.rng.IntN(6) {
	case 0:
		e.Addr = f.address()
	case 1:
		e.Birth = f.number(e.Birth)
	case 2:
		e.RefBirth = f.number(e.RefBirth)
	case 3:
		e.First = f.rng.IntN(256)
	case 4:
		e.Epoch = uint32(f.number(uint64(e.Epoch)))
	default:
		e.PLen = uint32(f.number(uint64(e.PLen)))
	}
}

// snapshotTree changes a page that a snapshot, or what a rollback left, leads to.
func (f *forge) snapshotTree() bool {
	p := &f.root.Trees[layout.TreeSnapshots]
	if p.IsZero() {
		return false
	}
	return f.belowItem(p, func(k layout.Key, v []byte) []byte {
		switch k.Type {
		case layout.KeySnapshot:
			x, err := layout.DecodeSnapshot(v)
			if err == nil && f.one(6) {
				x.Promised, x.Ranges = f.number(x.Promised), f.number(x.Ranges)
				return x.Append(nil)
			}
			if err == nil && f.tree(&x.Tree, x.Generation) {
				return x.Append(nil)
			}
		case layout.KeyAbandoned:
			x, err := layout.DecodeAbandoned(v)
			if err == nil && f.tree(&x.Tree, f.root.Generation) {
				return x.Append(nil)
			}
		}
		return nil
	})
}

// belowItem replaces the first item, from a random one on, for which change returns one.
func (f *forge) belowItem(p *layout.Pointer, change func(k layout.Key, v []byte) []byte) bool {
	n, okay := f.read(p)
	if !okay {
		return false
	}
	if p.Level > 0 {
		c, err := layout.GetPointer(n.PointerBytesAt(0), p.Object) // what has the object 0 comes first
		if err != nil || c.IsZero() || !f.belowItem(&c, change) {
			return false
		}
		c.Put(n.PointerBytesAt(0))
		*p = f.seal(p.Object, p.Level, f.root.Generation, n.Page)
		return true
	}
	c := cellsOf(&n, p.Object)
	for _, i := range f.rng.Perm(len(c.keys)) {
		if v := change(c.keys[i], c.vals[i]); v != nil {
			c.vals[i] = v
			*p = f.seal(p.Object, 0, f.root.Generation, c.page())
			return f.note("... in snapshot item %v", c.keys[i])
		}
	}
	return false
}
