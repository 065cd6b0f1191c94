package main

/*
#include <stdlib.h>
#define SELFENC_NO_PROTOTYPES
#include "selfenc.h"

static inline int call_put(selfenc_put f, void *context, void *name, void *data, size_t size) {
	return f(context, name, data, size);
}
static inline int64_t call_get(selfenc_get f, void *context, void *name, uint64_t index, void *data, size_t limit) {
	return f(context, name, index, data, limit);
}
*/
import "C"

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// callbacks is a store that the caller provides. Its functions run on the thread that called us,
// one at a time. The caller's database may belong to that thread (such as SQLite in Python), and an
// interpreter may not support Go's threads.
type callbacks struct {
	put     C.selfenc_put
	get     C.selfenc_get
	context unsafe.Pointer
	asks    chan func() error // the caller's thread runs these
	index   map[selfenc.Name]uint64
}

func newCallbacks(put C.selfenc_put, get C.selfenc_get, ctx unsafe.Pointer) *callbacks {
	return &callbacks{put: put, get: get, context: ctx, asks: make(chan func() error), index: map[selfenc.Name]uint64{}}
}

// serve runs work in another goroutine. Meanwhile, it runs the callbacks that work requests on this
// thread. After a callback has failed, it runs no more of them.
func (c *callbacks) serve(work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	asks := c.asks
	for {
		select {
		case f := <-asks:
			if err := f(); err != nil {
				asks = nil
				cancel(err)
			}
		case err := <-done:
			return err
		}
	}
}

// ask runs f on the caller's thread.
func (c *callbacks) ask(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case c.asks <- func() error {
		err := f()
		done <- err
		return err
	}:
		return <-done
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *callbacks) PutChunk(ctx context.Context, name selfenc.Name, data []byte) error {
	return c.ask(ctx, func() error {
		// The buffer is C memory, which does not move and is not garbage collected.
		n, b := C.CBytes(name[:]), C.CBytes(data)
		defer C.free(n)
		defer C.free(b)
		if C.call_put(c.put, c.context, n, b, C.size_t(len(data))) != 1 {
			return fmt.Errorf("%w: cannot store the chunk", errCallback)
		}
		return nil
	})
}

func (c *callbacks) GetChunk(ctx context.Context, name selfenc.Name, room []byte, limit int) (chunk []byte, err error) {
	err = c.ask(ctx, func() error {
		n, b := C.CBytes(name[:]), C.malloc(C.size_t(limit))
		defer C.free(n)
		defer C.free(b)
		switch got := int64(C.call_get(c.get, c.context, n, C.uint64_t(c.index[name]), b, C.size_t(limit))); {
		case got == -1:
			return selfenc.ErrNoSuchChunk
		case got == -3 || got > int64(limit):
			return selfenc.ErrChunkTooLarge
		case got <= 0:
			return fmt.Errorf("%w: cannot read the chunk", errCallback)
		default:
			chunk = append(room[:0], unsafe.Slice((*byte)(b), got)...)
			return nil
		}
	})
	return chunk, err
}

// root returns the map of the data itself. It also keeps the indexes of the chunks, which callbacks
// may need.
func (c *callbacks) root(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap) (*selfenc.DataMap, error) {
	c.know(m)
	root, err := selfenc.RootMap(ctx, e, c, m, selfenc.Options{})
	if err == nil {
		c.know(root)
	}
	return root, err
}

func (c *callbacks) know(m *selfenc.DataMap) {
	for i := range m.Chunks {
		c.index[m.Chunks[i].DstHash] = m.Chunks[i].Index
	}
}

// read opens the data of the map for reading.
func (c *callbacks) read(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap) (*selfenc.Reader, error) {
	root, err := c.root(ctx, e, m)
	if err != nil {
		return nil, err
	}
	return selfenc.Open(ctx, e, c, root, selfenc.Options{})
}
