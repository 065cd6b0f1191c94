package layout

import (
	"encoding/binary"
	"sort"
)

// A node is a page of NodeBytes:
//
//	0   level u8 ‖ 0 ‖ count u16 ‖ 0×4 ‖ tree u64 ‖ 0×16
//	32  count × offset u16 of a cell, in key order
//	    free space, zero when stored
//	    cells: leaf  = key[17] ‖ length u16 ‖ value
//	           inner = key[17] ‖ pointer[104]
//
// Stored pages are canonical: the cell of slot 0 ends at NodeBytes, each
// further one ends where its predecessor begins. In memory a page may have
// gaps, whose bytes Node counts.
const (
	nodeHeader   = 32
	leafCell     = KeyBytes + 2
	InnerCell    = KeyBytes + PointerBytes
	NodeCapacity = NodeBytes - nodeHeader // for cells and offsets
	// MaxValue is the largest value of an item: three of them fit a node.
	MaxValue = MaxRecordBytes + FileExtentBytes
	maxLevel = 16
)

// Node is a page in memory.
type Node struct {
	Page  []byte
	low   int // start of the lowest cell
	waste int // bytes of dead cells
}

// NewNode makes an empty page.
func NewNode(tree uint64, level uint8) Node {
	p := make([]byte, NodeBytes)
	p[0] = level
	binary.LittleEndian.PutUint64(p[8:], tree)
	return Node{Page: p, low: NodeBytes}
}

// Level is 0 for a leaf.
func (n *Node) Level() uint8 { return n.Page[0] }

// Count is the number of items.
func (n *Node) Count() int { return int(binary.LittleEndian.Uint16(n.Page[2:])) }

func (n *Node) setCount(c int) { binary.LittleEndian.PutUint16(n.Page[2:], uint16(c)) }

func (n *Node) off(i int) int { return int(binary.LittleEndian.Uint16(n.Page[nodeHeader+2*i:])) }

func (n *Node) setOff(i, off int) {
	binary.LittleEndian.PutUint16(n.Page[nodeHeader+2*i:], uint16(off))
}

// Key is the key of item i.
func (n *Node) Key(i int) Key { return GetKey(n.Page[n.off(i):]) }

// Value is the value of item i of a leaf. It aliases the page.
func (n *Node) Value(i int) []byte {
	o := n.off(i)
	l := int(binary.LittleEndian.Uint16(n.Page[o+KeyBytes:]))
	return n.Page[o+leafCell : o+leafCell+l : o+leafCell+l]
}

// PointerBytesAt is the stored pointer of item i of an inner node.
func (n *Node) PointerBytesAt(i int) []byte {
	o := n.off(i) + KeyBytes
	return n.Page[o : o+PointerBytes : o+PointerBytes]
}

func (n *Node) cellBytes(i int) int {
	if n.Level() > 0 {
		return InnerCell
	}
	return leafCell + int(binary.LittleEndian.Uint16(n.Page[n.off(i)+KeyBytes:]))
}

// Used is the space that the items take, including offsets.
func (n *Node) Used() int { return NodeBytes - n.low - n.waste + 2*n.Count() }

// Search returns the first item whose key is not below k, and whether its key is k.
func (n *Node) Search(k Key) (int, bool) {
	i := sort.Search(n.Count(), func(i int) bool { return !n.Key(i).Less(k) })
	return i, i < n.Count() && n.Key(i) == k
}

// Fits reports whether an item with a value of this size fits (in inner nodes the size is fixed).
func (n *Node) Fits(valueBytes int) bool {
	need := 2 + leafCell + valueBytes
	if n.Level() > 0 {
		need = 2 + InnerCell
	}
	return n.Used()+need <= NodeCapacity
}

// Insert puts an item before item i. It must fit.
func (n *Node) Insert(i int, k Key, value []byte) {
	cell := leafCell + len(value)
	if n.Level() > 0 {
		cell = InnerCell
	}
	c := n.Count()
	if n.low-cell < nodeHeader+2*(c+1) {
		n.Compact()
	}
	n.low -= cell
	k.Put(n.Page[n.low:])
	if n.Level() > 0 {
		copy(n.Page[n.low+KeyBytes:n.low+InnerCell], value)
	} else {
		binary.LittleEndian.PutUint16(n.Page[n.low+KeyBytes:], uint16(len(value)))
		copy(n.Page[n.low+leafCell:], value)
	}
	copy(n.Page[nodeHeader+2*(i+1):nodeHeader+2*(c+1)], n.Page[nodeHeader+2*i:nodeHeader+2*c])
	n.setOff(i, n.low)
	n.setCount(c + 1)
}

