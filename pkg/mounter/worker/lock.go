package worker

import (
	"context"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
)

// LockPeriod implements chunkstore.Locker.
func (s *Store) LockPeriod(ctx context.Context) (d time.Duration, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		d, err = c.LockPeriod(ctx)
		return err
	})
	return d, err
}

// LockedUntil implements chunkstore.Locker.
func (s *Store) LockedUntil(ctx context.Context, key string) (t time.Time, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		t, err = c.LockedUntil(ctx, key)
		return err
	})
	return t, err
}

// Lock implements chunkstore.Locker.
func (s *Store) Lock(ctx context.Context, key string, enough, to time.Time) (until time.Time, extended bool, err error) {
	err = s.do(ctx, func(c *storerpc.Client) error {
		until, extended, err = c.Lock(ctx, key, enough, to)
		return err
	})
	return until, extended, err
}

var _ chunkstore.Locker = (*Store)(nil)
