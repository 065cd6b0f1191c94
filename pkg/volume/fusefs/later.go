package fusefs

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// later contains work that must finish before a request is answered. The work must not occupy the
// handler, because it waits for something that another handler must do.
type later struct {
	n     atomic.Int64 // len(steps): most requests have no such work, and take no lock
	mu    sync.Mutex
	steps map[uint64]func() // by the request's Unique; guarded by mu
}

// answerAfter delays the answer to a request until fn has returned. It is called while the request
// is handled. fn runs in another goroutine.
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

// take removes and returns the work that the answer to a handled request must wait for, or nil.
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
