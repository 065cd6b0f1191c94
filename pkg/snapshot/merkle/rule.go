package merkle

import (
	"encoding/binary"

	"github.com/dchest/siphash"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// The cut rule. Sizes are weights: they follow from placeless forms, never from encodings.
//
// A node ends after an item if the weight of its items is at least cutMin, and either the item's
// keyed hash is below a bound that is proportional to the item's weight, or the weight of the
// node's items is at least cutAlways. Whether a node ends is thus known from its own items: the next
// one does not matter. The last node of a level ends where the level ends.
//
// The bound makes nodes equally long whatever the size of their items: after cutMin, each byte ends
// the node with the probability 1/cutMean. With a fixed probability per item, a directory of files
// of 2 KiB would have nodes that end by cutAlways alone, and one new file would move the ends of all
// that follow.
const (
	cutMin    = 16 << 10
	cutMean   = 48 << 10
	cutAlways = 188 << 10

	leafOverhead = 24  // of an item in a leaf: key and length, about
	innerWeight  = 128 // of an item in an inner node: key, content hash, reference, about

	// maxContent is the longest placeless form of a value. No node weighs more than 256 KiB.
	maxContent = 68<<10 - leafOverhead
	// maxExpansion is the most that a value is longer than its placeless form: by more than what
	// one reference has besides its hash.
	maxExpansion = 128

	// maxLeafItems and maxInnerItems are the most items that a node can have by the rule.
	maxLeafItems  = cutAlways/leafOverhead + 1
	maxInnerItems = cutAlways/innerWeight + 1
	// MaxNodeBytes is the longest encoding of a node: each item of a leaf has up to keyBytes and
	// lengthBytes beside its value, and weighs at least leafOverhead.
	MaxNodeBytes = nodeHeaderBytes + maxLeafItems*(maxKeyBytes+maxLengthBytes+maxExpansion) + cutAlways + maxContent

	// MaxHeight is the greatest height of a map. An inner node that is not the last of its level
	// has at least 128 children: no map that exists is as high.
	MaxHeight = 8
)

const keyBytes = 17

// appendKey appends a key in the form that sorts as keys do: ino u64 BE ‖ type u8 ‖ sub u64 BE.
func appendKey(b []byte, k logical.Key) []byte {
	b = binary.BigEndian.AppendUint64(b, k.Ino)
	return binary.BigEndian.AppendUint64(append(b, byte(k.Type)), k.Sub)
}

// rule is the numbers of the cut rule. Tests have smaller ones, for high maps of few items.
type rule struct{ min, mean, always int }

// cutter applies the cut rule to the items of one node after the other.
type cutter struct {
	rule
	k0, k1 uint64
	level  int
	weight int // of the items since the last end
}

func (c *Config) newCutter(level int) cutter {
	r := c.rule
	if r == (rule{}) {
		r = rule{cutMin, cutMean, cutAlways}
	}
	return cutter{rule: r, k0: binary.LittleEndian.Uint64(c.Cut[:8]), k1: binary.LittleEndian.Uint64(c.Cut[8:]), level: level}
}

// add adds an item with a placeless form of so many bytes, and reports whether the node ends after
// it.
func (c *cutter) add(k logical.Key, contentBytes int) bool {
	weight := innerWeight
	if c.level == 0 {
		weight = leafOverhead + contentBytes
	}
	c.weight += weight
	switch {
	case c.weight < c.min:
		return false
	case c.weight >= c.always:
		return true
	}
	var buf [keyBytes + 1]byte
	sum := siphash.Hash(c.k0, c.k1, append(appendKey(buf[:0], k), byte(c.level)))
	return (sum>>32)*uint64(c.mean) < uint64(weight)<<32
}
