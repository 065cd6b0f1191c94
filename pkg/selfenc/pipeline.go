package selfenc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// pipeline takes jobs from next until it returns errEnd, works on up to width
// of them at once, and passes their results to emit in the order of the jobs.
// At most width jobs are between next and the end of emit: what they hold is
// what the caller needs memory for. next and emit each have one caller.
// Everything that was started has ended when it returns.
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
	queue := make(chan chan result, width) // never full: places is as long
	wg.Go(func() {
		defer close(queue)
		for {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			job, err := next(ctx)
			if err == errEnd { //nolint:errorlint // nobody wraps it
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
			// The first in order may only have been cancelled because of one behind it: none is, before this line.
			cancel(r.err)
			return r.err
		}
		<-places
	}
	return context.Cause(ctx) // nil, unless the caller's context ended it
}

// errEnd is what the next of a pipeline says at the end.
var errEnd = errors.New("no more jobs")

// readFull fills b, or as much of it as there is until r ends. Unlike
// io.ReadFull it takes nothing but io.EOF itself for the end: a reader that was
// cut off says io.ErrUnexpectedEOF, and losing that would lose data.
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
