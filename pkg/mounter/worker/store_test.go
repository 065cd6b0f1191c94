package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
)

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i := range p {
		f := os.NewFile(uintptr(p[i]), "pair")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return c[0], c[1]
}

// serve serves a store on a new connection of s. end ends the connection.
func serve(t *testing.T, s *Store, below chunkstore.Store) (end func()) {
	t.Helper()
	a, b := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = storerpc.Serve(ctx, a, below, storerpc.ServerOptions{})
	}()
	if err := s.Attach(b); err != nil {
		t.Fatal(err)
	}
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return end
}

// TestStore runs the tests of all stores.
func TestStore(t *testing.T) {
	var below chunkstore.Store
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			below = chunkstore.NewMemory()
		}
		s := NewStore(time.Minute, storerpc.ClientOptions{})
		serve(t, s, below)
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

// TestStoreReplaced: objects are stored and read while connections end at any time.
func TestStoreReplaced(t *testing.T) {
	s, below := NewStore(time.Minute, storerpc.ClientOptions{}), chunkstore.NewMemory()
	defer func() { _ = s.Close() }()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			end := serve(t, s, below)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			end()
		}
	})
	const objects = 400
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for n := range objects / 4 {
				key := fmt.Sprintf("k/%d-%03d", i, n)
				data := bytes.Repeat([]byte(key), 1000)
				if _, err := s.Put(t.Context(), key, data); err != nil {
					t.Error(err)
				}
				if b, err := s.Get(t.Context(), key, nil, len(data)); err != nil || !bytes.Equal(b, data) {
					t.Errorf("%s: %d bytes, %v", key, len(b), err)
				}
			}
		})
	}
	writers.Wait()
	for range 20 {
		last, n := "", 0
		for info, err := range s.List(t.Context(), "k/", "") {
			if err != nil || info.Key <= last {
				t.Fatalf("%s after %s, %v", info.Key, last, err)
			}
			last = info.Key
			n++
		}
		if n != objects {
			t.Fatalf("%d objects are listed", n)
		}
	}
	close(stop)
	wg.Wait()
	if _, err := s.Get(t.Context(), "none", nil, 1); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("%v", err) // an error of the store is not one of the connection
	}
}

// TestStorePatience: an operation waits for ten minutes for a connection, and no longer; from the
// end of the last one, not from its own beginning.
func TestStorePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(StorePatience, storerpc.ClientOptions{})
		defer func() { _ = s.Close() }()
		begin := time.Now()
		a, b := net.Pipe()
		if err := s.Attach(b); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.Connected() {
			t.Error("not connected")
		}
		a.Close()
		synctest.Wait()
		if s.Connected() {
			t.Error("still connected")
		}
		<-time.After(4 * time.Minute)
		if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, ErrNoStore) {
			t.Errorf("%v", err)
		}
		if d := time.Since(begin); d != StorePatience {
			t.Errorf("waited for %v", d)
		}
		// It may still come.
		below := chunkstore.NewMemory()
		a, b = net.Pipe()
		go func() { _ = storerpc.Serve(t.Context(), a, below, storerpc.ServerOptions{}) }()
		if err := s.Attach(b); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), "x", []byte("x")); err != nil {
			t.Error(err)
		}
		// The caller may give up earlier.
		a.Close()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Stat(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		_ = s.Close()
		if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, storerpc.ErrClosed) {
			t.Errorf("%v", err)
		}
		a, b = net.Pipe()
		defer a.Close()
		if err := s.Attach(b); err == nil {
			t.Error("attached after the end")
		}
	})
}
