package pacing

import (
	"context"
	"sync"
	"time"
)

const (
	// burst is how much may be read at once after a pause.
	burst = 100 * time.Millisecond
	// longestHold ends a hold if nobody does: the mount server may have stopped saying anything.
	longestHold = 10 * Every
)

// Pacer limits a rate in bytes per second. It has a limit that does not change, and a lower rate
// while others use the volume.
type Pacer struct {
	limit float64 // 0: none

	mu    sync.Mutex
	rate  float64       // at present; 0: unlimited
	held  chan struct{} // closed at the end of a hold; nil: none
	next  time.Time     // when all that was let through is due
	bytes int64         // let through so far

	// Of the last measurement:
	measured time.Time
	before   int64   // bytes at that time
	recent   float64 // the rate in the period before
}

// NewPacer returns a Pacer with a limit in bytes per second; 0: none.
func NewPacer(limit int64) *Pacer {
	return &Pacer{limit: float64(limit), rate: float64(limit), measured: time.Now()}
}

// Wait waits until n more bytes may be read.
func (p *Pacer) Wait(ctx context.Context, n int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if held := p.holding(); held != nil {
		t := time.NewTimer(longestHold)
		defer t.Stop()
		select {
		case <-held:
		case <-t.C:
			p.release()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
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

func (p *Pacer) holding() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
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

// hold lets nothing through until release.
func (p *Pacer) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// release ends a hold.
func (p *Pacer) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// set sets the rate; 0 or more than the limit: the limit.
func (p *Pacer) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate == 0 || p.limit > 0 && rate > p.limit {
		rate = p.limit
	}
	p.rate = rate
}

// measure returns the rate since the last measurement, which was some time ago.
func (p *Pacer) measure() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.measureLocked()
}

func (p *Pacer) measureLocked() float64 {
	now := time.Now()
	if d := now.Sub(p.measured); d >= Every/2 {
		p.recent = float64(p.bytes-p.before) / d.Seconds()
		p.measured, p.before = now, p.bytes
	}
	return p.recent
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
	if time.Since(p.measured) >= 2*time.Second { // no mount server says anything
		p.measureLocked()
	}
	return Pace{Bytes: p.bytes, Recent: int64(p.recent), Limit: int64(p.rate), Slowed: p.rate != p.limit}
}
