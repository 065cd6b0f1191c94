package storerpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
)

// pair returns the two ends of a socket.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// connect serves a store and returns a client, and what Serve returned.
func connect(t testing.TB, store chunkstore.Store, so ServerOptions, co ClientOptions) (*Client, <-chan error) {
	t.Helper()
	a, b := pair(t)
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), a, store, so) }()
	c := NewClient(b, co)
	t.Cleanup(func() { _ = c.Close() })
	return c, done
}

func TestStore(t *testing.T) {
	var last chunkstore.Store
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			last = chunkstore.NewMemory()
		}
		c, _ := connect(t, last, ServerOptions{}, ClientOptions{})
		return c
	})
}

// TestLimitedStore: what a worker gets: a part of a store, without Delete.
func TestLimitedStore(t *testing.T) {
	below, n := chunkstore.NewMemory(), 0
	chunkstoretest.Run(t, func(t *testing.T, again bool) chunkstore.Store {
		if !again {
			n++
		}
		l, err := chunkstore.Limit(below, chunkstore.Rights{Prefix: fmt.Sprintf("p-%d/", n), Delete: []string{""}, Replace: []string{""}})
		if err != nil {
			t.Fatal(err)
		}
		c, _ := connect(t, l, ServerOptions{Requests: 2, MemoryBytes: 1}, ClientOptions{Requests: 2, MemoryBytes: 1})
		return c
	})
	l, err := chunkstore.Limit(below, chunkstore.Rights{Prefix: "p/"})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, l, ServerOptions{}, ClientOptions{})
	if _, err := c.Put(t.Context(), "packs/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{c.Delete(t.Context(), "packs/x"), c.Replace(t.Context(), "packs/x", nil)} {
		if !errors.Is(err, chunkstore.ErrDenied) || !strings.Contains(err.Error(), "packs/x") {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// TestManyPages: lists longer than one answer.
func TestManyPages(t *testing.T) {
	m := chunkstore.NewMemory()
	for i := range 2*pageItems + 1 {
		if _, err := m.Put(t.Context(), fmt.Sprintf("x/%06d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := connect(t, m, ServerOptions{}, ClientOptions{})
	n := 0
	for info, err := range c.List(t.Context(), "x/", "") {
		if err != nil || info.Key != fmt.Sprintf("x/%06d", n) {
			t.Fatalf("%d: %v, %v", n, info, err)
		}
		n++
	}
	if n != 2*pageItems+1 {
		t.Errorf("%d objects", n)
	}
}

// TestErrors: what went wrong in the store is known on this side.
func TestErrors(t *testing.T) {
	bad := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnPut: func(context.Context, string) error {
		return fmt.Errorf("put to s3://bucket: %w\n\x1b[31m", chunkstoretest.ErrRefused)
	}}
	c, _ := connect(t, bad, ServerOptions{}, ClientOptions{})
	_, err := c.Put(t.Context(), "some/key", nil)
	if err == nil || !strings.Contains(err.Error(), "some/key") || !strings.Contains(err.Error(), "s3://bucket") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v", err)
	}
	if _, err := c.Put(t.Context(), "big", make([]byte, MaxObjectBytes+1)); !errors.Is(err, chunkstore.ErrTooLarge) {
		t.Errorf("an object that is too large: %v", err)
	}
}

// timeless is a store that does not say when objects were stored.
type timeless struct{ chunkstore.Store }

func (timeless) Stat(_ context.Context, key string) (chunkstore.Info, error) {
	return chunkstore.Info{Key: key, Bytes: 1}, nil
}

// TestNoTime: that a store does not know a time is known on this side.
func TestNoTime(t *testing.T) {
	c, _ := connect(t, timeless{chunkstore.NewMemory()}, ServerOptions{}, ClientOptions{})
	if now, err := chunkstore.Now(t.Context(), c, "clock"); err == nil {
		t.Errorf("the store's time is %v", now)
	}
}

// TestEnds: when either side goes, all that waits ends, and Serve leaves nothing.
func TestEnds(t *testing.T) {
	slow := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnGet: chunkstoretest.Slow}
	if _, err := slow.Put(t.Context(), "x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	c, done := connect(t, slow, ServerOptions{}, ClientOptions{})
	errs := make(chan error, 5)
	for range cap(errs) {
		go func() {
			_, err := c.Get(context.Background(), "x", nil, 10)
			errs <- err
		}()
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := c.Get(ctx, "x", nil, 10); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("waiting: %v", err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("the server: %v", err)
	}
	if _, err := c.Get(t.Context(), "x", nil, 10); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestHostileServer: nothing that a server sends makes a client panic, hold more
// than it asked for, or return what is not of its store.
func TestHostileServer(t *testing.T) {
	frame := func(st status, flags uint8, id uint64, n uint32, body string) []byte {
		a := answer{st, flags, id, n}
		return append(a.encode(), body...)
	}
	info := appendInfo(nil, &chunkstore.Info{Key: "other", Modified: time.Now()})
	for name, bytes := range map[string][]byte{
		"garbage":             []byte(strings.Repeat("garbage!", 10)),
		"an answer too long":  frame(statusOK, 0, 1, 1<<31, ""),
		"to nothing":          frame(statusOK, 0, 77, 0, ""),
		"breaks off":          frame(statusOK, 0, 1, 5, "abc"),
		"unknown status":      frame(statusEnd, 0, 1, 0, ""),
		"a text too long":     frame(statusOther, 0, 1, 1<<20, ""),
		"reserved":            append(make([]byte, 7), frame(statusOK, 0, 1, 0, "")...),
		"nothing":             nil,
		"of another object":   frame(statusOK, 0, 1, uint32(len(info)), string(info)),
		"empty page and more": frame(statusOK, flagMore, 1, 0, ""),
	} {
		for op, call := range map[string]func(c *Client) error{
			"stat": func(c *Client) error { _, err := c.Stat(context.Background(), "key"); return err },
			"list": func(c *Client) (last error) {
				for _, err := range c.List(context.Background(), "key", "") {
					last = err
				}
				return last
			},
			"range": func(c *Client) error { return c.GetRange(context.Background(), "key", 0, make([]byte, 7)) },
		} {
			a, b := pair(t)
			c := NewClient(b, ClientOptions{})
			go func() {
				_, _ = io.ReadFull(a, make([]byte, requestBytes)) // until the request is there
				_, _ = a.Write(bytes)
				a.Close()
			}()
			if err := call(c); err == nil {
				t.Errorf("%s: %s succeeds", name, op)
			}
			_ = c.Close()
		}
	}
}

// TestHostileClient: nothing that a client sends makes a server panic or hold
// more than its bound, and it notices.
func TestHostileClient(t *testing.T) {
	put := (&request{op: opPut, id: 1, key: "k", body: 100}).encode()
	twice := bytes.Repeat((&request{op: opGet, id: 5, key: "x", limit: 9}).encode(), 2)
	for name, b := range map[string][]byte{
		"garbage": []byte(strings.Repeat("garbage!", 10)), "a body that breaks off": append(put, 1, 2, 3),
		"a huge body": binary.LittleEndian.AppendUint32(put[:requestBytes-4:requestBytes-4], 1<<31), "one id twice": twice,
		"half a frame": put[:5],
	} {
		store := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnGet: chunkstoretest.Slow}
		if _, err := store.Put(t.Context(), "x", []byte("x")); err != nil {
			t.Fatal(err)
		}
		a, c := pair(t)
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), a, store, ServerOptions{}); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestServerBounded: a client that asks for everything at once and reads nothing
// makes the server hold no more than its bound.
func TestServerBounded(t *testing.T) {
	store := chunkstore.NewMemory()
	if _, err := store.Put(t.Context(), "x", make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	a, c := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, a, store, ServerOptions{Requests: 1000, MemoryBytes: 64 << 20}) }()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(100_000) { // until the server reads no more
		if _, err := c.Write((&request{op: opGet, id: i, key: "x", limit: 4 << 20}).encode()); err != nil {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 80<<20 {
		t.Errorf("the server holds %d MiB", n>>20)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestUnderLoad: many callers, some of which stop, never mix up answers.
func TestUnderLoad(t *testing.T) {
	store := chunkstore.NewMemory()
	c, _ := connect(t, store, ServerOptions{Requests: 3}, ClientOptions{Requests: 3})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			key := fmt.Sprintf("k/%d", i)
			data := bytes.Repeat([]byte{byte(i)}, 200_000)
			if _, err := c.Put(context.Background(), key, data); err != nil {
				t.Error(err)
			}
			for range 100 {
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(3) == 0 {
					go cancel()
				}
				b, err := c.Get(ctx, key, nil, len(data))
				if err == nil && !bytes.Equal(b, data) || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %d bytes, %v", key, len(b), err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

func FuzzRequest(f *testing.F) {
	f.Add((&request{op: opList, id: 1, key: "k", after: "l"}).encode())
	f.Add(append((&request{op: opPut, id: 2, key: "k", body: 3}).encode(), "abc"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if got := r.encode(); !bytes.Equal(got, b[:len(got)]) {
			t.Errorf("%x is accepted as %x", b, got)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	a := answer{statusOK, flagMore, 7, 9}
	f.Add(a.encode(), appendInfo(nil, &chunkstore.Info{Key: "k", Bytes: 1, SHA256: &[32]byte{1}}))
	f.Fuzz(func(t *testing.T, head, b []byte) {
		if a, err := readAnswer(bytes.NewReader(head)); err == nil && !bytes.Equal(a.encode(), head[:answerBytes]) {
			t.Errorf("%x is accepted as %x", head, a.encode())
		}
		i, rest, err := decodeInfo(b)
		if err != nil {
			return
		}
		if got := appendInfo(nil, &i); !bytes.Equal(append(got, rest...), b) {
			t.Errorf("%x is accepted as %x", b, got)
		}
	})
}
