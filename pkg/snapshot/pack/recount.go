package pack

import (
	"context"
	"slices"

	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// sparsePacks is below how many packs a page is joined with its neighbour.
const sparsePacks = format.MaxPagePacks / 2

// Recount makes the list of h from another by what a walk over the snapshot
// found: live returns whether a pack is needed, and a bit for each of its slots
// that is, or nil if all are. Pages in which nothing changes are kept, and those
// that have become sparse are joined, so that the list of a snapshot does not
// consist of as many pages as its lineage ever had. Numbers from next on are free.
func Recount(ctx context.Context, sink Sink, l *List, next uint32, h *format.Head, live func(e *format.PackEntry) (bitmap []byte, needed bool)) error {
	r := recount{sink: sink}
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
		var ref *format.PageRef
		if same && len(kept) == len(packs) {
			ref = &l.pages[i]
		}
		if err := r.add(ctx, kept, ref); err != nil {
			return err
		}
	}
	if err := r.end(ctx); err != nil {
		return err
	}
	setPages(h, r.pages, next)
	return nil
}

// recount is the new list while it is made.
type recount struct {
	sink  Sink
	pages []format.PageRef
	// The page that comes next, to which others may be joined. ref is nil if it
	// differs from all that are stored.
	packs []format.PackEntry
	ref   *format.PageRef
}

// add adds what is kept of a page; ref is the page, if that is all of it. What is
// joined depends on the numbers of packs alone: a recount that finds nothing new
// joins nothing.
func (r *recount) add(ctx context.Context, packs []format.PackEntry, ref *format.PageRef) error {
	if len(packs) == 0 {
		return nil
	}
	sparse := len(r.packs) < sparsePacks || len(packs) < sparsePacks
	if len(r.packs) > 0 && sparse && len(r.packs)+len(packs) <= format.MaxPagePacks {
		r.packs, r.ref = slices.Concat(r.packs, packs), nil
		return nil
	}
	err := r.end(ctx)
	r.packs, r.ref = packs, ref
	return err
}

// end stores the page that nothing more is joined to.
func (r *recount) end(ctx context.Context) error {
	if r.ref != nil {
		r.pages = append(r.pages, *r.ref)
		return nil
	}
	made, err := storePages(ctx, r.sink, r.packs)
	r.pages = append(r.pages, made...)
	return err
}
