package snapstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
)

// State is where a snapshot is in its life.
type State string

// The states.
const (
	Whole      State = "whole"      // it can be read
	Unfinished State = "unfinished" // it is being written, or its writer died
	Forgotten  State = "forgotten"  // a tomb stands beside it: it can be undeleted for a while
	Void       State = "void"       // never finished, or deleted
	Damaged    State = "damaged"    // whole by its card, but the store has lost its manifest
)

// Snapshot is what a store says of a snapshot.
type Snapshot struct {
	ID    format.ID
	State State
	// Card is nil without a tenant, for snapshots that are not committed, and if Err says why.
	Card *manifest.Card
	// Err says why the card cannot be read: ErrTenant, format.ErrFormat.
	Err error
	// Committed and Forgotten are times of the store: of the card and of the first tomb.
	Committed, Forgotten time.Time
	// Leases are those of processes that write or read the snapshot or use it as a base.
	Leases []Lease

	bare bool // a void card is all that there is
}

// Lease says who uses a snapshot.
type Lease struct {
	Use     format.Use
	Who     string
	Expires time.Time // by the store's clock
}

// Handle returns the name of the snapshot for other places: the full one if the card is known.
func (s *Store) Handle(sn *Snapshot) format.Handle {
	h := format.Handle{Store: s.id, S: sn.ID}
	if sn.Card != nil {
		sum := sn.Card.Sealed
		h.Sealed = &sum
	}
	return h
}

// parallel is how many requests a listing makes at once.
const parallel = 16

// parts is what a listing says of one snapshot.
type parts struct {
	id       format.ID
	card     *chunkstore.Info
	manifest bool
	any      bool // besides the card
	tombs    map[format.ID]time.Time
	verdicts []format.ID
}

// List returns the snapshots of a store, the oldest first by when they were committed. With a
// tenant, it opens the cards. It returns void ones only while the store holds more of them than
// their cards: there are as many as there ever were snapshots.
func (s *Store) List(ctx context.Context, t *Tenant) ([]Snapshot, error) {
	all, err := s.group(ctx, format.SnapPrefix)
	if err != nil {
		return nil, err
	}
	list := make([]Snapshot, len(all))
	err = each(ctx, len(all), func(ctx context.Context, i int) error {
		sn, err := s.look(ctx, t, all[i])
		if err == nil {
			list[i] = *sn
		}
		return err
	})
	if err == nil {
		err = s.addLeases(ctx, &list)
	}
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(sn Snapshot) bool { return sn.bare && len(sn.Leases) == 0 })
	slices.SortStableFunc(list, func(a, b Snapshot) int {
		if a.Committed.IsZero() != b.Committed.IsZero() { // unfinished ones last
			if a.Committed.IsZero() {
				return 1
			}
			return -1
		}
		return a.created().Compare(b.created())
	})
	return list, nil
}

// created is when the state of a snapshot was.
func (sn *Snapshot) created() time.Time {
	if sn.Card != nil {
		return time.Unix(0, sn.Card.Created)
	}
	return sn.Committed
}

