package pack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

var errKilled = errors.New("killed")

// walker is a writer that walks the same data in the same order each time. Each
// 16 chunks of data make a node that has their references, as maps do.
type walker struct {
	store  chunkstore.Store
	keys   *crypto.TenantKeys
	parent *format.Head
	chunks int
	size   int // of a chunk of data
	jitter int // chunks that are sealed at the same time, in any order

	// Of the last attempt.
	attempt format.ID
	list    *Builder
	index   *Index
	refs    []selfenc.PackedRef // of data, then nodes
	plains  [][]byte
	put     Stored
}

// dying is a sink that stores so many packs.
type dying struct {
	storeSink
	left atomic.Int64
}

func (s *dying) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	if s.left.Add(-1) < 0 {
		return format.Name{}, errKilled
	}
	return s.storeSink.Put(ctx, c, data, sum)
}

func (w *walker) plain(i int) []byte {
	b := make([]byte, w.size)
	rng := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	_, _ = rng.Read(b)
	return b
}

// run makes an attempt that dies after so many packs, and takes over those of
// earlier ones.
func (w *walker) run(t *testing.T, packs int, o IndexOptions) error {
	t.Helper()
	w.list, w.attempt = NewBuilder(w.parent), format.NewID()
	sink := &dying{storeSink: storeSink{w.store, w.attempt}}
	sink.left.Store(int64(packs))
	var err error
	if w.index, err = NewIndex(t.Context(), w.store, w.keys, testSnapshot, w.list, o); err != nil {
		t.Fatal(err)
	}
	defer w.index.Close()
	out, err := NewWriter(t.Context(), w.keys, sink, w.list, Options{PackBytes: minPackBytes, InFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w.refs, w.plains = nil, nil
	var nodes []selfenc.PackedRef
	var node []byte
	for i := 0; i < w.chunks; i += w.jitter {
		n := min(w.jitter, w.chunks-i)
		refs := make([]selfenc.PackedRef, n)
		errs := make([]error, n)
		var group sync.WaitGroup
		for _, j := range rand.Perm(n) {
			group.Go(func() {
				refs[j], errs[j] = w.seal(t.Context(), out, crypto.ChunkData, w.plain(i+j))
			})
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for j := range refs {
			w.plains = append(w.plains, w.plain(i+j))
			node = selfenc.AppendPackedRef(node, &refs[j])
			if w.refs = append(w.refs, refs[j]); len(w.refs)%16 == 0 {
				r, err := w.seal(t.Context(), out, crypto.ChunkMap, node)
				if err != nil {
					return err
				}
				nodes, node = append(nodes, r), nil
			}
		}
	}
	w.refs = append(w.refs, nodes...)
	w.put, err = out.Flush(t.Context())
	return err
}

// seal is what a sealer does: every third chunk is compressed.
func (w *walker) seal(ctx context.Context, out *Writer, kind crypto.ChunkKind, plain []byte) (selfenc.PackedRef, error) {
	d, err := w.keys.ChunkID(kind, plain)
	if err != nil {
		return selfenc.PackedRef{}, err
	}
	if r, ok := w.index.Find(ctx, kind, &d, uint32(len(plain))); ok {
		return r, nil
	}
	var comp uint8
	var payload []byte
	if plain[0]%3 == 0 && kind == crypto.ChunkData {
		comp, payload = 1, plain[:len(plain)/2]
	}
	r, object, err := w.keys.SealPacked(1, kind, comp, plain, payload, nil)
	if err != nil {
		return selfenc.PackedRef{}, err
	}
	return out.Add(ctx, &r, object)
}

// finish stores the list and reads everything by it.
func (w *walker) finish(t *testing.T) *format.Head {
	t.Helper()
	h := &format.Head{Suite: 1, S: testSnapshot}
	var before *List
	if w.parent != nil {
		before = NewList(w.store, w.parent)
	}
	if err := w.list.Finish(t.Context(), &storeSink{w.store, w.attempt}, before, h); err != nil {
		t.Fatal(err)
	}
	if _, err := format.EncodeManifest(h, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	d := NewReader(w.store, w.keys, NewList(w.store, h))
	for i := range w.refs {
		got, err := d.Open(t.Context(), &w.refs[i], nil)
		if err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
		if want := w.plains; i < len(want) && !strings.HasPrefix(string(want[i]), string(got)) {
			t.Fatalf("chunk %d: other bytes", i)
		}
	}
	l := NewList(w.store, h)
	for i := range h.Pages {
		packs, err := l.Page(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		for j := range packs {
			if err := Check(t.Context(), w.store, &packs[j], nil); err != nil {
				t.Error(err)
			}
		}
	}
	return h
}

// stored returns all packs of the store, as TakeOver does, but the parent's.
func (w *walker) stored(t *testing.T, but ...format.ID) map[format.Name]int64 {
	t.Helper()
	all := map[format.Name]int64{}
	for info, err := range w.store.List(t.Context(), format.PackPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n, err := format.ParseName(info.Key)
		if err != nil {
			t.Fatal(err)
		}
		all[n] = info.Bytes
		for _, a := range but {
			if n.Attempt == a {
				delete(all, n)
			}
		}
	}
	return all
}

func newWalker(t *testing.T, chunks int) *walker {
	return &walker{store: chunkstore.NewMemory(), keys: tenant(t, 1), chunks: chunks, size: 4000, jitter: 1}
}

// TestResume: an attempt stores only what the earlier ones have not stored, and
// what was being filled when they died.
func TestResume(t *testing.T) {
	for _, jitter := range []int{1, 7} {
		whole := newWalker(t, 6000)
		whole.jitter = jitter
		if err := whole.run(t, 1<<30, IndexOptions{}); err != nil {
			t.Fatal(err)
		}
		whole.finish(t)
		w := newWalker(t, 6000)
		w.jitter = jitter
		before, _ := fill(t, w.store, w.keys, nil, 100, 3000, rand.New(rand.NewPCG(1, 1)))
		w.parent = before
		parents := w.stored(t)
		var parent format.ID
		for n := range parents {
			parent = n.Attempt
		}
		for _, packs := range []int{3, 60, 60, 100} {
			if err := w.run(t, packs, IndexOptions{Packs: w.stored(t, parent), Warn: func(err error) { t.Error(err) }}); !errors.Is(err, errKilled) {
				t.Fatalf("it did not die: %v", err)
			}
		}
		earlier := w.stored(t, parent)
		if err := w.run(t, 1<<30, IndexOptions{Packs: earlier, Warn: func(err error) { t.Error(err) }}); err != nil {
			t.Fatal(err)
		}
		// Each that died had at most two packs open, and two being uploaded.
		if most := whole.put.Packs - len(earlier) + 4*4; w.put.Packs > most {
			t.Errorf("jitter %d: %d packs stored anew, of %d, when %d were there; at most %d were to be expected", jitter, w.put.Packs, whole.put.Packs, len(earlier), most)
		}
		found := w.index.Found()
		t.Logf("jitter %d: %d packs stored whole; %d taken over of %d; %d stored", jitter, whole.put.Packs, found.Packs, len(earlier), w.put.Packs)
		if found.Packs > len(earlier) || found.Chunks+w.put.Chunks != len(w.refs) {
			t.Errorf("%+v found, %+v stored, of %d chunks", found, w.put, len(w.refs))
		}
		w.finish(t)
	}
}

// TestResumeNothingNew: who died before the commit alone left everything: nothing
// is stored again, nodes have the same references.
func TestResumeNothingNew(t *testing.T) {
	w := newWalker(t, 2000)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	refs := fmt.Sprint(w.refs)
	if err := w.run(t, 0, IndexOptions{Packs: w.stored(t)}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(w.refs) != refs {
		t.Error("other references")
	}
	w.finish(t)
}

// TestResumeTwins: two attempts that knew nothing of each other used the same
// numbers.
func TestResumeTwins(t *testing.T) {
	w := newWalker(t, 3000)
	for _, packs := range []int{100, 130} {
		if err := w.run(t, packs, IndexOptions{}); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	if err := w.run(t, 1<<30, IndexOptions{Packs: w.stored(t)}); err != nil {
		t.Fatal(err)
	}
	if found := w.index.Found(); found.Packs < 130 {
		t.Errorf("%+v", found)
	}
	h := w.finish(t)
	if h.Packs != uint32(w.index.Found().Packs+w.put.Packs) {
		t.Errorf("%d packs in the list", h.Packs)
	}
}

// ranges is a store that changes what ranges return.
type ranges struct {
	chunkstore.Store
	get func(key string, off int64, dst []byte) error
}

func (r *ranges) GetRange(ctx context.Context, key string, off int64, dst []byte) error {
	if err := r.Store.GetRange(ctx, key, off, dst); err != nil {
		return err
	}
	return r.get(key, off, dst)
}

// TestIndexBounded: tables of packs with as many slots as there can be.
func TestIndexBounded(t *testing.T) {
	w := newWalker(t, 60_000)
	w.size = 8
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	all := w.put
	most := 0
	packs := w.stored(t)
	x, err := NewIndex(t.Context(), w.store, w.keys, testSnapshot, NewBuilder(nil), IndexOptions{Packs: packs})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for i := range w.refs[:w.chunks] {
		if r, ok := x.Find(t.Context(), crypto.ChunkData, &w.refs[i].D, w.refs[i].Length); !ok || r != w.refs[i] {
			t.Fatalf("chunk %d of %d in %d packs: %v", i, all.Chunks, all.Packs, ok)
		}
		x.mu.Lock()
		most = max(most, x.slots)
		x.mu.Unlock()
	}
	if most > maxIndexSlots*2 {
		t.Errorf("%d slots in memory", most)
	}
}

// TestFindWaits: a table that is being read is waited for; a caller that stops is not kept.
func TestFindWaits(t *testing.T) {
	w := newWalker(t, 10)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	slow := &ranges{w.store, func(_ string, off int64, _ []byte) error {
		if off > 0 {
			<-held
		}
		return nil
	}}
	x, err := NewIndex(t.Context(), slow, w.keys, testSnapshot, NewBuilder(nil), IndexOptions{Packs: w.stored(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, ok := x.Find(stopped, crypto.ChunkData, &w.refs[0].D, w.refs[0].Length); ok {
		t.Error("found before it was read")
	}
	done := make(chan bool)
	go func() {
		_, ok := x.Find(t.Context(), crypto.ChunkData, &w.refs[0].D, w.refs[0].Length)
		done <- ok
	}()
	close(held)
	if !<-done {
		t.Error("not found, although it was being read")
	}
	var failing = &chunkstoretest.Faulty{Store: w.store}
	dead, end := context.WithCancel(t.Context())
	end()
	if _, err := NewIndex(dead, failing, w.keys, testSnapshot, NewBuilder(nil), IndexOptions{Packs: w.stored(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context has ended: %v", err)
	}
}
