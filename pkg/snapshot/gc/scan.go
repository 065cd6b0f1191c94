package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// record is what an earlier pass condemned.
type record struct {
	key   string
	at    time.Time // of the store
	names []format.Name
}

// object is a pack or page that is there.
type object struct {
	name  format.Name
	bytes uint32
	flags flags
}

type flags uint8

const (
	needed     flags = 1 << iota // a root's list names it
	byReal                       // a root with a real card does
	protected                    // a lease names its attempt
	condemned                    // an earlier pass condemned it
	deletable                    // so long ago that it may be deleted
	wasDeleted                   // now
)

func (o *object) unneeded() bool { return o.flags&(needed|protected) == 0 }

// lease is a lease and what the store says of it.
type lease struct {
	key     string
	s       format.ID
	expired bool
	format.Lease
}

// each calls f for 0 to n-1, several at once.
func (p *pass) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	if p.o.Parallel == 1 { // in this goroutine: the model needs that
		for i := range n {
			if err := f(ctx, i); err != nil {
				return err
			}
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.o.Parallel)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

// readRecords reads what earlier passes condemned.
func (p *pass) readRecords(ctx context.Context) error {
	for info, err := range p.store.List(ctx, format.GCPrefix, "") {
		if err != nil {
			return err
		}
		if _, err := format.ParseGCKey(info.Key); err != nil {
			p.report.Foreign++
			continue
		}
		p.records = append(p.records, record{key: info.Key, at: info.Modified})
	}
	err := p.each(ctx, len(p.records), func(ctx context.Context, i int) error {
		r := &p.records[i]
		b, err := p.store.Get(ctx, r.key, nil, format.MaxRecordBytes)
		if errors.Is(err, chunkstore.ErrNotFound) {
			return nil // another pruner removed it
		}
		if err != nil {
			return err
		}
		if r.names, err = format.DecodeCondemned(b); err != nil {
			return fmt.Errorf("%s: %w", r.key, err)
		}
		return nil
	})
	p.records = slices.DeleteFunc(p.records, func(r record) bool { return r.names == nil })
	return err
}

// listObjects lists packs and pages, and notes which are condemned. 60 bytes
// each: 4 MiB for a TiB.
func (p *pass) listObjects(ctx context.Context) error {
	for _, c := range []format.Class{format.Pack, format.Page} {
		for info, err := range p.store.List(ctx, c.Prefix(), "") {
			if err != nil {
				return err
			}
			n, err := format.ParseName(info.Key)
			if err != nil || n.Class != c || info.Bytes > format.MaxPackBytes {
				p.report.Foreign++
				continue
			}
			p.objects = append(p.objects, object{name: n, bytes: uint32(info.Bytes)})
		}
	}
	if !slices.IsSortedFunc(p.objects, func(a, b object) int { return a.name.Compare(b.name) }) {
		return errors.New("list packs/: the store does not list objects by key")
	}
	for i := range p.records {
		r := &p.records[i]
		f := condemned
		if p.now.Sub(r.at) >= p.o.Grace {
			f |= deletable
		} else if left := p.o.Grace - p.now.Sub(r.at); p.report.NextPass == 0 || left < p.report.NextPass {
			p.report.NextPass = left
		}
		for _, n := range r.names {
			if o := p.find(n); o != nil {
				o.flags |= f
			}
		}
	}
	return nil
}

// find returns the object of a name, or nil.
func (p *pass) find(n format.Name) *object {
	i, ok := slices.BinarySearchFunc(p.objects, n, func(o object, n format.Name) int { return o.name.Compare(n) })
	if !ok {
		return nil
	}
	return &p.objects[i]
}

// listLeases reads all leases.
func (p *pass) listLeases(ctx context.Context) (all []lease, err error) {
	for info, err := range p.store.List(ctx, format.LeasePrefix, "") {
		if err != nil {
			return nil, err
		}
		l := lease{key: info.Key}
		if l.s, _, err = format.ParseLeaseKey(info.Key); err != nil {
			p.report.Foreign++
			continue
		}
		l.TTL = p.now.Sub(info.Modified) // until it is read: its age
		all = append(all, l)
	}
	err = p.each(ctx, len(all), func(ctx context.Context, i int) error {
		l := &all[i]
		age := l.TTL
		b, err := p.store.Get(ctx, l.key, nil, format.MaxLeaseBytes)
		if errors.Is(err, chunkstore.ErrNotFound) {
			l.key = "" // it ended
			return nil
		}
		if err != nil {
			return err
		}
		if l.Lease, err = format.DecodeLease(b); err == nil {
			l.expired = age > l.TTL
			return nil
		}
		// What cannot be read may protect anything, but not for ever.
		if l.expired = age > format.MaxTTL; !l.expired {
			return fmt.Errorf("%s: %w", l.key, err)
		}
		l.Use = format.Writing
		return nil
	})
	return slices.DeleteFunc(all, func(l lease) bool { return l.key == "" }), err
}
