package selfenc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

func TestDeduplication(t *testing.T) {
	store := &memoryStore{}
	s := testSealer(t, store, Options{ChunkBytes: V2MinChunk})
	plain := randomBytes(seeded(t), 40*V2MinChunk)
	a, err := s.Encrypt(t.Context(), bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	before := len(store.chunks)
	plain[0] ^= 1
	b, err := s.Encrypt(t.Context(), bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	if more := len(store.chunks) - before; more != 2 { // the chunk, and the map's root
		t.Errorf("one changed chunk stores %d", more)
	}
	if a.Root == b.Root {
		t.Error("two objects have one root")
	}
	// Another tenant shares nothing.
	before = len(store.chunks)
	if _, err := sealerOf(t, 8, crypto.SuiteXChaCha20Poly1305, store, Options{ChunkBytes: V2MinChunk}).Encrypt(t.Context(), bytes.NewReader(plain)); err != nil {
		t.Fatal(err)
	}
	if more := len(store.chunks) - before; more != 41 {
		t.Errorf("another tenant stores %d chunks, want 41", more)
	}
}

func TestHoles(t *testing.T) {
	rng := seeded(t)
	store := &memoryStore{}
	s := testSealer(t, store, Options{ChunkBytes: V2MinChunk})
	for _, n := range []int{1, V2MinChunk, 3 * V2MinChunk, 600*V2MinChunk + 1} {
		o, err := s.Encrypt(t.Context(), bytes.NewReader(make([]byte, n)))
		if err != nil || o.Root != (Ref{}) || o.Bytes != int64(n) {
			t.Fatalf("%d zeros: %v, %v", n, o, err)
		}
	}
	if len(store.chunks) != 0 {
		t.Errorf("zeros were stored as %d chunks", len(store.chunks))
	}
	plain := make([]byte, 700*V2MinChunk+100)
	copy(plain[300*V2MinChunk+5:], randomBytes(rng, 100))
	copy(plain[len(plain)-10:], "end")
	o, err := s.Encrypt(t.Context(), bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	if len(store.chunks) != 5 { // two of data, their two nodes, the root
		t.Errorf("%d chunks", len(store.chunks))
	}
	r, err := s.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	checkRanges(t, rng, r, plain)
}

// TestHugeObject creates the map of the largest object, in memory that does not depend on its size.
// One object has mostly holes, and one has only equal chunks.
func TestHugeObject(t *testing.T) {
	const count = V2MaxBytes / V2MaxChunk
	few := map[int64]bool{0: true, 255: true, 256: true, 65535: true, 65536: true, count / 2: true, count - 1: true}
	for name, filled := range map[string]func(i int64) bool{
		"holes": func(i int64) bool { return few[i] },
		"alike": func(int64) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			store := &memoryStore{}
			s := testSealer(t, store, Options{ChunkBytes: V2MaxChunk})
			w := &objectWriter{s: s, o: Object{ChunkBytes: V2MaxChunk}, ctx: t.Context()}
			data := randomBytes(seeded(t), 1000)
			plain := append(make([]byte, 0, V2MaxChunk+tagRoom), data...)[:V2MaxChunk]
			ref, err := s.seal(t.Context(), crypto.ChunkData, plain, nil)
			if err != nil {
				t.Fatal(err)
			}
			before := liveBytes()
			for i := range int64(count) {
				r := Ref{}
				if filled(i) {
					r = ref
				}
				if err := w.add(0, r); err != nil {
					t.Fatal(err)
				}
			}
			w.o.Bytes = V2MaxBytes
			if err := w.finish(); err != nil {
				t.Fatal(err)
			}
			if w.o.Levels() != 3 || len(store.chunks) > 30 {
				t.Errorf("%d levels, %d chunks", w.o.Levels(), len(store.chunks))
			}
			r, err := s.Open(&w.o)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			for i := range few {
				for _, at := range []int64{i, i ^ 1} {
					want := make([]byte, len(data))
					if filled(at) {
						want = data
					}
					if _, err := r.ReadRange(t.Context(), got, at*V2MaxChunk); err != nil || !bytes.Equal(got, want) {
						t.Errorf("chunk %d: %v", at, err)
					}
				}
			}
			// A list of all references would need 436 MB.
			if more := liveBytes() - before; more > 48<<20 {
				t.Errorf("%d bytes more in use", more)
			}
			runtime.KeepAlive(w)
			runtime.KeepAlive(r)
		})
	}
}

// liveBytes returns the memory in use, without garbage.
func liveBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestTooLarge(t *testing.T) {
	s := testSealer(t, &memoryStore{}, Options{})
	w := &objectWriter{s: s, index: V2MaxBytes / V2ChunkBytes, free: make(chan *scratch, 1), r: zeroReader{}}
	if _, err := w.next(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than 16 TiB: %v", err)
	}
}

func TestWrongTenant(t *testing.T) {
	for _, suite := range []crypto.Suite{crypto.SuiteXChaCha20Poly1305, crypto.SuiteXAES256GCM} {
		store := &memoryStore{}
		mine, theirs := sealerOf(t, 1, suite, store, Options{ChunkBytes: V2MinChunk}), sealerOf(t, 2, suite, store, Options{ChunkBytes: V2MinChunk})
		for _, n := range []int{100, 200_000} {
			o, err := mine.Encrypt(t.Context(), bytes.NewReader(randomBytes(seeded(t), n)))
			if err != nil {
				t.Fatal(err)
			}
			r, err := theirs.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Verify(t.Context()); !errors.Is(err, ErrKey) {
				t.Errorf("another tenant: %v", err)
			}
			sealed, err := mine.SealObject(o)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := mine.OpenObject(sealed); err != nil || *got != *o {
				t.Errorf("%v", err)
			}
			if _, err := theirs.OpenObject(sealed); !errors.Is(err, ErrKey) {
				t.Errorf("another tenant: %v", err)
			}
			for i := range sealed {
				bad := bytes.Clone(sealed)
				bad[i] ^= 1
				if _, err := mine.OpenObject(bad); err == nil {
					t.Fatalf("byte %d of a sealed object can be changed", i)
				}
			}
		}
	}
	if _, err := NewSealer(nil, 1, &memoryStore{}, Options{}); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	keys := testSealer(t, nil, Options{}).keys
	for _, n := range []int{1, V2MinChunk - 1, V2MinChunk + 1, 3 * V2MinChunk, 2 * V2MaxChunk} {
		if _, err := NewSealer(keys, 1, &memoryStore{}, Options{ChunkBytes: n}); !errors.Is(err, ErrInvalidChunkSize) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if _, err := NewSealer(keys, 3, &memoryStore{}, Options{}); err == nil {
		t.Error("an unknown suite")
	}
}

func TestTrees(t *testing.T) {
	store := &memoryStore{}
	s := testSealer(t, store, Options{})
	for _, n := range []int{0, 1, 10, 100_000, V2MaxChunk} {
		b := randomBytes(seeded(t), n)
		r, err := s.PutTree(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		enc := AppendRef(nil, &r)
		if len(enc) != RefBytes {
			t.Fatal(len(enc))
		}
		if r, err = DecodeRef(enc); err != nil {
			t.Fatal(err)
		}
		if got, err := s.GetTree(t.Context(), &r); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes: %v", n, err)
		}
		r.Kind = crypto.ChunkData
		if _, err := s.GetTree(t.Context(), &r); err == nil {
			t.Error("data is no tree")
		}
	}
	if _, err := s.PutTree(t.Context(), make([]byte, V2MaxChunk+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestForgedMaps seals invalid maps, as an attacker with the tenant secret could. They must be
// refused.
func TestForgedMaps(t *testing.T) {
	store := &memoryStore{}
	s := testSealer(t, store, Options{ChunkBytes: V2MinChunk})
	plain := randomBytes(seeded(t), 300*V2MinChunk+7)
	o, err := s.Encrypt(t.Context(), bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	node, err := s.get(t.Context(), &o.Root)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := DecodeRef(node[nodeHeaderBytes:])
	if err != nil {
		t.Fatal(err)
	}
	second, err := DecodeRef(node[nodeHeaderBytes+RefBytes:])
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(b []byte) []byte{
		"type":        func(b []byte) []byte { b[0] = mapRecord; return b },
		"version":     func(b []byte) []byte { b[1]++; return b },
		"level":       func(b []byte) []byte { b[2]++; return b },
		"shift":       func(b []byte) []byte { b[3]++; return b },
		"count":       func(b []byte) []byte { b[4]++; return b },
		"short":       func(b []byte) []byte { return b[:len(b)-1] },
		"reserved":    func(b []byte) []byte { b[nodeHeaderBytes+3] = 1; return b },
		"length":      func(b []byte) []byte { b[nodeHeaderBytes+4] ^= 1; return b },
		"kind":        func(b []byte) []byte { b[nodeHeaderBytes+1] = 1; return b },
		"compression": func(b []byte) []byte { b[nodeHeaderBytes+2] = 9; return b },
		"itself":      func(b []byte) []byte { return AppendRef(b[:nodeHeaderBytes+RefBytes], &o.Root) },
		"exchanged":   func(b []byte) []byte { return AppendRef(AppendRef(b[:nodeHeaderBytes], &second), &leaf) },
		"holes":       func(b []byte) []byte { clear(b[nodeHeaderBytes:]); return b },
	} {
		root, err := s.put(t.Context(), crypto.ChunkMap, edit(bytes.Clone(node)))
		if err != nil {
			t.Fatal(err)
		}
		bad := *o
		bad.Root = root
		r, err := s.Open(&bad)
		if err == nil {
			err = r.Verify(t.Context())
		}
		if !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, edit := range map[string]func(o *Object){
		"longer":        func(o *Object) { o.Bytes++ },
		"shorter":       func(o *Object) { o.Bytes-- },
		"a level more":  func(o *Object) { o.Bytes *= 300 },
		"a level less":  func(o *Object) { o.Bytes = V2MinChunk },
		"negative":      func(o *Object) { o.Bytes = -1 },
		"beyond":        func(o *Object) { o.Bytes = math.MaxInt64 },
		"empty":         func(o *Object) { o.Bytes = 0 },
		"larger chunks": func(o *Object) { o.ChunkBytes *= 2 },
		"odd chunks":    func(o *Object) { o.ChunkBytes++ },
	} {
		bad := *o
		edit(&bad)
		r, err := s.Open(&bad)
		if err == nil {
			err = r.Verify(t.Context())
		}
		if !errors.Is(err, ErrMap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMapFile(t *testing.T) {
	for _, e := range []Encoding{V2, SE31, SE36} {
		b := EncodeMapFile(e, []byte("body"))
		if got, body, err := DecodeMapFile(b); err != nil || got != e || string(body) != "body" {
			t.Errorf("%s: %v", e, err)
		}
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if _, _, err := DecodeMapFile(bad); !errors.Is(err, ErrMap) {
				t.Errorf("byte %d can be changed: %v", i, err)
			}
			if _, _, err := DecodeMapFile(b[:i]); !errors.Is(err, ErrMap) {
				t.Errorf("%d bytes: %v", i, err)
			}
		}
	}
	if _, _, err := DecodeMapFile(EncodeMapFile(77, nil)); !errors.Is(err, ErrEncoding) {
		t.Error(err)
	}
}

func FuzzDataMap(f *testing.F) {
	m, _, err := Encrypt(SE31, bytes.Repeat([]byte("seed"), 2000), Options{ChunkBytes: 1024})
	if err != nil {
		f.Fatal(err)
	}
	for _, form := range []MapForm{MapV0C, MapV1, MapJSON} {
		b, err := m.Encode(form)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	root := &DataMap{Chunks: m.Chunks}
	for _, form := range []MapForm{MapV0, MapV0C, MapV1, MapJSON} {
		b, err := root.Encode(form)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, form, err := DecodeDataMap(b)
		if err != nil {
			if !errors.Is(err, ErrMap) {
				t.Fatal(err)
			}
			return
		}
		again, err := m.Encode(form)
		if err != nil || form != MapJSON && !bytes.Equal(again, b) {
			t.Fatalf("%s encodes otherwise: %v", form, err)
		}
	})
}

func FuzzMapFile(f *testing.F) {
	f.Add(EncodeMapFile(V2, []byte("body")))
	f.Add(EncodeMapFile(SE36, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, body, err := DecodeMapFile(b)
		if err == nil && !bytes.Equal(EncodeMapFile(e, body), b) {
			t.Fatal("encodes otherwise")
		}
	})
}

func fuzzRef(seed uint64) Ref {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := Ref{Suite: 1, Kind: crypto.ChunkData, Comp: 1, Length: V2MinChunk}
	for _, h := range []*[32]byte{&r.D, &r.P, &r.Name} {
		for i := range h {
			h[i] = byte(rng.Uint32())
		}
	}
	return r
}

func FuzzNode(f *testing.F) {
	a, b := fuzzRef(1), fuzzRef(2)
	b.Length = 5
	f.Add(uint64(V2MinChunk+5), uint8(16), uint8(1), appendNode(nil, 1, V2MinChunk, []Ref{a, b}))
	f.Add(uint64(2*V2MinChunk), uint8(16), uint8(1), appendNode(nil, 1, V2MinChunk, []Ref{{}, a}))
	f.Fuzz(func(t *testing.T, size uint64, shift, level uint8, b []byte) {
		o := Object{Bytes: int64(size), ChunkBytes: 1 << (shift % 32)}
		if o.Validate() != nil || level == 0 || int(level) > o.Levels() {
			return
		}
		refs, err := o.decodeNode(b, int(level), 0)
		if err == nil && !bytes.Equal(appendNode(nil, int(level), o.ChunkBytes, refs), b) {
			t.Fatal("encodes otherwise")
		}
	})
}

func FuzzRecord(f *testing.F) {
	o := Object{Bytes: 5, ChunkBytes: V2MinChunk, Root: fuzzRef(3)}
	o.Root.Length = 5
	f.Add(o.appendRecord(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeRecord(b)
		if err == nil && !bytes.Equal(o.appendRecord(nil), b) {
			t.Fatal("encodes otherwise")
		}
	})
}

// FuzzChunk mutates stored chunks with matching names, because the store is not trusted and maps
// may be forged.
func FuzzChunk(f *testing.F) {
	plain := bytes.Repeat([]byte("a chunk of some text; "), 50)
	for _, e := range []Encoding{SE31, SE36} {
		m, chunks, err := Encrypt(e, plain, Options{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(e), chunks[0].Data, m.Chunks[0].SrcHash[:], uint16(m.Chunks[0].SrcBytes))
	}
	f.Fuzz(func(t *testing.T, e uint8, stored, key []byte, size uint16) {
		if len(key) < 32 {
			return
		}
		enc := SE36
		if e == uint8(SE31) {
			enc = SE31
		}
		info := ChunkInfo{DstHash: enc.NameOf(stored), SrcHash: Name(key[:32]), SrcBytes: uint64(size)}
		dst := make([]byte, size)
		l := crypto.ChunkLink{Own: info.SrcHash, Previous: info.SrcHash, BeforePrevious: info.SrcHash}
		if err := openReference(enc, dst, bytes.Clone(stored), &info, &l); err == nil && enc.NameOf(dst) != info.SrcHash {
			t.Fatal("wrong bytes")
		}
	})
}

// FuzzSealed decompresses arbitrary bytes that are sealed under valid keys.
func FuzzSealed(f *testing.F) {
	s := testSealer(f, &memoryStore{}, Options{})
	f.Add(s.encoder.EncodeAll(bytes.Repeat([]byte("text "), 100), nil), uint32(500))
	f.Add(s.encoder.EncodeAll(make([]byte, 1<<20), nil), uint32(1<<20))
	f.Add(binary.LittleEndian.AppendUint64(nil, 1), uint32(10))
	f.Fuzz(func(t *testing.T, payload []byte, length uint32) {
		store := &memoryStore{}
		s.store = store
		plain := make([]byte, min(length, V2MaxChunk))
		r, object, err := s.keys.SealChunk(1, crypto.ChunkData, compZstd, plain, payload, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.PutChunk(t.Context(), r.Name, object); err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, len(plain))
		dst = append(dst[:0], bytes.Repeat([]byte{1}, len(plain))...)
		if err := s.open(t.Context(), &r, dst, new([]byte)); err == nil && !bytes.Equal(dst, plain) {
			t.Fatal("wrong bytes")
		}
	})
}
