package ebs

import (
	"context"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/requestid"
)

// batcher collects requests for a short time and sends them in one call.
type batcher[V any] struct {
	window time.Duration
	most   int // maximum number of keys in one call
	fetch  func(ctx context.Context, keys []string) (map[string]V, error)
	run    *sync.WaitGroup // joined by Backend.Close
	ctx    context.Context // ends with the backend
	mu     sync.Mutex
	open   *batch[V] // the batch that still accepts keys; guarded by mu
}

type batch[V any] struct {
	keys  []string
	known map[string]bool
	timer *time.Timer
	id    string        // of the call that asks (package requestid), "" if there are several
	done  chan struct{} // closed when got and err are set
	got   map[string]V
	err   error
}

// get requests one key; ok is false if it does not exist.
func (b *batcher[V]) get(ctx context.Context, key string) (v V, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return v, false, err
	}
	q := b.join(ctx, key)
	select {
	case <-q.done:
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
	v, ok = q.got[key]
	return v, ok, q.err
}

// join adds a key to the open batch, and creates one if there is none.
func (b *batcher[V]) join(ctx context.Context, key string) *batch[V] {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.open
	if q == nil {
		q = &batch[V]{known: map[string]bool{}, id: requestid.From(ctx), done: make(chan struct{})}
		b.open = q
		b.run.Add(1)
		q.timer = time.AfterFunc(b.window, func() { b.ask(q) })
	}
	if q.id != requestid.From(ctx) {
		q.id = ""
	}
	if !q.known[key] {
		q.known[key] = true
		q.keys = append(q.keys, key)
	}
	if len(q.keys) >= b.most {
		b.open = nil
		if q.timer.Stop() {
			go b.ask(q)
		}
	}
	return q
}

func (b *batcher[V]) ask(q *batch[V]) {
	defer b.run.Done()
	b.mu.Lock()
	if b.open == q {
		b.open = nil
	}
	b.mu.Unlock()
	defer close(q.done)
	ctx, cancel := context.WithTimeout(b.ctx, 2*callTimeout) // not a caller's context: other callers wait, too
	defer cancel()
	ctx = requestid.With(ctx, q.id)
	q.got, q.err = b.fetch(ctx, q.keys)
}
