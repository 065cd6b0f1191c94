package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// A node:
//
//	10 ‖ version u8 = 1 ‖ level u8 ‖ 00 ‖ count u32 ‖ items
//	item of a leaf        key ‖ length ‖ value
//	item of an inner node key ‖ content hash[32] ‖ packed reference
//	key                   ino - ino before ‖ type u8 ‖ sub, or sub - sub before
//
// Lengths and parts of keys are varints (LEB128) without needless bytes. "Before" is the key of the
// item before, 0 for the first item. The difference of subs stands if ino and type are those of the
// item before.
const (
	nodeKind        = 0x10
	nodeVersion     = 1
	nodeHeaderBytes = 8
	maxKeyBytes     = 10 + 1 + 10
	maxLengthBytes  = 3

	hashBytes     = sha256.Size
	minChildBytes = hashBytes + selfenc.PackedRefBytes
)

// contentDomain is the beginning of what content hashes are made of.
const contentDomain = "SEALVMN1"

// node is a decoded node. It is immutable.
type node struct {
	level   int
	raw     []byte
	items   []place
	content [32]byte
	ended   bool // by the cut rule: it can be followed by another one
}

// place is where the payload of an item lies in raw: a value, or hash and reference of a child.
type place struct {
	key      logical.Key
	from, to uint32
}

func (n *node) count() int            { return len(n.items) }
func (n *node) key(i int) logical.Key { return n.items[i].key }
func (n *node) payload(i int) []byte {
	p := n.items[i]
	return n.raw[p.from:p.to:p.to]
}

// find returns the first item whose key is not below k.
func (n *node) find(k logical.Key) (int, bool) {
	return slices.BinarySearchFunc(n.items, k, func(p place, k logical.Key) int { return p.key.Compare(k) })
}

// floor returns the last item whose key is not above k; -1: none.
func (n *node) floor(k logical.Key) int {
	i, exact := n.find(k)
	if exact {
		return i
	}
	return i - 1
}

// memory is how much a node occupies, about.
func (n *node) memory() int { return len(n.raw) + 32*len(n.items) + 128 }

// child is what an inner node says of a node below it.
type child struct {
	content [32]byte
	ref     selfenc.PackedRef
}

func appendChild(b []byte, c *child) []byte {
	return selfenc.AppendPackedRef(append(b, c.content[:]...), &c.ref)
}

// decodeChild decodes the payload of an item of an inner node, which may be followed by others.
func decodeChild(b []byte) (c child, n int, err error) {
	if len(b) < minChildBytes {
		return c, 0, fmt.Errorf("%w: it ends within a reference", ErrInvalid)
	}
	copy(c.content[:], b)
	if c.ref, n, err = selfenc.DecodePackedRef(b[hashBytes:]); err != nil {
		return c, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, hashBytes + n, checkRef(&c.ref)
}

// checkRef checks that a reference can be one of a node, before anything is read.
func checkRef(r *selfenc.PackedRef) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.Kind != crypto.ChunkTree || r.Length > MaxNodeBytes {
		return fmt.Errorf("%w: a chunk of kind %d and %d bytes is not a node", ErrInvalid, r.Kind, r.Length)
	}
	return nil
}

// appendContentHeader appends the beginning of the placeless form of a node:
//
//	"SEALVMN1" ‖ level u8 ‖ 00×3 ‖ count u32 ‖ items
//	item of a leaf        key[17] ‖ length u32 ‖ placeless form of the value
//	item of an inner node key[17] ‖ content hash of the child
func appendContentHeader(b []byte, level, count int) []byte {
	b = append(append(b, contentDomain...), byte(level), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, uint32(count))
}

// appendContentItem appends an item of the placeless form, and returns how long the placeless form
// of its payload is.
func (c *Config) appendContentItem(b []byte, level int, k logical.Key, payload []byte) ([]byte, int, error) {
	b = appendKey(b, k)
	if level > 0 {
		return append(b, payload[:hashBytes]...), hashBytes, nil
	}
	at := len(b)
	b, err := c.Content(append(b, 0, 0, 0, 0), k, payload)
	if err != nil {
		return b, 0, fmt.Errorf("inode %d, fact %d/%#x: %w", k.Ino, k.Type, k.Sub, err)
	}
	n := len(b) - at - 4
	if n > maxContent || len(payload) > n+maxExpansion {
		return b, 0, fmt.Errorf("inode %d, fact %d/%#x: %w: %d bytes, %d of them content", k.Ino, k.Type, k.Sub, ErrTooLarge, len(payload), n)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(n))
	return b, n, nil
}

