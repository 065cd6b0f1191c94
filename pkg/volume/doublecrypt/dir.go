package doublecrypt

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// checkName refuses invalid new names.
func checkName(name string) error {
	switch {
	case len(name) > vfs.MaxNameBytes:
		return vfs.ErrNameTooLong
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || !utf8.ValidString(name):
		return vfs.ErrInvalid
	}
	return nil
}

// dirNode returns a directory that is not damaged. v.mu is held.
func (v *Volume) dirNode(ino vfs.Ino) (*node, error) {
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, vfs.ErrNotDir
	}
	return n, n.damage
}

// lookup finds a name. v.mu is held.
func (v *Volume) lookup(parent vfs.Ino, name string) (*node, error) {
	d, err := v.dirNode(parent)
	if err != nil {
		return nil, err
	}
	if len(name) > vfs.MaxNameBytes {
		return nil, vfs.ErrNameTooLong
	}
	if e := d.names[name]; e != nil {
		return e.node, nil
	}
	return nil, vfs.ErrNotExist
}

// entryBytes returns the maximum length of n's entry in the page of its directory.
func (v *Volume) entryBytes(name string, n *node) int {
	e := entry{name: name, id: uint64(n.ino)}
	if n.dirty {
		return e.encodedLen() + v.ref
	}
	return e.encodedLen() + varintLen(n.block)
}

// attach adds a name for n at the end of d's page.
func (v *Volume) attach(d *node, name string, n *node) {
	d.cookie++
	v.attachAt(d, name, n, d.cookie)
}

// attachAt adds a name for n with an unused cookie.
func (v *Volume) attachAt(d *node, name string, n *node, cookie uint64) {
	n.entry = &dirent{name, cookie, n}
	n.parent, n.orphan = d, false
	d.names[name] = n.entry
	d.order = slices.Insert(d.order, d.find(cookie), n.entry)
	d.bytes += v.entryBytes(name, n)
	if n.dir {
		d.subdirs++
	}
}

// detach removes n's name, without changing the node.
func (v *Volume) detach(n *node) {
	d := n.parent
	d.bytes -= v.entryBytes(n.entry.name, n)
	delete(d.names, n.entry.name)
	at := d.find(n.entry.cookie)
	d.order = slices.Delete(d.order, at, at+1)
	if n.dir {
		d.subdirs--
	}
	n.parent, n.entry = nil, nil
}

// find returns the index of the first entry with at least the given cookie.
func (n *node) find(cookie uint64) int {
	at, _ := slices.BinarySearchFunc(n.order, cookie, func(e *dirent, c uint64) int {
		switch {
		case e.cookie < c:
			return -1
		case e.cookie > c:
			return 1
		}
		return 0
	})
	return at
}

func (n *node) depth() int {
	d := 0
	for ; n.parent != nil; n = n.parent {
		d++
	}
	return d
}

// countDepth updates the number of directories at a depth.
func (v *Volume) countDepth(depth, by int) {
	for len(v.depths) <= depth {
		v.depths = append(v.depths, 0)
	}
	v.depths[depth] += by
	for len(v.depths) > 1 && v.depths[len(v.depths)-1] == 0 {
		v.depths = v.depths[:len(v.depths)-1]
	}
}

// subtree calls f for each directory of a tree with its depth below n.
func subtree(n *node, f func(depth int)) {
	type at struct {
		n     *node
		depth int
	}
	for todo := []at{{n, 0}}; len(todo) > 0; {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		f(t.depth)
		if t.n.subdirs == 0 {
			continue
		}
		for _, e := range t.n.order {
			if e.node.dir {
				todo = append(todo, at{e.node, t.depth + 1})
			}
		}
	}
}

// newNode returns an inode without a name.
func (v *Volume) newNode(dir bool) *node {
	now := v.seconds()
	n := &node{ino: vfs.Ino(v.nextIno), dir: dir, orphan: true, block: null, body: null, created: now, modified: now}
	v.nextIno++
	if dir {
		n.names = map[string]*dirent{}
	} else {
		n.loaded = true
	}
	v.nodes[n.ino] = n
	return n
}

