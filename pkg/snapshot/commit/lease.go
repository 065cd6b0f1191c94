package commit

import (
	"context"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// held is a lease that somebody renews.
type held struct {
	key  string
	data []byte
	ttl  time.Duration
}

// leases are those that a writer or reader holds. Once they have ended they are
// renewed no more: who renews them in time need not know when that is.
type leases struct {
	store chunkstore.Store

	mu    sync.Mutex // held while they are renewed, too: the end waits for that
	all   []held     // guarded by mu: the own one is the first
	ended bool       // guarded by mu
}

// renew puts the leases again.
func (l *leases) renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	for i := range l.all {
		if err := l.store.Replace(ctx, l.all[i].key, l.all[i].data); err != nil {
			return err
		}
	}
	return nil
}

// every returns how often the leases have to be renewed: thrice in the time of the
// one that expires first.
func (l *leases) every() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	ttl := l.all[0].ttl
	for i := range l.all {
		ttl = min(ttl, l.all[i].ttl)
	}
	return ttl / 3
}

// end ends the renewals and deletes the own lease, or all of them. It returns the
// first error: what was not deleted expires.
func (l *leases) end(ctx context.Context, all bool) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for i := range l.all {
		if i > 0 && !all {
			break
		}
		if e := l.store.Delete(ctx, l.all[i].key); err == nil {
			err = e
		}
	}
	return err
}
