package pack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Builder makes the pack list of a snapshot from its parent's: all that the
// parent lists stays, new packs are added behind it, and so are packs of earlier
// attempts at the snapshot.
type Builder struct {
	pages []format.PageRef // of the parent

	mu    sync.Mutex
	added []format.PackEntry // guarded by mu
	next  uint32             // guarded by mu: no higher number was reserved
	// guarded by mu: true, numbers of packs that are adopted; false, those of packs
	// that may be
	earlier map[uint32]bool
}

// NewBuilder begins with the list of the parent, or with none if it is nil.
func NewBuilder(parent *format.Head) *Builder {
	b := &Builder{earlier: map[uint32]bool{}}
	if parent != nil {
		b.pages, b.next = parent.Pages, parent.Next
	}
	return b
}

// Reserve returns a number that no pack of the lineage has had, and none of an
// earlier attempt at this snapshot.
func (b *Builder) Reserve() uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reserve()
}

// reserve is Reserve for a caller that holds mu.
func (b *Builder) reserve() uint32 {
	for {
		n := b.next
		b.next++
		if _, ok := b.earlier[n]; !ok {
			return n
		}
	}
}

// leave has Reserve leave out the number of a pack that may be adopted.
func (b *Builder) leave(number uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.earlier[number]; !ok && number >= b.next {
		b.earlier[number] = false
	}
}

// adopt enters a pack of an earlier attempt and returns its number in this list:
// the one under which it was written, so that nodes that refer to it are the same
// as its attempt's, and are found, too. If the lineage or another attempt has used
// that number, it gets a new one: references have the number of the list alone.
func (b *Builder) adopt(e format.PackEntry) uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if adopted, ok := b.earlier[e.Number]; ok && !adopted {
		b.earlier[e.Number] = true
	} else {
		e.Number = b.reserve()
	}
	b.added = append(b.added, e)
	return e.Number
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
	slices.SortFunc(b.added, func(x, y format.PackEntry) int { return cmp.Compare(x.Number, y.Number) })
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
	next := b.next
	if n := len(b.added); n > 0 {
		next = max(next, b.added[n-1].Number+1)
	}
	setPages(h, append(pages, made...), next)
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
