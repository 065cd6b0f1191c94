package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

// Snapshot is a local snapshot of a volume.
type Snapshot struct {
	Name       string
	Generation uint64
	Created    time.Time
}

// Volume is a volume that is open for changes, by this process or by a mount server.
type Volume interface {
	// List returns the local snapshots that are not being deleted.
	List(ctx context.Context) ([]Snapshot, error)
	// Create makes a local snapshot, which is durable then.
	Create(ctx context.Context, name string) error
	// Delete deletes a local snapshot. That there is none is no error.
	Delete(ctx context.Context, name string) error
}

// Options of Begin.
type Options struct {
	Store  *snapstore.Store
	Tenant *snapstore.Tenant
	// Volume is the identity of the volume.
	Volume crypto.UUID
	// Base is a stored snapshot to build on if there is no local snapshot of one, such as that which
	// the volume was restored from. Zero: the newest of the volume.
	Base format.ID
	// Fresh: what was begun before is not resumed, and deleted.
	Fresh bool
	// Full: there is no base. What was begun before is resumed only if it has none.
	Full bool
}

// Plan says which local snapshot is to be stored, and how.
type Plan struct {
	S    format.ID // of the stored snapshot
	Name string    // of the local snapshot
	// Earlier is not nil if an interrupted snapshot is resumed.
	Earlier *commit.Earlier
	Base    format.ID // stored snapshot to build on; zero: none
	// BaseName is the local snapshot of the base. "": there is none, so everything is read.
	BaseName string

	// Foreign is how many snapshots in the store are of other tenants, if there is no base.
	Foreign int
	// Undeleted is why local snapshots that are of no use any more could not be deleted; nil: they were.
	Undeleted error

	o      Options
	last   string               // the newest local snapshot whose stored one is whole; "": none
	stored []snapstore.Snapshot // of the volume, whole; nil: not asked for yet
}

// kept is a local snapshot of a stored one.
type kept struct {
	name
	Snapshot
}

