package pack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// ErrNoPack is about a reference to a pack that the list does not have.
var ErrNoPack = errors.New("no such pack in the snapshot's list")

// List is the pack list of a snapshot. Pages are read when they are needed.
type List struct {
	store chunkstore.Store
	pages []format.PageRef

	mu   sync.Mutex
	read map[int]*page // guarded by mu
}

// page is one that somebody reads, or has read.
type page struct {
	done  chan struct{} // closed when it was read
	packs []format.PackEntry
	err   error
}

// NewList returns the list of a snapshot.
func NewList(store chunkstore.Store, h *format.Head) *List {
	return &List{store: store, pages: h.Pages, read: map[int]*page{}}
}

// Page returns the packs of page i; nobody changes them.
func (l *List) Page(ctx context.Context, i int) ([]format.PackEntry, error) {
	for {
		l.mu.Lock()
		p := l.read[i]
		if p == nil {
			p = &page{done: make(chan struct{})}
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
	if err != nil {
		p.err = fmt.Errorf("pack list %s: %w", ref.Name, err)
		l.mu.Lock()
		delete(l.read, i)
		l.mu.Unlock()
	}
}

// Find returns the pack of a number.
func (l *List) Find(ctx context.Context, number uint32) (format.PackEntry, error) {
	i, ok := slices.BinarySearchFunc(l.pages, number, func(p format.PageRef, n uint32) int { return cmp(p.First, n) })
	if !ok {
		i--
	}
	if i >= 0 {
		packs, err := l.Page(ctx, i)
		if err != nil {
			return format.PackEntry{}, err
		}
		if j, ok := slices.BinarySearchFunc(packs, number, func(e format.PackEntry, n uint32) int { return cmp(e.Number, n) }); ok {
			return packs[j], nil
		}
	}
	return format.PackEntry{}, fmt.Errorf("pack %d: %w", number, ErrNoPack)
}

func cmp(a, b uint32) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// Builder makes the pack list of a snapshot from its parent's: all that the
// parent lists stays, new packs are added behind it.
type Builder struct {
	mu    sync.Mutex
	pages []format.PageRef   // guarded by mu: of the parent
	added []format.PackEntry // guarded by mu
	next  uint32             // guarded by mu
}

// NewBuilder begins with the list of the parent, or with none if it is nil.
func NewBuilder(parent *format.Head) *Builder {
	b := &Builder{}
	if parent != nil {
		b.pages, b.next = parent.Pages, parent.Next
	}
	return b
}

// Reserve returns a number that no pack of the lineage has had.
func (b *Builder) Reserve() uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	return b.next - 1
}

// Add enters a pack under a reserved number.
func (b *Builder) Add(e format.PackEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.added = append(b.added, e)
}

// Finish stores the pages that are new and fills in the list of h. The parent's
// last page is written anew, with what fits behind it; parent reads it.
func (b *Builder) Finish(ctx context.Context, sink Sink, parent *List, h *format.Head) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortFunc(b.added, func(x, y format.PackEntry) int { return cmp(x.Number, y.Number) })
	pages, fresh := slices.Clone(b.pages), b.added
	if n := len(pages); n > 0 && len(fresh) > 0 && pages[n-1].Packs < format.MaxPagePacks {
		last, err := parent.Page(ctx, n-1)
		if err != nil {
			return err
		}
		pages, fresh = pages[:n-1], slices.Concat(last, fresh)
	}
	made, err := storePages(ctx, sink, fresh)
	if err != nil {
		return err
	}
	setPages(h, append(pages, made...), b.next)
	return nil
}

// storePages stores packs as pages.
func storePages(ctx context.Context, sink Sink, packs []format.PackEntry) (refs []format.PageRef, err error) {
	for p := range slices.Chunk(packs, format.MaxPagePacks) {
		b, err := format.EncodePage(p)
		if err != nil {
			return nil, err
		}
		ref := format.RefOf(sink.Attempt(), b, p)
		if ref.Name, err = sink.Put(ctx, format.Page, b, ref.Name.Sum); err != nil {
			return nil, fmt.Errorf("store a page of the pack list: %w", err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func setPages(h *format.Head, pages []format.PageRef, next uint32) {
	h.Pages, h.Next, h.Packs, h.Bytes = pages, next, 0, 0
	for i := range pages {
		h.Packs += uint32(pages[i].Packs)
		h.Bytes += pages[i].Bytes
	}
}

// Recount makes the list of h from another by what a walk over the snapshot
// found: live returns whether a pack is needed, and a bit for each of its slots
// that is, or nil if all are. Pages in which nothing changes are kept. Numbers
// from next on are free.
func Recount(ctx context.Context, sink Sink, l *List, next uint32, h *format.Head, live func(e *format.PackEntry) (bitmap []byte, needed bool)) error {
	var pages []format.PageRef
	for i := range l.pages {
		packs, err := l.Page(ctx, i)
		if err != nil {
			return err
		}
		var kept []format.PackEntry
		same := true
		for _, e := range packs {
			bitmap, needed := live(&e)
			if needed {
				same = same && slices.Equal(bitmap, e.Live) && (bitmap == nil) == (e.Live == nil)
				e.Live = bitmap
				kept = append(kept, e)
			}
		}
		if same && len(kept) == len(packs) {
			pages = append(pages, l.pages[i])
			continue
		}
		made, err := storePages(ctx, sink, kept)
		if err != nil {
			return err
		}
		pages = append(pages, made...)
	}
	setPages(h, pages, next)
	return nil
}
