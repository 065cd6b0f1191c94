package gc

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// locked keeps all packs and pages.
type locked struct{ chunkstore.Store }

func (l *locked) Delete(ctx context.Context, key string) error {
	if _, err := format.ParseName(key); err == nil {
		return fmt.Errorf("delete %s: %w", key, chunkstore.ErrLocked)
	}
	return l.Store.Delete(ctx, key)
}
