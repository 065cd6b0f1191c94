package selfenc

import (
	"context"
	"sync"
)

// recent is a cache of the values of the last few keys. If several goroutines request the same key,
// only one loads it. The mutex is not held while loading.
type recent[K comparable, V any] struct {
	max  int
	mu   sync.Mutex
	list []*flight[K, V] // most recently used first; guarded by mu
}

type flight[K comparable, V any] struct {
	key   K
	ready chan struct{} // closed when value and err are set
	value V
	err   error
}

// get returns the value of key. The value is shared, and must not be changed.
func (r *recent[K, V]) get(ctx context.Context, key K, load func() (V, error)) (V, error) {
	for {
		f, mine := r.claim(key)
		if mine {
			if f.value, f.err = load(); f.err != nil {
				r.forget(f)
			}
			close(f.ready)
			return f.value, f.err
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if f.err == nil {
			return f.value, nil
		}
		// The error of the other goroutine may be its own cancellation. Try to load the value here.
	}
}

// peek returns the value of key if it is there. The value must not be changed.
func (r *recent[K, V]) peek(key K) (value V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.list {
		if f.key != key {
			continue
		}
		select {
		case <-f.ready:
			return f.value, f.err == nil
		default:
			return value, false
		}
	}
	return value, false
}

// claim finds the entry of key, or creates one, which the caller must load.
func (r *recent[K, V]) claim(key K) (f *flight[K, V], mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, f := range r.list {
		if f.key == key {
			copy(r.list[1:], r.list[:i])
			r.list[0] = f
			return f, false
		}
	}
	if len(r.list) < r.max {
		r.list = append(r.list, nil)
	}
	copy(r.list[1:], r.list)
	f = &flight[K, V]{key: key, ready: make(chan struct{})}
	r.list[0] = f
	return f, true
}

// forget removes an entry that could not be loaded.
func (r *recent[K, V]) forget(f *flight[K, V]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.list {
		if r.list[i] == f {
			r.list = append(r.list[:i], r.list[i+1:]...)
			return
		}
	}
}
