package mounter

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWhileBusy: who is just leaving a mount is waited for, by ticks that are counted, and no longer than the caller.
func TestWhileBusy(t *testing.T) {
	ended, end := context.WithCancel(context.Background())
	end()
	for _, c := range []struct {
		name string
		ctx  context.Context
		busy int // so many times before it is unmounted
		want error
		left int // of 20 ticks, 10 of which may be used; nobody ticks once the caller has gone
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
