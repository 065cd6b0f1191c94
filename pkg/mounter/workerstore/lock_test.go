package workerstore

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/worker"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// locking is a store with object lock.
type locking struct {
	chunkstore.Store
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
}

const period = 30 * 24 * time.Hour

// LockPeriod implements chunkstore.Locker.
func (l *locking) LockPeriod(context.Context) (time.Duration, error) { return period, nil }

// LockedUntil implements chunkstore.Locker.
func (l *locking) LockedUntil(_ context.Context, key string) (time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until[key], nil
}

// Lock implements chunkstore.Locker.
func (l *locking) Lock(_ context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until[key].Before(enough) {
		return l.until[key], false, nil
	}
	l.until[key] = to
	return to, true, nil
}

// TestLock: a worker extends the locks of packs through its socket, as far as a snapshot needs it.
func TestLock(t *testing.T) {
	ctx := t.Context()
	below := &locking{Store: chunkstore.NewMemory(), until: map[string]time.Time{}}
	for _, lockable := range []bool{true, false} {
		var objects chunkstore.Store = below
		if !lockable {
			objects = below.Store
		}
		e, err := Serve(ctx, objects, Rights("p/", format.NewID()))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.FileConn(e.Worker)
		if err != nil {
			t.Fatal(err)
		}
		s := worker.NewStore(time.Minute, storerpc.ClientOptions{})
		if err := s.Attach(conn); err != nil {
			t.Fatal(err)
		}
		l := chunkstore.LockerOf(s)
		want := time.Duration(0)
		if lockable {
			want = period
		}
		if p, err := l.LockPeriod(ctx); err != nil || p != want {
			t.Errorf("%v, %v", p, err)
		}
		if lockable {
			tryLocks(t, l, below)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func tryLocks(t *testing.T, l chunkstore.Locker, below *locking) {
	t.Helper()
	ctx := t.Context()
	now := time.Now()
	pack := format.PackPrefix + "x"
	until, extended, err := l.Lock(ctx, pack, now.Add(period), now.Add(period+24*time.Hour))
	stored, _ := below.LockedUntil(ctx, "p/"+pack)
	if err != nil || !extended || !until.Equal(now.Add(period+24*time.Hour)) || !stored.Equal(until) {
		t.Errorf("%v, %v, %v", until, extended, err)
	}
	if got, err := l.LockedUntil(ctx, pack); err != nil || !got.Equal(until) {
		t.Errorf("%v, %v", got, err)
	}
	for key, to := range map[string]time.Time{pack: now.Add(100 * 365 * 24 * time.Hour), format.StoreKey: now.Add(time.Hour), format.LeasePrefix + "x": now.Add(time.Hour)} {
		if _, _, err := l.Lock(ctx, key, now.Add(time.Minute), to); !errors.Is(err, chunkstore.ErrDenied) {
			t.Errorf("%s until %v: %v", key, to, err)
		}
	}
	below.mu.Lock()
	defer below.mu.Unlock()
	if len(below.until) != 1 {
		t.Errorf("%v", below.until)
	}
}