// Begin decides what to do, deletes what is of no use any more, and makes the local snapshot.
func Begin(ctx context.Context, v Volume, o Options) (*Plan, error) {
	p := &Plan{o: o}
	list, err := p.list(ctx, v)
	if err != nil {
		return nil, err
	}
	now, err := p.choose(ctx, list)
	if err == nil && p.Earlier == nil && p.Base == (format.ID{}) && !o.Full {
		if p.Base = o.Base; p.Base == (format.ID{}) {
			p.Base, err = p.newest(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	p.Undeleted = drop(ctx, v, now)
	if p.Earlier != nil {
		return p, nil
	}
	p.S = format.NewID()
	p.Name = Name(p.S, o.Store.ID())
	return p, v.Create(ctx, p.Name)
}

// list returns the local snapshots of stored ones that may be of this store, the newest first.
func (p *Plan) list(ctx context.Context, v Volume) (list []kept, err error) {
	all, err := v.List(ctx)
	for _, x := range all {
		if n, ok := parse(x.Name); ok && (n.store == p.o.Store.ID() || n.store == format.ID{}) {
			list = append(list, kept{n, x})
		}
	}
	slices.SortFunc(list, func(a, b kept) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// choose finds what to resume and the base. It returns the names of local snapshots that are of no
// use even if the new one fails.
func (p *Plan) choose(ctx context.Context, list []kept) (now []string, err error) {
	var base format.ID
	own := map[string]bool{}
	for i := range list {
		k := &list[i]
		s, foreign, err := p.storedOf(ctx, k)
		switch {
		case err != nil:
			return nil, err
		case foreign:
			continue
		}
		own[k.Name] = k.store == p.o.Store.ID()
		switch {
		case s != (format.ID{}) && base == (format.ID{}):
			base, p.last = s, k.Name
		case s == (format.ID{}) && base == (format.ID{}) && p.Earlier == nil && !p.o.Fresh:
			if err := p.resume(ctx, k); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case p.Earlier != nil: // it has its own, as it was begun
		p.Base = p.Earlier.Base
	case !p.o.Full:
		p.Base = base
	}
	for j := range list {
		k := &list[j]
		switch {
		case p.Base != (format.ID{}) && (k.s == p.Base || p.Base == base && k.Name == p.last):
			p.BaseName = k.Name
		case own[k.Name] && k.Name != p.Name && k.Name != p.last:
			now = append(now, k.Name)
		}
	}
	return now, nil
}

// storedOf returns the whole stored snapshot of a local one; zero: there is none. It has another
// identity than the local snapshot if a pruner declared that void before it was finished. Then both
// tell the same time. foreign: the local snapshot is of another tenant, or of a worker.
func (p *Plan) storedOf(ctx context.Context, k *kept) (s format.ID, foreign bool, err error) {
	card, err := commit.Card(ctx, p.o.Store.Objects(), k.s)
	if err == nil {
		_, err = manifest.OpenCard(p.o.Tenant.Keys, k.s, card)
	}
	switch {
	case errors.Is(err, manifest.ErrTenant), errors.Is(err, format.ErrFormat), errors.Is(err, chunkstore.ErrTooLarge):
		return s, true, nil // or its card is damaged
	case err == nil:
		return k.s, false, nil
	case !errors.Is(err, commit.ErrNoBase):
		return s, false, err
	case k.store != p.o.Store.ID():
		return s, true, nil
	}
	all, err := p.ofVolume(ctx)
	for _, sn := range all {
		if sn.Card.Created == k.Created.UnixNano() {
			s = sn.ID
		}
	}
	return s, false, err
}

// resume goes on with an unfinished snapshot if it was begun.
func (p *Plan) resume(ctx context.Context, k *kept) error {
	e, err := commit.FindEarlier(ctx, p.o.Store.Objects(), k.s)
	if err != nil {
		return err
	}
	if len(e.Attempts) == 0 || p.o.Full && e.Base != (format.ID{}) {
		return nil
	}
	p.S, p.Name, p.Earlier = k.s, k.Name, e
	return nil
}

// ofVolume returns the whole stored snapshots of the volume.
func (p *Plan) ofVolume(ctx context.Context) ([]snapstore.Snapshot, error) {
	if p.stored != nil {
		return p.stored, nil
	}
	all, err := p.o.Store.List(ctx, p.o.Tenant)
	p.stored = []snapstore.Snapshot{}
	for _, sn := range all {
		if errors.Is(sn.Err, snapstore.ErrTenant) {
			p.Foreign++
		}
		if sn.State == snapstore.Whole && sn.Card != nil && crypto.UUID(sn.Card.Volume) == p.o.Volume {
			p.stored = append(p.stored, sn)
		}
	}
	return p.stored, err
}

// newest returns the newest whole stored snapshot of the volume; zero: there is none.
func (p *Plan) newest(ctx context.Context) (s format.ID, err error) {
	all, err := p.ofVolume(ctx)
	newest := int64(0)
	for i := range all {
		if c := all[i].Card.Created; i == 0 || c >= newest {
			s, newest = all[i].ID, c
		}
	}
	return s, err
}

// Fill sets what the plan decides in the options of create.Run. The credential opens the base and
// what an earlier attempt has left.
func (p *Plan) Fill(o *create.Options, c crypto.Credential) {
	o.S, o.Fresh, o.Credential = p.S, p.Earlier == nil, c
	if p.o.Full {
		o.Why = "a full snapshot was asked for"
	}
	o.Lineage = format.NewID() // unless the base can be used
	if p.Base == (format.ID{}) {
		return
	}
	o.Base = &create.Base{S: p.Base, Copy: p.Base == p.o.Base, Open: func(ctx context.Context, h *format.Head, sealed []byte) (*manifest.Body, error) {
		b, err := p.o.Store.OpenBody(ctx, h, sealed, c)
		if errors.Is(err, snapstore.ErrNoKeys) {
			err = fmt.Errorf("%w: %w", manifest.ErrNoSlot, err)
		}
		return b, err
	}}
}

// Whole deletes what is of no use after the new stored snapshot is whole.
func (p *Plan) Whole(ctx context.Context, v Volume) error {
	var names []string
	for _, name := range []string{p.last, p.BaseName} {
		if n, ok := parse(name); ok && n.store == p.o.Store.ID() && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return drop(ctx, v, names)
}

// drop deletes local snapshots, as many as it can.
func drop(ctx context.Context, v Volume, names []string) (failed error) {
	for _, name := range names {
		if err := v.Delete(ctx, name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("local snapshot %s, which is of no use any more, was not deleted: %w", name, err))
		}
	}
	return failed
}

// failedTime is how long Resumable asks the store.
const failedTime = 15 * time.Second

// Resumable reports whether the next run can go on with a snapshot that failed: its local snapshot
// stays then. That the store does not answer does not make it useless.
func (p *Plan) Resumable() bool {
	ctx, cancel := context.WithTimeout(context.Background(), failedTime) // also after the caller's has ended
	defer cancel()
	e, err := commit.FindEarlier(ctx, p.o.Store.Objects(), p.S)
	return err != nil || len(e.Attempts) > 0
}
