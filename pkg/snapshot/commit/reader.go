package commit

import (
	"context"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Reader holds a lease on a snapshot that is being read: a pruner keeps it,
// forgotten or not, while the lease lasts.
type Reader struct {
	leases leases
	// Head and Sealed are the snapshot's manifest.
	Head   *format.Head
	Sealed []byte
}

// Read puts a lease on a whole snapshot and then reads its manifest. ErrNoBase.
func Read(ctx context.Context, store chunkstore.Store, s format.ID, ttl time.Duration, who string) (*Reader, error) {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	l := format.Lease{Use: format.Reading, TTL: ttl, Bases: []format.ID{s}, Who: who}
	b, err := l.Encode()
	if err != nil {
		return nil, err
	}
	r := &Reader{leases: leases{store: store, all: []held{{format.LeaseKey(s, format.NewID()), b, ttl}}}}
	if err := r.Renew(ctx); err != nil {
		return nil, err
	}
	if r.Head, r.Sealed, err = Whole(ctx, store, s); err != nil {
		_ = r.Close(ctx) // else it expires
		return nil, err
	}
	return r, nil
}

// Renew puts the lease again.
func (r *Reader) Renew(ctx context.Context) error {
	if err := r.leases.renew(ctx); err != nil {
		return fmt.Errorf("lease on what is read: %w", err)
	}
	return nil
}

// Keep renews the lease in time until stop is called. After Close it renews
// nothing. failed is told of each renewal that failed: once a lease has expired, a
// pruner may delete what is read.
func (r *Reader) Keep(ctx context.Context, failed func(error)) (stop func()) {
	return Keep(ctx, r.leases.every(), r.Renew, failed)
}

// Close deletes the lease.
func (r *Reader) Close(ctx context.Context) error { return r.leases.end(ctx, false) }
