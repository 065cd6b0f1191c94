package fusefs

import (
	"testing"
	"time"
)

// TestBuckets: each duration is in a bucket that ends after it, by at most a quarter.
func TestBuckets(t *testing.T) {
	for d := time.Duration(0); d < 40*time.Minute; d = d*21/20 + time.Microsecond {
		i := bucket(d)
		if end := bucketEnd(i); end <= d.Truncate(time.Microsecond) || end > d+d/4+time.Microsecond {
			t.Fatalf("%v: bucket %d ends at %v", d, i, end)
		}
	}
	if i := bucket(1 << 62); i != timeBuckets-1 {
		t.Errorf("the longest is in bucket %d", i)
	}
}

// TestLoadSince: one slow request in a hundred does not count, two do.
func TestLoadSince(t *testing.T) {
	var s Server
	for range 1000 {
		s.times.add(time.Hour) // before the period
	}
	before := s.Load()
	if n, p := before.Since(&before); n != 0 || p != 0 {
		t.Errorf("nothing happened: %d, %v", n, p)
	}
	for range 199 {
		s.times.add(100 * time.Microsecond)
	}
	s.times.add(time.Second)
	l := s.Load()
	if n, p := l.Since(&before); n != 200 || p < 100*time.Microsecond || p > 125*time.Microsecond {
		t.Errorf("%d, %v", n, p)
	}
	s.times.add(time.Second)
	s.times.add(time.Second)
	l = s.Load()
	if n, p := l.Since(&before); n != 202 || p < time.Second || p > 1300*time.Millisecond {
		t.Errorf("%d, %v", n, p)
	}
}
