package gc

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// filled returns a store with n snapshots, each on the one before.
func filled(t *testing.T, store chunkstore.Store, n int) *chaosRun {
	t.Helper()
	c := &chaosRun{chaos: &chaos{Store: store, how: "well", old: map[string][]byte{}}, packs: map[format.ID][]format.Name{}}
	description, err := (&format.Store{Format: 1, ID: format.NewID().String(), Consistency: format.Strong, ChunkBytes: 65536, PackBytes: 16 << 20}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), format.StoreKey, description); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := c.write(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func pruned(t *testing.T, store chunkstore.Store, o Options) *Report {
	t.Helper()
	r, err := Prune(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPrune: a forgotten snapshot's own packs go, what its child needs stays;
// nothing goes before its time; a directory store does as well.
func TestPrune(t *testing.T) {
	dir, err := chunkstore.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	for _, store := range []chunkstore.Store{chunkstore.NewMemory(), dir} {
		c := filled(t, store, 5)
		if r := pruned(t, store, Options{}); r.Snapshots != 5 || r.Kept.Objects != 5 || r.Garbage.Objects != 0 || len(r.Voided) != 0 {
			t.Errorf("%+v", r)
		}
		for _, i := range []int{0, 4} { // the last one's pack is nobody else's
			if err := commit.Forget(t.Context(), store, c.promised[i], "test"); err != nil {
				t.Fatal(err)
			}
		}
		if r := pruned(t, store, Options{}); r.Snapshots != 5 || len(r.Forgotten) != 2 || r.Garbage.Objects != 0 {
			t.Errorf("still to be undeleted: %+v", r)
		}
		dry := pruned(t, store, Options{Undelete: -1, DryRun: true})
		for _, s := range c.promised { // as if nothing had been
			if _, _, err := commit.Whole(t.Context(), store, s); err != nil {
				t.Error(err)
			}
		}
		if r := pruned(t, store, Options{Undelete: -1}); r.Snapshots != 3 || len(r.Voided) != 2 || r.Condemned.Objects != 2 || r.Deleted.Objects != 0 || r.NextPass != DefaultGrace {
			t.Errorf("condemned: %+v", r)
		} else if dry.Deleted.Objects != 0 || len(dry.Voided) != 2 || dry.Condemned != r.Condemned {
			t.Errorf("dry: %+v", dry)
		}
		if r := pruned(t, store, Options{Undelete: -1}); r.Deleted.Objects != 0 || r.Condemned.Objects != 0 || r.Garbage.Objects != 1 {
			t.Errorf("in the grace: %+v", r)
		}
		if r := pruned(t, store, Options{Undelete: -1, Grace: -1}); r.Deleted.Objects != 2 || r.Kept.Objects != 4 || len(r.Missing) != 0 {
			t.Errorf("deleted: %+v", r)
		}
		if r := pruned(t, store, Options{Undelete: -1, Grace: -1}); r.Deleted.Objects != 0 || r.Garbage.Objects != 0 {
			t.Errorf("afterwards: %+v", r)
		}
		for _, s := range c.promised[1:4] {
			if _, _, err := commit.Whole(t.Context(), store, s); err != nil {
				t.Error(err)
			}
		}
		if err := commit.Undelete(t.Context(), store, c.promised[0]); !errors.Is(err, commit.ErrTooLate) && !errors.Is(err, commit.ErrNoBase) {
			t.Errorf("undelete: %v", err)
		}
	}
}

// TestRefusals: when a pruner does not know what is needed it deletes nothing,
// and says which object is the reason.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, c *chaosRun) string
		want   error
	}{
		"a manifest is damaged": {func(t *testing.T, c *chaosRun) string {
			key := format.SnapKey(c.promised[1], format.ManifestPart)
			if err := c.Replace(t.Context(), key, []byte("damaged")); err != nil {
				t.Fatal(err)
			}
			return key
		}, ErrDamaged},
		"a manifest is missing": {func(t *testing.T, c *chaosRun) string {
			key := format.SnapKey(c.promised[1], format.ManifestPart)
			if err := c.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			return key
		}, ErrDamaged},
		"a page is missing": {func(t *testing.T, c *chaosRun) string {
			key := c.packs[c.promised[1]][1].Key()
			if err := c.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			return key
		}, ErrDamaged},
		"a lease is damaged": {func(t *testing.T, c *chaosRun) string {
			key := format.LeaseKey(format.NewID(), format.NewID())
			if err := c.Replace(t.Context(), key, []byte("damaged")); err != nil {
				t.Fatal(err)
			}
			return key
		}, format.ErrFormat},
		"a record is damaged": {func(t *testing.T, c *chaosRun) string {
			key := format.GCKey(format.NewID())
			if err := c.Replace(t.Context(), key, []byte("damaged")); err != nil {
				t.Fatal(err)
			}
			return key
		}, format.ErrFormat},
		"no description": {func(t *testing.T, c *chaosRun) string {
			if err := c.Delete(t.Context(), format.StoreKey); err != nil {
				t.Fatal(err)
			}
			return format.StoreKey
		}, chunkstore.ErrNotFound},
	} {
		run := filled(t, chunkstore.NewMemory(), 3)
		if err := commit.Forget(t.Context(), run.Store, run.promised[2], "test"); err != nil {
			t.Fatal(err)
		}
		key := c.damage(t, run)
		for range 3 {
			r, err := Prune(t.Context(), run.chaos, Options{Undelete: -1, Grace: -1})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "s3://chaos") {
				t.Errorf("%s: %v; want %s", name, err, key)
			}
			if r.Deleted.Objects != 0 || r.Condemned.Objects != 0 {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if !strings.HasSuffix(key, format.ManifestPart) {
			continue // it is no fault of this snapshot alone
		}
		// As the error says: forget the snapshot. Then the others are pruned again.
		if err := commit.Forget(t.Context(), run.Store, run.promised[1], "test"); err != nil {
			t.Errorf("%s: forget: %v", name, err)
		}
		if r := pruned(t, run.Store, Options{Undelete: -1, Grace: -1}); r.Snapshots != 1 || r.Condemned.Objects == 0 {
			t.Errorf("%s, forgotten: %+v", name, r)
		}
	}
	run := filled(t, chunkstore.NewMemory(), 1)
	if _, err := Prune(t.Context(), chunkstoretest.Unconditional(run.Store), Options{}); !errors.Is(err, ErrUnconditional) {
		t.Errorf("a store that replaces: %v", err)
	}
}

// TestMissing: a pack that is not there is told, and does not stop anything.
func TestMissing(t *testing.T) {
	c := filled(t, chunkstore.NewMemory(), 3)
	lost := c.packs[c.promised[1]][0]
	if err := c.Store.Delete(t.Context(), lost.Key()); err != nil {
		t.Fatal(err)
	}
	r := pruned(t, c.Store, Options{})
	if fmt.Sprint(r.Missing) == "[]" || r.Missing[0].Pack != lost {
		t.Errorf("%+v", r.Missing)
	}
}

// TestRequests: what a pass over n snapshots costs.
func TestRequests(t *testing.T) {
	c := filled(t, chunkstore.NewMemory(), 33)
	counted := &counting{Store: c.Store}
	pruned(t, counted, Options{})
	if counted.gets > 33+33+4 || counted.lists > 8 || counted.puts > 3 {
		t.Errorf("%d GET, %d LIST, %d PUT for 33 snapshots with a page each", counted.gets, counted.lists, counted.puts)
	}
}

// TestEventual: a store whose listings lag gets a grace.
func TestEventual(t *testing.T) {
	c := filled(t, chunkstore.NewMemory(), 1)
	b, err := (&format.Store{Format: 1, ID: format.NewID().String(), Consistency: format.Eventual, ChunkBytes: 65536, PackBytes: 16 << 20}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Store.Replace(t.Context(), format.StoreKey, b); err != nil {
		t.Fatal(err)
	}
	if err := commit.Forget(t.Context(), c.Store, c.promised[0], "test"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := pruned(t, c.Store, Options{Undelete: -1, Grace: -1}); r.Deleted.Objects != 0 || r.NextPass < 23*time.Hour {
			t.Errorf("%+v", r)
		}
	}
}

// TestLocked: what an object lock keeps is counted, and goes when it can.
func TestLocked(t *testing.T) {
	c := filled(t, chunkstore.NewMemory(), 2)
	if err := commit.Forget(t.Context(), c.Store, c.promised[1], "test"); err != nil {
		t.Fatal(err)
	}
	pruned(t, c.Store, Options{Undelete: -1, Grace: -1})
	lock := &locked{Store: c.Store}
	for range 2 {
		if r := pruned(t, lock, Options{Undelete: -1, Grace: -1}); r.Locked.Objects != 2 || r.Deleted.Objects != 0 || r.Condemned.Objects != 0 {
			t.Errorf("%+v", r)
		}
	}
	if r := pruned(t, c.Store, Options{Undelete: -1, Grace: -1}); r.Deleted.Objects != 2 {
		t.Errorf("%+v", r)
	}
}

// TestVoidOnes: void snapshots, which stay for ever, cost a pass no requests but
// its listings.
func TestVoidOnes(t *testing.T) {
	c := filled(t, chunkstore.NewMemory(), 1)
	for range 50 {
		if _, err := c.Store.Put(t.Context(), format.SnapKey(format.NewID(), format.CardPart), []byte(format.VoidCard)); err != nil {
			t.Fatal(err)
		}
	}
	store := &deleting{Store: c.Store}
	r := pruned(t, store, Options{})
	if len(store.keys) != 0 || r.Foreign != 0 {
		t.Errorf("%d deletions, of %.3q; %d foreign objects", len(store.keys), store.keys, r.Foreign)
	}
}

// deleting notes what is deleted.
type deleting struct {
	chunkstore.Store
	mu   sync.Mutex
	keys []string // guarded by mu
}

func (d *deleting) Delete(ctx context.Context, key string) error {
	d.mu.Lock()
	d.keys = append(d.keys, key)
	d.mu.Unlock()
	return d.Store.Delete(ctx, key)
}

// locked keeps all packs and pages.
type locked struct{ chunkstore.Store }

func (l *locked) Delete(ctx context.Context, key string) error {
	if _, err := format.ParseName(key); err == nil {
		return fmt.Errorf("delete %s: %w", key, chunkstore.ErrLocked)
	}
	return l.Store.Delete(ctx, key)
}

// TestMemory: a pass over a store of 1 TiB in four snapshots of 65,536 packs.
func TestMemory(t *testing.T) {
	store, packs := chunkstore.NewMemory(), 65536
	c := filled(t, store, 0)
	w, err := commit.Begin(t.Context(), store, format.NewID(), commit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &format.Head{Suite: 1, Next: uint32(packs), Packs: uint32(packs)}
	var entries []format.PackEntry
	for i := range packs {
		data := fmt.Appendf(nil, "pack %d", i)
		n, err := w.Put(t.Context(), format.Pack, data, format.SumOf(data))
		if err != nil {
			t.Fatal(err)
		}
		if entries = append(entries, format.PackEntry{Number: uint32(i), Name: n, Bytes: 16 << 20, Slots: 256}); len(entries) == format.MaxPagePacks {
			page, err := format.EncodePage(entries)
			if err != nil {
				t.Fatal(err)
			}
			ref := format.RefOf(w.Attempt(), page, entries)
			if _, err := w.Put(t.Context(), format.Page, page, ref.Name.Sum); err != nil {
				t.Fatal(err)
			}
			h.Pages, h.Bytes, entries = append(h.Pages, ref), h.Bytes+ref.Bytes, entries[:0]
		}
	}
	for range 4 {
		h.S = format.NewID()
		manifest, err := format.EncodeManifest(h, []byte("sealed"))
		if err != nil {
			t.Fatal(err)
		}
		for part, b := range map[string][]byte{format.ManifestPart: manifest, format.CardPart: format.EncodeCard(1, make([]byte, 40))} {
			if _, err := store.Put(t.Context(), format.SnapKey(h.S, part), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Abandon(t.Context()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := &pass{store: store, report: &Report{}}
	if err := p.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if p.report.Kept.Objects != packs || p.report.Garbage.Objects != 0 || p.report.Snapshots != 4 {
		t.Errorf("%+v", p.report)
	}
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 8<<20 {
		t.Errorf("a pass holds %d KiB for 1 TiB", n>>10)
	}
	runtime.KeepAlive(p)
	runtime.KeepAlive(c)
}
