package storerpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// locking is a store of which all objects are locked until one time.
type locking struct {
	chunkstore.Store
	period time.Duration
	until  time.Time
}

func (l *locking) LockPeriod(context.Context) (time.Duration, error) { return l.period, nil }

func (l *locking) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	_, err := l.Stat(ctx, key)
	return l.until, err
}

func (l *locking) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	_, err := l.Stat(ctx, key)
	if err != nil || !l.until.Before(enough) {
		return l.until, false, err
	}
	l.until = to
	return to, true, nil
}

// TestLock: locks are read and extended through the connection, and below a prefix; a store without
// them says so.
func TestLock(t *testing.T) {
	ctx := t.Context()
	plain, _ := connect(t, chunkstore.NewMemory(), ServerOptions{}, ClientOptions{})
	if p, err := chunkstore.LockerOf(plain).LockPeriod(ctx); err != nil || p != 0 {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := plain.LockedUntil(ctx, "x"); err == nil {
		t.Error("a lock in a store that knows none")
	}

	s := &locking{Store: chunkstore.NewMemory(), period: 30 * 24 * time.Hour}
	if _, err := s.Put(ctx, "p/x", nil); err != nil {
		t.Fatal(err)
	}
	below, err := chunkstore.Limit(s, chunkstore.Rights{Prefix: "p/"})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, below, ServerOptions{}, ClientOptions{})
	l := chunkstore.LockerOf(c)
	if p, err := l.LockPeriod(ctx); err != nil || p != s.period {
		t.Errorf("%v, %v", p, err)
	}
	if until, err := l.LockedUntil(ctx, "x"); err != nil || !until.IsZero() {
		t.Errorf("%v, %v", until, err)
	}
	enough, to := time.Unix(1000, 5), time.Unix(2000, 7)
	for i := range 2 {
		until, extended, err := l.Lock(ctx, "x", enough, to)
		if err != nil || !until.Equal(to) || extended != (i == 0) {
			t.Errorf("%v, %v, %v", until, extended, err)
		}
	}
	if until, err := l.LockedUntil(ctx, "x"); err != nil || !until.Equal(to) {
		t.Errorf("%v, %v", until, err)
	}
	if _, _, err := l.Lock(ctx, "none", enough, to); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, _, err := l.Lock(ctx, "x", time.Time{}, to); err == nil {
		t.Error("for no time")
	}
	if _, _, err := l.Lock(ctx, "../x", enough, to); !errors.Is(err, chunkstore.ErrKey) {
		t.Errorf("%v", err)
	}
}
