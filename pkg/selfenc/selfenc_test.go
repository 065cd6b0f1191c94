package selfenc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// TestSizes encrypts and decrypts data of every size around the boundaries, completely and in
// ranges.
func TestSizes(t *testing.T) {
	rng := seeded(t)
	for _, c := range codecs(t) {
		t.Run(c.name, func(t *testing.T) {
			n := c.chunk
			for _, size := range []int{0, 1, 2, 3, 4, 5, 63, 64, 65, n - 1, n, n + 1, 2*n - 1, 2 * n, 2*n + 1, 3*n - 1, 3 * n, 3*n + 1, 3*n + 2, 4 * n, 4*n + 1, 7*n + n/2} {
				plain := randomBytes(rng, size)
				store := &memoryStore{}
				// A reader may return one byte at a time, and the end together with the last byte.
				r := iotest.DataErrReader(bytes.NewReader(plain))
				if size < 5000 {
					r = iotest.OneByteReader(r)
				}
				open, err := c.encrypt(t.Context(), store, r, Options{ChunkBytes: n})
				if size < c.min {
					if !errors.Is(err, ErrTooSmall) {
						t.Errorf("%d bytes: %v", size, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				r2, err := open(t.Context(), Options{})
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				checkRanges(t, rng, r2, plain)
			}
		})
	}
}

func checkRanges(t *testing.T, rng *rand.Rand, r *Reader, plain []byte) {
	t.Helper()
	size := len(plain)
	if r.Size() != int64(size) {
		t.Fatalf("%d bytes, want %d", r.Size(), size)
	}
	var got bytes.Buffer
	if err := r.Copy(t.Context(), &got, 0, math.MaxInt64); err != nil || !bytes.Equal(got.Bytes(), plain) {
		t.Fatalf("%d bytes: %v", size, err)
	}
	for range 8 {
		from := rng.IntN(size + 1)
		to := from + rng.IntN(size-from+1)
		got.Reset()
		if err := r.Copy(t.Context(), &got, int64(from), int64(to-from)); err != nil || !bytes.Equal(got.Bytes(), plain[from:to]) {
			t.Fatalf("%d bytes: copy %d to %d: %v", size, from, to, err)
		}
		p := make([]byte, to-from)
		if n, err := r.ReadRange(t.Context(), p, int64(from)); err != nil || n != len(p) || !bytes.Equal(p, plain[from:to]) {
			t.Fatalf("%d bytes: read %d to %d: %d, %v", size, from, to, n, err)
		}
	}
	if n, err := r.ReadRange(t.Context(), make([]byte, 10), int64(size)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := r.ReadRange(t.Context(), make([]byte, 10), -1); err == nil {
		t.Error("read before the beginning")
	}
	if err := r.Copy(t.Context(), io.Discard, int64(size)+1, 0); err == nil {
		t.Error("copy beyond the end")
	}
	if b, err := io.ReadAll(io.NewSectionReader(r.At(t.Context()), 0, r.Size())); err != nil || !bytes.Equal(b, plain) {
		t.Errorf("as io.ReaderAt: %v", err)
	}
	if size < 300 { // it reads byte by byte
		if err := iotest.TestReader(io.NewSectionReader(r.At(t.Context()), 0, r.Size()), plain); err != nil {
			t.Error(err)
		}
	}
}

// TestSameWithAnyWorkers checks that parallel work does not change the result.
func TestSameWithAnyWorkers(t *testing.T) {
	plain := randomBytes(seeded(t), 20<<10)
	for _, e := range []Encoding{SE31, SE36} {
		var first *DataMap
		for _, workers := range []int{1, 2, 3, 16, math.MaxInt} {
			m, _, err := Encrypt(e, plain, Options{ChunkBytes: 512, Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = m
			} else if fmt.Sprint(m) != fmt.Sprint(first) {
				t.Errorf("%s: %d workers give another map", e, workers)
			}
		}
	}
	store := &memoryStore{}
	var first *Object
	big := bytes.Repeat(plain, 30)
	for _, workers := range []int{1, 2, 3, 16} {
		o, err := testSealer(t, store, Options{ChunkBytes: V2MinChunk, Workers: workers}).Encrypt(t.Context(), bytes.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = o
		} else if *o != *first {
			t.Errorf("v2: %d workers give another object", workers)
		}
	}
}

// TestLevels tests maps of many levels, for which the reference implementation's encoder loses a
// level. Its decoders read our maps: see test/interop/selfenc.
func TestLevels(t *testing.T) {
	for _, e := range []Encoding{SE31, SE36} {
		for _, form := range []MapForm{MapV0C, MapV1} {
			o := Options{ChunkBytes: 1024, MapForm: form}
			if e == SE36 && form == MapV0C {
				if _, _, err := Encrypt(e, make([]byte, 10), o); !errors.Is(err, ErrEncoding) {
					t.Errorf("%v", err)
				}
				continue
			}
			deepest := uint64(0)
			for _, size := range []int{3 << 10, 38 << 10, 39 << 10, 60 << 10, 1300 << 10} {
				if testing.Short() && e == SE31 && form == MapV0C && size > 100<<10 {
					continue // each chunk needs an encoder, which is slow; the other forms are sufficient
				}
				plain := randomBytes(seeded(t), size)
				m, chunks, err := Encrypt(e, plain, o)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := Decrypt(e, m, chunks, Options{}); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%s %s: %d bytes: %v", e, form, size, err)
				}
				if len(m.Chunks) != 3 {
					t.Errorf("%s: %d chunks in the last map", e, len(m.Chunks))
				}
				deepest = max(deepest, m.Child)
			}
			if deepest != 3 && !testing.Short() {
				t.Errorf("%s: %d levels, want 3", e, deepest)
			}
		}
	}
	// With chunks of one byte, each level is larger than the one below.
	if _, _, err := Encrypt(SE36, make([]byte, 100), Options{ChunkBytes: 1}); !errors.Is(err, ErrInvalidChunkSize) {
		t.Errorf("a map that cannot shrink: %v", err)
	}
}

// TestLostLevel checks that a map from which the reference implementation's encoder has lost a
// level is refused.
func TestLostLevel(t *testing.T) {
	for _, e := range []Encoding{SE31, SE36} {
		store := &memoryStore{}
		m, err := EncryptTo(t.Context(), e, store, bytes.NewReader(randomBytes(seeded(t), 60<<10)), Options{ChunkBytes: 1024})
		if err != nil {
			t.Fatal(err)
		}
		if m.Child != 2 {
			t.Fatalf("child %d", m.Child)
		}
		m.Child = 1
		if _, err := Open(t.Context(), e, store, m, Options{}); !errors.Is(err, ErrMap) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", e, err)
		}
	}
}

// TestUnshrunk tests maps of crate version 0.30, which may have any length.
func TestUnshrunk(t *testing.T) {
	plain := randomBytes(seeded(t), 50_000)
	store := &memoryStore{}
	maps, err := encryptLevels(t.Context(), SE31, store, bytes.NewReader(plain), Options{ChunkBytes: 1024})
	if err != nil {
		t.Fatal(err)
	}
	b, err := maps[0].Encode(MapV0)
	if err != nil {
		t.Fatal(err)
	}
	m, form, err := DecodeDataMap(b)
	if err != nil || form != MapV0 {
		t.Fatalf("%s, %v", form, err)
	}
	r, err := Open(t.Context(), SE31, store, m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := r.Copy(t.Context(), &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), plain) {
		t.Error(err)
	}
	again, err := Shrink(t.Context(), SE31, store, m, Options{ChunkBytes: 1024})
	if err != nil || fmt.Sprint(again) != fmt.Sprint(maps[len(maps)-1]) {
		t.Errorf("shrinking gives another map: %v", err)
	}
}

// TestReaderErrors checks that no error of the reader except for io.EOF is taken for the end.
func TestReaderErrors(t *testing.T) {
	for _, c := range codecs(t) {
		for _, bad := range []error{io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF), errors.New("disk")} {
			for _, n := range []int{0, 1, c.chunk, 3*c.chunk + 1, 5 * c.chunk} {
				r := io.MultiReader(bytes.NewReader(make([]byte, n)), iotest.ErrReader(bad))
				if _, err := c.encrypt(t.Context(), &memoryStore{}, r, Options{ChunkBytes: c.chunk}); !errors.Is(err, bad) {
					t.Errorf("%s after %d bytes: %v, want %v", c.name, n, err, bad)
				}
			}
		}
	}
}

// brokenStore fails, or changes what it returns.
type brokenStore struct {
	memoryStore
	puts  atomic.Int64
	onPut func(n int64) error
}

func (s *brokenStore) PutChunk(ctx context.Context, name Name, data []byte) error {
	if err := s.onPut(s.puts.Add(1)); err != nil {
		return err
	}
	return s.memoryStore.PutChunk(ctx, name, data)
}

// TestStoreFails checks that encryption fails if any put fails.
func TestStoreFails(t *testing.T) {
	why := errors.New("full")
	for _, c := range codecs(t) {
		plain := randomBytes(seeded(t), 10*c.chunk+5)
		all := &brokenStore{onPut: func(int64) error { return nil }}
		if _, err := c.encrypt(t.Context(), all, bytes.NewReader(plain), Options{ChunkBytes: c.chunk}); err != nil {
			t.Fatal(err)
		}
		for n := int64(1); n <= all.puts.Load(); n++ {
			s := &brokenStore{onPut: func(i int64) error {
				if i == n {
					return why
				}
				return nil
			}}
			if _, err := c.encrypt(t.Context(), s, bytes.NewReader(plain), Options{ChunkBytes: c.chunk}); !errors.Is(err, why) {
				t.Errorf("%s: put %d of %d: %v", c.name, n, all.puts.Load(), err)
			}
		}
	}
}

// TestCancel checks that work ends when the context ends, with its cause as the error.
func TestCancel(t *testing.T) {
	why := errors.New("enough")
	for _, c := range codecs(t) {
		plain := randomBytes(seeded(t), 20*c.chunk)
		for _, after := range []int64{1, 5} {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := &brokenStore{onPut: func(i int64) error {
				if i == after {
					cancel(why)
				}
				return nil
			}}
			if _, err := c.encrypt(ctx, s, bytes.NewReader(plain), Options{ChunkBytes: c.chunk, Workers: 2}); !errors.Is(err, why) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		s := &memoryStore{}
		open, err := c.encrypt(t.Context(), s, bytes.NewReader(plain), Options{ChunkBytes: c.chunk})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		r, err := open(ctx, Options{Workers: 2, Progress: func(p Progress) {
			if p.Chunks == 3 {
				cancel(why)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := r.Copy(ctx, &got, 0, r.Size()); !errors.Is(err, why) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !bytes.HasPrefix(plain, got.Bytes()) {
			t.Errorf("%s: what was written before is wrong", c.name)
		}
	}
}

func TestProgress(t *testing.T) {
	for _, c := range codecs(t) {
		plain := randomBytes(seeded(t), 10*c.chunk+5)
		var seen []Progress
		count := func(p Progress) { seen = append(seen, p) }
		s := &memoryStore{}
		open, err := c.encrypt(t.Context(), s, bytes.NewReader(plain), Options{ChunkBytes: c.chunk, Progress: count})
		if err != nil {
			t.Fatal(err)
		}
		if last := seen[len(seen)-1]; len(seen) != 11 || last.Chunks != 11 || last.DoneBytes != int64(len(plain)) {
			t.Errorf("%s: %v", c.name, seen)
		}
		seen = nil
		r, err := open(t.Context(), Options{Progress: count})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := seen[len(seen)-1]; last.Chunks != r.Chunks() || last.DoneBytes != r.Size() {
			t.Errorf("%s: %v", c.name, seen)
		}
	}
}
