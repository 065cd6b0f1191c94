package mounter

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWhileBusy: a mount that is in use is retried at each tick, a limited number of times, and no
// longer than the caller waits.
func TestWhileBusy(t *testing.T) {
	ended, end := context.WithCancel(context.Background())
	end()
	for _, c := range []struct {
		name string
		ctx  context.Context
		busy int // how many attempts find it in use
		want error
		left int // ticks that are left of 20, of which 10 may be used; none is sent once the caller is gone
	}{
		{"at once", context.Background(), 0, nil, 20},
		{"just going", context.Background(), 10, nil, 10},
		{"in use", context.Background(), 11, unix.EBUSY, 10},
		{"the caller has gone", ended, 11, unix.EBUSY, 20},
	} {
		tick := make(chan time.Time, 20)
		if c.ctx.Err() == nil {
			for range cap(tick) {
				tick <- time.Time{}
			}
		}
		calls := 0
		err := whileBusy(c.ctx, tick, 10, func() error {
			if calls++; calls <= c.busy {
				return unix.EBUSY
			}
			return nil
		})
		if !errors.Is(err, c.want) || c.ctx.Err() == nil && len(tick) != c.left {
			t.Errorf("%s: %v, %d ticks left; want %v, %d", c.name, err, len(tick), c.want, c.left)
		}
	}
}
