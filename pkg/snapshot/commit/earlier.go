package commit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// maxEarlier is how many earlier attempts are returned, the last ones: each has a
// part of the memory of pack.Index.
const maxEarlier = 16

// Earlier is what earlier attempts at an unfinished snapshot have left.
type Earlier struct {
	// Base is the snapshot that the last attempt was based on; zero: none.
	Base format.ID
	// Attempts are the attempts, and those whose packs they may have taken over, in
	// about the order in which they began. None: there was no attempt, or its lease
	// has expired and was removed.
	Attempts []format.ID
	// Keys and Manifest are what an attempt has put that died before the commit; nil:
	// none. Nobody can put others: to finish this snapshot, use the key in Keys, and
	// commit Manifest as it is.
	Keys, Manifest []byte
	// Void says that a pruner has declared the snapshot void: it can never be whole.
	Void bool
	// Damaged are the leases that cannot be read; what their attempts have stored is
	// stored again.
	Damaged []error

	leases []held // to be kept alive
}

// FindEarlier looks for earlier attempts at snapshot s. Who goes on with it passes
// it to Begin: so the same data on the same base gives the same
// chunks, also of metadata. It is a hint. Leases are not authenticated: the base
// needs the same checks as any other, and pack.Index uses no pack that was not
// written for s.
func FindEarlier(ctx context.Context, store chunkstore.Store, s format.ID) (*Earlier, error) {
	e := &Earlier{}
	leases, err := e.find(ctx, store, s)
	if err == nil {
		e.Keys, err = leftBy(ctx, store, format.SlotsKey(s, 0))
	}
	if err == nil {
		e.Manifest, err = leftBy(ctx, store, format.SnapKey(s, format.ManifestPart))
	}
	if err == nil {
		var card []byte
		card, err = leftBy(ctx, store, format.SnapKey(s, format.CardPart))
		e.Void = format.IsVoid(card)
	}
	if err != nil {
		return nil, fmt.Errorf("earlier attempts at snapshot %s: %w", s, err)
	}
	slices.SortFunc(leases, func(a, b found) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	for i := range leases {
		l := &leases[i].Lease
		e.leases = append(e.leases, leases[i].held)
		e.Base = format.ID{}
		if len(l.Bases) > 0 {
			e.Base = l.Bases[0]
		}
		if len(l.Attempts) > 0 { // its own is the first
			e.add(l.Attempts[1:]...)
			e.add(l.Attempts[0])
		}
	}
	e.Attempts = e.Attempts[max(0, len(e.Attempts)-maxEarlier):]
	return e, nil
}

// found is a lease for writing.
type found struct {
	held
	format.Lease
	at time.Time
}

// find reads the leases for writing s.
func (e *Earlier) find(ctx context.Context, store chunkstore.Store, s format.ID) (all []found, err error) {
	for info, err := range store.List(ctx, format.LeasePrefix+s.String()+"/", "") {
		if err != nil {
			return nil, err
		}
		b, err := store.Get(ctx, info.Key, nil, format.MaxLeaseBytes)
		if errors.Is(err, chunkstore.ErrNotFound) {
			continue // its owner has finished
		}
		if err != nil && !errors.Is(err, chunkstore.ErrTooLarge) {
			return nil, err
		}
		l := found{held: held{key: info.Key, data: b}, at: info.Modified}
		if err == nil {
			l.Lease, err = format.DecodeLease(b)
			l.ttl = l.TTL
		}
		if err != nil {
			e.Damaged = append(e.Damaged, fmt.Errorf("%s: %w", info.Key, err))
		} else if l.Use == format.Writing {
			all = append(all, l)
		}
	}
	return all, nil
}

func (e *Earlier) add(attempts ...format.ID) {
	for _, a := range attempts {
		if !slices.Contains(e.Attempts, a) {
			e.Attempts = append(e.Attempts, a)
		}
	}
}

// leftBy returns a part of a snapshot, or nil if it is not there.
func leftBy(ctx context.Context, store chunkstore.Store, key string) ([]byte, error) {
	b, err := store.Get(ctx, key, nil, format.MaxManifestBytes)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, nil
	}
	return b, err
}