// Delete removes item i.
func (n *Node) Delete(i int) {
	c := n.Count()
	size, off := n.cellBytes(i), n.off(i)
	clear(n.Page[off : off+size])
	if off == n.low {
		n.low += size
	} else {
		n.waste += size
	}
	copy(n.Page[nodeHeader+2*i:nodeHeader+2*(c-1)], n.Page[nodeHeader+2*(i+1):nodeHeader+2*c])
	n.setOff(c-1, 0)
	n.setCount(c - 1)
}

// SetKey changes the key of item i. The order must not change.
func (n *Node) SetKey(i int, k Key) { k.Put(n.Page[n.off(i):]) }

// Canonical returns the page as it is stored: a copy without gaps.
func (n *Node) Canonical() []byte {
	p := make([]byte, NodeBytes)
	copy(p[:nodeHeader], n.Page[:nodeHeader])
	low := NodeBytes
	for i := range n.Count() {
		size, off := n.cellBytes(i), n.off(i)
		low -= size
		copy(p[low:], n.Page[off:off+size])
		binary.LittleEndian.PutUint16(p[nodeHeader+2*i:], uint16(low))
	}
	return p
}

// Compact removes the gaps.
func (n *Node) Compact() { *n = FromCanonical(n.Canonical()) }

// FromCanonical wraps a canonical page.
func FromCanonical(p []byte) Node {
	n := Node{Page: p, low: NodeBytes}
	if c := n.Count(); c > 0 {
		n.low = n.off(c - 1)
	}
	return n
}

// DecodeNode checks a page from the device: tree and level match the pointer, it has items,
// everything is inside the page, keys ascend, and the form is canonical.
func DecodeNode(p []byte, tree uint64, level uint8) (Node, error) {
	if len(p) != NodeBytes {
		return Node{}, corrupt("node: invalid length of %d bytes", len(p))
	}
	n := Node{Page: p, low: NodeBytes}
	if p[0] != level || level > maxLevel || binary.LittleEndian.Uint64(p[8:]) != tree {
		return Node{}, corrupt("node: invalid level %d or tree %d", p[0], binary.LittleEndian.Uint64(p[8:]))
	}
	if p[1] != 0 || [4]byte(p[4:8]) != [4]byte{} || [16]byte(p[16:32]) != [16]byte{} {
		return Node{}, corrupt("node: reserved bytes are not zero")
	}
	count := n.Count()
	if count == 0 || count > NodeCapacity/(2+leafCell) {
		return Node{}, corrupt("node: invalid number of items %d", count)
	}
	slots := nodeHeader + 2*count
	var prev Key
	for i := range count {
		off := n.off(i)
		if off < slots || off+leafCell > n.low {
			return Node{}, corrupt("node: invalid offset of cell %d: %d", i, off)
		}
		if level == 0 && int(binary.LittleEndian.Uint16(p[off+KeyBytes:])) > MaxValue {
			return Node{}, corrupt("node: cell %d is too large", i)
		}
		if off+n.cellBytes(i) != n.low {
			return Node{}, corrupt("node: cell %d at %d is not canonical", i, off)
		}
		n.low = off
		k := n.Key(i)
		if i > 0 && !prev.Less(k) {
			return Node{}, corrupt("node: keys out of order at %d", i)
		}
		prev = k
	}
	for _, c := range p[slots:n.low] {
		if c != 0 {
			return Node{}, corrupt("node: free space is not zero")
		}
	}
	return n, nil
}

// Split moves the items from i on to a new node.
func (n *Node) Split(i int) Node {
	tree := binary.LittleEndian.Uint64(n.Page[8:])
	left, right := NewNode(tree, n.Level()), NewNode(tree, n.Level())
	for j := range n.Count() {
		to := &left
		if j >= i {
			to = &right
		}
		to.appendCell(n, j)
	}
	*n = left
	return right
}

// Merge appends all items of o, whose keys are above n's; they must fit.
func (n *Node) Merge(o *Node) {
	for j := range o.Count() {
		n.appendCell(o, j)
	}
}

func (n *Node) appendCell(from *Node, j int) {
	size, off := from.cellBytes(j), from.off(j)
	c := n.Count()
	if n.low-size < nodeHeader+2*(c+1) {
		n.Compact()
	}
	n.low -= size
	copy(n.Page[n.low:], from.Page[off:off+size])
	n.setOff(c, n.low)
	n.setCount(c + 1)
}

// SplitPoint returns the item at which to split, so that an item of the given size at position at
// fits in one of the halves.
func (n *Node) SplitPoint(at, valueBytes int) int {
	c := n.Count()
	if at == c {
		return c // growing at its end: leave this node full
	}
	total := n.Used() + 2 + leafCell + valueBytes
	sum := 0
	for i := range c {
		if i == at {
			sum += 2 + leafCell + valueBytes
		}
		size := 2 + n.cellBytes(i)
		if sum+size/2 >= total/2 && i > 0 {
			return i
		}
		sum += size
	}
	return c - 1
}
