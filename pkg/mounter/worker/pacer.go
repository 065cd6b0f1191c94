package worker

import (
	"context"
	"sync"
	"time"
)

const (
	// burst is how much may be read at once after a pause.
	burst = 100 * time.Millisecond
	// floorRate is the lowest rate to which a busy volume slows a worker, in bytes per second: a
	// snapshot that takes for ever protects nobody.
	floorRate = 1 << 20
)

// Pacer limits a rate in bytes per second. It has a limit that does not change, and a lower one
// while the volume is busy.
type Pacer struct {
	limit float64 // 0: none

	mu    sync.Mutex
	rate  float64   // at present; 0: unlimited
	next  time.Time // when all that was let through is due
	bytes int64     // let through so far

	// Since the last adjustment:
	adjusted time.Time
	before   int64   // bytes at that time
	recent   float64 // the rate in the period before
	first    float64 // the rate at which slowing began; 0: it is not slowed
}

// NewPacer returns a Pacer with a limit in bytes per second; 0: none.
func NewPacer(limit int64) *Pacer {
	return &Pacer{limit: float64(limit), rate: float64(limit), adjusted: time.Now()}
}

// Wait waits until n more bytes may be read.
func (p *Pacer) Wait(ctx context.Context, n int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	wait := p.take(n)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Pacer) take(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
	if p.rate == 0 {
		return 0
	}
	now := time.Now()
	if earliest := now.Add(-burst); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return p.next.Sub(now)
}

// measure updates what is known of the rate. The caller holds mu.
func (p *Pacer) measure() {
	now := time.Now()
	d := now.Sub(p.adjusted)
	if d < 100*time.Millisecond {
		return
	}
	p.recent = float64(p.bytes-p.before) / d.Seconds()
	p.adjusted, p.before = now, p.bytes
}

// Slow halves the rate.
func (p *Pacer) Slow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.measure()
	from := p.rate
	if from == 0 || p.recent < from {
		from = p.recent // the limit has no effect: what is read counts
	}
	if p.first == 0 {
		if from == 0 {
			return // nothing is read
		}
		p.first = from
	}
	p.rate = max(from/2, floorRate)
	if p.limit > 0 {
		p.rate = min(p.rate, p.limit)
	}
}

// Ease raises the rate by a quarter, until it is what it was before Slow or has no effect.
func (p *Pacer) Ease() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.measure()
	if p.first == 0 {
		return
	}
	p.rate *= 1.25
	if p.limit > 0 && p.rate >= p.limit || p.limit == 0 && p.rate >= 2*p.first {
		p.rate, p.first = p.limit, 0
	}
}

// Free ends all slowing.
func (p *Pacer) Free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.first = p.limit, 0
}

// Pace is the state of a Pacer.
type Pace struct {
	Bytes  int64 // let through so far
	Recent int64 // bytes per second
	Limit  int64 // bytes per second at present; 0: none
	Slowed bool
}

// Pace returns the state.
func (p *Pacer) Pace() Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.adjusted) >= 2*time.Second { // no mount server says anything
		p.measure()
	}
	return Pace{Bytes: p.bytes, Recent: int64(p.recent), Limit: int64(p.rate), Slowed: p.first > 0}
}