// Get looks at one snapshot. It returns void ones, too. ErrNotFound.
func (s *Store) Get(ctx context.Context, t *Tenant, id format.ID) (*Snapshot, error) {
	all, err := s.group(ctx, format.SnapKey(id, ""))
	if err != nil {
		return nil, err
	}
	list := []Snapshot{}
	if len(all) > 0 {
		sn, err := s.look(ctx, t, all[0])
		if err != nil {
			return nil, err
		}
		list = append(list, *sn)
	}
	if err := s.addLeases(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].ID == id {
			return &list[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
}

// group lists the parts of snapshots.
func (s *Store) group(ctx context.Context, prefix string) (all []*parts, err error) {
	var last *parts
	for info, err := range s.objects.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		id, part, err := format.ParseSnapKey(info.Key)
		if err != nil {
			continue // not ours
		}
		if last == nil || last.id != id {
			last = &parts{id: id, tombs: map[format.ID]time.Time{}}
			all = append(all, last)
		}
		tomb, verdict, ok := format.ParseTomb(part)
		switch {
		case part == format.CardPart:
			last.card = &info
			continue
		case ok && verdict:
			last.verdicts = append(last.verdicts, tomb)
		case ok:
			last.tombs[tomb] = info.Modified
		case part == format.ManifestPart:
			last.manifest = true
		}
		last.any = true
	}
	return all, nil
}

// void reports whether the listing shows a void card: no other card has its length.
func (p *parts) void() bool { return p.card != nil && p.card.Bytes == int64(len(format.VoidCard)) }

// look reads what a listing does not say.
func (s *Store) look(ctx context.Context, t *Tenant, p *parts) (*Snapshot, error) {
	sn := &Snapshot{ID: p.id}
	switch {
	case p.card == nil:
		sn.State = Unfinished
		return sn, nil
	case p.void():
		sn.State, sn.bare = Void, !p.any
		return sn, nil
	}
	sn.State, sn.Committed = Whole, p.card.Modified
	kept, err := s.verdicts(ctx, p)
	if errors.Is(err, errVoidVerdict) {
		sn.State = Void
		return sn, nil
	}
	if errors.Is(err, format.ErrFormat) { // the others can still be listed
		sn.State, sn.Err = Damaged, err
		return sn, nil
	}
	if err != nil {
		return nil, err
	}
	for id, at := range p.tombs {
		if !kept[id] && (sn.Forgotten.IsZero() || at.Before(sn.Forgotten)) {
			sn.State, sn.Forgotten = Forgotten, at
		}
	}
	if !p.manifest {
		sn.State = Damaged
	}
	if t == nil {
		return sn, nil
	}
	return sn, s.openCard(ctx, t, sn)
}

// openCard reads the card. That it does not open is noted in the snapshot.
func (s *Store) openCard(ctx context.Context, t *Tenant, sn *Snapshot) error {
	b, err := s.objects.Get(ctx, format.SnapKey(sn.ID, format.CardPart), nil, format.MaxCardBytes)
	switch {
	case errors.Is(err, chunkstore.ErrNotFound) || errors.Is(err, chunkstore.ErrTooLarge):
		sn.State, sn.Err = Damaged, fmt.Errorf("snapshot %s: %w: its card: %w", sn.ID, ErrLost, err)
		return nil
	case err != nil:
		return err
	case format.IsVoid(b): // a pruner was faster
		sn.State = Void
		return nil
	}
	sn.Card, sn.Err = manifest.OpenCard(t.Keys, sn.ID, b)
	return nil
}

var errVoidVerdict = errors.New("void")

// verdicts returns the tombs about which undelete was first. errVoidVerdict if a pruner was.
func (s *Store) verdicts(ctx context.Context, p *parts) (kept map[format.ID]bool, err error) {
	kept = map[format.ID]bool{}
	for _, id := range p.verdicts {
		if _, ok := p.tombs[id]; !ok {
			continue
		}
		key := format.VerdictKey(p.id, id)
		b, err := s.objects.Get(ctx, key, nil, 64)
		if errors.Is(err, chunkstore.ErrNotFound) { // removed with all else of a void snapshot
			return nil, errVoidVerdict
		}
		if err != nil {
			return nil, err
		}
		void, err := format.DecodeVerdict(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if void {
			return nil, errVoidVerdict
		}
		kept[id] = true
	}
	return kept, nil
}

// addLeases notes who uses snapshots, and adds those of which there is nothing yet but a lease.
func (s *Store) addLeases(ctx context.Context, list *[]Snapshot) error {
	held, err := s.leases(ctx)
	if err != nil {
		return err
	}
	at := map[format.ID]int{}
	for i := range *list {
		at[(*list)[i].ID] = i
	}
	for _, l := range held {
		if _, ok := at[l.of]; !ok && l.Use == format.Writing {
			at[l.of] = len(*list)
			*list = append(*list, Snapshot{ID: l.of, State: Unfinished})
		}
		users := append([]format.ID{l.of}, l.bases...)
		slices.SortFunc(users, func(a, b format.ID) int { return slices.Compare(a[:], b[:]) })
		for _, id := range slices.Compact(users) {
			if i, ok := at[id]; ok {
				(*list)[i].Leases = append((*list)[i].Leases, l.Lease)
			}
		}
	}
	return nil
}

// lease is one with what it names.
type lease struct {
	Lease
	key   string
	of    format.ID
	bases []format.ID
	at    time.Time
}

// leases reads all leases. What cannot be read is left out: pruners report it.
func (s *Store) leases(ctx context.Context) (all []lease, err error) {
	for info, err := range s.objects.List(ctx, format.LeasePrefix, "") {
		if err != nil {
			return nil, err
		}
		if id, _, err := format.ParseLeaseKey(info.Key); err == nil {
			all = append(all, lease{key: info.Key, of: id, at: info.Modified})
		}
	}
	err = each(ctx, len(all), func(ctx context.Context, i int) error {
		l := &all[i]
		b, err := s.objects.Get(ctx, l.key, nil, format.MaxLeaseBytes)
		if err != nil && !errors.Is(err, chunkstore.ErrNotFound) && !errors.Is(err, chunkstore.ErrTooLarge) {
			return err
		}
		if d, err := format.DecodeLease(b); err == nil {
			l.Lease, l.bases = Lease{d.Use, d.Who, l.at.Add(d.TTL)}, d.Bases
		}
		return nil
	})
	return slices.DeleteFunc(all, func(l lease) bool { return l.Use == 0 }), err
}

// each calls f for 0 to n-1, several at once.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}
