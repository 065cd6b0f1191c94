package selfenc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// TestPackedDirty checks which dirty ranges are accepted.
func TestPackedDirty(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk})
	f := packedFile(t, randomBytes(seeded(t), 10*PackedMinChunk))
	failed := errors.New("the ranges are gone")
	for name, c := range map[string]struct {
		dirty iter.Seq2[Range, error]
		ok    bool
	}{
		"none":                        {ranges(), true},
		"touching":                    {ranges(Range{0, 5}, Range{5, 0}, Range{5, 5}, Range{PackedMinChunk, 1}), true},
		"beyond the size":             {ranges(Range{5, math.MaxInt64 - 5}, Range{1 << 63, math.MaxInt64}), true},
		"empty, far away":             {ranges(Range{math.MaxUint64, 0}), true},
		"overlapping":                 {ranges(Range{0, 5}, Range{4, 5}), false},
		"descending":                  {ranges(Range{PackedMinChunk, 5}, Range{0, 5}), false},
		"descending, beyond the size": {ranges(Range{1 << 50, 5}, Range{1 << 49, 5}), false},
		"overflow":                    {ranges(Range{5, math.MaxUint64}), false},
		"empty, descending":           {ranges(Range{5, 5}, Range{4, 0}), false},
		"error": {func(yield func(Range, error) bool) {
			_ = yield(Range{0, 5}, nil) && yield(Range{}, failed)
		}, false},
	} {
		_, _, err := s.Update(t.Context(), nil, f.size, c.dirty, f)
		if (err == nil) != c.ok || name == "error" && !errors.Is(err, failed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Update(t.Context(), nil, -1, ranges(), f); !errors.Is(err, ErrTooLarge) {
		t.Errorf("negative size: %v", err)
	}
	if _, _, err := s.Update(t.Context(), &PackedObject{Bytes: 5}, 5, ranges(), f); !errors.Is(err, ErrMap) {
		t.Errorf("invalid object: %v", err)
	}
}

// failingFile fails at a byte, or is shorter than it should be.
type failingFile struct {
	*sparseFile
	at  int64
	err error
}

func (f *failingFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.at && f.at < off+int64(len(p)) {
		n, _ := f.sparseFile.ReadAt(p[:f.at-off], off)
		return n, f.err
	}
	return f.sparseFile.ReadAt(p, off)
}

// TestPackedErrors has everything fail that an Update uses, with one job and with many.
func TestPackedErrors(t *testing.T) {
	packs := newFakePacks(t)
	failed := errors.New("out of order")
	before := runtime.NumGoroutine()
	for _, chunks := range []int64{1, 5, orShort[int64](280, 130)} {
		plain := randomBytes(seeded(t), int(chunks*PackedMinChunk))
		f := packedFile(t, plain)
		for _, workers := range []int{1, 3} {
			s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, Workers: workers, DedupChunks: -1})
			for _, at := range []int64{0, f.size / 2, f.size - 1} {
				_, _, err := s.Update(t.Context(), nil, f.size, AllDirty(f.size), &failingFile{f, at, failed})
				if !errors.Is(err, failed) {
					t.Errorf("%d chunks: reading fails at %d: %v", chunks, at, err)
				}
				_, _, err = s.Update(t.Context(), nil, f.size, AllDirty(f.size), &failingFile{f, at, io.EOF})
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%d chunks: a file that ends at %d: %v", chunks, at, err)
				}
			}
			for _, last := range []int64{0, chunks / 2, chunks - 1, chunks} { // chunks: a node
				n := int64(0)
				packs.fail = func(*PackedRef) error {
					if n++; n > last {
						return failed
					}
					return nil
				}
				_, _, err := s.Update(t.Context(), nil, f.size, AllDirty(f.size), f)
				packs.fail = nil
				if !errors.Is(err, failed) && (last < chunks || chunks > 5) {
					t.Errorf("%d chunks: storing fails at %d: %v", chunks, last, err)
				}
			}
			stop := errors.New("stop")
			ctx, cancel := context.WithCancelCause(t.Context())
			packs.fail = func(*PackedRef) error { cancel(stop); return nil }
			_, _, err := s.Update(ctx, nil, f.size, AllDirty(f.size), f)
			packs.fail = nil
			if chunks > 64 && !errors.Is(err, stop) {
				t.Errorf("%d chunks: cancelled: %v", chunks, err)
			}
			// Nothing was lost: the memory of all batches is there.
			if len(s.places) != workers {
				t.Errorf("%d places of %d", len(s.places), workers)
			}
			o, _ := update1(t, s, nil, f, AllDirty(f.size))
			if chunks < 40 {
				checkObject(t, packs, s, &o, f)
			}
		}
	}
	n := runtime.NumGoroutine()
	for end := time.Now().Add(10 * time.Second); n > before && time.Now().Before(end); n = runtime.NumGoroutine() {
		runtime.Gosched() // one that has done its work may not have ended yet
	}
	if n > before {
		t.Errorf("%d goroutines more", n-before)
	}
}

