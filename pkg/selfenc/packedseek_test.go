package selfenc

import (
	"slices"
	"testing"
)

// TestPackedSeek compares NextData and NextHole with the chunks of an object.
func TestPackedSeek(t *testing.T) {
	rng := seeded(t)
	packs := newFakePacks(t)
	for _, chunks := range []int64{1, 2, 30, 256, 257, 3000, 1 << 17, 1 << 40} {
		o, _, list := sparseObject(t, rng, packs, chunks)
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
		for range 100 {
			from := max(0, list[rng.IntN(len(list))]+rng.Int64N(3)-1)
			k, _ := slices.BinarySearch(list, from)
			data, hole := chunks, min(from, chunks)
			if k < len(list) {
				data = list[k]
			}
			for ; k < len(list) && list[k] == hole; k++ {
				hole++
			}
			d, err := s.NextData(t.Context(), &o, from)
			h, err2 := s.NextHole(t.Context(), &o, from)
			if err != nil || err2 != nil || d != data || h != hole {
				t.Fatalf("from chunk %d of %d: data at %d, not %d (%v); a hole at %d, not %d (%v)", from, chunks, d, data, err, h, hole, err2)
			}
		}
	}
}

// TestPackedSeekDense looks for the hole at the end of a file that has none.
func TestPackedSeekDense(t *testing.T) {
	packs := newFakePacks(t)
	const chunks = 256*40 + 3
	f := newSparseFile(chunks * PackedMinChunk)
	for i := range int64(chunks) {
		if i != 256*39+5 {
			f.write([]byte{1, byte(i)}, i*PackedMinChunk)
		}
	}
	o, _ := update1(t, packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk}), nil, f, f.data())
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
	for from, want := range map[int64]int64{0: 256*39 + 5, 256 * 38: 256*39 + 5, 256*39 + 6: chunks, chunks: chunks} {
		if h, err := s.NextHole(t.Context(), &o, from); err != nil || h != want {
			t.Errorf("from %d: a hole at %d, %v", from, h, err)
		}
	}
}
