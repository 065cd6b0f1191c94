package selfenc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// orShort returns n, or short in short tests: sealing is slow with the race detector.
func orShort[T int | int64](n, short T) T {
	if testing.Short() {
		return short
	}
	return n
}

// fakePacks keeps objects in memory, at other places each time.
type fakePacks struct {
	keys *crypto.TenantKeys

	mu      sync.Mutex
	rng     *rand.Rand
	objects map[fakePlace][]byte // guarded by mu
	adds    map[crypto.ChunkKind]int
	opens   map[crypto.ChunkKind]int
	order   []PackedRef // of Add
	fail    func(r *PackedRef) error
}

type fakePlace struct{ pack, offset uint32 }

func testKeys(t testing.TB, secret byte) *crypto.TenantKeys {
	t.Helper()
	k, err := crypto.NewKey(bytes.Repeat([]byte{secret}, crypto.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	keys, err := crypto.DeriveTenantKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Erase)
	return keys
}

func newFakePacks(t testing.TB) *fakePacks {
	f := &fakePacks{keys: testKeys(t, 7), rng: rand.New(rand.NewPCG(1, 2)), objects: map[fakePlace][]byte{}}
	f.reset()
	return f
}

func (f *fakePacks) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adds, f.opens, f.order = map[crypto.ChunkKind]int{}, map[crypto.ChunkKind]int{}, nil
}

func (f *fakePacks) Add(_ context.Context, r *crypto.ChunkRef, object []byte) (PackedRef, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := PackedRef{Ref: *r, Stored: uint32(len(object)), Pack: f.rng.Uint32(), Offset: PackHeaderBytes + f.rng.Uint32N(1<<24), Slot: uint16(f.rng.Uint32N(MaxPackSlots))}
	if f.fail != nil {
		if err := f.fail(&p); err != nil {
			return PackedRef{}, err
		}
	}
	f.objects[fakePlace{p.Pack, p.Offset}] = bytes.Clone(object)
	f.adds[r.Kind]++
	f.order = append(f.order, p)
	return p, nil
}

func (f *fakePacks) Open(_ context.Context, r *PackedRef, dst []byte) ([]byte, error) {
	f.mu.Lock()
	object, ok := f.objects[fakePlace{r.Pack, r.Offset}]
	f.opens[r.Kind]++
	f.mu.Unlock()
	if !ok {
		return nil, ErrNoSuchChunk
	}
	return f.keys.OpenPacked(&r.Ref, object, dst)
}

func (f *fakePacks) sealer(t testing.TB, o PackedOptions) *PackedSealer {
	t.Helper()
	s, err := NewPackedSealer(f.keys, crypto.SuiteXChaCha20Poly1305, f, f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sparseFile is a model of a file: pages that are not there are zeros.
type sparseFile struct {
	size  int64
	pages map[int64][]byte
	mu    sync.Mutex
	reads int   // guarded by mu
	bytes int64 // guarded by mu
}

const sparsePage = 4096

func newSparseFile(size int64) *sparseFile {
	return &sparseFile{size: size, pages: map[int64][]byte{}}
}

func (f *sparseFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.reads++
	f.bytes += int64(len(p))
	f.mu.Unlock()
	if off < 0 || off > f.size {
		return 0, fmt.Errorf("read at %d of %d", off, f.size)
	}
	var err error
	if int64(len(p)) > f.size-off {
		p, err = p[:f.size-off], io.EOF
	}
	for n := 0; n < len(p); {
		at := (off + int64(n)) % sparsePage
		k := min(len(p)-n, int(sparsePage-at))
		if page := f.pages[(off+int64(n))/sparsePage]; page != nil {
			copy(p[n:n+k], page[at:])
		} else {
			clear(p[n : n+k])
		}
		n += k
	}
	return len(p), err
}

// write writes b and extends the file.
func (f *sparseFile) write(b []byte, off int64) {
	f.size = max(f.size, off+int64(len(b)))
	for len(b) > 0 {
		i, at := off/sparsePage, off%sparsePage
		if f.pages[i] == nil {
			f.pages[i] = make([]byte, sparsePage)
		}
		k := copy(f.pages[i][at:], b)
		if isZero(f.pages[i]) {
			delete(f.pages, i)
		}
		b, off = b[k:], off+int64(k)
	}
}

func (f *sparseFile) truncate(size int64) {
	for i := range f.pages {
		if i*sparsePage >= size {
			delete(f.pages, i)
		}
	}
	if page := f.pages[size/sparsePage]; page != nil {
		clear(page[size%sparsePage:])
		if isZero(page) {
			delete(f.pages, size/sparsePage)
		}
	}
	f.size = size
}

// data returns the ranges of the pages.
func (f *sparseFile) data() iter.Seq2[Range, error] {
	var list []Range
	for _, i := range slices.Sorted(maps.Keys(f.pages)) {
		list = append(list, Range{uint64(i) * sparsePage, sparsePage})
	}
	return ranges(list...)
}

func ranges(list ...Range) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// mergeRanges sorts and joins ranges.
func mergeRanges(list []Range) []Range {
	slices.SortFunc(list, func(a, b Range) int { return int(min(1, max(-1, int64(a.Off)-int64(b.Off)))) })
	var out []Range
	for _, r := range list {
		if n := len(out); n > 0 && r.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, r.Off+r.Len-out[n-1].Off)
		} else if r.Len > 0 {
			out = append(out, r)
		}
	}
	return out
}

