package selfenc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func packedRefs() []PackedRef {
	plain := PackedRef{Ref: Ref{Suite: 1, Kind: crypto.ChunkData, Length: 65536, D: [32]byte{1}, P: [32]byte{1}}, Stored: 65552, Pack: 7, Offset: 32}
	zstd := PackedRef{Ref: Ref{Suite: 2, Kind: crypto.ChunkTree, Comp: compZstd, Length: 65536, D: [32]byte{1}, P: [32]byte{2}}, Stored: 999, Pack: 1 << 31, Offset: 4 << 20, Slot: 4095}
	return []PackedRef{{}, plain, zstd}
}

func TestPackedRef(t *testing.T) {
	for i, r := range packedRefs() {
		b := AppendPackedRef([]byte("front"), &r)[5:]
		want := []int{PackedRefBytes, PackedRefBytes, MaxPackedRefBytes}[i]
		got, n, err := DecodePackedRef(append(bytes.Clone(b), "behind"...))
		if err != nil || got != r || n != want || len(b) != want {
			t.Errorf("%d: %+v of %d bytes, %v", i, got, n, err)
		}
		if _, _, err := DecodePackedRef(b[:len(b)-1]); !errors.Is(err, ErrMap) {
			t.Errorf("%d: cut: %v", i, err)
		}
	}
	for name, edit := range map[string]func(*PackedRef){
		"suite": func(r *PackedRef) { r.Suite = 9 }, "kind": func(r *PackedRef) { r.Kind = 0 }, "compression": func(r *PackedRef) { r.Comp = 9 },
		"length": func(r *PackedRef) { r.Length++ }, "stored": func(r *PackedRef) { r.Stored = 15 }, "slot": func(r *PackedRef) { r.Slot = 4096 },
		"in the header": func(r *PackedRef) { r.Offset = 31 }, "behind the end": func(r *PackedRef) { r.Offset = MaxPackBytes - 65551 },
		"offset that wraps": func(r *PackedRef) { r.Offset = 0xffffffff }, "too long": func(r *PackedRef) { r.Length, r.Stored = V2MaxChunk+1, V2MaxChunk+17 },
		"longer by compression": func(r *PackedRef) { r.Comp = compZstd },
	} {
		r := packedRefs()[1]
		edit(&r)
		if _, _, err := DecodePackedRef(AppendPackedRef(nil, &r)); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPackedRef(f *testing.F) {
	for _, r := range packedRefs() {
		f.Add(AppendPackedRef(nil, &r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := DecodePackedRef(b)
		if err == nil && !bytes.Equal(AppendPackedRef(nil, &r), b[:n]) {
			t.Errorf("%x decodes to %+v", b, r)
		}
	})
}
