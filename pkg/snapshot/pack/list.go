package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// ErrNoPack is about a reference to a pack that the list does not have.
var ErrNoPack = errors.New("no such pack in the snapshot's list")

// List is the pack list of a snapshot. Pages are read when they are needed, and
// those that were used last are kept, of at most maxListBytes.
type List struct {
	store chunkstore.Store
	pages []format.PageRef

	mu    sync.Mutex
	read  map[int]*page // guarded by mu
	bytes int           // guarded by mu: of the pages in read
	used  uint64        // guarded by mu: the use of a page that came last
}

// page is one that somebody reads, or has read.
type page struct {
	done  chan struct{} // closed when it was read
	packs []format.PackEntry
	err   error

	used  uint64 // guarded by List.mu: when it was asked for
	bytes int    // guarded by List.mu: of memory; 0: it is still being read
}

// maxListBytes bounds the memory of a list: pages for about 1.4 TiB of content.
// The page that is in use stays, however long it is.
const maxListBytes = 8 << 20

// entryBytes is the memory of an entry, without its bitmap.
const entryBytes = int(unsafe.Sizeof(format.PackEntry{}))

// NewList returns the list of a snapshot.
func NewList(store chunkstore.Store, h *format.Head) *List {
	return &List{store: store, pages: h.Pages, read: map[int]*page{}}
}

// Page returns the packs of page i; nobody changes them.
func (l *List) Page(ctx context.Context, i int) ([]format.PackEntry, error) {
	for {
		l.mu.Lock()
		p := l.read[i]
		l.used++
		if p != nil {
			p.used = l.used
		} else {
			p = &page{done: make(chan struct{}), used: l.used}
			l.read[i] = p
			l.mu.Unlock()
			l.readPage(ctx, i, p)
			return p.packs, p.err
		}
		l.mu.Unlock()
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if p.err == nil {
			return p.packs, nil
		}
		// It may be about the other caller alone, who stopped: read it oneself.
	}
}

// readPage reads page i into p. After an error the next caller reads it again.
func (l *List) readPage(ctx context.Context, i int, p *page) {
	defer close(p.done)
	ref := &l.pages[i]
	b, err := l.store.Get(ctx, ref.Name.Key(), nil, int(ref.Length))
	if err == nil {
		p.packs, err = ref.CheckPage(b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		p.err = fmt.Errorf("pack list %s: %w", ref.Name, err)
		delete(l.read, i)
		return
	}
	p.bytes = int(ref.Length) + len(p.packs)*entryBytes // bitmaps lie in what was read
	l.bytes += p.bytes
	l.evict(i)
}

// evict forgets the pages that were used least recently, but not page keep, until
// the others have room. They are few: it looks at all. The caller holds mu.
func (l *List) evict(keep int) {
	for l.bytes > maxListBytes {
		oldest := -1
		for i, p := range l.read {
			if i != keep && p.bytes > 0 && (oldest < 0 || p.used < l.read[oldest].used) {
				oldest = i
			}
		}
		if oldest < 0 {
			return
		}
		l.bytes -= l.read[oldest].bytes
		delete(l.read, oldest)
	}
}

// Find returns the pack of a number.
func (l *List) Find(ctx context.Context, number uint32) (format.PackEntry, error) {
	i, ok := slices.BinarySearchFunc(l.pages, number, func(p format.PageRef, n uint32) int { return cmp.Compare(p.First, n) })
	if !ok {
		i--
	}
	if i >= 0 {
		packs, err := l.Page(ctx, i)
		if err != nil {
			return format.PackEntry{}, err
		}
		if j, ok := slices.BinarySearchFunc(packs, number, func(e format.PackEntry, n uint32) int { return cmp.Compare(e.Number, n) }); ok {
			return packs[j], nil
		}
	}
	return format.PackEntry{}, fmt.Errorf("pack %d: %w", number, ErrNoPack)
}