// update is Update of a file that must succeed.
func update1(t testing.TB, s *PackedSealer, old *PackedObject, f *sparseFile, dirty iter.Seq2[Range, error]) (PackedObject, UpdateStats) {
	t.Helper()
	o, stats, err := s.Update(t.Context(), old, f.size, dirty, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	return o, stats
}

// structure lists an object's chunks and nodes without their places.
func structure(t testing.TB, s *PackedSealer, o *PackedObject) map[[2]int64]any {
	t.Helper()
	all := map[[2]int64]any{}
	tree := s.tree(o)
	err := s.Walk(t.Context(), o, func(level int, i int64, r *PackedRef) error {
		e, err := tree.entry(t.Context(), level, i)
		if err != nil {
			return err
		}
		if e.ref != *r {
			return errors.New("the walk and the map differ")
		}
		if level > 0 {
			all[[2]int64{int64(level), i}] = e.c
		} else {
			all[[2]int64{0, i}] = [2]any{r.D, r.Length}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// checkObject compares an object with a file, and with what an Update from nothing makes.
func checkObject(t testing.TB, f *fakePacks, s *PackedSealer, o *PackedObject, file *sparseFile) {
	t.Helper()
	fresh := f.sealer(t, PackedOptions{ChunkBytes: s.chunk, DedupChunks: -1})
	want, _ := update1(t, fresh, nil, file, file.data())
	if o.Bytes != want.Bytes || o.ChunkBytes != want.ChunkBytes || o.Content != want.Content || !SamePackedContent(o, &want) {
		t.Fatalf("%+v, from nothing %+v", o, want)
	}
	if a, b := AppendPackedContent(nil, o), AppendPackedContent(nil, &want); !bytes.Equal(a, b) {
		t.Fatalf("placeless forms %x, %x", a, b)
	}
	a, b := structure(t, fresh, o), structure(t, fresh, &want)
	if !maps.Equal(a, b) {
		t.Fatalf("%d and %d chunks and nodes differ", len(a), len(b))
	}
	if o.Levels() > 0 && o.Root == want.Root && o.Root.Kind != 0 {
		t.Fatal("the packer gave one place twice")
	}
	chunks := map[int64]bool{}
	for i := range file.pages {
		chunks[i*sparsePage/int64(s.chunk)] = true
	}
	plain := make([]byte, s.chunk)
	err := fresh.Refs(t.Context(), o, 0, func(i int64, r *PackedRef) error {
		if !chunks[i] {
			return fmt.Errorf("chunk %d is stored, and has no data", i)
		}
		delete(chunks, i)
		p := plain[:min(int64(s.chunk), file.size-i*int64(s.chunk))]
		if _, err := file.ReadAt(p, i*int64(s.chunk)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		got, err := fresh.Open(t.Context(), r, nil)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, p) {
			return fmt.Errorf("chunk %d has other data", i)
		}
		d, err := f.keys.ChunkID(crypto.ChunkData, p)
		if err == nil && d != r.D {
			err = fmt.Errorf("chunk %d has another d", i)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(chunks) > 0 {
		t.Fatalf("%d chunks of data are holes", len(chunks))
	}
	b2 := AppendPackedObject(nil, o)
	got, n, err := DecodePackedObject(append(bytes.Clone(b2), 1))
	if err != nil || n != len(b2) || got != *o || n > MaxPackedObjectBytes {
		t.Fatalf("%+v encodes to %x, which decodes to %+v, %v", o, b2, got, err)
	}
}