// TestPackedErased uses keys that are gone.
func TestPackedErased(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{})
	f := packedFile(t, []byte("hello, world!"))
	o, _ := update1(t, s, nil, f, AllDirty(f.size))
	packs.keys.Erase()
	if _, _, err := s.Update(t.Context(), &o, f.size, AllDirty(f.size), f); !errors.Is(err, crypto.ErrErased) {
		t.Errorf("%v", err)
	}
	if _, err := s.Open(t.Context(), &o.Root, nil); !errors.Is(err, crypto.ErrErased) {
		t.Errorf("%v", err)
	}
}

// countingFile notes how many goroutines and reads there are.
type countingFile struct {
	*sparseFile
	goroutines, reading, most atomic.Int64
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	f.goroutines.Store(max(f.goroutines.Load(), int64(runtime.NumGoroutine())))
	f.most.Store(max(f.most.Load(), f.reading.Add(1)))
	defer f.reading.Add(-1)
	return f.sparseFile.ReadAt(p, off)
}

// TestPackedSmall checks that a small file costs one read and no goroutine.
func TestPackedSmall(t *testing.T) {
	packs := newFakePacks(t)
	s := packs.sealer(t, PackedOptions{})
	before := int64(runtime.NumGoroutine())
	for _, size := range []int{1, PackedChunkBytes, packedBatchBytes} {
		f := &countingFile{sparseFile: packedFile(t, randomBytes(seeded(t), size))}
		o, stats, err := s.Update(t.Context(), nil, f.size, AllDirty(f.size), f)
		if err != nil || f.reads != 1 || f.goroutines.Load() > before {
			t.Errorf("%d bytes: %d reads, %d goroutines, %v", size, f.reads, f.goroutines.Load(), err)
		}
		if size <= PackedChunkBytes && (o.Root.Kind != crypto.ChunkData || stats.Nodes != 0) {
			t.Errorf("%+v", stats)
		}
	}
}

// TestPackedTogether runs many updates at once. All of them use the workers of the PackedSealer.
func TestPackedTogether(t *testing.T) {
	chunks := orShort(400, 50)
	for _, workers := range []int{1, 2, 5} {
		packs := newFakePacks(t)
		s := packs.sealer(t, PackedOptions{ChunkBytes: PackedMinChunk, Workers: workers})
		plain := randomBytes(seeded(t), chunks*PackedMinChunk)
		file := &countingFile{sparseFile: packedFile(t, plain)}
		var wg sync.WaitGroup
		for k := range 12 {
			wg.Go(func() {
				size := int64(len(plain)) * int64(k) / 11
				o, _, err := s.Update(t.Context(), nil, size, AllDirty(size), io.NewSectionReader(file, 0, size))
				if err != nil {
					t.Error(err)
					return
				}
				size = min(size+PackedMinChunk/2, file.size)
				last := max(0, size-PackedMinChunk)
				o, _, err = s.Update(t.Context(), &o, size, ranges(Range{uint64(last), PackedMinChunk}), io.NewSectionReader(file, 0, size))
				if err != nil {
					t.Error(err)
					return
				}
				r, err := s.Reader(&o)
				if err != nil {
					t.Error(err)
					return
				}
				var got bytes.Buffer
				if err := r.Copy(t.Context(), &got, 0, math.MaxInt64); err != nil || !bytes.Equal(got.Bytes(), plain[:size]) {
					t.Errorf("%d bytes: %d, %v", size, got.Len(), err)
				}
			})
		}
		wg.Wait()
		if n := file.most.Load(); n > int64(workers) {
			t.Errorf("%d reads at once", n)
		}
		if n := packs.adds[crypto.ChunkData]; n < chunks || n > chunks+2*12*workers+24 {
			t.Errorf("%d chunks stored", n)
		}
	}
}

