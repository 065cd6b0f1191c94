package chunkstore

import (
	"context"
	"iter"
	"sync/atomic"
	"time"
)

// Requests counts what a store was asked for. Requests are those of S3: Put and Replace are PUT
// requests, and a listing has a LIST request for each thousand keys. Requests that were repeated
// after a failure count once. The JSON is that of the reports of `sealvol snapshot`.
type Requests struct {
	Get    int64 `json:"get"`
	Put    int64 `json:"put"`
	List   int64 `json:"list"`
	Stat   int64 `json:"stat"`
	Delete int64 `json:"delete"`
	Lock   int64 `json:"lock,omitempty"` // reading or extending the lock of an object
	// DownloadedBytes and UploadedBytes are those of objects.
	DownloadedBytes int64 `json:"downloadedBytes"`
	UploadedBytes   int64 `json:"uploadedBytes"`
}

// All returns the number of requests.
func (r *Requests) All() int64 { return r.Get + r.Put + r.List + r.Stat + r.Delete + r.Lock }

// Meter is a store that counts requests to another one.
type Meter struct {
	store                              Store
	get, put, list, stat, remove, lock atomic.Int64
	down, up                           atomic.Int64
}

// NewMeter returns a store that passes requests on to s and counts them.
func NewMeter(s Store) *Meter { return &Meter{store: s} }

// Requests returns the counts so far.
func (m *Meter) Requests() Requests {
	return Requests{Get: m.get.Load(), Put: m.put.Load(), List: m.list.Load(), Stat: m.stat.Load(), Delete: m.remove.Load(), Lock: m.lock.Load(),
		DownloadedBytes: m.down.Load(), UploadedBytes: m.up.Load()}
}

// Unwrap implements Wrapper.
func (m *Meter) Unwrap() Store { return m.store }

// String returns the name of the other store.
func (m *Meter) String() string { return nameOf(m.store) }

// Get implements Store.
func (m *Meter) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	m.get.Add(1)
	b, err := m.store.Get(ctx, key, room, limit)
	m.down.Add(int64(len(b)))
	return b, err
}

// GetRange implements Store.
func (m *Meter) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	m.get.Add(1)
	err := m.store.GetRange(ctx, key, off, dst)
	if err == nil {
		m.down.Add(int64(len(dst)))
	}
	return err
}

// Put implements Store. Bytes count only if the object was stored.
func (m *Meter) Put(ctx context.Context, key string, data []byte) (bool, error) {
	m.put.Add(1)
	created, err := m.store.Put(ctx, key, data)
	if created {
		m.up.Add(int64(len(data)))
	}
	return created, err
}

// Replace implements Store.
func (m *Meter) Replace(ctx context.Context, key string, data []byte) error {
	m.put.Add(1)
	err := m.store.Replace(ctx, key, data)
	if err == nil {
		m.up.Add(int64(len(data)))
	}
	return err
}

// Stat implements Store.
func (m *Meter) Stat(ctx context.Context, key string) (Info, error) {
	m.stat.Add(1)
	return m.store.Stat(ctx, key)
}

// Delete implements Store.
func (m *Meter) Delete(ctx context.Context, key string) error {
	m.remove.Add(1)
	return m.store.Delete(ctx, key)
}

// keysPerList is how many keys a LIST request of S3 returns.
const keysPerList = 1000

// List implements Store.
func (m *Meter) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		n := 0
		for info, err := range m.store.List(ctx, prefix, after) {
			if n%keysPerList == 0 {
				m.list.Add(1)
			}
			n++
			if !yield(info, err) {
				return
			}
		}
		if n == 0 {
			m.list.Add(1)
		}
	}
}

// Close closes the other store.
func (m *Meter) Close() error { return m.store.Close() }

// meteredLocker counts.
type meteredLocker struct {
	Locker
	m *Meter
}

func (m *Meter) locker() Locker {
	if l := LockerOf(m.store); l != nil {
		return &meteredLocker{l, m}
	}
	return nil
}

func (l *meteredLocker) LockedUntil(ctx context.Context, key string) (time.Time, error) {
	l.m.lock.Add(1)
	return l.Locker.LockedUntil(ctx, key)
}

func (l *meteredLocker) Lock(ctx context.Context, key string, enough, to time.Time) (time.Time, bool, error) {
	until, extended, err := l.Locker.Lock(ctx, key, enough, to)
	l.m.lock.Add(1)
	if extended {
		l.m.lock.Add(1)
	}
	return until, extended, err
}