// appendNodeKey appends the encoding of a key after another one.
func appendNodeKey(b []byte, before, k logical.Key) []byte {
	b = append(binary.AppendUvarint(b, k.Ino-before.Ino), byte(k.Type))
	if k.Ino == before.Ino && k.Type == before.Type {
		return binary.AppendUvarint(b, k.Sub-before.Sub)
	}
	return binary.AppendUvarint(b, k.Sub)
}

// scanner reads the bytes of a node from front to end.
type scanner struct {
	raw []byte
	at  int
}

func (s *scanner) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(s.raw[s.at:])
	if n <= 0 || n > 1 && s.raw[s.at+n-1] == 0 {
		return 0, false
	}
	s.at += n
	return v, true
}

// key reads the key after another one. first: there is none before.
func (s *scanner) key(before logical.Key, first bool) (k logical.Key, ok bool) {
	ino, ok := s.uvarint()
	if !ok || s.at == len(s.raw) {
		return k, false
	}
	k = logical.Key{Ino: before.Ino + ino, Type: logical.Type(s.raw[s.at])}
	s.at++
	if k.Sub, ok = s.uvarint(); !ok {
		return k, false
	}
	if ino == 0 && k.Type == before.Type {
		k.Sub += before.Sub
	}
	return k, first || k.Compare(before) > 0
}

// payload reads the payload of an item.
func (s *scanner) payload(level int) (p place, err error) {
	n, err := s.length(level)
	p.from, p.to = uint32(s.at), uint32(s.at+n)
	s.at += n
	return p, err
}

// length reads how long the payload of an item is, which is there.
func (s *scanner) length(level int) (int, error) {
	if level > 0 {
		_, n, err := decodeChild(s.raw[s.at:])
		return n, err
	}
	n, ok := s.uvarint()
	if !ok || n > uint64(len(s.raw)-s.at) {
		return 0, fmt.Errorf("%w: the length of a value exceeds the node", ErrInvalid)
	}
	return int(n), nil
}

// decodeNode decodes a node, and checks everything that follows from its own bytes. It keeps raw.
func (c *Config) decodeNode(raw []byte) (*node, error) {
	if len(raw) < nodeHeaderBytes || len(raw) > MaxNodeBytes || raw[0] != nodeKind || raw[1] != nodeVersion || raw[2] > MaxHeight || raw[3] != 0 {
		return nil, fmt.Errorf("%w: %d bytes that do not begin as a node", ErrInvalid, len(raw))
	}
	n := &node{level: int(raw[2]), raw: raw}
	count, most, least := int(binary.LittleEndian.Uint32(raw[4:])), maxLeafItems, 4
	if n.level > 0 {
		most, least = maxInnerItems, 3+minChildBytes
	}
	if count < 1 || count > most || count > (len(raw)-nodeHeaderBytes)/least {
		return nil, fmt.Errorf("%w: %d items in a node of level %d and %d bytes", ErrInvalid, count, n.level, len(raw))
	}
	n.items = make([]place, 0, count)
	sum, cut, s := sha256.New(), c.newCutter(n.level), scanner{raw: raw, at: nodeHeaderBytes}
	buf, before := appendContentHeader(make([]byte, 0, 512), n.level, count), logical.Key{}
	for i := range count {
		k, ok := s.key(before, i == 0)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: item %d of %d does not begin with a larger key than the one before", ErrInvalid, i, count)
		case n.ended:
			return nil, fmt.Errorf("%w: a node should have ended after item %d, and has %d: it was made by another rule or key", ErrInvalid, i, count)
		}
		p, err := s.payload(n.level)
		if err != nil {
			return nil, err
		}
		p.key, before = k, k
		n.items = append(n.items, p)
		form, size, err := c.appendContentItem(buf, n.level, k, n.payload(i))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		sum.Write(form)
		buf, n.ended = form[:0], cut.add(k, size)
	}
	if s.at != len(raw) {
		return nil, fmt.Errorf("%w: %d bytes after the last item of a node", ErrInvalid, len(raw)-s.at)
	}
	sum.Sum(n.content[:0])
	return n, nil
}
