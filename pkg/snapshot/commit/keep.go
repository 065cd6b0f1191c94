package commit

import (
	"context"
	"sync"
	"time"
)

// Keep renews a lease every so often until stop is called, which waits for the
// goroutine; Writer.Keep and Reader.Keep call it. A third of the TTL leaves room for a store that is away for a while.
// A renewal that failed is tried again a tenth of that later; failed is told.
func Keep(ctx context.Context, every time.Duration, renew func(context.Context) error, failed func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		next := time.NewTimer(every)
		defer next.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-next.C:
			}
			wait := every
			if err := renew(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				failed(err)
				wait = every / 10
			}
			next.Reset(wait)
		}
	})
	return func() {
		cancel()
		group.Wait()
	}
}
