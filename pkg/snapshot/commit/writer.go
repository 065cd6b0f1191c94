package commit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Errors of this package; compare with errors.Is.
var (
	// ErrNoBase: the snapshot is not there whole, so that nothing can be built on it.
	ErrNoBase = errors.New("no whole snapshot")
	// ErrVoid: a pruner has declared the unfinished snapshot void, since its
	// lease had expired. Begin again as another snapshot; its packs can be taken
	// over.
	ErrVoid = errors.New("a pruner declared the unfinished snapshot void, since its lease had expired")
	// ErrTaken: another process has written a snapshot of this identity.
	ErrTaken = errors.New("another process has written this snapshot")
	// ErrTooLate: the snapshot was forgotten, and its time to be undeleted is over.
	ErrTooLate = errors.New("too late to undelete")
)

// DefaultTTL is how long a lease protects without being renewed. Nobody waits
// for its end: it only costs the space of what a dead writer leaves, and gives
// its successor that time to go on with the same snapshot.
const DefaultTTL = 24 * time.Hour

// Options say how a snapshot is written.
type Options struct {
	// Base is the snapshot whose packs are used again. Zero: none.
	Base format.ID
	// Predecessors are attempts whose packs TakeOver finds.
	Predecessors []format.ID
	// Earlier is what FindEarlier found, to go on with this snapshot: its base is
	// used, unless Base says another, and its attempts are predecessors, too. nil:
	// begin.
	Earlier *Earlier
	// TTL of the lease. 0: DefaultTTL.
	TTL time.Duration
	// Who writes, for people who look at leases.
	Who string
}

// Writer writes one snapshot. It is safe for concurrent use, but for Commit.
type Writer struct {
	store chunkstore.Store
	s     format.ID
	// leases has those of earlier attempts, too: if one expired a pruner would
	// declare the snapshot void.
	leases leases
	opts   Options
	own    format.ID
}

// Begin puts the lease of a new attempt at snapshot s (W1).
func Begin(ctx context.Context, store chunkstore.Store, s format.ID, o Options) (*Writer, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	w := &Writer{store: store, s: s, own: format.NewID()}
	var earlier []held
	if e := o.Earlier; e != nil {
		if o.Base == (format.ID{}) {
			o.Base = e.Base
		}
		o.Predecessors = append(slices.Clone(e.Attempts), o.Predecessors...)
		earlier = e.leases
	}
	w.opts = o
	l := format.Lease{Use: format.Writing, TTL: o.TTL, Attempts: append([]format.ID{w.own}, o.Predecessors...), Who: o.Who}
	if o.Base != (format.ID{}) {
		l.Bases = []format.ID{o.Base}
	}
	b, err := l.Encode()
	if err != nil {
		return nil, err
	}
	own := held{format.LeaseKey(s, format.NewID()), b, o.TTL}
	w.leases.store, w.leases.all = store, append([]held{own}, earlier...)
	if err := w.Renew(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Snapshot returns which snapshot is written.
func (w *Writer) Snapshot() format.ID { return w.s }

// Attempt returns the attempt under which packs and pages are put.
func (w *Writer) Attempt() format.ID { return w.own }

// Renew puts the lease again, and those of earlier attempts. A writer whose lease
// expired may go on: either no pruner noticed, or Commit says ErrVoid.
func (w *Writer) Renew(ctx context.Context) error {
	if err := w.leases.renew(ctx); err != nil {
		return fmt.Errorf("lease on snapshot %s: %w", w.s, err)
	}
	return nil
}

// Keep renews the lease in time until stop is called. After Commit and Abandon it
// renews nothing. failed is told of each renewal that failed.
func (w *Writer) Keep(ctx context.Context, failed func(error)) (stop func()) {
	return Keep(ctx, w.leases.every(), w.Renew, failed)
}

// Base checks that the base is whole and returns its manifest (W2). ErrNoBase:
// work without it.
func (w *Writer) Base(ctx context.Context) (h *format.Head, sealed []byte, err error) {
	return Whole(ctx, w.store, w.opts.Base)
}

// BaseCard is Base and returns the card as well.
func (w *Writer) BaseCard(ctx context.Context) (card []byte, h *format.Head, sealed []byte, err error) {
	return WholeCard(ctx, w.store, w.opts.Base)
}

// Whole returns the manifest of a snapshot whose card is real, or ErrNoBase. The
// card is looked at first: what was whole after the lease was put stays.
func Whole(ctx context.Context, store chunkstore.Store, s format.ID) (h *format.Head, sealed []byte, err error) {
	_, h, sealed, err = WholeCard(ctx, store, s)
	return h, sealed, err
}

// WholeCard is Whole and returns the card as well, which only its tenant can open.
func WholeCard(ctx context.Context, store chunkstore.Store, s format.ID) (card []byte, h *format.Head, sealed []byte, err error) {
	if card, err = Card(ctx, store, s); err != nil {
		return nil, nil, nil, err
	}
	h, sealed, err = Manifest(ctx, store, s)
	return card, h, sealed, err
}

// Card returns the card of a snapshot if it is real, or ErrNoBase. The rest of the
// snapshot is not looked at.
func Card(ctx context.Context, store chunkstore.Store, s format.ID) ([]byte, error) {
	card, err := realCard(ctx, store, s)
	if err != nil {
		return nil, err
	}
	if _, _, err := format.DecodeCard(card); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s, err)
	}
	return card, nil
}

