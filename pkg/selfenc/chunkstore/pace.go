package chunkstore

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// MinRate is the least rate of a Pacer, in bytes per second. With less, servers end requests.
const MinRate = 4 << 10

// Pacer limits a rate of bytes, for all of its users together. A nil Pacer does not.
type Pacer struct {
	perSecond int64

	mu   sync.Mutex
	free time.Time // guarded by mu: when all that was let through is paid for
}

// NewPacer returns a limit of bytes per second, or nil for 0. MinRate is the least.
func NewPacer(bytesPerSecond int64) *Pacer {
	if bytesPerSecond == 0 {
		return nil
	}
	return &Pacer{perSecond: max(bytesPerSecond, MinRate)}
}

// Wait returns when n more bytes may be transferred: when those before are paid for. It lets n
// through at once if nothing was transferred for a while, whatever n is.
func (p *Pacer) Wait(ctx context.Context, n int) error {
	if p == nil || n <= 0 {
		return nil
	}
	cost := p.cost(n)
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(cost)
	p.mu.Unlock()
	if wait <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		p.free = p.free.Add(-cost) // nothing is transferred
		p.mu.Unlock()
		return context.Cause(ctx)
	}
}

func (p *Pacer) cost(n int) time.Duration {
	return time.Duration(float64(n) / float64(p.perSecond) * float64(time.Second))
}

// piece returns how many bytes to transfer at once, at most most: few enough that all connections
// of a store move every few seconds.
func (p *Pacer) piece(most int) int {
	if p == nil {
		return most
	}
	return int(min(int64(most), max(p.perSecond/16, 1<<10)))
}

// paced limits the rate of a store. An object waits as a whole.
type paced struct {
	Store
	up, down *Pacer
}

// Unwrap implements Wrapper.
func (p *paced) Unwrap() Store { return p.Store }

// String returns the name of the other store.
func (p *paced) String() string { return nameOf(p.Store) }

// Get implements Store.
func (p *paced) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	b, err := p.Store.Get(ctx, key, room, limit)
	if err == nil {
		err = p.down.Wait(ctx, len(b))
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// GetRange implements Store.
func (p *paced) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if err := p.Store.GetRange(ctx, key, off, dst); err != nil {
		return err
	}
	return p.down.Wait(ctx, len(dst))
}

// Put implements Store.
func (p *paced) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if err := p.up.Wait(ctx, len(data)); err != nil {
		return false, objectError("put", key, err)
	}
	return p.Store.Put(ctx, key, data)
}

// Replace implements Store.
func (p *paced) Replace(ctx context.Context, key string, data []byte) error {
	if err := p.up.Wait(ctx, len(data)); err != nil {
		return objectError("replace", key, err)
	}
	return p.Store.Replace(ctx, key, data)
}

// nameOf returns the name of a store, or its type.
func nameOf(s Store) string {
	if n, ok := s.(fmt.Stringer); ok {
		return n.String()
	}
	return "the store"
}
