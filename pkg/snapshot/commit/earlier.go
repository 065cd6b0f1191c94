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

// Earlier is what the leases on an unfinished snapshot say of the attempts at it.
type Earlier struct {
	// Base is the snapshot that the last attempt was based on; zero: none.
	Base format.ID
	// Attempts are the attempts, and those whose packs they may have taken over, in
	// about the order in which they began. None: there was no attempt, or its lease
	// has expired and was removed.
	Attempts []format.ID
	// Damaged are the leases that cannot be read; what their attempts have stored is
	// stored again.
	Damaged []error
}

// FindEarlier looks for earlier attempts at snapshot s. Who goes on with it passes
// what it returns to Begin: so the same data on the same base gives the same
// chunks, also of metadata. It is a hint. Leases are not authenticated: the base
// needs the same checks as any other, and pack.Index uses no pack that was not
// written for s.
func FindEarlier(ctx context.Context, store chunkstore.Store, s format.ID) (*Earlier, error) {
	type lease struct {
		format.Lease
		key string
		at  time.Time
	}
	var leases []lease
	e := &Earlier{}
	for info, err := range store.List(ctx, format.LeasePrefix+s.String()+"/", "") {
		if err != nil {
			return nil, fmt.Errorf("earlier attempts at snapshot %s: %w", s, err)
		}
		b, err := store.Get(ctx, info.Key, nil, format.MaxLeaseBytes)
		if errors.Is(err, chunkstore.ErrNotFound) {
			continue // its owner has finished
		}
		if err != nil && !errors.Is(err, chunkstore.ErrTooLarge) {
			return nil, fmt.Errorf("earlier attempts at snapshot %s: %w", s, err)
		}
		var l format.Lease
		if err == nil {
			l, err = format.DecodeLease(b)
		}
		if err != nil {
			e.Damaged = append(e.Damaged, fmt.Errorf("%s: %w", info.Key, err))
			continue
		}
		if l.Use == format.Writing {
			leases = append(leases, lease{l, info.Key, info.Modified})
		}
	}
	slices.SortFunc(leases, func(a, b lease) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	for i := range leases {
		l := &leases[i].Lease
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

func (e *Earlier) add(attempts ...format.ID) {
	for _, a := range attempts {
		if !slices.Contains(e.Attempts, a) {
			e.Attempts = append(e.Attempts, a)
		}
	}
}
