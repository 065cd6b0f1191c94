package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

var errKilled = errors.New("killed")

// mortal is a store for a process that dies before an operation that changes it.
type mortal struct {
	chunkstore.Store
	left  atomic.Int64
	bytes atomic.Int64 // that were put below packs/
}

func (m *mortal) die() error {
	if m.left.Add(-1) < 0 {
		return errKilled
	}
	return nil
}

func (m *mortal) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if err := m.die(); err != nil {
		return false, err
	}
	if strings.HasPrefix(key, format.PackPrefix) {
		m.bytes.Add(int64(len(data)))
	}
	return m.Store.Put(ctx, key, data)
}

func (m *mortal) Replace(ctx context.Context, key string, data []byte) error {
	if err := m.die(); err != nil {
		return err
	}
	return m.Store.Replace(ctx, key, data)
}

func (m *mortal) Delete(ctx context.Context, key string) error {
	if err := m.die(); err != nil {
		return err
	}
	return m.Store.Delete(ctx, key)
}

const resumedChunks, resumedBytes = 400, 4000

func resumedChunk(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%-16d", i), resumedBytes/16) }

// writeResumed is a process that makes snapshot s of resumedChunks chunks on a
// base, or goes on with it. It dies when the store says so.
func writeResumed(t *testing.T, store *mortal, s, base format.ID) error {
	t.Helper()
	keys, ctx := tenant(t), t.Context()
	o := commit.Options{Base: base}
	e, err := commit.FindEarlier(ctx, store, s)
	if err != nil {
		return err
	}
	if len(e.Attempts) > 0 {
		o.Earlier = e
	}
	w, err := commit.Begin(ctx, store, s, o)
	if err != nil {
		return err
	}
	parent, _, err := w.Base(ctx)
	if err != nil {
		return err
	}
	p := &commit.Parts{Keys: e.Keys, Manifest: e.Manifest}
	if p.Keys == nil {
		p.Keys = []byte("slots")
	}
	if p.Manifest == nil {
		if p.Manifest, err = fillResumed(ctx, t, store, w, parent); err != nil {
			return err
		}
	}
	h, _, err := format.DecodeManifest(p.Manifest)
	if err != nil {
		return err
	}
	if p.Card, err = manifest.SealCard(keys, 1, s, card(h)); err != nil {
		return err
	}
	return w.Commit(ctx, p)
}

// fillResumed stores the content of the snapshot and returns its manifest.
func fillResumed(ctx context.Context, t *testing.T, store chunkstore.Store, w *commit.Writer, parent *format.Head) ([]byte, error) {
	t.Helper()
	keys, list := tenant(t), pack.NewBuilder(parent)
	found, err := w.TakeOver(ctx)
	if err != nil {
		return nil, err
	}
	var known selfenc.Known
	x, err := pack.NewIndex(ctx, store, keys, w.Snapshot(), list, pack.IndexOptions{Packs: found, Warn: func(err error) { t.Error(err) }})
	if err != nil {
		return nil, err
	}
	defer x.Close()
	known = x
	pw, err := pack.NewWriter(ctx, keys, w, list, pack.Options{PackBytes: 1 << 17, InFlight: 1})
	if err != nil {
		return nil, err
	}
	defer pw.Close()
	seal := func(kind crypto.ChunkKind, plain []byte) (selfenc.PackedRef, error) {
		d, err := keys.ChunkID(kind, plain)
		if err != nil {
			return selfenc.PackedRef{}, err
		}
		if r, ok := known.Find(ctx, kind, &d, uint32(len(plain))); ok {
			return r, nil
		}
		r, object, err := keys.SealPacked(1, kind, 0, plain, nil, nil)
		if err != nil {
			return selfenc.PackedRef{}, err
		}
		return pw.Add(ctx, &r, object)
	}
	var root []byte
	for i := range resumedChunks {
		r, err := seal(crypto.ChunkData, resumedChunk(i))
		if err != nil {
			return nil, err
		}
		root = selfenc.AppendPackedRef(root, &r)
	}
	r, err := seal(crypto.ChunkTree, root)
	if err == nil {
		_, err = pw.Flush(ctx)
	}
	if err != nil {
		return nil, err
	}
	h := &format.Head{Suite: 1, S: w.Snapshot(), Lineage: id(volumeFrom), Created: 5}
	if err := list.Finish(ctx, w, pack.NewList(store, parent), h); err != nil {
		return nil, err
	}
	return manifest.Seal(keysOf(t, w.Snapshot()), h, body(r))
}

// readResumed reads the whole snapshot.
func readResumed(t *testing.T, store chunkstore.Store, s format.ID) {
	t.Helper()
	root, err := openAll(t, store, tenant(t), s, keysOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := commit.Whole(t.Context(), store, s)
	if err != nil {
		t.Fatal(err)
	}
	d := pack.NewReader(store, tenant(t), pack.NewList(store, h))
	for i := range resumedChunks {
		r, n, err := selfenc.DecodePackedRef([]byte(root))
		if err != nil {
			t.Fatal(err)
		}
		root = root[n:]
		if got, err := d.Open(t.Context(), &r, nil); err != nil || !bytes.Equal(got, resumedChunk(i)) {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
}

// TestResume: a writer dies before each operation that changes the store, pruners
// run, and the next process finishes the snapshot: under the same identity, and
// without storing packs again that were stored.
func TestResume(t *testing.T) {
	whole := &mortal{Store: openGolden(t)}
	whole.left.Store(1 << 30)
	base, s := id(snapFrom), format.ID{0xcc}
	if err := writeResumed(t, whole, s, base); err != nil {
		t.Fatal(err)
	}
	readResumed(t, whole, s)
	ops := 1<<30 - whole.left.Load()
	if ops < 18 {
		t.Fatalf("%d operations", ops)
	}
	for n := range ops {
		store := openGolden(t)
		first, second := &mortal{Store: store}, &mortal{Store: store}
		first.left.Store(n)
		second.left.Store(1 << 30)
		last := n == ops-1 // the lease, which nobody minds
		if err := writeResumed(t, first, s, base); !last && !errors.Is(err, errKilled) {
			t.Fatalf("%d: it did not die: %v", n, err)
		}
		prune(t, store)
		var group sync.WaitGroup
		if !last {
			group.Go(func() {
				for range 3 {
					prune(t, store)
				}
			})
			if err := writeResumed(t, second, s, base); err != nil {
				t.Errorf("%d: the successor: %v", n, err)
			}
		}
		group.Wait()
		prune(t, store)
		prune(t, store)
		readResumed(t, store, s)
		// One pack was being uploaded and one filled.
		if sum := first.bytes.Load() + second.bytes.Load(); sum > whole.bytes.Load()+2<<17 {
			t.Errorf("%d: %d bytes of packs stored in all, of %d", n, sum, whole.bytes.Load())
		}
	}
}

// prune makes a pass that condemns and deletes what it can.
func prune(t *testing.T, store chunkstore.Store) {
	t.Helper()
	if _, err := gc.Prune(t.Context(), store, gc.Options{Undelete: -1, Grace: -1}); err != nil {
		t.Error(err)
	}
}
