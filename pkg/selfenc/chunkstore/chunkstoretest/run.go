package chunkstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// Run tests the promises of chunkstore.Store. open returns an empty store. If again is true, it
// must return another connection to the store of the same test.
func Run(t *testing.T, open func(t *testing.T, again bool) chunkstore.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Objects", objects}, {"PutIsConditional", putIsConditional}, {"OneOfManyPuts", oneOfManyPuts}, {"Replace", replaces}, {"Delete", deletes},
		{"List", lists}, {"ListAfter", listsAfter}, {"Range", ranges}, {"Clock", clock}, {"Probe", probe}, {"Named", named}, {"Keys", keys}, {"Limit", limits}, {"Cancelled", cancelled}, {"Again", again}, {"Concurrent", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{open: open}
			s.Store = open(t, false)
			t.Cleanup(func() { // remove everything that the test left
				var left []string
				for i, err := range s.List(context.Background(), "", "") {
					if err != nil {
						t.Error(err)
						break
					}
					left = append(left, i.Key)
				}
				for _, k := range left {
					if err := s.Delete(context.Background(), k); err != nil {
						t.Error(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			c.run(t, s)
		})
	}
}

type suite struct {
	chunkstore.Store
	open func(t *testing.T, again bool) chunkstore.Store
}

func (s *suite) put(t *testing.T, key string, data []byte, want bool) {
	t.Helper()
	if created, err := s.Put(t.Context(), key, data); err != nil || created != want {
		t.Fatalf("put %s: %v, %v; want %v", key, created, err, want)
	}
}

func (s *suite) holds(t *testing.T, key string, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), key, nil, len(want))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("get %s: %d bytes, %v; want %d", key, len(got), err, len(want))
	}
	if i, err := s.Stat(t.Context(), key); err != nil || i.Key != key || i.Bytes != int64(len(want)) || i.Modified.IsZero() {
		t.Fatalf("stat %s: %v, %v", key, i, err)
	}
}

func (s *suite) lacks(t *testing.T, key string) {
	t.Helper()
	if _, err := s.Get(t.Context(), key, nil, math.MaxInt32); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Fatalf("get %s: %v, want not found", key, err)
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Fatalf("stat %s: %v, want not found", key, err)
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func objects(t *testing.T, s *suite) {
	for i, n := range []int{0, 1, 4096, 5<<20 + 3} {
		key := fmt.Sprintf("a/%d", n)
		s.lacks(t, key)
		data := pattern(n, byte(i))
		s.put(t, key, data, true)
		clear(data) // the store must not keep data
		s.holds(t, key, pattern(n, byte(i)))
	}
	got, err := s.Get(t.Context(), "a/4096", nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	clear(got) // the store must not return its own memory
	s.holds(t, "a/4096", pattern(4096, 2))
	for _, room := range [][]byte{make([]byte, 0, 4095), make([]byte, 7, 4096), make([]byte, 9000)} {
		got, err := s.Get(t.Context(), "a/4096", room, 4096)
		if err != nil || !bytes.Equal(got, pattern(4096, 2)) {
			t.Fatal(err)
		}
		if fits := cap(room) >= len(got); fits != (&got[0] == &room[:1][0]) {
			t.Errorf("room of %d bytes: used: %v", cap(room), !fits)
		}
	}
	s.lacks(t, "a")
	s.lacks(t, "a/1/2")
}

func putIsConditional(t *testing.T, s *suite) {
	s.put(t, "k/one", []byte("first"), true)
	s.put(t, "k/one", []byte("first"), false)
	s.put(t, "k/one", []byte("second"), false)
	s.holds(t, "k/one", []byte("first"))
}

func oneOfManyPuts(t *testing.T, s *suite) {
	const writers = 8
	var created atomic.Int32
	var winner atomic.Int32
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			ok, err := s.Put(context.Background(), "race/key", pattern(1000, byte(i)))
			if err != nil {
				t.Error(err)
			}
			if ok {
				created.Add(1)
				winner.Store(int32(i))
			}
		})
	}
	wg.Wait()
	if created.Load() != 1 {
		t.Fatalf("%d of %d stored it", created.Load(), writers)
	}
	s.holds(t, "race/key", pattern(1000, byte(winner.Load())))
}

func replaces(t *testing.T, s *suite) {
	for _, n := range []int{10, 2000, 5} {
		if err := s.Replace(t.Context(), "r/x", pattern(n, 1)); err != nil {
			t.Fatal(err)
		}
		s.holds(t, "r/x", pattern(n, 1))
	}
}

func deletes(t *testing.T, s *suite) {
	s.put(t, "d/x", []byte("x"), true)
	s.put(t, "d/y", []byte("y"), true)
	for range 2 {
		if err := s.Delete(t.Context(), "d/x"); err != nil {
			t.Fatal(err)
		}
		s.lacks(t, "d/x")
	}
	s.holds(t, "d/y", []byte("y"))
	s.put(t, "d/x", []byte("new"), true)
	s.holds(t, "d/x", []byte("new"))
}

