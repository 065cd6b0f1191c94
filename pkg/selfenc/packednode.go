package selfenc

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// packedMapVersion is the version of nodes whose references are packed references.
const packedMapVersion = 2

const (
	contentBytes       = 32
	maxPackedNodeBytes = nodeHeaderBytes + nodeFanout*(contentBytes+MaxPackedRefBytes)
	// contentDomain begins what a content hash is made of.
	contentDomain       = "DCv2N"
	maxPackedPlaceless  = len(contentDomain) + 6 + nodeFanout*(4+contentBytes)
	packedNodeHeapBytes = nodeFanout * (contentBytes + 128) // about what a decoded node needs
)

// packedChild is an entry of a map: a chunk, a node, or a hole. The zero value is a hole.
type packedChild struct {
	c   [contentBytes]byte // content hash of a node, else zeros
	ref PackedRef
}

// appendPackedNode appends a node:
//
//	01 ‖ version u8 = 2 ‖ level u8 ‖ log2(chunk bytes) u8 ‖ count u32 ‖ child × count
//
// A child of a node of level 1 is a packed reference of data, or a hole. Other children are c[32] ‖
// packed reference of a node, or zeros for a hole.
func appendPackedNode(b []byte, s packedShape, children []packedChild) []byte {
	b = append(b, mapNode, packedMapVersion, byte(s.level), s.shift)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(children)))
	for i := range children {
		if s.level > 1 {
			b = append(b, children[i].c[:]...)
		}
		b = AppendPackedRef(b, &children[i].ref)
	}
	return b
}

// decodePackedNode decodes and validates a node.
func decodePackedNode(b []byte, s packedShape) ([]packedChild, error) {
	count := s.count()
	if len(b) < nodeHeaderBytes || b[0] != mapNode || b[1] != packedMapVersion || int(b[2]) != s.level || b[3] != s.shift ||
		binary.LittleEndian.Uint32(b[4:]) != uint32(count) {
		return nil, fmt.Errorf("%w: not a node of level %d with %d children", ErrMap, s.level, count)
	}
	b = b[nodeHeaderBytes:]
	children := make([]packedChild, count)
	holes := true
	for i := range children {
		c := &children[i]
		if s.level > 1 {
			if len(b) < contentBytes {
				return nil, fmt.Errorf("%w: node that ends before child %d", ErrMap, i)
			}
			copy(c.c[:], b)
			b = b[contentBytes:]
		}
		r, n, err := DecodePackedRef(b)
		if err != nil {
			return nil, err
		}
		c.ref, b = r, b[n:]
		if err := s.at(s.level-1, int64(i)).check(c); err != nil {
			return nil, err
		}
		holes = holes && r.Kind == 0
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the last child of a node", ErrMap, len(b))
	}
	if holes {
		return nil, fmt.Errorf("%w: node that contains only holes", ErrMap)
	}
	return children, nil
}

// packedContent returns the content hash of a node. It is the hash of the node's placeless form,
// which room has memory for:
//
//	"DCv2N" ‖ level u8 ‖ log2(chunk bytes) u8 ‖ count u32 ‖ child × count
//
// A child of a node of level 1 is length u32 ‖ d[32], or 36 zeros for a hole. Other children are
// c[32], or zeros for a hole.
func packedContent(room []byte, s packedShape, children []packedChild) [contentBytes]byte {
	b := append(append(room[:0], contentDomain...), byte(s.level), s.shift)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(children)))
	for i := range children {
		c := &children[i]
		if s.level > 1 {
			b = append(b, c.c[:]...)
			continue
		}
		b = binary.LittleEndian.AppendUint32(b, c.ref.Length)
		b = append(b, c.ref.D[:]...)
	}
	return sha256.Sum256(b)
}
