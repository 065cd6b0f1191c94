package pack

import (
	"context"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

const (
	// An Index keeps the tables of so many packs of a stream, before and after the
	// pack in which it found a chunk last. What differs between two walks over the
	// same data is the order of chunks that are sealed at the same time.
	packsBehind, packsAhead = 64, 64
	// maxIndexSlots is how many slots all tables may have before those behind are
	// given up: about 100 bytes each. Any stream may keep leastAhead packs.
	maxIndexSlots = 64 << 10
	leastAhead    = 2
	// indexReads is how many requests run at once.
	indexReads = 16
)

// IndexOptions say what an Index looks at.
type IndexOptions struct {
	// Packs are those that commit.Writer.TakeOver returned, with their lengths;
	// other names are left out.
	Packs map[format.Name]int64
	// Snapshots has the snapshot for which an attempt wrote its packs, if that is
	// not the one that is written now: a writer that had to begin again as another
	// snapshot knows it.
	Snapshots map[format.ID]format.ID
	// Warn is told what cannot be used, and why, by one goroutine at a time; nothing
	// is lost by that. May be nil.
	Warn func(error)
}

// Index finds chunks in the packs of earlier attempts at a snapshot. It expects to
// be asked for them about in the order in which they were stored: it reads tables
// of slots ahead, and forgets those that are behind. A pack in which it finds
// something becomes part of the list. Safe for concurrent use.
//
// It believes no table: a slot that was damaged, moved or forged matches no chunk.
type Index struct {
	keys   *crypto.TenantKeys
	store  chunkstore.Store
	list   *Builder
	o      IndexOptions
	s      format.ID
	ctx    context.Context // of reads
	cancel context.CancelFunc
	group  sync.WaitGroup

	warning sync.Mutex // taken alone

	mu      sync.Mutex    // taken before Builder.mu
	streams []*stream     // the slice is fixed, the streams guarded by mu
	reading [2]int        // guarded by mu: tables, of data and of metadata
	slots   int           // guarded by mu: in all tables
	hits    uint64        // guarded by mu: orders the streams
	changed chan struct{} // guarded by mu: closed when a table was read
	found   Stored        // guarded by mu
	closed  bool          // guarded by mu
}

var _ selfenc.Known = (*Index)(nil)

// stream is the packs of one attempt and kind, in the order of their numbers. A
// pack of metadata is filled while many packs of data are: so each kind has a
// place of its own, and so has each attempt.
type stream struct {
	kind    format.PackKind
	packs   []earlierPack
	at      map[[16]byte]place // by d[0:16]
	tables  map[int]*table     // by position in packs
	last    int                // where a chunk was found last
	next    int                // which table is read next
	reading int                // tables
	hit     uint64             // when something was found; 0: nothing was
	guess   int                // how long tables are, with the trailer
}

// earlierPack is a pack of an earlier attempt.
type earlierPack struct {
	name    format.Name
	bytes   uint32
	number  uint32 // in its header
	epoch   uint8
	adopted bool
	as      uint32 // number in the list, if it was adopted
}

// table has what the slots of a pack reveal.
type table struct {
	pos   int
	slots []revealed
}

// revealed is a slot, and what it hides if nobody changed it.
type revealed struct {
	d                 [16]byte
	p                 [32]byte
	offset, length    uint32
	kind, comp, suite uint8
}

// place is a slot of a table.
type place struct {
	table *table
	slot  uint16
}

// is reports whether the stream has chunks of a class: 0, data, or 1, metadata.
func (s *stream) is(class int) bool {
	return s.kind == format.MixedPack || (s.kind == format.MetadataPack) == (class == 1)
}

func classOf(kind crypto.ChunkKind) int {
	if kind == crypto.ChunkData {
		return 0
	}
	return 1
}

// NewIndex reads the headers of the packs, and begins to read tables, as long as
// ctx lasts. list is that of the writer; NewIndex comes before its first pack. The
// caller calls Close.
func NewIndex(ctx context.Context, store chunkstore.Store, keys *crypto.TenantKeys, s format.ID, list *Builder, o IndexOptions) (*Index, error) {
	x := &Index{keys: keys, store: store, list: list, o: o, s: s, changed: make(chan struct{})}
	x.ctx, x.cancel = context.WithCancel(ctx)
	if err := x.scan(); err != nil {
		x.cancel()
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fill()
	return x, nil
}

// Close ends all reads and waits for them.
func (x *Index) Close() {
	x.cancel()
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.group.Wait()
}

// Found returns how many chunks were found, their bytes, and the packs that the
// list has because of that.
func (x *Index) Found() Stored {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.found
}

// Find returns where an earlier attempt has stored a chunk. While tables that may
// have it are being read it waits for them: a store that is slow costs time, not a
// second upload.
func (x *Index) Find(ctx context.Context, kind crypto.ChunkKind, d *[32]byte, length uint32) (selfenc.PackedRef, bool) {
	class := classOf(kind)
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		if r, ok := x.look(kind, d, length); ok {
			return r, true
		}
		if x.reading[class] == 0 || !x.wait(ctx) {
			return selfenc.PackedRef{}, false
		}
	}
}

// wait waits until another table was read. The caller holds mu, which it gives
// back meanwhile.
func (x *Index) wait(ctx context.Context) bool {
	changed := x.changed
	x.mu.Unlock()
	defer x.mu.Lock()
	select {
	case <-changed:
		return true
	case <-ctx.Done():
		return false
	case <-x.ctx.Done():
		return false
	}
}

// look looks at the tables that are there. Every stream that has the chunk moves
// on: attempts that ran at the same time have stored the same. The first one
// counts. The caller holds mu.
func (x *Index) look(kind crypto.ChunkKind, d *[32]byte, length uint32) (found selfenc.PackedRef, ok bool) {
	moved := false
	for _, s := range x.streams {
		if !s.is(classOf(kind)) {
			continue
		}
		at, has := s.at[[16]byte(d[:16])]
		if !has {
			continue
		}
		r, valid := at.ref(kind, d, length)
		if !valid {
			continue
		}
		x.hits++
		moved = moved || s.hit == 0 || at.table.pos > s.last
		s.hit = x.hits
		s.last = max(s.last, at.table.pos)
		if !ok {
			r.Pack = x.adopt(&s.packs[at.table.pos], len(at.table.slots))
			x.found.Chunks++
			x.found.Bytes += int64(r.Stored)
			found, ok = r, true
		}
	}
	if moved {
		x.fill()
	}
	return found, ok
}

// ref returns the reference to a chunk, without the pack's number.
func (p place) ref(kind crypto.ChunkKind, d *[32]byte, length uint32) (r selfenc.PackedRef, ok bool) {
	s := &p.table.slots[p.slot]
	if s.kind != uint8(kind) || s.comp == 0 && s.p != *d {
		return r, false
	}
	r = selfenc.PackedRef{Stored: s.length, Offset: s.offset, Slot: p.slot}
	r.Suite, r.Kind, r.Comp, r.Length, r.D, r.P = crypto.Suite(s.suite), kind, s.comp, length, *d, s.p
	return r, r.Validate() == nil
}

// adopt enters a pack into the list, once, and returns its number there.
func (x *Index) adopt(p *earlierPack, slots int) uint32 {
	if !p.adopted {
		p.adopted = true
		p.as = x.list.adopt(format.PackEntry{Number: p.number, Name: p.name, Bytes: p.bytes, Slots: uint16(slots)})
		x.found.Packs++
	}
	return p.as
}

func (x *Index) warn(p *earlierPack, err error) {
	x.warning.Lock()
	defer x.warning.Unlock()
	if x.o.Warn != nil && x.ctx.Err() == nil {
		x.o.Warn(fmt.Errorf("pack %s of an earlier attempt is not used: %w", p.name, err))
	}
}
