package selfenc

import (
	"encoding/binary"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// refCache remembers where chunks were put, by their d, so that a run stores equal chunks once. It
// is a cache: it forgets, and then a chunk is stored again. Its memory is that of its entries, 88
// bytes each, which the kernel provides when they are used. Safe for concurrent use.
//
// d is the output of a keyed hash, so it spreads evenly over the sets, and nobody can choose which
// chunks meet in a set.
type refCache struct{ sets []refSet }

const (
	refWays = 8
	// packedDedupChunks is the default number of entries: 11 MiB.
	packedDedupChunks = 128 << 10
)

type refSet struct {
	mu   sync.Mutex
	next uint8             // the way to be replaced next; guarded by mu
	ways [refWays]refEntry // guarded by mu
}

// refEntry is a PackedRef without its name, which is zero.
type refEntry struct {
	d, p                         [32]byte
	length, stored, pack, offset uint32
	slot                         uint16
	suite, kind, comp            uint8 // kind 0: no entry
}

// newRefCache returns a cache of at least n entries, or one that remembers nothing.
func newRefCache(n int) *refCache {
	if n <= 0 {
		return &refCache{}
	}
	return &refCache{make([]refSet, (n+refWays-1)/refWays)}
}

func (c *refCache) set(d *[32]byte) *refSet {
	return &c.sets[binary.LittleEndian.Uint64(d[:])%uint64(len(c.sets))]
}

// get returns the reference of a chunk.
func (c *refCache) get(d *[32]byte) (r PackedRef, ok bool) {
	if len(c.sets) == 0 {
		return PackedRef{}, false
	}
	s := c.set(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.ways {
		if e := &s.ways[i]; e.kind != 0 && e.d == *d {
			return e.ref(), true
		}
	}
	return PackedRef{}, false
}

// put remembers a reference.
func (c *refCache) put(r *PackedRef) {
	if len(c.sets) == 0 {
		return
	}
	s := c.set(&r.D)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.ways[s.next%refWays]
	for i := range s.ways {
		if s.ways[i].kind != 0 && s.ways[i].d == r.D {
			return
		}
	}
	s.next++
	*e = refEntry{d: r.D, p: r.P, length: r.Length, stored: r.Stored, pack: r.Pack, offset: r.Offset, slot: r.Slot,
		suite: uint8(r.Suite), kind: uint8(r.Kind), comp: r.Comp}
}

func (e *refEntry) ref() PackedRef {
	r := PackedRef{Stored: e.stored, Pack: e.pack, Offset: e.offset, Slot: e.slot}
	r.Suite, r.Kind, r.Comp, r.Length, r.D, r.P = crypto.Suite(e.suite), crypto.ChunkKind(e.kind), e.comp, e.length, e.d, e.p
	return r
}
