package pack

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// heldSink stores nothing before it is let go.
type heldSink struct {
	storeSink
	held chan struct{}
}

func (s *heldSink) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	<-s.held
	if len(data) > minPackBytes {
		return format.Name{}, errors.New("a pack is too long")
	}
	return s.storeSink.Put(ctx, c, data, sum)
}

// TestFullMeanwhile: while several callers wait until a full pack can be uploaded, one of them has
// that done, and nobody puts more into the next than it holds. What goes into another pack does not
// wait.
func TestFullMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := tenant(t, 1)
		sink := &heldSink{storeSink{chunkstore.NewMemory(), format.NewID()}, make(chan struct{})}
		w, err := NewWriter(t.Context(), keys, sink, NewBuilder(nil), Options{PackBytes: minPackBytes, InFlight: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		put := func(kind crypto.ChunkKind) { // two of them fill a pack
			r, object, err := keys.SealPacked(1, kind, 0, make([]byte, 30_000), nil, nil)
			if err == nil {
				_, err = w.Add(t.Context(), &r, object)
			}
			if err != nil {
				t.Error(err)
			}
		}
		for range 4 { // a mixed pack, which is being uploaded, and one of data
			put(crypto.ChunkData)
		}
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() { put(crypto.ChunkData) }) // waits for a place to upload the second
		}
		synctest.Wait()
		put(crypto.ChunkTree)
		close(sink.held)
		group.Wait()
		if got, err := w.Flush(t.Context()); err != nil || got.Chunks != 7 || got.Packs != 4 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestSharedPage: who reads a page of the list together with somebody who stops gets the page.
func TestSharedPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowPages{Store: chunkstore.NewMemory()}
		sink := &storeSink{store, format.NewID()}
		h := &format.Head{}
		b := NewBuilder(nil)
		b.Add(format.PackEntry{Number: b.Reserve(), Name: format.Name{Class: format.Pack, Attempt: sink.attempt}, Bytes: 1000, Slots: 1})
		if err := b.Finish(t.Context(), sink, nil, h); err != nil {
			t.Fatal(err)
		}
		l := NewList(store, h)
		first, cancel := context.WithCancel(t.Context())
		stopped, read := make(chan error, 1), make(chan error, 1)
		go func() { _, err := l.Page(first, 0); stopped <- err }()
		synctest.Wait()
		go func() { _, err := l.Find(t.Context(), 0); read <- err }()
		impatient, stop := context.WithCancel(t.Context())
		stop()
		if _, err := l.Page(impatient, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that stops while another one reads: %v", err)
		}
		synctest.Wait()
		cancel()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Errorf("who stops: %v", err)
		}
		if err := <-read; err != nil {
			t.Errorf("who does not stop: %v", err)
		}
	})
}

// slowPages is a store whose first Get lasts until it is cancelled.
type slowPages struct {
	chunkstore.Store
	again bool
}

func (s *slowPages) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	if !s.again {
		s.again = true
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return s.Store.Get(ctx, key, room, limit)
}

// TestContexts: the context of a call bounds that call alone: what it stored, and
// what others do, goes on. That of the writer bounds all.
func TestContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := tenant(t, 1)
		sink := &heldSink{storeSink{chunkstore.NewMemory(), format.NewID()}, make(chan struct{})}
		whole, end := context.WithCancel(t.Context())
		defer end()
		list := NewBuilder(nil)
		w, err := NewWriter(whole, keys, sink, list, Options{PackBytes: minPackBytes, InFlight: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		add := func(ctx context.Context) error {
			r, object, err := keys.SealPacked(1, crypto.ChunkData, 0, make([]byte, 30_000), nil, nil)
			if err == nil {
				_, err = w.Add(ctx, &r, object)
			}
			return err
		}
		first, stop := context.WithCancel(t.Context())
		for range 4 { // the mixed pack is being uploaded by the third call
			if err := add(first); err != nil {
				t.Fatal(err)
			}
		}
		waits := make(chan error)
		go func() { waits <- add(first) }()
		synctest.Wait()
		stop()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that stops: %v", err)
		}
		if _, err := w.Flush(first); !errors.Is(err, context.Canceled) {
			t.Errorf("a flush that stops: %v", err)
		}
		close(sink.held)
		if err := add(t.Context()); err != nil {
			t.Errorf("another caller: %v", err)
		}
		if got, err := w.Flush(t.Context()); err != nil || got.Chunks != 5 || got.Packs != 3 {
			t.Errorf("%+v, %v", got, err)
		}
		end()
		if err := add(t.Context()); err == nil {
			for err == nil { // until a pack is full
				err = add(t.Context())
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("after the writer's context has ended: %v", err)
			}
		}
		if _, err := w.Flush(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("after the writer's context has ended: %v", err)
		}
	})
}