// realCard returns the bytes of a card that is not void, or ErrNoBase.
func realCard(ctx context.Context, store chunkstore.Store, s format.ID) ([]byte, error) {
	no := func(why string) error { return fmt.Errorf("snapshot %s: %w: %s", s, ErrNoBase, why) }
	if s == (format.ID{}) {
		return nil, no("none was named")
	}
	card, err := store.Get(ctx, format.SnapKey(s, format.CardPart), nil, format.MaxCardBytes)
	switch {
	case errors.Is(err, chunkstore.ErrNotFound):
		return nil, no("it was never finished")
	case err != nil:
		return nil, fmt.Errorf("snapshot %s: %w", s, err)
	case format.IsVoid(card):
		return nil, no("it is void")
	}
	return card, nil
}

// Manifest reads the manifest of a snapshot. ErrNoBase if there is none.
func Manifest(ctx context.Context, store chunkstore.Store, s format.ID) (h *format.Head, sealed []byte, err error) {
	key := format.SnapKey(s, format.ManifestPart)
	b, err := store.Get(ctx, key, nil, format.MaxManifestBytes)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, nil, fmt.Errorf("snapshot %s: %w: %w", s, ErrNoBase, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", s, err)
	}
	if h, sealed, err = format.DecodeManifest(b); err == nil && h.S != s {
		err = fmt.Errorf("%w manifest: it is of snapshot %s", format.ErrFormat, h.S)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	return h, sealed, nil
}

// Put puts a pack or a page below the own attempt (W4). That it was there
// already can only mean that an answer had been lost: no other attempt puts
// objects there.
func (w *Writer) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	n := format.Name{Class: c, Attempt: w.own, Sum: sum}
	_, err := w.store.Put(ctx, n.Key(), data)
	return n, err
}

// Parts are the objects of a snapshot beside packs and pages, sealed.
type Parts struct {
	Keys     []byte // version 0 of the slots; nil: none
	Manifest []byte // of format.EncodeManifest
	Card     []byte // of format.EncodeCard
}

// Commit puts keys, manifest and card, and deletes the leases (W4 to W6). When it
// returns nil the snapshot is whole and stays. After another error than ErrVoid
// and ErrTaken it may be called again with the same parts. The keys come first: a
// manifest that a writer left can be opened, so that its successor can finish.
func (w *Writer) Commit(ctx context.Context, p *Parts) error {
	if p.Keys != nil {
		if err := w.putPart(ctx, format.KeysPart+"0", p.Keys); err != nil {
			return err
		}
	}
	if err := w.putPart(ctx, format.ManifestPart, p.Manifest); err != nil {
		return err
	}
	if err := w.putPart(ctx, format.CardPart, p.Card); err != nil {
		return err
	}
	_ = w.leases.end(ctx, true) // else they expire; who may not delete leaves it to that
	return nil
}

// putPart puts a part that nobody else may have put otherwise.
func (w *Writer) putPart(ctx context.Context, part string, data []byte) error {
	key := format.SnapKey(w.s, part)
	created, err := w.store.Put(ctx, key, data)
	if err != nil || created {
		return err
	}
	got, err := w.store.Get(ctx, key, nil, max(len(data), len(format.VoidCard)))
	switch {
	case err == nil && part == format.CardPart && format.IsVoid(got):
		return fmt.Errorf("snapshot %s: %w", w.s, ErrVoid)
	case errors.Is(err, chunkstore.ErrTooLarge) || err == nil && !bytes.Equal(got, data):
		return fmt.Errorf("%s: %w", key, ErrTaken)
	case errors.Is(err, chunkstore.ErrNotFound): // a pruner removed it, after it put a void card
		return fmt.Errorf("snapshot %s: %w", w.s, ErrVoid)
	}
	return err
}

// Done deletes the leases of a snapshot that is whole, since an earlier attempt
// was about to delete its own.
func (w *Writer) Done(ctx context.Context) error { return w.leases.end(ctx, true) }

// Abandon deletes the lease: what the attempt has put becomes garbage, unless a
// successor takes it over in time. Leases of earlier attempts stay until they
// expire.
func (w *Writer) Abandon(ctx context.Context) error { return w.leases.end(ctx, false) }
