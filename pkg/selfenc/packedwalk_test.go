package selfenc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// sparseObject returns an object of some chunks and holes, and its chunks.
func sparseObject(t *testing.T, rng *rand.Rand, packs *fakePacks, chunks int64) (PackedObject, *sparseFile, []int64) {
	t.Helper()
	f := newSparseFile(chunks * PackedMinChunk)
	var list []int64
	for range 1 + rng.IntN(40) {
		i := rng.Int64N(chunks)
		f.write([]byte(fmt.Sprint("chunk ", i)), i*PackedMinChunk)
		list = append(list, i)
	}
	f.truncate(chunks * PackedMinChunk)
	slices.Sort(list)
	o, _ := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), nil, f, f.data())
	return o, f, slices.Compact(list)
}

func TestPackedWalk(t *testing.T) {
	rng := seeded(t)
	packs := newFakePacks(t)
	for _, chunks := range []int64{1, 2, 256, 257, 3000, 1 << 17, 1 << 40} {
		o, _, list := sparseObject(t, rng, packs, chunks)
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
		var nodes, walked, walkedNodes [][2]int64
		if err := s.Nodes(t.Context(), &o, func(level int, i int64, r *PackedRef) error {
			nodes = append(nodes, [2]int64{int64(level), i})
			if r.Kind != crypto.ChunkMap {
				return errors.New("no node")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Walk(t.Context(), &o, func(level int, i int64, _ *PackedRef) error {
			walked = append(walked, [2]int64{int64(level), i})
			if level > 0 {
				walkedNodes = append(walkedNodes, [2]int64{int64(level), i})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(nodes, walkedNodes) {
			t.Errorf("%d chunks: nodes %v, walked %v", chunks, nodes, walkedNodes)
		}
		// A node comes before what is below it, which is the order by first chunk, then from the top.
		if !slices.IsSortedFunc(walked, func(a, b [2]int64) int {
			if x, y := a[1]<<(8*a[0]), b[1]<<(8*b[0]); x != y {
				return int(min(1, max(-1, x-y)))
			}
			return int(b[0] - a[0])
		}) {
			t.Errorf("%d chunks: %v", chunks, walked)
		}
		for _, from := range []int64{0, 1, list[len(list)/2], list[len(list)/2] + 1, chunks - 1, chunks, chunks * 2} {
			var got []int64
			if err := s.Refs(t.Context(), &o, from, func(i int64, r *PackedRef) error {
				got = append(got, i)
				if r.Kind != crypto.ChunkData {
					return errors.New("no data")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			k, _ := slices.BinarySearch(list, from)
			if !slices.Equal(got, list[k:]) {
				t.Errorf("%d chunks from %d: %v instead of %v", chunks, from, got, list[k:])
			}
		}
	}
}

// TestPackedWalkEnds ends walks early.
func TestPackedWalkEnds(t *testing.T) {
	packs := newFakePacks(t)
	before := runtime.NumGoroutine()
	for _, chunks := range []int64{1, 200, 3000, 1 << 20} {
		o, _, list := sparseObject(t, seeded(t), packs, chunks)
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
		stop := errors.New("stop")
		n := 0
		if err := s.Refs(t.Context(), &o, 0, func(int64, *PackedRef) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
			t.Errorf("%d calls, %v", n, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		n = 0
		err := s.Refs(ctx, &o, 0, func(int64, *PackedRef) error { n++; cancel(stop); return nil })
		if len(list) > 1 && !errors.Is(err, stop) || n != 1 {
			t.Errorf("%d calls, %v", n, err)
		}
		if err := s.Nodes(ctx, &o, func(int, int64, *PackedRef) error { n++; return nil }); chunks > 1 && !errors.Is(err, stop) || n != 1 {
			t.Errorf("%d calls, %v", n, err)
		}
		if err := s.DiffObjects(ctx, &o, &o, func(Range) error { return nil }); !errors.Is(err, stop) {
			t.Errorf("%v", err)
		}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines more", n-before)
	}
}

// TestPackedDiff compares objects, and compares the result with the files.
func TestPackedDiff(t *testing.T) {
	rng := seeded(t)
	packs := newFakePacks(t)
	for round := range 60 {
		limit := []int64{3, 600, 70000, 1 << 40}[round%4] * PackedMinChunk
		e := &packedEditor{rng: rng, f: newSparseFile(0), chunk: PackedMinChunk}
		for range 1 + rng.IntN(10) {
			e.edit(limit)
		}
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
		a, _ := update1(t, s, nil, e.f, e.f.data())
		was := newSparseFile(0)
		for i, page := range e.f.pages {
			was.pages[i] = append([]byte(nil), page...)
		}
		for range rng.IntN(4) {
			e.edit(limit)
		}
		b, _ := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), nil, e.f, e.f.data())
		differ := map[int64]bool{}
		for i := range was.pages {
			differ[i] = string(was.pages[i]) != string(e.f.pages[i])
		}
		for i := range e.f.pages {
			differ[i] = string(was.pages[i]) != string(e.f.pages[i])
		}
		for _, swap := range []bool{false, true} {
			x, y := &a, &b
			if swap {
				x, y = y, x
			}
			fresh := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
			packs.reset()
			var list []Range
			if err := fresh.DiffObjects(t.Context(), x, y, func(r Range) error { list = append(list, r); return nil }); err != nil {
				t.Fatal(err)
			}
			checkDiff(t, list, min(a.Bytes, b.Bytes), max(a.Bytes, b.Bytes), differ)
			if SamePackedContent(x, y) && (len(list) > 0 || len(packs.opens) > 0) {
				t.Fatalf("equal objects: %v, %v", list, packs.opens)
			}
			if n := packs.opens[crypto.ChunkMap]; n > 14*(len(list)+1) && limit < 1<<30 {
				t.Fatalf("%d nodes read for %d ranges", n, len(list))
			}
			if packs.opens[crypto.ChunkData] > 0 {
				t.Fatal("data was read")
			}
		}
	}
	a, b := PackedObject{ChunkBytes: PackedMinChunk, Bytes: 5}, PackedObject{ChunkBytes: PackedChunkBytes, Bytes: 9}
	var list []Range
	err := packs.sealer(t, PackedOptions{}).DiffObjects(t.Context(), &a, &b, func(r Range) error { list = append(list, r); return nil })
	if err != nil || !slices.Equal(list, []Range{{0, 9}}) {
		t.Errorf("other chunk sizes: %v, %v", list, err)
	}
}

// checkDiff checks that ranges contain what differs, and no chunk without a difference but the one
// at the end of the shorter object.
func checkDiff(t *testing.T, list []Range, common, size int64, differ map[int64]bool) {
	t.Helper()
	in := func(off int64) bool {
		return slices.ContainsFunc(list, func(r Range) bool { return uint64(off) >= r.Off && uint64(off) < r.Off+r.Len })
	}
	chunks := map[int64]bool{}
	for i, d := range differ {
		if !d {
			continue
		}
		if off := i * sparsePage; off < size && !in(off) {
			t.Fatalf("byte %d differs, and %v do not have it", off, list)
		}
		chunks[i*sparsePage/PackedMinChunk] = true
	}
	if common < size && !in(common) {
		t.Fatalf("%v do not have the end at %d", list, common)
	}
	end := uint64(0)
	for i, r := range list {
		if r.Len == 0 || r.Off < end || i > 0 && r.Off == end || r.Off+r.Len > uint64(size) {
			t.Fatalf("ranges %v of %d bytes", list, size)
		}
		end = r.Off + r.Len
		for off := int64(r.Off); off < min(common, int64(end)); off += PackedMinChunk {
			if i := off / PackedMinChunk; !chunks[i] && (i+1)*PackedMinChunk <= common {
				t.Fatalf("chunk %d is reported, and does not differ", i)
			}
		}
	}
}
