package fusefs

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// timeBuckets counts requests by how long they took: four buckets for each power of two
// microseconds, so that a bound is at most a quarter too high.
const timeBuckets = 4 * 32

// times counts the requests of a server.
type times [timeBuckets]atomic.Uint64

// bucket returns the bucket of a duration.
func bucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 4 {
		return int(us)
	}
	n := bits.Len64(us) // at least 3
	return min(4*(n-2)+int(us>>(n-3)&3), timeBuckets-1)
}

// bucketEnd returns the shortest duration that is too long for a bucket.
func bucketEnd(i int) time.Duration {
	if i < 4 {
		return time.Duration(i+1) * time.Microsecond
	}
	n := i/4 + 2
	return time.Duration(uint64(4+i%4+1)<<(n-3)) * time.Microsecond
}

func (t *times) add(d time.Duration) { t[bucket(d)].Add(1) }

// timed counts a request that began at a time.
func (s *Server) timed(begin time.Time) { s.times.add(time.Since(begin)) }

// Load is how busy a server is and was.
type Load struct {
	// Queue is how many requests are being answered. Requests that wait for the end of a freeze do
	// not count.
	Queue int
	times [timeBuckets]uint64
}

// Load returns how busy the server is.
func (s *Server) Load() (l Load) {
	l.Queue = int(max(s.handlers.Load()-s.idle.Load()-s.parked.Load(), 0))
	for i := range l.times {
		l.times[i] = s.times[i].Load()
	}
	return l
}

// Since returns how many requests were answered since an earlier Load, and how long all of them but
// one in a hundred took at most.
func (l *Load) Since(earlier *Load) (n uint64, p99 time.Duration) {
	for i := range l.times {
		n += l.times[i] - earlier.times[i]
	}
	slow := uint64(0)
	for i := timeBuckets - 1; i >= 0 && n > 0; i-- {
		if slow += l.times[i] - earlier.times[i]; slow > n/100 {
			return n, bucketEnd(i)
		}
	}
	return n, 0
}
