package ebs

import (
	"context"
	"sync"
)

// keyed is a lock for each key. Waiting can be cancelled.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyLock // guarded by mu
}

type keyLock struct {
	held  chan struct{} // holds one value while the lock is held
	users int           // how many hold the lock or wait; guarded by keyed.mu
}

// lock locks a key and returns the function that unlocks it.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.locks[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		if k.locks == nil {
			k.locks = map[string]*keyLock{}
		}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