// create creates a file or directory, and returns it.
func (v *Volume) create(parent vfs.Ino, name string, dir bool) (made vfs.Attr, err error) {
	err = v.change(func() (plan, error) {
		d, err := v.dirNode(parent)
		if err != nil {
			return plan{}, err
		}
		if err := checkName(name); err != nil {
			return plan{}, err
		}
		if d.orphan {
			return plan{}, vfs.ErrNotExist
		}
		if d.names[name] != nil {
			return plan{}, vfs.ErrExist
		}
		p, err := v.room(d, name, v.nextIno)
		p.blocks += 2
		if dir {
			p.blocks += 2 // the reserve may grow by one level
		}
		p.apply = func() {
			n := v.newNode(dir)
			v.attach(d, name, n)
			d.modified = n.modified
			v.mark(d, true)
			v.mark(n, true)
			if dir {
				v.countDepth(n.depth(), 1)
			}
			made = v.attr(n)
		}
		return p, err
	})
	return made, err
}

// room plans an additional entry in d.
func (v *Volume) room(d *node, name string, ino uint64) (plan, error) {
	e := entry{name: name, id: ino}
	if v.pageBytes(d, e.encodedLen()+v.ref, 1) > v.plain {
		return plan{}, &Error{Variant: DataTooLarge, Value: uint64(v.pageBytes(d, e.encodedLen()+v.ref, 1)), Max: uint64(v.plain), err: vfs.ErrNoSpace}
	}
	blocks, err := v.growth(d, v.ref)
	return plan{blocks: blocks}, err
}

// remove removes a name. The inode exists until forget.
func (v *Volume) remove(parent vfs.Ino, name string, check func(n *node) error) (ino vfs.Ino, err error) {
	err = v.change(func() (plan, error) {
		n, err := v.lookup(parent, name)
		if err == nil {
			err = check(n)
		}
		if err != nil {
			return plan{}, err
		}
		if !n.dir && !n.loaded && n.damage == nil {
			return plan{load: n}, nil // its map block is freed
		}
		d := n.parent
		blocks, err := v.growth(d, 0)
		return plan{blocks: blocks, urgent: true, apply: func() {
			ino = n.ino
			if n.dir {
				v.countDepth(n.depth(), -1)
			}
			v.detach(n)
			v.unlink(n)
			d.modified = v.seconds()
			v.mark(d, true)
		}}, err
	})
	return ino, err
}

// unlink makes n, which has lost its name, an orphan. Its data remains in use, but no root refers
// to it.
func (v *Volume) unlink(n *node) {
	v.hold(n) // the map is only in memory
	v.recost(n, func() { n.orphan = true })
	v.drop(n.block)
	v.drop(n.body)
	n.block, n.body = null, null
}

// Forget implements vfs.FS.
func (v *Volume) Forget(ino vfs.Ino) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.nodes[ino]
	if n == nil || !n.orphan || v.closed {
		return
	}
	for i := range n.extents {
		v.drop(n.extents[i].block)
	}
	for _, data := range n.chunks {
		v.dirtyBytes -= cap(data)
	}
	v.recost(n, func() { n.extents, n.chunks, n.dirty = nil, nil, false })
	delete(v.dirty, n)
	delete(v.nodes, ino)
}

// rename moves a name. With replace, it replaces an existing name.
func (v *Volume) rename(parent vfs.Ino, name string, newParent vfs.Ino, newName string, replace bool) error {
	return v.change(func() (plan, error) {
		n, err := v.lookup(parent, name)
		if err != nil {
			return plan{}, err
		}
		d, err := v.dirNode(newParent)
		if err != nil {
			return plan{}, err
		}
		if err := checkName(newName); err != nil {
			return plan{}, err
		}
		if d.orphan {
			return plan{}, vfs.ErrNotExist
		}
		if n.dir && inside(d, n) {
			return plan{}, vfs.ErrInvalid
		}
		var old *node
		if e := d.names[newName]; e != nil {
			if old = e.node; old == n {
				if !replace {
					return plan{}, vfs.ErrExist
				}
				return plan{}, nil
			}
			if err := replaceable(n, old, replace); err != nil {
				return plan{}, err
			}
			if !old.dir && !old.loaded && old.damage == nil {
				return plan{load: old}, nil
			}
		}
		return v.planRename(n, d, newName, old)
	})
}

// inside tells whether d is n or is below n.
func inside(d, n *node) bool {
	for ; d != nil; d = d.parent {
		if d == n {
			return true
		}
	}
	return false
}

