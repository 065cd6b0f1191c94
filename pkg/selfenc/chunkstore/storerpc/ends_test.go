package storerpc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

// TestEndsForWaiting: callers that wait for room in the window end with the connection, too, and so
// does whoever comes later.
func TestEndsForWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, a) }() // a server that is slow
		c := NewClient(b, ClientOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := make(chan error, 10) // four of them fill the window
		get := func() {
			_, err := c.Get(ctx, "x", nil, MaxObjectBytes)
			errs <- err
		}
		for range cap(errs) {
			go get()
		}
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(errs) != cap(errs) {
			t.Fatalf("%d of %d calls have ended", len(errs), cap(errs))
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Fatal(err)
			}
		}
		for range 20 { // none of the places is lost
			if get(); !errors.Is(<-errs, ErrClosed) {
				t.Fatal("after the end")
			}
		}
	})
}

// TestStalled: when the other side leaves a frame unread, the error says so, also to those who come
// later.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		c := NewClient(b, ClientOptions{})
		go func() { _, _ = io.ReadFull(a, make([]byte, requestBytes)) }() // and no more
		if _, err := c.Put(t.Context(), "x", make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
		if _, err := c.Get(t.Context(), "x", nil, 1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("later: %v", err)
		}
	})
}

// TestCancelStalled: a request to cancel that could not be written whole ends the connection: the
// next frame would be taken for the rest of it.
func TestCancelStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		c := NewClient(b, ClientOptions{})
		go func() { _, _ = io.ReadFull(a, make([]byte, requestBytes/2)) }() // and no more
		if err := c.write(&request{op: opCancel, id: 1}, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		select {
		case <-c.ended:
		default:
			t.Error("the connection goes on behind a part of a frame")
			_ = c.Close()
		}
	})
}

// TestServerEnds: a server that ends answers nothing more: that its store's requests were cancelled
// is no answer of the store. The client sees the end of the connection, and can go on with another.
func TestServerEnds(t *testing.T) {
	for range 50 {
		begun := make(chan struct{})
		store := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnPut: func(ctx context.Context, _ string) error {
			close(begun)
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		a, b := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, a, store, ServerOptions{}) }()
		c := NewClient(b, ClientOptions{})
		put := make(chan error, 1)
		go func() {
			_, err := c.Put(t.Context(), "x", []byte("x"))
			put <- err
		}()
		<-begun
		cancel()
		if err := <-put; !errors.Is(err, ErrClosed) || c.Err() == nil {
			t.Fatalf("%v; the connection: %v", err, c.Err())
		}
		<-ended //nolint:errcheck // that it has ended is enough
		<-c.Ended()
	}
}
