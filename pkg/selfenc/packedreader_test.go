package selfenc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func packedFile(t testing.TB, plain []byte) *sparseFile {
	t.Helper()
	f := newSparseFile(0)
	f.write(plain, 0)
	return f
}

// TestPackedReader reads objects of every size around the boundaries, completely and in ranges.
func TestPackedReader(t *testing.T) {
	rng := seeded(t)
	packs := newFakePacks(t)
	const n = PackedMinChunk
	for _, size := range []int{0, 1, 13, n - 1, n, n + 1, 2*n - 1, 2 * n, 7*n + n/2, orShort(256, 20) * n, orShort(256, 20)*n + 1} {
		plain := randomBytes(rng, size)
		for k := range size / n {
			if rng.IntN(3) == 0 {
				clear(plain[k*n : (k+1)*n])
			}
		}
		s := packs.sealer(t, PackedOptions{ChunkBytes: n})
		o, _ := update1(t, s, nil, packedFile(t, plain), AllDirty(int64(size)))
		r, err := s.Reader(&o)
		if err != nil {
			t.Fatal(err)
		}
		checkRanges(t, rng, r, plain)
		if r.Chunks() != o.Chunks() {
			t.Errorf("%d chunks", r.Chunks())
		}
	}
}

// TestPackedReaderTogether reads one object from several goroutines, with a cache that is too small.
func TestPackedReaderTogether(t *testing.T) {
	packs := newFakePacks(t)
	plain := randomBytes(seeded(t), orShort(1000, 300)*PackedMinChunk+7)
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, NodeCacheBytes: 100 << 10, Workers: 3})
	o, _ := update1(t, s, nil, packedFile(t, plain), AllDirty(int64(len(plain))))
	r, err := s.Reader(&o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			p := make([]byte, 5*PackedMinChunk)
			for i := range orShort(60, 10) {
				off := (i*7919 + k*104729) * 977 % (len(plain) - len(p))
				if n, err := r.ReadRange(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p[:n], plain[off:off+len(p)]) {
					t.Errorf("at %d: %d bytes, %v", off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if s.nodes.used > s.nodes.limit || len(s.nodes.entries) != s.nodes.order.Len() {
		t.Errorf("%d bytes, %d nodes, %d in order", s.nodes.used, len(s.nodes.entries), s.nodes.order.Len())
	}
}

// TestPackedReaderNodes checks that reading costs one look at each node.
func TestPackedReaderNodes(t *testing.T) {
	packs := newFakePacks(t)
	plain := randomBytes(seeded(t), 280*PackedMinChunk)
	o, _ := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), nil, packedFile(t, plain), AllDirty(int64(len(plain))))
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
	packs.reset()
	for range 2 { // two readers share the nodes
		r, err := s.Reader(&o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Copy(t.Context(), io.Discard, 0, math.MaxInt64); err != nil {
			t.Fatal(err)
		}
	}
	if n := packs.opens[crypto.ChunkMap]; n != 3 {
		t.Errorf("%d nodes were read", n)
	}
	if n := packs.opens[crypto.ChunkData]; n != 560 {
		t.Errorf("%d chunks were read", n)
	}
}

// TestPackedDamage changes stored objects.
func TestPackedDamage(t *testing.T) {
	packs := newFakePacks(t)
	rng := seeded(t)
	plain := randomBytes(rng, orShort(300, 20)*PackedMinChunk)
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, NodeCacheBytes: -1})
	o, _ := update1(t, s, nil, packedFile(t, plain), AllDirty(int64(len(plain))))
	r, err := s.Reader(&o)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ref := packs.order[rng.IntN(len(packs.order))]
		at := fakePlace{ref.Pack, ref.Offset}
		good := packs.objects[at]
		bad := bytes.Clone(good)
		bad[rng.IntN(len(bad))] ^= 1
		for name, object := range map[string][]byte{"changed": bad, "cut": good[:len(good)-1], "lost": nil} {
			if packs.objects[at] = object; object == nil {
				delete(packs.objects, at)
			}
			var got bytes.Buffer
			err := r.Copy(t.Context(), &got, 0, math.MaxInt64)
			packed := (*PackedError)(nil)
			if !errors.As(err, &packed) || packed.Ref != ref || !bytes.HasPrefix(plain, got.Bytes()) {
				t.Errorf("%s: %v", name, err)
			}
			if name == "lost" && !errors.Is(err, ErrNoSuchChunk) {
				t.Errorf("%v", err)
			}
		}
		packs.objects[at] = good
	}
	// Compressed bytes that decompress to something else.
	var comp PackedRef
	for _, ref := range packs.order {
		if ref.Comp != 0 && ref.Kind == crypto.ChunkData {
			comp = ref
		}
	}
	for name, payload := range map[string][]byte{
		"other data": s.encoder.EncodeAll(randomBytes(rng, PackedMinChunk), nil), "too short": s.encoder.EncodeAll(plain[:100], nil),
		"too long": s.encoder.EncodeAll(plain[:3*PackedMinChunk], nil), "no zstd": plain[:100], "nothing": nil,
	} {
		lie, object, err := packs.keys.SealPacked(1, crypto.ChunkData, compZstd, plain[:PackedMinChunk], payload, nil)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := packs.Add(t.Context(), &lie, object)
		if err != nil {
			t.Fatal(err)
		}
		if len(payload) >= PackedMinChunk {
			continue // not a valid reference
		}
		if _, err := s.Open(t.Context(), &ref, nil); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrCompression) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := s.Open(t.Context(), &comp, []byte("front"))
	if err != nil || len(got) != 5+int(comp.Length) || string(got[:5]) != "front" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for name, ref := range map[string]PackedRef{"hole": {}, "empty": testRef(crypto.ChunkTree, 0, 2), "slot": {Ref: comp.Ref, Slot: MaxPackSlots}} {
		if _, err := s.Open(t.Context(), &ref, nil); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPackedSeal seals single chunks, as the nodes of other maps are.
func TestPackedSeal(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{})
	plain := randomBytes(seeded(t), 100_000)
	r, err := s.Seal(t.Context(), crypto.ChunkTree, plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Open(t.Context(), &r, nil); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	again, err := s.Seal(t.Context(), crypto.ChunkTree, plain)
	if err != nil || again != r || packs.adds[crypto.ChunkTree] != 1 {
		t.Errorf("%+v, %v: stored %d times", again, err, packs.adds[crypto.ChunkTree])
	}
	if other, err := s.Seal(t.Context(), crypto.ChunkData, plain); err != nil || other.D == r.D {
		t.Errorf("kinds share d, %v", err)
	}
	for _, n := range []int{0, V2MaxChunk + 1} {
		if _, err := s.Seal(t.Context(), crypto.ChunkTree, make([]byte, n)); !errors.Is(err, ErrInvalidChunkSize) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	packs.fail = func(r *PackedRef) error { r.D[0]++; return nil }
	if _, err := s.Seal(t.Context(), crypto.ChunkTree, plain[1:]); !errors.Is(err, ErrMap) {
		t.Errorf("another reference: %v", err)
	}
	read, err := NewPackedSealer(packs.keys, crypto.SuiteXChaCha20Poly1305, nil, packs, PackedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if _, err := read.Seal(t.Context(), crypto.ChunkTree, plain); err == nil {
		t.Error("a sealer without a packer seals")
	}
	write, err := NewPackedSealer(packs.keys, crypto.SuiteXChaCha20Poly1305, packs, nil, PackedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	if _, err := write.Open(t.Context(), &r, nil); err == nil {
		t.Error("a sealer without an unpacker opens")
	}
	for _, n := range []int{1, PackedMinChunk / 2, PackedMinChunk + 1, 2 * V2MaxChunk} {
		if _, err := NewPackedSealer(packs.keys, crypto.SuiteXChaCha20Poly1305, packs, packs, PackedOptions{ChunkBytes: n}); !errors.Is(err, ErrInvalidChunkSize) {
			t.Errorf("chunks of %d bytes: %v", n, err)
		}
	}
	if _, err := NewPackedSealer(nil, crypto.SuiteXChaCha20Poly1305, packs, packs, PackedOptions{}); !errors.Is(err, ErrKey) {
		t.Errorf("no keys: %v", err)
	}
}

// TestNodeCache checks that a load that fails is tried again by whoever waits for it.
func TestNodeCache(t *testing.T) {
	c := nodeCache{limit: 1 << 20}
	key := packedNodeKey{d: [32]byte{1}}
	loading, fail := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.get(t.Context(), key, func() (packedNode, error) { close(loading); <-fail; return packedNode{}, context.Canceled })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	<-loading
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.get(ended, key, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting does not end: %v", err)
	}
	if _, ok := c.peek(key); ok {
		t.Error("it has what is being loaded")
	}
	wg.Go(func() {
		n, err := c.get(t.Context(), key, func() (packedNode, error) { return packedNode{c: [32]byte{7}}, nil })
		if err != nil || n.c != [32]byte{7} {
			t.Errorf("%v", err)
		}
	})
	close(fail)
	wg.Wait()
	if n, ok := c.peek(key); !ok || n.c != [32]byte{7} {
		t.Error("it is not there")
	}
}

// TestRefCache checks that the cache returns what was put last, or nothing.
func TestRefCache(t *testing.T) {
	rng := seeded(t)
	c := newRefCache(1000)
	all := map[[32]byte]PackedRef{}
	found := 0
	for range 5000 {
		r := testRef(crypto.ChunkData, 5000, byte(rng.IntN(256)))
		for k := range r.D {
			r.D[k] = byte(rng.Uint32())
		}
		if r.Comp == 0 {
			r.P = r.D
		}
		all[r.D] = r
		c.put(&r)
		c.put(&r)
		if got, ok := c.get(&r.D); !ok || got != r {
			t.Fatalf("%+v instead of %+v", got, r)
		}
	}
	for d, r := range all {
		if got, ok := c.get(&d); ok {
			found++
			if got != r {
				t.Fatalf("%+v instead of %+v", got, r)
			}
		}
	}
	if found < 900 || found > 1000 {
		t.Errorf("%d of 1000 entries", found)
	}
	none := newRefCache(-1)
	for _, r := range all {
		none.put(&r)
		if _, ok := none.get(&r.D); ok {
			t.Fatal("an entry")
		}
		break
	}
}
