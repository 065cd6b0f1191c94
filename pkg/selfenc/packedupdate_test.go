package selfenc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// packedEditor changes a file at random, and remembers what may be dirty.
type packedEditor struct {
	rng   *rand.Rand
	f     *sparseFile
	chunk int64
	dirty []Range
}

func (e *packedEditor) mark(off, n int64) {
	e.dirty = append(e.dirty, Range{uint64(off), uint64(n)})
}

// place returns an offset where something interesting may happen.
func (e *packedEditor) place(limit int64) int64 {
	units := []int64{1, sparsePage, e.chunk, e.chunk * nodeFanout, e.chunk * nodeFanout * nodeFanout}
	u := units[e.rng.IntN(len(units))]
	at := e.rng.Int64N(limit/u+1)*u + e.rng.Int64N(3) - 1
	return min(max(0, at), limit)
}

// edit makes one change. Sizes stay below limit.
func (e *packedEditor) edit(limit int64) {
	f := e.f
	switch op := e.rng.IntN(12); {
	case op < 5: // write, or extend by a write
		off := e.place(min(limit, f.size+4*e.chunk))
		b := randomBytes(e.rng, 1+e.rng.IntN([]int{100, sparsePage, 3 * int(e.chunk)}[e.rng.IntN(3)]))
		f.write(b, off)
		e.mark(off, int64(len(b)))
	case op < 6: // punch a hole
		off := e.place(f.size)
		n := min(f.size-off, e.rng.Int64N(4*e.chunk))
		f.write(make([]byte, n), off)
		e.mark(off, n)
	case op < 8:
		e.truncate(e.place(limit))
	case op < 9: // nearby
		e.truncate(max(0, f.size+e.rng.Int64N(2*e.chunk)-e.chunk))
	case op < 11: // dirty, and nothing has changed
		off := e.place(f.size)
		e.mark(off, e.rng.Int64N(3*e.chunk))
	default:
	}
}

// truncate changes the size. What is lost is dirty, as far as it was not zeros.
func (e *packedEditor) truncate(size int64) {
	for i := range e.f.pages {
		if (i+1)*sparsePage > size {
			e.mark(max(size, i*sparsePage), (i+1)*sparsePage-max(size, i*sparsePage))
		}
	}
	e.f.truncate(size)
}

// touched returns how many chunks and nodes dirty ranges and a change of the size touch.
func touched(o *PackedObject, before int64, dirty []Range) (chunks, nodes int64) {
	if o.Bytes == 0 {
		return 0, 0
	}
	sh := o.shape()
	seen := make([]map[int64]bool, sh.level+1)
	for l := range seen {
		seen[l] = map[int64]bool{}
	}
	add := func(i int64) {
		for l := range seen {
			seen[l][i>>(l*nodeFanoutShift)] = true
		}
	}
	for _, r := range dirty {
		if r.Off >= uint64(o.Bytes) {
			continue
		}
		for i := int64(r.Off) / int64(o.ChunkBytes); i <= int64(min(r.Off+r.Len, uint64(o.Bytes))-1)/int64(o.ChunkBytes); i++ {
			add(i)
		}
	}
	if m := min(before, o.Bytes); before != o.Bytes && m > 0 {
		add((m - 1) / int64(o.ChunkBytes))
	}
	for _, m := range seen[1:] {
		nodes += int64(len(m))
	}
	return int64(len(seen[0])), nodes
}

// TestPackedUpdate updates an object again and again, and compares it with one that is made from
// nothing.
func TestPackedUpdate(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for _, limit := range []int64{3 * PackedMinChunk, 600 * PackedMinChunk, 70000 * PackedMinChunk, 1 << 62} {
		for _, workers := range []int{1, 4} {
			t.Run(fmt.Sprintf("%d/%d", limit, workers), func(t *testing.T) {
				rng := seeded(t)
				packs := newFakePacks(t)
				e := &packedEditor{rng: rng, f: newSparseFile(0), chunk: PackedMinChunk}
				s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, Workers: workers})
				var old *PackedObject
				for range rounds {
					before := e.f.size
					for range rng.IntN(6) {
						e.edit(limit)
					}
					dirty := mergeRanges(e.dirty)
					e.dirty = nil
					if rng.IntN(3) == 0 { // without what it remembers
						s = packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, Workers: workers, DedupChunks: -1})
					}
					packs.reset()
					e.f.bytes = 0
					o, stats := update1(t, s, old, e.f, ranges(dirty...))
					chunks, nodes := touched(&o, before, dirty)
					if stats.ReadChunks > chunks || stats.Nodes > nodes || packs.opens[crypto.ChunkMap] > int(2*nodes)+9 {
						t.Fatalf("%+v, %v opened, want %d chunks and %d nodes at most", stats, packs.opens, chunks, nodes)
					}
					if stats.ReadBytes != e.f.bytes || stats.ReadChunks != stats.KeptChunks+stats.ZeroChunks+stats.KnownChunks+stats.SealedChunks ||
						int(stats.SealedChunks) != packs.adds[crypto.ChunkData] || int(stats.Nodes) != packs.adds[crypto.ChunkMap] {
						t.Fatalf("%+v, %v added, %d bytes read", stats, packs.adds, e.f.bytes)
					}
					checkObject(t, packs, s, &o, e.f)
					old = &o
				}
			})
		}
	}
}