func replaceable(n, old *node, replace bool) error {
	switch {
	case !replace:
		return vfs.ErrExist
	case old.dir && (len(old.order) > 0 || old.damage != nil):
		return vfs.ErrNotEmpty
	case old.dir && !n.dir:
		return vfs.ErrIsDir
	case n.dir && !old.dir:
		return vfs.ErrNotDir
	}
	return nil
}

func (v *Volume) planRename(n, d *node, newName string, old *node) (plan, error) {
	from := n.parent
	more := v.entryBytes(newName, n) + v.ref
	if d == from {
		more -= v.entryBytes(n.entry.name, n)
	}
	if old != nil {
		more -= v.entryBytes(newName, old)
	}
	if more > 0 && v.pageBytes(d, more, 1) > v.plain {
		return plan{}, &Error{Variant: DataTooLarge, Value: uint64(v.pageBytes(d, more, 1)), Max: uint64(v.plain), err: vfs.ErrNoSpace}
	}
	blocks, err := v.growth(d, 2*v.ref)
	if err == nil && from != d {
		var other uint64
		other, err = v.growth(from, 2*v.ref)
		blocks += other
	}
	return plan{blocks: blocks, apply: func() { v.applyRename(n, d, newName, old) }}, err
}

func (v *Volume) applyRename(n, d *node, newName string, old *node) {
	from := n.parent
	switch {
	case old != nil: // it takes the other's position
		if old.dir {
			v.countDepth(old.depth(), -1)
		}
		place := old.entry.cookie
		v.detach(old)
		v.unlink(old)
		v.move(n, func() {
			v.detach(n)
			v.attachAt(d, newName, n, place)
		})
	case from == d: // in place: it keeps its position
		d.bytes += v.entryBytes(newName, n) - v.entryBytes(n.entry.name, n)
		delete(d.names, n.entry.name)
		n.entry.name = newName
		d.names[newName] = n.entry
	default:
		v.move(n, func() {
			v.detach(n)
			v.attach(d, newName, n)
		})
	}
	now := v.seconds()
	from.modified, d.modified = now, now
	v.mark(from, true)
	v.mark(d, true)
}

// move updates the counts of depths when a directory moves.
func (v *Volume) move(n *node, f func()) {
	count := func(by int) {
		if n.dir {
			depth := n.depth()
			subtree(n, func(d int) { v.countDepth(depth+d, by) })
		}
	}
	count(-1)
	f()
	count(1)
}

// exchange swaps two names' inodes.
func (v *Volume) exchange(parent vfs.Ino, name string, newParent vfs.Ino, newName string) error {
	return v.change(func() (plan, error) {
		a, err := v.lookup(parent, name)
		if err != nil {
			return plan{}, err
		}
		b, err := v.lookup(newParent, newName)
		if err != nil {
			return plan{}, err
		}
		if a == b {
			return plan{}, nil
		}
		if a.dir && inside(b.parent, a) || b.dir && inside(a.parent, b) {
			return plan{}, vfs.ErrInvalid
		}
		blocks, err := v.growth(a.parent, 24) // the encoded ids may also differ in length
		if err != nil {
			return plan{}, err
		}
		more, err := v.growth(b.parent, 24)
		if err == nil && (v.pageBytes(a.parent, 24, 0) > v.plain || v.pageBytes(b.parent, 24, 0) > v.plain) {
			err = &Error{Variant: DataTooLarge, Value: uint64(v.plain), err: vfs.ErrNoSpace}
		}
		return plan{blocks: blocks + more, apply: func() { v.applyExchange(a, b) }}, err
	})
}

func (v *Volume) applyExchange(a, b *node) {
	pa, pb := a.parent, b.parent
	swap := func() {
		ea, eb := a.entry, b.entry
		pa.bytes += v.entryBytes(ea.name, b) - v.entryBytes(ea.name, a)
		pb.bytes += v.entryBytes(eb.name, a) - v.entryBytes(eb.name, b)
		for _, x := range []struct {
			parent *node
			n      *node
			by     int
		}{{pa, a, -1}, {pb, b, -1}, {pb, a, 1}, {pa, b, 1}} {
			if x.n.dir {
				x.parent.subdirs += uint32(x.by) // wraps as it should
			}
		}
		ea.node, eb.node = b, a
		a.entry, b.entry = eb, ea
		a.parent, b.parent = pb, pa
	}
	v.move(a, func() { v.move(b, swap) })
	now := v.seconds()
	pa.modified, pb.modified = now, now
	v.mark(pa, true)
	v.mark(pb, true)
}
