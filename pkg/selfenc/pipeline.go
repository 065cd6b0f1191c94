package selfenc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// pipeline takes jobs from next until it returns errEnd. It works on up to width jobs at once, and
// passes their results to emit in the order of the jobs. At most width jobs are between next and
// the end of emit, so they determine the memory. next and emit are each called by one goroutine.
// When pipeline returns, all goroutines have ended.
func pipeline[J, R any](ctx context.Context, width int, next func(context.Context) (J, error), work func(context.Context, J) (R, error), emit func(R) error) error {
	type result struct {
		value R
		err   error
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	places := make(chan struct{}, width)
	queue := make(chan chan result, width) // never blocks: places has the same length
	wg.Go(func() {
		defer close(queue)
		for {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			job, err := next(ctx)
			if err == errEnd { //nolint:errorlint // never wrapped
				return
			}
			done := make(chan result, 1)
			queue <- done
			if err != nil {
				done <- result{err: err}
				return
			}
			wg.Go(func() {
				v, err := work(ctx, job)
				done <- result{v, err}
			})
		}
	})
	for done := range queue {
		r := <-done
		if r.err == nil {
			r.err = emit(r.value)
		}
		if r.err != nil {
			// A job may fail only because a later one failed and cancelled it. No job is cancelled
			// before this line.
			cancel(r.err)
			return r.err
		}
		<-places
	}
	return context.Cause(ctx) // nil, unless the caller's context ended
}

// errEnd is the result of a pipeline's next at the end.
var errEnd = errors.New("no more jobs")

// readFull fills b, or the beginning of b if r ends. In contrast to io.ReadFull, only io.EOF itself
// is the end. A truncated reader returns io.ErrUnexpectedEOF, and ignoring that would lose data.
func readFull(r io.Reader, b []byte) (n int, ended bool, err error) {
	for n < len(b) {
		k, err := r.Read(b[n:])
		n += k
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, fmt.Errorf("read the data: %w", err)
		}
	}
	return n, false, nil
}
