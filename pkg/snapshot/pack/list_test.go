package pack

import (
	"context"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// manyPages returns a list of n full pages; bitmaps have so many slots each.
func manyPages(t *testing.T, sink *storeSink, n int, slots uint16) *format.Head {
	t.Helper()
	var packs []format.PackEntry
	for i := range n * format.MaxPagePacks {
		e := format.PackEntry{Number: uint32(i), Name: format.Name{Class: format.Pack, Sum: format.Sum{byte(i), byte(i >> 8), byte(i >> 16)}}, Bytes: 1000, Slots: slots}
		if slots > 1 {
			e.Live = make([]byte, (slots+7)/8)
			e.Live[0] = 1
		}
		packs = append(packs, e)
	}
	pages, err := storePages(t.Context(), sink, packs)
	if err != nil {
		t.Fatal(err)
	}
	h := &format.Head{Suite: 1, S: format.NewID()}
	setPages(h, pages, uint32(len(packs)))
	return h
}

// getting counts objects that are read.
type getting struct {
	chunkstore.Store
	n int
}

func (g *getting) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	g.n++
	return g.Store.Get(ctx, key, room, limit)
}

// TestListBounded: a list keeps as many pages as it has memory for, those that are
// used.
func TestListBounded(t *testing.T) {
	store := &getting{Store: chunkstore.NewMemory()}
	for _, slots := range []uint16{1, format.MaxPackSlots} {
		const pages = 100
		h := manyPages(t, &storeSink{store, format.NewID()}, pages, slots)
		l := NewList(store, h)
		store.n = 0
		for i := range uint32(pages) {
			for _, number := range []uint32{i * format.MaxPagePacks, 0} {
				if e, err := l.Find(t.Context(), number); err != nil || e.Number != number {
					t.Fatalf("%+v, %v", e, err)
				}
			}
			if l.bytes > maxListBytes {
				t.Fatalf("%d bytes in memory", l.bytes)
			}
		}
		if store.n != pages {
			t.Errorf("%d pages were read, of %d: one that is used was forgotten", store.n, pages)
		}
		sum := 0
		for _, p := range l.read {
			sum += p.bytes
		}
		if sum != l.bytes || sum < maxListBytes/2 {
			t.Errorf("%d pages of %d bytes, counted as %d", len(l.read), sum, l.bytes)
		}
	}
}

// TestRecountJoins: pages of which a recount leaves little become one, and a second
// recount changes nothing.
func TestRecountJoins(t *testing.T) {
	store := chunkstore.NewMemory()
	sink := &storeSink{store, format.NewID()}
	for name, keep := range map[string]func(n uint32) bool{
		"all":               func(uint32) bool { return true },
		"none":              func(uint32) bool { return false },
		"a hundredth":       func(n uint32) bool { return n%100 == 0 },
		"three quarters":    func(n uint32) bool { return n%4 > 0 },
		"half":              func(n uint32) bool { return n%2 == 0 },
		"a whole page":      func(n uint32) bool { return n/1024 == 3 || n%500 == 0 },
		"every second page": func(n uint32) bool { return n/1024%2 == 0 },
		"half a page each":  func(n uint32) bool { return n%1024 < 512 },
	} {
		h := manyPages(t, sink, 12, 1)
		want := 0
		for n := range h.Next {
			if keep(n) {
				want++
			}
		}
		live := func(e *format.PackEntry) ([]byte, bool) { return nil, keep(e.Number) }
		got := &format.Head{Suite: 1, S: format.NewID()}
		if err := Recount(t.Context(), sink, NewList(store, h), h.Next, got, live); err != nil {
			t.Fatal(err)
		}
		if _, err := format.EncodeManifest(got, nil); err != nil {
			t.Fatal(err)
		}
		// Two pages that lie together have more than fits into one, or are at least half full.
		if least := (want + 1023) / 1024; int(got.Packs) != want || len(got.Pages) > 2*least+1 {
			t.Errorf("%s: %d packs of %d, in %d pages", name, got.Packs, want, len(got.Pages))
		}
		l := NewList(store, got)
		for n := range h.Next {
			if _, err := l.Find(t.Context(), n); (err == nil) != keep(n) {
				t.Fatalf("%s: pack %d: %v", name, n, err)
			}
		}
		again := &format.Head{Suite: 1, S: format.NewID()}
		if err := Recount(t.Context(), nil, l, got.Next, again, live); err != nil { // it may store nothing
			t.Fatal(err)
		}
		if fmt.Sprint(again.Pages) != fmt.Sprint(got.Pages) {
			t.Errorf("%s: a second recount makes other pages", name)
		}
	}
}
