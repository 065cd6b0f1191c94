package chunkstoretest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

func ranges(t *testing.T, s *suite) {
	const size = 300_000
	data := pattern(size, 3)
	s.put(t, "range/x", data, true)
	s.put(t, "range/empty", nil, true)
	for _, r := range [][2]int{{0, 1}, {0, size}, {1, 70_000}, {size - 1, 1}, {size / 2, size / 2}, {size, 0}, {0, 0}} {
		dst := make([]byte, r[1])
		if err := s.GetRange(t.Context(), "range/x", int64(r[0]), dst); err != nil || !bytes.Equal(dst, data[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes from %d on: %v", r[1], r[0], err)
		}
	}
	for _, r := range []struct {
		off int64
		n   int
	}{{size, 1}, {size - 1, 2}, {0, size + 1}, {size + 1, 0}, {1 << 62, 5}, {math.MaxInt64 - 1, 3}, {-1, 3}} {
		if err := s.GetRange(t.Context(), "range/x", r.off, make([]byte, r.n)); !errors.Is(err, chunkstore.ErrRange) || !strings.Contains(err.Error(), "range/x") {
			t.Errorf("%d bytes from %d on: %v, want ErrRange", r.n, r.off, err)
		}
	}
	if err := s.GetRange(t.Context(), "range/empty", 0, make([]byte, 1)); !errors.Is(err, chunkstore.ErrRange) {
		t.Errorf("a byte of an empty object: %v", err)
	}
	for _, n := range []int{0, 1} {
		if err := s.GetRange(t.Context(), "range/none", 0, make([]byte, n)); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("%d bytes of no object: %v", n, err)
		}
	}
}

func listsAfter(t *testing.T, s *suite) {
	all := []string{"l/a-b", "l/a/1", "l/a/2", "l/a0", "l/ab/1", "l/b", "lm/1", "m"}
	for i := range 40 {
		all = append(all, fmt.Sprintf("p/%02d/%03d", i%5, i))
	}
	for _, k := range all {
		s.put(t, k, []byte(k), true)
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "l", "l/", "l/a", "l/a/", "p/", "p/03", "z"} {
		for _, after := range append(all, "", "a", "l/a", "l/a/", "l/a/10", "p", "p/03", "p/03/", "zz") {
			var want, got []string
			for _, k := range all {
				if strings.HasPrefix(k, prefix) && k > after {
					want = append(want, k)
				}
			}
			for i, err := range s.List(t.Context(), prefix, after) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, i.Key); len(got) == 20 { // enough
					break
				}
			}
			if want = want[:min(20, len(want))]; !slices.Equal(got, want) {
				t.Errorf("prefix %q after %q: %q, want %q", prefix, after, got, want)
			}
		}
	}
	for _, err := range s.List(t.Context(), "", "../x") {
		if !errors.Is(err, chunkstore.ErrKey) {
			t.Errorf("after what is no key: %v", err)
		}
	}
}

func clock(t *testing.T, s *suite) {
	last := time.Time{}
	for range 3 {
		now, err := chunkstore.Now(t.Context(), s.Store, "clock")
		if err != nil || now.Before(last) {
			t.Fatalf("%v after %v: %v", now, last, err)
		}
		s.put(t, "clock-"+fmt.Sprint(now.UnixNano()), nil, last != now)
		last = now
	}
}

func probe(t *testing.T, s *suite) {
	for range 3 {
		if ok, err := chunkstore.IsConditional(t.Context(), s.Store, "probe"); !ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	if ok, err := chunkstore.IsConditional(t.Context(), &replacing{s.Store}, "probe-2"); ok || err != nil {
		t.Errorf("a store that replaces: %v, %v", ok, err)
	}
}

// named tests objects whose names contain their hash. A store that keeps hashes must return the
// right one.
func named(t *testing.T, s *suite) {
	for _, n := range []int{0, 70_000} {
		data := pattern(n, 9)
		sum := sha256.Sum256(data)
		for _, key := range []string{fmt.Sprintf("packs/x/%x", sum), fmt.Sprintf("lists/%x", sum), fmt.Sprintf("tenant-1/packs/x/%x", sum)} {
			if got, ok := chunkstore.NamedHash(key); !ok || got != sum {
				t.Errorf("%s: %x, %v", key, got, ok)
			}
			s.put(t, key, data, true)
			s.holds(t, key, data)
			if i, err := s.Stat(t.Context(), key); err != nil || i.SHA256 != nil && *i.SHA256 != sum {
				t.Errorf("%s: %v, %v", key, i, err)
			}
		}
	}
	for _, key := range []string{"packs/x", fmt.Sprintf("other/%064x", 1), fmt.Sprintf("my-packs/%064x", 1), fmt.Sprintf("%064x", 1), fmt.Sprintf("packs/%063x", 1), fmt.Sprintf("packs/%063xg", 1)} {
		if _, ok := chunkstore.NamedHash(key); ok {
			t.Errorf("%s promises a hash", key)
		}
	}
}
