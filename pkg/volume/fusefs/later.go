package fusefs

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// later is what must be done before a request is answered, and must not keep its handler: it waits
// for something that another handler brings about.
type later struct {
	n     atomic.Int64 // len(steps): most requests have nothing here, and take no lock
	mu    sync.Mutex
	steps map[uint64]func() // by the request's Unique; guarded by mu
}

// answerAfter has the answer to a request wait for fn. It is called while the request is handled;
// fn runs in a goroutine of its own.
func (s *Server) answerAfter(unique uint64, fn func()) {
	l := &s.later
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.steps == nil {
		l.steps = map[uint64]func(){}
	}
	l.steps[unique] = fn
	l.n.Store(int64(len(l.steps)))
}

// take returns and forgets what the answer to a request that was handled has to wait for; nil for
// nothing.
func (l *later) take(req []byte) func() {
	if l.n.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	unique := binary.NativeEndian.Uint64(req[8:])
	fn := l.steps[unique]
	delete(l.steps, unique)
	l.n.Store(int64(len(l.steps)))
	return fn
}
