package gc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// mark notes which objects roots need and leases protect.
func (p *pass) mark(ctx context.Context) error {
	bases, attempts := map[format.ID]bool{}, map[format.ID]bool{}
	for i := range p.leases {
		if p.leases[i].expired {
			continue
		}
		for _, s := range p.leases[i].Bases {
			bases[s] = !p.o.skip.basesIgnored
		}
		for _, a := range p.leases[i].Attempts {
			attempts[a] = !p.o.skip.attemptsIgnored
		}
	}
	for i := range p.objects {
		if o := &p.objects[i]; attempts[o.name.Attempt] {
			o.flags |= protected
		}
	}
	m := &marker{pass: p, pages: map[format.Name]*pageRead{}}
	var roots snapshots
	for _, s := range p.after {
		if !s.manifest && s.real() && !p.void[s.s] { // it came before the card
			return m.unread(ctx, s, format.SnapKey(s.s, format.ManifestPart), chunkstore.ErrNotFound)
		}
		if s.manifest && (!p.void[s.s] || bases[s.s]) {
			roots = append(roots, s)
			if s.real() {
				p.report.Snapshots++
			} else {
				p.report.Unfinished++
			}
		}
	}
	if err := p.each(ctx, len(roots), func(ctx context.Context, i int) error { return m.root(ctx, roots[i]) }); err != nil {
		return err
	}
	return p.confirmMissing(ctx)
}

// confirmMissing looks again for what was not there when packs were listed: it
// may have come since.
func (p *pass) confirmMissing(ctx context.Context) error {
	list := p.report.Missing
	there := make([]bool, len(list))
	err := p.each(ctx, len(list), func(ctx context.Context, i int) error {
		_, err := p.store.Stat(ctx, list[i].Pack.Key())
		if there[i] = err == nil; errors.Is(err, chunkstore.ErrNotFound) {
			err = nil
		}
		return err
	})
	p.report.Missing = nil
	for i := range list {
		if !there[i] {
			p.report.Missing = append(p.report.Missing, list[i])
		}
	}
	return err
}

// marker marks what roots need. Snapshots share most pages: of each is kept only
// which flags its packs got.
type marker struct {
	*pass
	mu    sync.Mutex
	pages map[format.Name]*pageRead // guarded by mu
}

// pageRead is a page that somebody reads, or has read.
type pageRead struct {
	mu   sync.Mutex // held while it is read; taken before marker.mu
	done flags      // guarded by mu: what all of its packs have
}

// root marks what one snapshot needs.
func (m *marker) root(ctx context.Context, s *snapshot) error {
	key := format.SnapKey(s.s, format.ManifestPart)
	b, err := m.store.Get(ctx, key, nil, format.MaxManifestBytes)
	if err != nil {
		return m.unread(ctx, s, key, err)
	}
	h, _, err := format.DecodeManifest(b)
	if err == nil && h.S != s.s {
		err = fmt.Errorf("%w manifest: it is of snapshot %s", format.ErrFormat, h.S)
	}
	if err != nil {
		return m.unread(ctx, s, key, err)
	}
	f := needed
	if s.real() {
		f |= byReal
	}
	for i := range h.Pages {
		if err := m.page(ctx, s.s, &h.Pages[i], f); err != nil {
			return m.unread(ctx, s, h.Pages[i].Name.Key(), err)
		}
	}
	return nil
}

// page marks what a page names, unless another snapshot has had that done.
func (m *marker) page(ctx context.Context, s format.ID, ref *format.PageRef, f flags) error {
	m.mu.Lock()
	r := m.pages[ref.Name]
	if r == nil {
		r = &pageRead{}
		m.pages[ref.Name] = r
	}
	m.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done&f == f {
		return nil
	}
	b, err := m.store.Get(ctx, ref.Name.Key(), nil, format.MaxPageBytes)
	if err != nil {
		return err
	}
	packs, err := ref.CheckPage(b)
	if err != nil {
		return err
	}
	m.flag(s, ref, packs, f)
	r.done |= f
	return nil
}

func (m *marker) flag(s format.ID, ref *format.PageRef, packs []format.PackEntry, f flags) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.find(ref.Name); o != nil {
		o.flags |= f
	}
	for i := range packs {
		if o := m.find(packs[i].Name); o != nil {
			o.flags |= f
		} else if f&byReal != 0 && len(m.report.Missing) < maxMissing {
			m.report.Missing = append(m.report.Missing, Missing{s, packs[i].Name})
		}
	}
}

// unread says what it means that the list of a root cannot be read. If the
// snapshot has become void meanwhile, another pruner is at work; else nobody may
// delete anything.
func (m *marker) unread(ctx context.Context, s *snapshot, key string, err error) error {
	if !errors.Is(err, chunkstore.ErrNotFound) && !errors.Is(err, chunkstore.ErrTooLarge) && !errors.Is(err, format.ErrFormat) {
		return err // of the store
	}
	card, cerr := m.store.Get(ctx, format.SnapKey(s.s, format.CardPart), nil, format.MaxCardBytes)
	switch {
	case cerr == nil && format.IsVoid(card):
		return fmt.Errorf("snapshot %s: %w", s.s, ErrBusy)
	case cerr != nil && !errors.Is(cerr, chunkstore.ErrNotFound) && !errors.Is(cerr, chunkstore.ErrTooLarge):
		return cerr // nobody knows
	}
	return fmt.Errorf("snapshot %s: %w: %s: %w", s.s, ErrDamaged, key, err)
}
