package selfenc

import (
	"errors"
	"fmt"
	"math"
	"testing"
)

func TestDataMapForms(t *testing.T) {
	m, _, err := Encrypt(SE31, randomBytes(seeded(t), 5000), Options{ChunkBytes: 1024})
	if err != nil {
		t.Fatal(err)
	}
	root := &DataMap{Chunks: m.Chunks}
	for _, m := range []*DataMap{m, root} {
		for _, f := range []MapForm{MapV0, MapV0C, MapV1, MapJSON} {
			b, err := m.Encode(f)
			if f == MapV0 && m.Child != 0 {
				if !errors.Is(err, ErrEncoding) {
					t.Errorf("%v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, form, err := DecodeDataMap(b)
			if err != nil || form != f || fmt.Sprint(got) != fmt.Sprint(m) {
				t.Errorf("%s: %s, %v", f, form, err)
			}
			if f != MapJSON {
				for i := range b {
					if _, form, err := DecodeDataMap(b[:i]); err == nil && (f != MapV0C || form != MapV0) {
						t.Errorf("%s: %d of %d bytes are a map, too: %s", f, i, len(b), form)
					}
				}
				if _, form, err := DecodeDataMap(append(b, 0)); err == nil && (f != MapV0 || form != MapV0C) {
					t.Errorf("%s: with a byte more it is a map, too: %s", f, form)
				}
			}
		}
	}
	hexJSON := []byte(`{"chunk_identifiers":[`)
	for i := range 3 {
		if i > 0 {
			hexJSON = append(hexJSON, ',')
		}
		hexJSON = fmt.Appendf(hexJSON, `{"index":%d,"dst_hash":"%s","src_hash":"%s","src_size":5}`, i, Name{1}, Name{2})
	}
	if m, f, err := DecodeDataMap(append(hexJSON, `],"child":null}`...)); err != nil || f != MapJSON || m.Chunks[2].SrcHash != (Name{2}) {
		t.Errorf("JSON with hexadecimal digits: %v", err)
	}
}

func TestBadMaps(t *testing.T) {
	good, _, err := Encrypt(SE36, make([]byte, 100), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*DataMap){
		"two chunks":      func(m *DataMap) { m.Chunks = m.Chunks[:2] },
		"no chunks":       func(m *DataMap) { m.Chunks = nil },
		"a gap":           func(m *DataMap) { m.Chunks[2].Index = 3 },
		"twice":           func(m *DataMap) { m.Chunks[1].Index = 0 },
		"empty chunk":     func(m *DataMap) { m.Chunks[1].SrcBytes = 0 },
		"huge chunk":      func(m *DataMap) { m.Chunks[1].SrcBytes = math.MaxUint64 },
		"too many levels": func(m *DataMap) { m.Child = 9 },
	} {
		m := &DataMap{Chunks: append([]ChunkInfo(nil), good.Chunks...)}
		edit(m)
		if _, err := Open(t.Context(), SE36, &memoryStore{}, m, Options{}); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := m.Encode(MapV1); !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.Context(), V2, &memoryStore{}, good, Options{}); !errors.Is(err, ErrEncoding) {
		t.Errorf("%v", err)
	}
	for _, n := range []int{-1, maxChunkBytes} {
		if _, _, err := Encrypt(SE36, make([]byte, 100), Options{ChunkBytes: n}); !errors.Is(err, ErrInvalidChunkSize) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// TestDecompressionBomb checks that never more is decompressed than the length in the map.
func TestDecompressionBomb(t *testing.T) {
	for _, e := range []Encoding{SE31, SE36} {
		plain := make([]byte, 30<<20)
		m, chunks, err := Encrypt(e, plain, Options{ChunkBytes: 16 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []uint64{1, m.Chunks[0].SrcBytes - 1, m.Chunks[0].SrcBytes + 1} {
			bad := &DataMap{Chunks: append([]ChunkInfo(nil), m.Chunks...)}
			bad.Chunks[0].SrcBytes = size
			if _, err := Decrypt(e, bad, chunks, Options{}); !errors.Is(err, ErrCompression) {
				t.Errorf("%s, %d bytes: %v", e, size, err)
			}
		}
		if err := decompressBrotli(make([]byte, 10), nil); !errors.Is(err, ErrCompression) {
			t.Error(err)
		}
	}
}
