package merkle

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// builder is the open node of a level.
type builder struct {
	config  *Config
	cut     cutter
	count   int
	first   logical.Key
	before  logical.Key
	raw     []byte // the encoding
	content []byte // the placeless form
	last    int    // where the payload of the last item begins in raw
}

func newBuilder(c *Config, level int) builder {
	b := builder{config: c, cut: c.newCutter(level)}
	b.reset()
	return b
}

func (b *builder) reset() {
	b.count, b.cut.weight, b.before = 0, 0, logical.Key{}
	b.raw = append(b.raw[:0], nodeKind, nodeVersion, byte(b.cut.level), 0, 0, 0, 0, 0)
	b.content = appendContentHeader(b.content[:0], b.cut.level, 0)
}

// add adds an item, and reports whether the node ends after it.
func (b *builder) add(k logical.Key, payload []byte) (ended bool, err error) {
	if b.count == 0 {
		b.first = k
	}
	content, size, err := b.config.appendContentItem(b.content, b.cut.level, k, payload)
	if err != nil {
		return false, err
	}
	b.content = content
	b.raw = appendNodeKey(b.raw, b.before, k)
	if b.cut.level == 0 {
		b.raw = binary.AppendUvarint(b.raw, uint64(len(payload)))
	}
	b.last = len(b.raw)
	b.raw = append(b.raw, payload...)
	b.before = k
	b.count++
	return b.cut.add(k, size), nil
}

// finish returns the node, which is valid until the next reset, and its content hash.
func (b *builder) finish() (raw []byte, content [32]byte) {
	binary.LittleEndian.PutUint32(b.raw[4:], uint32(b.count))
	binary.LittleEndian.PutUint32(b.content[len(contentDomain)+4:], uint32(b.count))
	return b.raw, sha256.Sum256(b.content)
}
