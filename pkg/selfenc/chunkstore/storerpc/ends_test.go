package storerpc

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

// TestEndsForWaiting: callers that wait for room in the window end with the connection, too, and so
// does whoever comes later.
func TestEndsForWaiting(t *testing.T) {
	slow := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnGet: chunkstoretest.Slow}
	if _, err := slow.Put(t.Context(), "x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, slow, ServerOptions{}, ClientOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // the test's bound
	defer cancel()
	errs := make(chan error, 10) // four of them fill the window
	get := func() {
		_, err := c.Get(ctx, "x", nil, MaxObjectBytes)
		errs <- err
	}
	for range cap(errs) {
		go get()
	}
	for len(c.places) < cap(errs) {
		time.Sleep(time.Millisecond)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range cap(errs) {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	for range 20 { // none of the places is lost
		if get(); !errors.Is(<-errs, ErrClosed) {
			t.Fatal("after the end")
		}
	}
}

// TestStalled: when the other side leaves a frame unread, the error says so, and nothing is written
// behind the part of a frame: not even a request to cancel.
func TestStalled(t *testing.T) {
	a, b := pair(t)
	c := NewClient(b, ClientOptions{})
	t.Cleanup(func() { _ = c.Close() })
	done := make(chan error, 1)
	go func() {
		_, err := c.Put(context.Background(), "x", make([]byte, 8<<20))
		done <- err
	}()
	if _, err := io.ReadFull(a, make([]byte, requestBytes)); err != nil {
		t.Fatal(err)
	}
	if err := b.SetWriteDeadline(time.Now()); err != nil { // as after maxStall
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := c.Get(context.Background(), "x", nil, 1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("later: %v", err)
	}
}

// TestCancelStalled: a request to cancel that could not be written whole ends the connection.
func TestCancelStalled(t *testing.T) {
	_, b := pair(t)
	c := NewClient(b, ClientOptions{})
	t.Cleanup(func() { _ = c.Close() })
	c.writing.Lock() // no frame before this one
	for {            // until the socket is full
		if err := b.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(make([]byte, 4<<10)); err != nil {
			break
		}
	}
	c.writing.Unlock()
	failed := make(chan error, 1)
	go func() { failed <- c.write(&request{op: opCancel, id: 1}, nil) }()
	for len(failed) == 0 {
		_ = b.SetWriteDeadline(time.Now())
		time.Sleep(time.Millisecond)
	}
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection goes on behind a part of a frame")
	}
}
