package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openInput opens a file or standard input for reading. size is 0 if it is unknown.
func openInput(ctx context.Context, stdin io.Reader, file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		return io.NopCloser(newPatientReader(ctx, stdin)), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && fi.IsDir() {
		err = fmt.Errorf("%s: %w", printable(file), unix.EISDIR)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// patientReader reads from a pipe or terminal that may never send anything. Its Read returns when
// the context ends. The blocked Read below it then remains until the program ends.
type patientReader struct {
	ctx  context.Context //nolint:containedctx // the reader lives for one command only
	from chan piece
	back chan []byte
	rest []byte
	held []byte // the buffer that rest is a part of
	err  error
}

type piece struct {
	data []byte
	err  error
}

func newPatientReader(ctx context.Context, r io.Reader) *patientReader {
	p := &patientReader{ctx: ctx, from: make(chan piece), back: make(chan []byte, 2)}
	for range cap(p.back) {
		p.back <- make([]byte, 64<<10) // the capacity of a pipe
	}
	go func() {
		for {
			var b []byte
			select {
			case b = <-p.back:
			case <-ctx.Done():
				return
			}
			n, err := r.Read(b)
			select {
			case p.from <- piece{b[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *patientReader) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.held != nil {
			p.back <- p.held[:cap(p.held)] // never blocks: it has room for all buffers
			p.held = nil
		}
		if p.err != nil {
			return 0, p.err
		}
		select {
		case got := <-p.from:
			p.held, p.rest, p.err = got.data, got.data, got.err
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
