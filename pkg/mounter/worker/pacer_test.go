package worker

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/handover"
)

const mib = 1 << 20

// read reads for a time and returns how many bytes per second that were.
func read(t *testing.T, p *Pacer, d time.Duration) int64 {
	t.Helper()
	begin, n := time.Now(), int64(0)
	for time.Since(begin) < d {
		if err := p.Wait(t.Context(), mib/4); err != nil {
			t.Fatal(err)
		}
		n += mib / 4
		<-time.After(time.Millisecond) // the device takes that long: 250 MiB/s
	}
	return int64(float64(n) / time.Since(begin).Seconds())
}

func near(got, want int64) bool { return got > want*8/10 && got < want*12/10 }

// TestPacer: the limit holds on average, and a pause does not allow a long burst.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(10 * mib)
		if got := read(t, p, 10*time.Second); !near(got, 10*mib) {
			t.Errorf("%d bytes per second", got)
		}
		<-time.After(time.Hour)
		if got := read(t, p, 2*time.Second); !near(got, 10*mib) {
			t.Errorf("after a pause: %d bytes per second", got)
		}
		if got := read(t, NewPacer(0), time.Second); !near(got, 250*mib) {
			t.Errorf("unlimited: %d bytes per second", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Wait(ctx, 100*mib); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Wait(ctx, 100*mib); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// TestPacerSlowed: each time the volume is busy the rate is halved, to the floor and not below.
// Then it grows to what it was.
func TestPacerSlowed(t *testing.T) {
	for _, limit := range []int64{0, 100 * mib} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPacer(limit)
			want := read(t, p, time.Second)
			for want > 2*floorRate {
				p.Slow()
				want /= 2
				if got := read(t, p, time.Second); !near(got, want) {
					t.Fatalf("limit %d: %d bytes per second, want %d", limit, got, want)
				}
				if s := p.Pace(); !s.Slowed || !near(s.Limit, want) {
					t.Fatalf("%+v, want %d", s, want)
				}
			}
			for range 10 {
				p.Slow()
			}
			if got := read(t, p, 10*time.Second); !near(got, floorRate) {
				t.Errorf("limit %d: %d bytes per second, want the floor", limit, got)
			}
			steps := 0
			for ; p.Pace().Slowed && steps < 100; steps++ {
				p.Ease()
				read(t, p, time.Second)
			}
			if got := p.Pace().Limit; steps < 10 || steps > 40 || got != limit {
				t.Errorf("limit %d: %d steps, then %d", limit, steps, got)
			}
		})
	}
}

// TestPacerIdle: slowing a job that reads nothing does not stop it when it reads again.
func TestPacerIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(0)
		<-time.After(time.Minute)
		p.Slow()
		if s := p.Pace(); s.Slowed || s.Limit != 0 {
			t.Errorf("%+v", s)
		}
		read(t, p, time.Second)
		p.Slow()
		<-time.After(time.Minute)
		p.Slow()
		if s := p.Pace(); s.Limit != floorRate {
			t.Errorf("%+v", s)
		}
		p.Free()
		if s := p.Pace(); s.Slowed || s.Limit != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestGovern: what the mount server says slows the job and lets it go; without a server it is free.
func TestGovern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(0)
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- govern(r, p) }()
		say := func(l handover.Load) Pace {
			t.Helper()
			read(t, p, time.Second)
			if err := handover.WriteLoad(w, l); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return p.Pace()
		}
		for _, c := range []struct {
			l    handover.Load
			slow bool
		}{
			{handover.Load{Queue: 2, Requests: 1000, P99Micros: 900}, false},
			{handover.Load{Queue: 3, Requests: 5, P99Micros: 2_000_000}, false}, // a few requests that take long are no load
			{handover.Load{Queue: 20}, true},
			{handover.Load{Queue: 1, Requests: 100, P99Micros: 80_000}, true},
			{handover.Load{}, true}, // it recovers slowly
		} {
			if s := say(c.l); s.Slowed != c.slow {
				t.Errorf("%+v: %+v", c.l, s)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := p.Pace(); s.Slowed || s.Limit != 0 {
			t.Errorf("without a server: %+v", s)
		}
	})
}