// TestPackedNothing checks what is not done if nothing has changed.
func TestPackedNothing(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
	f := newSparseFile(0)
	f.write(randomBytes(seeded(t), 280*PackedMinChunk+100), 0)
	o, stats := update1(t, s, nil, f, AllDirty(f.size))
	if stats.SealedChunks != 281 || stats.Nodes != 3 {
		t.Errorf("%+v", stats)
	}
	packs.reset()
	f.reads = 0
	same, stats := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), &o, f, ranges())
	if same != o || stats != (UpdateStats{}) || f.reads != 0 || len(packs.opens) != 0 {
		t.Errorf("%+v, %d reads, %v", stats, f.reads, packs.opens)
	}
	same, stats = update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), &o, f, AllDirty(f.size))
	if same != o || stats.KeptChunks != 281 || stats.StoredBytes != 0 || len(packs.adds) != 0 {
		t.Errorf("%+v, %v", stats, packs.adds)
	}
	if f.reads > 18 { // batches do not cross nodes of 256 chunks
		t.Errorf("%d reads", f.reads)
	}
	// Another chunk size.
	other, stats := update1(t, packs.sealer(t, PackedOptions{}), &o, f, ranges())
	if other.ChunkBytes != PackedChunkBytes || stats.ReadBytes != f.size {
		t.Errorf("%+v, %+v", other, stats)
	}
}

// TestPackedOrder checks that chunks are stored in their order, and equal ones once.
func TestPackedOrder(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, Workers: 8})
	f := newSparseFile(0)
	plain := randomBytes(seeded(t), 50*PackedMinChunk)
	for i := range orShort(20, 4) {
		f.write(plain, int64(i*len(plain)))
	}
	o, stats := update1(t, s, nil, f, AllDirty(f.size))
	if stats.SealedChunks != 50 || stats.KnownChunks != int64(orShort(950, 150)) {
		t.Errorf("%+v", stats)
	}
	k := 0
	for _, r := range packs.order {
		if r.Kind != crypto.ChunkData {
			continue
		}
		d, err := packs.keys.ChunkID(crypto.ChunkData, plain[k*PackedMinChunk:(k+1)*PackedMinChunk])
		if err != nil || d != r.D {
			t.Fatalf("chunk %d comes out of order, %v", k, err)
		}
		k++
	}
	checkObject(t, packs, s, &o, f)
}

// TestPackedLarge makes the largest objects.
func TestPackedLarge(t *testing.T) {
	for _, chunk := range []int{PackedMinChunk, PackedChunkBytes, V2MaxChunk} {
		packs := newFakePacks(t)
		s := packs.sealer(t, PackedOptions{ChunkBytes: chunk})
		f := newSparseFile(PackedMaxBytes)
		at := []int64{0, 5 << 30, 1 << 40, 1 << 62, math.MaxInt64 - 1}
		for _, off := range at {
			f.write([]byte("x"), off)
		}
		o, stats := update1(t, s, nil, f, f.data())
		if want := map[int]int{PackedMinChunk: 7, PackedChunkBytes: 6, V2MaxChunk: 6}[chunk]; o.Levels() != want || stats.ReadChunks != 5 {
			t.Errorf("%d levels, %+v", o.Levels(), stats)
		}
		r, err := s.Reader(&o)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range at {
			var b [2]byte
			n, err := r.ReadRange(t.Context(), b[:min(2, math.MaxInt64-off)], off)
			if err != nil && !errors.Is(err, io.EOF) || b != [2]byte{'x'} {
				t.Errorf("at %d: %q, %d bytes, %v", off, b, n, err)
			}
		}
		checkObject(t, packs, s, &o, f)
		f.truncate(10)
		small, stats := update1(t, s, &o, f, ranges())
		if small.Levels() != 0 || stats.ReadChunks != 1 || stats.SealedChunks != 1 {
			t.Errorf("%+v", stats)
		}
		f.truncate(PackedMaxBytes)
		o, stats = update1(t, s, &small, f, ranges())
		if stats.ReadChunks != 1 || stats.KnownChunks != 1 {
			t.Errorf("%+v", stats)
		}
		checkObject(t, packs, s, &o, f)
	}
}
