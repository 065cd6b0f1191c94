package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrBusy means that background work of this kind is already running. Only one may run at a time.
var ErrBusy = errors.New("already running")

// background is the long-running work on an open volume. Close ends it.
type background struct {
	v *Volume

	mu     sync.Mutex
	wg     sync.WaitGroup
	cancel map[string]context.CancelCauseFunc // by kind
	closed bool

	reaper   reaper
	discards discarder
}

// begin starts work of a kind. ctx ends when the volume is closed. The caller must call end.
func (b *background) begin(parent context.Context, kind string) (ctx context.Context, end func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, vfs.ErrClosed
	}
	if b.cancel[kind] != nil {
		return nil, nil, fmt.Errorf("%s: %w", kind, ErrBusy)
	}
	ctx, cancel := context.WithCancelCause(parent)
	if b.cancel == nil {
		b.cancel = map[string]context.CancelCauseFunc{}
	}
	b.cancel[kind] = cancel
	b.wg.Add(1)
	return ctx, func() {
		b.mu.Lock()
		delete(b.cancel, kind)
		b.mu.Unlock()
		cancel(nil)
		b.wg.Done()
	}, nil
}

// stop ends all background work.
func (b *background) stop() {
	b.mu.Lock()
	b.closed = true
	for _, cancel := range b.cancel {
		cancel(vfs.ErrClosed)
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// pacer limits the rate of background work.
type pacer struct {
	bytesPerSecond int64 // 0: no limit
	due            time.Time
}

// wait is called after n bytes of work, without locks or pins.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p.bytesPerSecond <= 0 {
		return context.Cause(ctx)
	}
	if now := time.Now(); p.due.Before(now) { // after a pause, it does not catch up
		p.due = now
	}
	p.due = p.due.Add(time.Duration(float64(n) / float64(p.bytesPerSecond) * float64(time.Second)))
	timer := time.NewTimer(time.Until(p.due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
