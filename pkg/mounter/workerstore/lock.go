package workerstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// maxSlack is by how much longer than the store's lock period a worker may lock: lock.DefaultSlack,
// and as much again for clocks that differ.
const maxSlack = 48 * time.Hour

// boundLock returns a store whose locks are for packs and pages only, and not much longer than the
// store's lock period. Nobody can take back a lock: a worker that somebody has taken over could
// make its owner pay for all objects for ever.
func boundLock(s chunkstore.Store) chunkstore.Store {
	if l := chunkstore.LockerOf(s); l != nil {
		return &bound{s, l}
	}
	return s
}

type bound struct {
	chunkstore.Store
	locker chunkstore.Locker
}

// LockPeriod implements chunkstore.Locker.
func (b *bound) LockPeriod(ctx context.Context) (time.Duration, error) {
	return b.locker.LockPeriod(ctx)
}

// LockedUntil implements chunkstore.Locker.
func (b *bound) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	return b.locker.LockedUntil(ctx, key)
}

// Lock implements chunkstore.Locker.
func (b *bound) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	period, err := b.locker.LockPeriod(ctx)
	if err != nil {
		return time.Time{}, false, err
	}
	isObject := strings.HasPrefix(key, format.PackPrefix) || strings.HasPrefix(key, format.PagePrefix)
	if most := time.Now().Add(period + maxSlack); !isObject || enough.After(most) || to.After(most) {
		return time.Time{}, false, fmt.Errorf("lock %s: %w: a worker locks packs and pages only, for at most the lock period and %v", key, chunkstore.ErrDenied, maxSlack)
	}
	return b.locker.Lock(ctx, key, enough, to)
}