func (s *suite) listed(t *testing.T, prefix string) (keys []string) {
	t.Helper()
	for i, err := range s.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if i.Bytes != int64(len(i.Key)) || i.Modified.IsZero() {
			t.Fatalf("%s: %d bytes, %v", i.Key, i.Bytes, i.Modified)
		}
		keys = append(keys, i.Key)
	}
	return keys
}

func lists(t *testing.T, s *suite) {
	all := []string{"l/a-b", "l/a.b/x", "l/a/1", "l/a/2", "l/ab/1", "l/b", "lm/1", "m"}
	for i := range 60 { // several pages, if a store has pages
		all = append(all, fmt.Sprintf("p/%02d/%03d", i%7, i))
	}
	for _, k := range all {
		s.put(t, k, []byte(k), true)
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "l", "l/", "l/a", "l/a/", "l/a/1", "l/z", "p/", "p/03", "p/03/", "z", "m", "m/"} {
		var want []string
		for _, k := range all {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k)
			}
		}
		if got := s.listed(t, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
	}
	for i, err := range s.List(t.Context(), "p/", "") {
		if err != nil || i.Key != "p/00/000" {
			t.Errorf("%s, %v", i.Key, err)
		}
		break // the break ends the listing
	}
}

func keys(t *testing.T, s *suite) {
	for _, k := range []string{"", "/a", "a/", "a//b", "..", "../a", "a/../b", ".tmp/x", "a/.b", "a b", "a\x00b", "ü", strings.Repeat("a", 513), strings.Repeat("a", 256)} {
		_, put := s.Put(t.Context(), k, nil)
		_, get := s.Get(t.Context(), k, nil, 10)
		_, stat := s.Stat(t.Context(), k)
		for i, err := range []error{put, get, stat, s.Delete(t.Context(), k), s.Replace(t.Context(), k, nil), s.GetRange(t.Context(), k, 0, make([]byte, 1))} {
			if !errors.Is(err, chunkstore.ErrKey) {
				t.Errorf("key %q: call %d: %v", k, i, err)
			}
		}
	}
	for _, p := range []string{"/", "../", "a//", ".t", "a/."} {
		for _, err := range s.List(t.Context(), p, "") {
			if !errors.Is(err, chunkstore.ErrKey) {
				t.Errorf("prefix %q: %v", p, err)
			}
		}
	}
	long := strings.Repeat("a", 255)
	s.put(t, "x/"+long, []byte("long"), true)
	s.holds(t, "x/"+long, []byte("long"))
}

func limits(t *testing.T, s *suite) {
	s.put(t, "big", pattern(1000, 1), true)
	if _, err := s.Get(t.Context(), "big", nil, 999); !errors.Is(err, chunkstore.ErrTooLarge) {
		t.Errorf("more than the limit: %v", err)
	}
	s.holds(t, "big", pattern(1000, 1))
}

func cancelled(t *testing.T, s *suite) {
	s.put(t, "c/x", []byte("c/x"), true)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	ended := func(err error) bool { return errors.Is(err, why) || errors.Is(err, context.Canceled) }
	_, put := s.Put(ctx, "c/y", nil)
	_, get := s.Get(ctx, "c/x", nil, 10)
	_, stat := s.Stat(ctx, "c/x")
	for i, err := range []error{put, get, stat, s.Delete(ctx, "c/x"), s.Replace(ctx, "c/x", nil), s.GetRange(ctx, "c/x", 0, make([]byte, 1))} {
		if !ended(err) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	last := error(nil)
	for _, err := range s.List(ctx, "c/", "") {
		last = err
	}
	if !ended(last) {
		t.Errorf("list: %v", last)
	}
	s.holds(t, "c/x", []byte("c/x"))
	s.lacks(t, "c/y")
}

func again(t *testing.T, s *suite) {
	s.put(t, "again/x", []byte("again/x"), true)
	other := &suite{Store: s.open(t, true)}
	other.holds(t, "again/x", []byte("again/x"))
	other.put(t, "again/x", nil, false)
	if got := other.listed(t, "again/"); !slices.Equal(got, []string{"again/x"}) {
		t.Errorf("%q", got)
	}
	if err := other.Delete(t.Context(), "again/x"); err != nil {
		t.Fatal(err)
	}
	s.lacks(t, "again/x")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// concurrent reads while other goroutines write and delete. Every object must be complete.
func concurrent(t *testing.T, s *suite) {
	const size = 100_000
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				key := fmt.Sprintf("busy/%d", i%3)
				var err error
				switch (w + i) % 4 {
				case 0:
					err = s.Delete(context.Background(), key)
				case 1:
					err = s.Replace(context.Background(), key, pattern(size, byte(w)))
				case 2:
					_, err = s.Put(context.Background(), key, pattern(size, byte(w)))
				default:
					var b []byte
					if b, err = s.Get(context.Background(), key, nil, size); errors.Is(err, chunkstore.ErrNotFound) {
						err = nil
					} else if err == nil && !slices.ContainsFunc([]byte{0, 1, 2, 3}, func(seed byte) bool { return bytes.Equal(b, pattern(size, seed)) }) {
						err = errors.New("an object is incomplete")
					}
				}
				if err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
}
