package pacing

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

const mib = 1 << 20

// reader reads all the time, 250 MiB/s at most.
type reader struct {
	p *Pacer
	n atomic.Int64
}

func (r *reader) run(ctx context.Context) {
	for {
		if r.p.Wait(ctx, mib/4) != nil {
			return
		}
		r.n.Add(mib / 4)
		<-time.After(time.Millisecond) // the device takes that long
	}
}

// read reads for a time and returns how many bytes per second that were.
func read(t *testing.T, p *Pacer, d time.Duration) int64 {
	t.Helper()
	r := &reader{p: p}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	r.run(ctx)
	return int64(float64(r.n.Load()) / d.Seconds())
}

func near(got, want int64) bool { return got > want*8/10 && got < want*12/10 }

// TestPacer: the limit holds on average, a pause does not allow a long burst, and a hold lets
// nothing through.
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
		p.hold()
		p.hold()
		if got := read(t, p, time.Second); got != 0 {
			t.Errorf("held: %d bytes per second", got)
		}
		p.release()
		p.release()
		if got := read(t, p, 10*time.Second); !near(got, 10*mib) {
			t.Errorf("released: %d bytes per second", got)
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

// user is a volume that is used all the time, whose requests take longer the more is read.
type user struct {
	r      *reader
	before int64
	alone  time.Duration // that a request takes without a reader
	harm   float64       // how much longer one takes for each MiB per second
	loss   float64       // of the last window
	part   float64       // of a request that is not answered yet
}

// window lets time pass and returns the load.
func (u *user) window() (l Load) {
	<-time.After(Every)
	now := u.r.n.Load()
	rate := float64(now-u.before) / mib / Every.Seconds()
	u.before = now
	each := time.Duration(float64(u.alone) * (1 + u.harm*rate))
	u.part += float64(Every) / float64(each)
	n := uint64(u.part)
	u.part -= float64(n)
	l.Queue = 1
	u.loss = 1 - float64(u.alone)/float64(each)
	l.Kinds[Sync] = Requests{n, n * uint64(each.Microseconds())}
	l.Kinds[Other] = Requests{1, 7_000_000} // one that always takes long says nothing
	return l
}

// governed runs windows of a use of the volume, and returns the rate of the reader in MiB/s and the
// loss of the user, over the last half of them.
func governed(t *testing.T, limit int64, u *user, windows int) (rate, loss float64, g *Governor) {
	t.Helper()
	p := NewPacer(limit)
	u.r = &reader{p: p}
	g = NewGovernor(p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		u.r.run(ctx)
	}()
	half := int64(0)
	for i := range windows {
		if i == windows/2 {
			half = u.r.n.Load()
		}
		g.Next(u.window())
		if i >= windows/2 {
			loss += u.loss / float64(windows-windows/2)
		}
	}
	cancel()
	<-ended
	return float64(u.r.n.Load()-half) / mib / (float64(windows-windows/2) * Every.Seconds()), loss, g
}

// TestGovernor: however long requests take, and however much a reader harms them, their users lose
// less than a fifth, and the reader gets what that leaves.
func TestGovernor(t *testing.T) {
	for name, c := range map[string]struct {
		u     user
		limit int64
		least float64 // MiB per second
	}{
		"fast, harmed":        {user{alone: 200 * time.Microsecond, harm: 0.01}, 0, 6},
		"slow, harmed":        {user{alone: 10 * time.Millisecond, harm: 0.01}, 0, 6},
		"harmed a little":     {user{alone: time.Millisecond, harm: 0.001}, 0, 60},
		"not harmed":          {user{alone: time.Millisecond}, 0, 180}, // a fifth is for holds
		"harmed, with limit":  {user{alone: time.Millisecond, harm: 0.001}, 20 * mib, 12},
		"harmed at any speed": {user{alone: time.Millisecond, harm: 1}, 0, 5},
		"stopped":             {user{alone: time.Millisecond, harm: 20}, 0, 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			rate, loss, g := governed(t, c.limit, &c.u, 300)
			if rate < c.least || c.limit > 0 && rate > 1.1*float64(c.limit)/mib {
				t.Errorf("%s: %.1f MiB per second", name, rate)
			}
			if loss > 0.2 && c.u.harm < 0.1 {
				t.Errorf("%s: the users lose %.0f %% at %.1f MiB per second", name, 100*loss, rate)
			}
			if s := g.p.Pace(); s.Slowed != (c.u.harm > 0 && c.limit == 0) {
				t.Errorf("%s: %+v", name, s)
			}
		})
	}
}

// TestGovernorIdle: a volume that nobody uses does not slow the reader, and one that is used no
// longer lets it go.
func TestGovernorIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &user{alone: time.Millisecond, harm: 0.1}
		_, _, g := governed(t, 0, u, 100)
		if s := g.p.Pace(); !s.Slowed || s.Limit < floorRate || s.Limit > 20*mib {
			t.Errorf("%+v", s)
		}
		for range 30 {
			<-time.After(Every)
			g.Next(Load{Kinds: [Kinds]Requests{Other: {1, 50}}})
		}
		if s := g.p.Pace(); s.Slowed || s.Limit != 0 || g.p.held != nil {
			t.Errorf("%+v", s)
		}
		before := u.r.n.Load()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		u.r.run(ctx)
		if got := u.r.n.Load() - before; !near(got, 250*mib) {
			t.Errorf("%d bytes per second", got)
		}
	})
}

// TestGovernorStuck: a request that waits for something else, such as a lock, does not slow the
// reader.
func TestGovernorStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(0)
		g := NewGovernor(p)
		r := &reader{p: p}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.run(ctx)
		}()
		for range 50 {
			<-time.After(Every)
			g.Next(Load{Queue: 1})
		}
		before := r.n.Load()
		for range 50 {
			<-time.After(Every)
			g.Next(Load{Queue: 1})
		}
		if got := (r.n.Load() - before) / 10; !near(got, 250*mib) {
			t.Errorf("%d bytes per second", got)
		}
		cancel()
		<-ended
	})
}

// TestSilence: a mount server that stops saying anything while the reader is held does not stop it.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(0)
		p.hold()
		if got := read(t, p, 10*time.Second); !near(got, 200*mib) {
			t.Errorf("%d bytes per second", got)
		}
	})
}

// TestFree: without a server, the reader is free, also in a hold.
func TestFree(t *testing.T) {
	for n := range 20 {
		p := NewPacer(0)
		g := NewGovernor(p)
		for i := range n {
			p.mu.Lock()
			p.bytes += mib
			p.measured = p.measured.Add(-Every)
			p.mu.Unlock()
			g.Next(Load{Kinds: [Kinds]Requests{Write: {100, uint64(1000 * (1 + i))}}})
		}
		g.Free()
		if s := p.Pace(); s.Slowed || p.held != nil {
			t.Errorf("%+v, %v", s, p.held)
		}
	}
}

// TestPacedDevice: the device cannot be changed, and knows its holes as before.
func TestPacedDevice(t *testing.T) {
	pacer := NewPacer(0)
	p := Device(t.Context(), device.NewMem(1<<20), pacer)
	b := make([]byte, device.SectorBytes)
	if _, err := p.ReadAt(b, 0); err != nil {
		t.Error(err)
	}
	if n := pacer.Pace().Bytes; n != device.SectorBytes {
		t.Errorf("%d bytes read", n)
	}
	_, werr := p.WriteAt(b, 0)
	for _, err := range []error{werr, p.Sync(), p.Discard(0, device.SectorBytes)} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%v", err)
		}
	}
	if _, _, err := p.(device.Allocated).NextData(0); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