// TestPackedProgress checks that progress adds up to what was read.
func TestPackedProgress(t *testing.T) {
	packs := newFakePacks(t)
	total := int64(0)
	s, err := NewPackedSealer(packs.keys, crypto.SuiteXAES256GCM, packs, packs, PackedOptions{Progress: func(n int64) { total += n }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := packedFile(t, randomBytes(seeded(t), 20*PackedChunkBytes+3))
	o, stats := update1(t, s, nil, f, AllDirty(f.size))
	if total != f.size || stats.ReadBytes != total || o.Root.Suite != crypto.SuiteXAES256GCM {
		t.Errorf("%d bytes, %+v", total, stats)
	}
	checkObject(t, packs, s, &o, f)
}

// TestPackedMemory makes the map of a file of 1 TiB, all of which is dirty, in memory that does not
// depend on its size.
func TestPackedMemory(t *testing.T) {
	size := orShort[int64](1<<40, 1<<34)
	packs := &nullPacks{}
	s, err := NewPackedSealer(testKeys(t, 7), crypto.SuiteXChaCha20Poly1305, packs, packs, PackedOptions{DedupChunks: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := PackedObject{Bytes: size, ChunkBytes: PackedChunkBytes}
	var stats UpdateStats
	b := packedBuilder{s: s, old: s.tree(&PackedObject{ChunkBytes: PackedChunkBytes}), shape: o.shape(), stats: &stats, open: make([]*openNode, o.Levels())}
	c := packedChild{ref: testRef(crypto.ChunkData, PackedChunkBytes, 2)}
	before := liveBytes()
	for i := range o.Chunks() {
		c.ref.Offset = PackHeaderBytes + uint32(i%(1<<20))
		if err := b.put(t.Context(), 0, i, &c); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if more := liveBytes() - before; more > 8<<20 {
		t.Errorf("%d bytes more in use", more)
	}
	o.Content, o.Root = root.c, root.ref
	if err := o.Validate(); err != nil || stats.Nodes < size>>24 {
		t.Errorf("%+v, %v", stats, err)
	}
	runtime.KeepAlive(b)
}

// TestPackedAllocations checks that an update allocates nothing for a chunk, but what sealing it does.
func TestPackedAllocations(t *testing.T) {
	if raceDetector {
		return // it allocates, too
	}
	const chunks = 256
	packs := &nullPacks{}
	s, err := NewPackedSealer(testKeys(t, 7), crypto.SuiteXChaCha20Poly1305, packs, packs, PackedOptions{DedupChunks: -1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var g golden
	goldenJSON(t, "manifest.json", &g)
	for _, kind := range []string{"random", "text"} {
		plain := g.generate(kind, chunks*PackedChunkBytes)
		r := bytes.NewReader(plain)
		update := testing.AllocsPerRun(3, func() {
			if _, _, err := s.Update(t.Context(), nil, r.Size(), AllDirty(r.Size()), r); err != nil {
				t.Fatal(err)
			}
		})
		room, object := make([]byte, 0, 2*PackedChunkBytes), make([]byte, 0, 2*PackedChunkBytes)
		seal := testing.AllocsPerRun(3, func() {
			for at := 0; at < len(plain); at += PackedChunkBytes {
				chunk, comp := plain[at:at+PackedChunkBytes], uint8(compNone)
				if kind == "text" {
					comp = compZstd
				}
				if _, _, err := s.keys.SealPacked(s.suite, crypto.ChunkData, comp, chunk, s.encoder.EncodeAll(chunk, room), object); err != nil {
					t.Fatal(err)
				}
			}
		})
		if update >= seal+chunks {
			t.Errorf("%s: %v allocations, and %v to seal the chunks", kind, update, seal)
		}
	}
}
