package gc

import (
	"context"
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// sweep is P5.
func (p *pass) sweep(ctx context.Context) error {
	var fresh []format.Name
	var old []*object
	for i := range p.objects {
		o := &p.objects[i]
		switch {
		case !o.unneeded():
			if o.name.Class == format.Pack {
				p.report.Kept.add(int64(o.bytes))
			}
			continue
		case o.flags&deletable != 0 || p.o.skip.onePass:
			old = append(old, o)
		case o.flags&condemned == 0:
			fresh = append(fresh, o.name)
			p.report.Condemned.add(int64(o.bytes))
		}
		if o.name.Class == format.Pack {
			p.report.Garbage.add(int64(o.bytes))
		}
	}
	if p.o.DryRun {
		for _, o := range old {
			p.report.Deleted.add(int64(o.bytes))
		}
		return nil
	}
	if err := p.delete(ctx, old); err != nil {
		return err
	}
	return p.condemn(ctx, fresh)
}

// delete deletes objects; what an object lock keeps is tried again by a later
// pass.
func (p *pass) delete(ctx context.Context, old []*object) error {
	var mu sync.Mutex
	return p.each(ctx, len(old), func(ctx context.Context, i int) error {
		o := old[i]
		err := p.store.Delete(ctx, o.name.Key())
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, chunkstore.ErrLocked):
			p.report.Locked.add(int64(o.bytes))
			return nil
		case err != nil:
			return err
		}
		o.flags |= wasDeleted
		p.report.Deleted.add(int64(o.bytes))
		return nil
	})
}

// condemn records names, which ascend.
func (p *pass) condemn(ctx context.Context, names []format.Name) error {
	if len(names) > 0 && (p.report.NextPass == 0 || p.o.Grace < p.report.NextPass) {
		p.report.NextPass = max(p.o.Grace, 1)
	}
	for len(names) > 0 {
		n := min(len(names), format.MaxCondemned)
		b, err := format.EncodeCondemned(names[:n])
		if err != nil {
			return err
		}
		if _, err := p.store.Put(ctx, format.GCKey(format.NewID()), b); err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}

// tidy is P6.
func (p *pass) tidy(ctx context.Context) error {
	if p.o.DryRun {
		return nil
	}
	var gone []string
	for i := range p.records {
		if p.settled(&p.records[i]) {
			gone = append(gone, p.records[i].key)
		}
	}
	held := map[format.ID]bool{}
	for i := range p.leases {
		if l := &p.leases[i]; !l.expired {
			for _, s := range l.Bases {
				held[s] = !p.o.skip.basesIgnored
			}
		} else {
			gone = append(gone, l.key)
		}
	}
	for _, s := range p.after {
		if p.void[s.s] && !held[s.s] {
			// The tombs last: while there is one, people can see why it is void.
			for _, part := range s.parts {
				gone = append(gone, format.SnapKey(s.s, part))
			}
		}
	}
	return p.each(ctx, len(gone), func(ctx context.Context, i int) error {
		err := p.store.Delete(ctx, gone[i])
		if errors.Is(err, chunkstore.ErrLocked) {
			return nil
		}
		return err
	})
}

// settled reports whether nothing that a record condemned can be deleted because
// of it any more. What only a lease needs stays condemned: its owner may not
// rely on it.
func (p *pass) settled(r *record) bool {
	for _, n := range r.names {
		o := p.find(n)
		if o == nil || o.flags&(wasDeleted|byReal) != 0 || p.o.skip.recordsLiftedEarly && !o.unneeded() {
			continue
		}
		return false
	}
	return true
}
