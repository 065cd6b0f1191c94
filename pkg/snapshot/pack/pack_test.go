package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// storeSink is a commit.Writer without its lease.
type storeSink struct {
	store   chunkstore.Store
	attempt format.ID
}

// testSnapshot is which snapshot every sink writes.
var testSnapshot = format.ID{0x5a}

func (s *storeSink) Snapshot() format.ID { return testSnapshot }

func (s *storeSink) Attempt() format.ID { return s.attempt }

func (s *storeSink) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	n := format.Name{Class: c, Attempt: s.attempt, Sum: sum}
	_, err := s.store.Put(ctx, n.Key(), data)
	return n, err
}

func tenant(t testing.TB, fill byte) *crypto.TenantKeys {
	t.Helper()
	secret, err := crypto.NewKey(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Erase()
	k, err := crypto.DeriveTenantKeys(secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

type stored struct {
	ref   selfenc.PackedRef
	plain []byte
}

// fill stores n chunks of random kinds and lengths as one snapshot's.
func fill(t *testing.T, store chunkstore.Store, keys *crypto.TenantKeys, parent *format.Head, n, most int, rng *rand.Rand) (*format.Head, []stored) {
	t.Helper()
	sink := &storeSink{store, format.NewID()}
	list := NewBuilder(parent)
	w, err := NewWriter(t.Context(), keys, sink, list, Options{PackBytes: minPackBytes, InFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	var all []stored
	for range n {
		plain := make([]byte, rng.IntN(most))
		for i := range plain {
			plain[i] = byte(rng.Uint32())
		}
		r, object, err := keys.SealPacked(1, crypto.ChunkKind(1+rng.IntN(3)), 0, plain, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := w.Add(t.Context(), &r, object)
		if err != nil {
			t.Fatal(err)
		}
		clear(object) // it is not kept
		all = append(all, stored{ref, plain})
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &format.Head{Suite: 1, S: format.NewID()}
	var before *List
	if parent != nil {
		before = NewList(store, parent)
	}
	if err := list.Finish(t.Context(), sink, before, h); err != nil {
		t.Fatal(err)
	}
	if _, err := format.EncodeManifest(h, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	return h, all
}

func readAll(t *testing.T, store chunkstore.Store, keys *crypto.TenantKeys, h *format.Head, all []stored) {
	t.Helper()
	d := NewReader(store, keys, NewList(store, h))
	for i := range all {
		got, err := d.Open(t.Context(), &all[i].ref, nil)
		if err != nil || !bytes.Equal(got, all[i].plain) {
			t.Fatalf("chunk %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// TestPacks: chunks of a snapshot and of its children are found, each pack is
// sound, and the first one is mixed, all others are not.
func TestPacks(t *testing.T) {
	keys, store, rng := tenant(t, 1), chunkstore.NewMemory(), rand.New(rand.NewPCG(1, 1))
	var parent *format.Head
	var all []stored
	for range 5 {
		h, some := fill(t, store, keys, parent, 300, 3000, rng)
		all = append(all, some...)
		readAll(t, store, keys, h, all)
		parent = h
	}
	mixed := 0
	l := NewList(store, parent)
	for i := range parent.Pages {
		packs, err := l.Page(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range packs {
			if err := Check(t.Context(), store, &e, nil); err != nil {
				t.Error(err)
			}
			b, err := store.Get(t.Context(), e.Name.Key(), nil, int(e.Bytes))
			if err != nil {
				t.Fatal(err)
			}
			h, slots, err := format.DecodePack(b)
			if err != nil || h.Number != e.Number {
				t.Fatalf("%+v, %v", h, err)
			}
			for i, s := range slots {
				if h.Kind == format.DataPack && s.Kind != 1 || h.Kind == format.MetadataPack && s.Kind == 1 {
					t.Errorf("slot %d of kind %d in a pack of kind %d", i, s.Kind, h.Kind)
				}
			}
			if h.Kind == format.MixedPack {
				mixed++
			}
		}
	}
	if mixed != 5 {
		t.Errorf("%d mixed packs, one a snapshot", mixed)
	}
}

// TestSlotMarks: the tenant can tell from a table what is in a pack, and two
// packs with the same chunk do not look alike.
func TestSlotMarks(t *testing.T) {
	keys, store := tenant(t, 1), chunkstore.NewMemory()
	marks := map[[16]byte]bool{}
	for range 3 {
		h, all := fill(t, store, keys, nil, 5, 100, rand.New(rand.NewPCG(7, 7))) // the same chunks each time
		e, err := NewList(store, h).Find(t.Context(), all[0].ref.Pack)
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.Get(t.Context(), e.Name.Key(), nil, int(e.Bytes))
		if err != nil {
			t.Fatal(err)
		}
		_, slots, err := format.DecodePack(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range slots {
			for j := 0; j < len(s.Hidden); j += 16 {
				if marks[[16]byte(s.Hidden[j:])] {
					t.Error("two slots look alike")
				}
				marks[[16]byte(s.Hidden[j:])] = true
			}
			at := crypto.PackSlot{Snapshot: crypto.UUID(testSnapshot), Header: b[:format.PackHeaderBytes], Index: uint16(i), Clear: s.Clear()}
			d, p, err := keys.RevealRef(&at, &s.Hidden)
			if err != nil {
				t.Fatal(err)
			}
			if d != [16]byte(all[i].ref.D[:]) || p != all[i].ref.P {
				t.Fatalf("slot %d does not give its reference", i)
			}
		}
	}
}

// TestSuperset: a child keeps what its parent lists, until a recount.
func TestSuperset(t *testing.T) {
	keys, store, rng := tenant(t, 1), chunkstore.NewMemory(), rand.New(rand.NewPCG(2, 2))
	a, first := fill(t, store, keys, nil, 200, 4000, rng)
	b, second := fill(t, store, keys, a, 20, 4000, rng)
	if b.Packs <= a.Packs || b.Next <= a.Next {
		t.Fatalf("%d packs after %d", b.Packs, a.Packs)
	}
	live := map[uint32][]byte{}
	use := func(r *selfenc.PackedRef) {
		if live[r.Pack] == nil {
			live[r.Pack] = make([]byte, 512)
		}
		live[r.Pack][r.Slot/8] |= 1 << (r.Slot % 8)
	}
	kept := append(first[:40:40], second...)
	for i := range kept {
		use(&kept[i].ref)
	}
	h := &format.Head{Suite: 1, S: format.NewID()}
	err := Recount(t.Context(), &storeSink{store, format.NewID()}, NewList(store, b), b.Next, h, func(e *format.PackEntry) ([]byte, bool) {
		bitmap := live[e.Number]
		if bitmap == nil {
			return nil, false
		}
		full := format.PackEntry{Slots: e.Slots, Live: bitmap[:(int(e.Slots)+7)/8]}
		if full.LiveSlots() == int(e.Slots) {
			return nil, true
		}
		return full.Live, true
	})
	if err != nil {
		t.Fatal(err)
	}
	if int(h.Packs) != len(live) || h.Packs >= b.Packs || h.Next != b.Next {
		t.Errorf("%d packs of %d after the recount, %d are live", h.Packs, b.Packs, len(live))
	}
	readAll(t, store, keys, h, kept)
	// Again: nothing changes, no page is new.
	again := &format.Head{Suite: 1, S: format.NewID()}
	l := NewList(store, h)
	if err := Recount(t.Context(), nil, l, h.Next, again, func(e *format.PackEntry) ([]byte, bool) { return e.Live, true }); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(again.Pages) != fmt.Sprint(h.Pages) {
		t.Error("a recount that finds nothing changes pages")
	}
	if _, err := l.Find(t.Context(), b.Next+7); !errors.Is(err, ErrNoPack) {
		t.Errorf("a pack that nobody wrote: %v", err)
	}
}

// TestManyPages: lists of several pages.
func TestManyPages(t *testing.T) {
	store, sink := chunkstore.NewMemory(), &storeSink{chunkstore.NewMemory(), format.NewID()}
	sink.store = store
	var parent *format.Head
	var before *List
	for _, n := range []int{1000, 100, 3000, 0, 1} {
		b := NewBuilder(parent)
		for range n {
			i := b.Reserve()
			b.Add(format.PackEntry{Number: i, Name: format.Name{Class: format.Pack, Attempt: format.ID{byte(i % 3)}, Sum: format.Sum{byte(i), byte(i >> 8)}}, Bytes: 1000, Slots: 1})
		}
		h := &format.Head{Suite: 1, S: format.NewID()}
		if err := b.Finish(t.Context(), sink, before, h); err != nil {
			t.Fatal(err)
		}
		if _, err := format.EncodeManifest(h, nil); err != nil {
			t.Fatal(err)
		}
		parent, before = h, NewList(store, h)
	}
	if len(parent.Pages) != 5 || parent.Packs != 4101 {
		t.Errorf("%d pages of %d packs", len(parent.Pages), parent.Packs)
	}
	for i := range parent.Next {
		if e, err := before.Find(t.Context(), i); err != nil || e.Name.Sum[0] != byte(i) || e.Name.Sum[1] != byte(i>>8) {
			t.Fatalf("pack %d: %v, %v", i, e, err)
		}
	}
}

// TestDamage: whatever the store returns instead, the error names the object.
func TestDamage(t *testing.T) {
	keys, store, rng := tenant(t, 1), chunkstore.NewMemory(), rand.New(rand.NewPCG(3, 3))
	h, all := fill(t, store, keys, nil, 50, 4000, rng)
	for name, change := range map[string]func(context.Context, string, []byte) ([]byte, error){
		"lost": chunkstoretest.Lost, "truncated": chunkstoretest.Truncated, "emptied": chunkstoretest.Emptied,
		"corrupted": chunkstoretest.Corrupted, "refused": chunkstoretest.Refused,
	} {
		for _, prefix := range []string{format.PackPrefix, format.PagePrefix} {
			bad := &chunkstoretest.Faulty{Store: store, OnGet: func(ctx context.Context, key string, b []byte) ([]byte, error) {
				if strings.HasPrefix(key, prefix) && len(b) > 0 {
					return change(ctx, key, b)
				}
				return b, nil
			}}
			d := NewReader(bad, keys, NewList(bad, h))
			for i := range all {
				got, err := d.Open(t.Context(), &all[i].ref, nil)
				if err == nil || got != nil || !strings.Contains(err.Error(), prefix) && !errors.Is(err, chunkstore.ErrNotFound) && !errors.Is(err, chunkstore.ErrRange) && !errors.Is(err, chunkstoretest.ErrRefused) {
					t.Fatalf("%s, %s: %d bytes, %v", name, prefix, len(got), err)
				}
			}
		}
	}
	// Packs exchanged: each is sound, neither is the other.
	other, more := fill(t, store, tenant(t, 2), nil, 50, 4000, rng)
	lie := *h
	lie.Pages = other.Pages
	if _, err := NewReader(store, keys, NewList(store, &lie)).Open(t.Context(), &all[0].ref, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("another snapshot's packs: %v", err)
	}
	if _, err := NewReader(store, keys, NewList(store, other)).Open(t.Context(), &more[0].ref, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("another tenant's packs: %v", err)
	}
}

// TestWriterErrors: a store that fills up ends the writer, with its own error.
func TestWriterErrors(t *testing.T) {
	keys := tenant(t, 1)
	full := errors.New("no space left on device")
	n := 0
	store := &chunkstoretest.Faulty{Store: chunkstore.NewMemory(), OnPut: func(context.Context, string) error {
		if n++; n > 3 {
			return full
		}
		return nil
	}}
	w, err := NewWriter(t.Context(), keys, &storeSink{store, format.NewID()}, NewBuilder(nil), Options{PackBytes: minPackBytes, InFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for i := range 10_000 {
		r, object, err := keys.SealPacked(1, crypto.ChunkData, 0, []byte(strings.Repeat(fmt.Sprint(i), 1000)), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, last = w.Add(t.Context(), &r, object); last != nil {
			break
		}
	}
	if !errors.Is(last, full) || !strings.Contains(last.Error(), "store pack") {
		t.Errorf("add: %v", last)
	}
	if _, err := w.Flush(t.Context()); !errors.Is(err, full) {
		t.Errorf("flush: %v", err)
	}
	if _, err := w.Add(t.Context(), &crypto.ChunkRef{}, make([]byte, minPackBytes)); !errors.Is(err, ErrChunk) {
		t.Errorf("a chunk that fits nowhere: %v", err)
	}
}

// TestBounded: memory does not grow with what is stored.
func TestBounded(t *testing.T) {
	keys := tenant(t, 1)
	w, err := NewWriter(t.Context(), keys, discard{}, NewBuilder(nil), Options{PackBytes: 1 << 20, InFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	object := make([]byte, 64<<10)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 4000 { // 250 MiB
		if _, err := w.Add(t.Context(), &crypto.ChunkRef{Suite: 1, Kind: crypto.ChunkData}, object); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d MiB allocated for 250 MiB stored", n>>20)
	}
}

type discard struct{}

func (discard) Snapshot() format.ID { return testSnapshot }
func (discard) Attempt() format.ID  { return format.ID{1} }

func (discard) Put(_ context.Context, c format.Class, _ []byte, sum format.Sum) (format.Name, error) {
	return format.Name{Class: c, Sum: sum}, nil
}
