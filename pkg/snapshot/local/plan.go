package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
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

	// Undeleted is why local snapshots that are of no use any more could not be deleted; nil: they were.
	Undeleted error

	store   *snapstore.Store
	full    bool
	useless []string // when the new snapshot is whole
	made    bool
}

// kept is a local snapshot of a stored one.
type kept struct {
	name
	generation uint64
}

// Begin decides what to do, deletes what is of no use any more, and makes the local snapshot.
func Begin(ctx context.Context, v Volume, o Options) (*Plan, error) {
	p := &Plan{store: o.Store, full: o.Full}
	list, err := p.list(ctx, v)
	if err != nil {
		return nil, err
	}
	now, err := p.choose(ctx, list, &o)
	if err == nil && p.Earlier == nil && p.Base == (format.ID{}) && !o.Full {
		err = p.newest(ctx, &o)
	}
	if err != nil {
		return nil, err
	}
	p.Undeleted = drop(ctx, v, now)
	if p.Earlier != nil {
		return p, nil
	}
	p.S = format.NewID()
	p.Name, p.made = Name(p.S, o.Store.ID()), true
	return p, v.Create(ctx, p.Name)
}

// list returns the local snapshots of stored ones that may be of this store, the newest first.
func (p *Plan) list(ctx context.Context, v Volume) (list []kept, err error) {
	all, err := v.List(ctx)
	for _, x := range all {
		if n, ok := parse(x.Name); ok && (n.store == p.store.ID() || n.store == format.ID{}) {
			list = append(list, kept{n, x.Generation})
		}
	}
	slices.SortFunc(list, func(a, b kept) int {
		return cmp.Or(cmp.Compare(b.generation, a.generation), cmp.Compare(a.text, b.text))
	})
	return list, err
}

// choose finds what to resume and the base. It returns the names of local snapshots that are of no
// use even if the new one fails.
func (p *Plan) choose(ctx context.Context, list []kept, o *Options) (now []string, err error) {
	var base *kept
	for i := range list {
		k := &list[i]
		own := k.store == p.store.ID()
		if base != nil {
			if own && k.text != p.BaseName {
				now = append(now, k.text)
			}
			continue
		}
		whole, err := commit.IsWhole(ctx, p.store.Objects(), k.s)
		switch {
		case err != nil:
			return nil, err
		case whole:
			base = k
		case own && p.Earlier == nil && !o.Fresh:
			if err := p.resume(ctx, k, o); err != nil {
				return nil, err
			}
			fallthrough
		case own:
			if k.text != p.Name {
				now = append(now, k.text)
			}
		}
	}
	p.useBase(base, list, o)
	return slices.DeleteFunc(now, func(name string) bool { return name == p.BaseName }), nil
}

// useBase sets the base: what is resumed has its own.
func (p *Plan) useBase(base *kept, list []kept, o *Options) {
	switch {
	case p.Earlier != nil:
		p.Base = p.Earlier.Base
	case base != nil && !o.Full:
		p.Base = base.s
	}
	for i := range list {
		k := &list[i]
		if k.s == p.Base && p.Base != (format.ID{}) && p.BaseName == "" {
			p.BaseName = k.text
		}
	}
	if base != nil && base.store == p.store.ID() {
		p.useless = append(p.useless, base.text)
	}
	if p.BaseName != "" && (base == nil || p.BaseName != base.text) {
		if n, _ := parse(p.BaseName); n.store == p.store.ID() {
			p.useless = append(p.useless, p.BaseName)
		}
	}
}

// resume goes on with an unfinished snapshot if it was begun.
func (p *Plan) resume(ctx context.Context, k *kept, o *Options) error {
	e, err := commit.FindEarlier(ctx, p.store.Objects(), k.s)
	if err != nil {
		return err
	}
	if len(e.Attempts) == 0 || o.Full && e.Base != (format.ID{}) {
		return nil
	}
	p.S, p.Name, p.Earlier = k.s, k.text, e
	return nil
}

// newest makes the newest whole stored snapshot of the volume the base.
func (p *Plan) newest(ctx context.Context, o *Options) error {
	all, err := o.Store.List(ctx, o.Tenant)
	if err != nil {
		return err
	}
	newest := int64(0)
	for i := range all {
		sn := &all[i]
		if sn.State == snapstore.Whole && sn.Card != nil && crypto.UUID(sn.Card.Volume) == o.Volume && (newest == 0 || sn.Card.Created >= newest) {
			p.Base, newest = sn.ID, sn.Card.Created
		}
	}
	return nil
}

// Fill sets what the plan decides in the options of create.Run. The credential opens the base and
// what an earlier attempt has left.
func (p *Plan) Fill(o *create.Options, c crypto.Credential) {
	o.S, o.Earlier = p.S, p.Earlier
	o.OpenKey = func(slots []byte) (*crypto.Key, error) {
		s, err := manifest.DecodeSlots(slots)
		if err != nil {
			return nil, err
		}
		return s.OpenSnapshot(p.S, c)
	}
	if p.full {
		o.Why = "a full snapshot was asked for"
	}
	o.Lineage = format.NewID() // unless the base can be used
	if p.Base == (format.ID{}) {
		return
	}
	o.Base = &create.Base{S: p.Base, Open: func(ctx context.Context, h *format.Head, sealed []byte) (*manifest.Body, error) {
		return openBase(ctx, p.store, p.Base, c, h, sealed)
	}}
}

func openBase(ctx context.Context, store *snapstore.Store, s format.ID, c crypto.Credential, h *format.Head, sealed []byte) (*manifest.Body, error) {
	sk, err := store.SnapshotKey(ctx, s, c)
	if errors.Is(err, snapstore.ErrNoKeys) {
		return nil, fmt.Errorf("%w: %w", manifest.ErrNoSlot, err)
	}
	if err != nil {
		return nil, err
	}
	defer sk.Erase()
	keys, err := crypto.DeriveSnapshotKeys(crypto.Suite(h.Suite), crypto.UUID(s), sk)
	if err != nil {
		return nil, err
	}
	defer keys.Erase()
	return manifest.Open(keys, h, sealed, nil)
}

// Whole deletes what is of no use after the stored snapshot is whole. as is its identity: if it had
// to get another one than planned, the local snapshot cannot be found again, and is deleted, too.
func (p *Plan) Whole(ctx context.Context, v Volume, as format.ID) error {
	useless := p.useless
	if as != p.S {
		useless = append(slices.Clone(useless), p.Name)
	}
	return drop(ctx, v, useless)
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
	e, err := commit.FindEarlier(ctx, p.store.Objects(), p.S)
	return err != nil || len(e.Attempts) > 0
}
