package fusefs

import (
	"sync/atomic"
	"time"
)

// The kinds of requests whose times are counted.
const (
	LoadRead = iota
	LoadWrite
	LoadSync
	LoadOther
	loadKinds
)

// Load is how busy a server is, and what it did since it was started.
type Load struct {
	// Queue is how many requests are being answered. Requests that wait for the end of a freeze do
	// not count.
	Queue int
	Kinds [loadKinds]LoadCount
}

// LoadCount are the answered requests of one kind.
type LoadCount struct {
	Count  uint64
	Micros uint64 // that all of them took
}

// loadCounts are the counters of a Load.
type loadCounts [loadKinds]struct{ count, nanos atomic.Uint64 }

// timed counts a request that began at a time.
func (s *Server) timed(op uint32, begin time.Time) {
	kind := LoadOther
	switch op {
	case opRead:
		kind = LoadRead
	case opWrite:
		kind = LoadWrite
	case opFsync, opFsyncdir:
		kind = LoadSync
	}
	c := &s.counts[kind]
	c.count.Add(1)
	c.nanos.Add(uint64(max(time.Since(begin), 0)))
}

// Load returns how busy the server is.
func (s *Server) Load() (l Load) {
	l.Queue = int(max(s.handlers.Load()-s.idle.Load()-s.parked.Load(), 0))
	for i := range l.Kinds {
		l.Kinds[i] = LoadCount{s.counts[i].count.Load(), s.counts[i].nanos.Load() / uint64(time.Microsecond)}
	}
	return l
}
