package commit

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// TestEarlier: a chain of attempts is found with the base that they used; what is
// left between the manifest and the card is finished.
func TestEarlier(t *testing.T) {
	store, s, base := chunkstore.NewMemory(), format.NewID(), format.NewID()
	find := func() *Earlier {
		t.Helper()
		e, err := FindEarlier(t.Context(), store, s)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := find(); len(e.Attempts) != 0 || e.Base != (format.ID{}) || e.Keys != nil || e.Manifest != nil {
		t.Errorf("nobody began: %+v", e)
	}
	begin(t, store, base, Options{Predecessors: []format.ID{{1}}}) // another snapshot
	first := begin(t, store, s, Options{Base: base})
	if _, err := Read(t.Context(), store, s, 0, "test"); !errors.Is(err, ErrNoBase) {
		t.Error(err)
	}
	if err := store.Replace(t.Context(), format.LeaseKey(s, format.NewID()), encoded(t, &format.Lease{Use: format.Reading, TTL: time.Hour, Bases: []format.ID{s}})); err != nil {
		t.Fatal(err)
	}
	second := begin(t, store, s, Options{Earlier: find()})
	third := begin(t, store, s, Options{Earlier: find()})
	e := find()
	if want := []format.ID{first.Attempt(), second.Attempt(), third.Attempt()}; !slices.Equal(e.Attempts, want) || e.Base != base || len(e.Damaged) != 0 {
		t.Errorf("%v on %v, want %v on %v", e.Attempts, e.Base, want, base)
	}
	p := parts(t, s, "x")
	for part, b := range map[string][]byte{format.KeysPart + "0": p.Keys, format.ManifestPart: p.Manifest} {
		if err := third.putPart(t.Context(), part, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Replace(t.Context(), format.LeaseKey(s, format.NewID()), []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), first.leases.all[0].key); err != nil { // it has expired
		t.Fatal(err)
	}
	e = find()
	if string(e.Keys) != string(p.Keys) || string(e.Manifest) != string(p.Manifest) || len(e.Damaged) != 1 || !errors.Is(e.Damaged[0], format.ErrFormat) || len(e.Attempts) != 3 {
		t.Errorf("%+v", e)
	}
	last := begin(t, store, s, Options{Earlier: e})
	for _, w := range []*Writer{second, third, last} { // all are kept alive
		if _, err := store.Stat(t.Context(), w.leases.all[0].key); err != nil {
			t.Error(err)
		}
	}
	if err := last.Commit(t.Context(), &Parts{Keys: e.Keys, Manifest: e.Manifest, Card: p.Card}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, store, format.LeasePrefix+s.String()); n != 2 { // the reader's and the damaged one
		t.Errorf("%d leases stay", n)
	}
	if e := find(); e.Void || e.Manifest == nil {
		t.Errorf("it is whole: %+v", e)
	}
	if err := store.Replace(t.Context(), format.SnapKey(s, format.CardPart), []byte(format.VoidCard)); err != nil {
		t.Fatal(err)
	}
	if !find().Void {
		t.Error("it is void")
	}
	if err := third.Commit(t.Context(), parts(t, s, "y")); !errors.Is(err, ErrTaken) {
		t.Errorf("an attempt that was thought to be dead: %v", err)
	}
}

// TestManyEarlier: of attempts without end the last ones count.
func TestManyEarlier(t *testing.T) {
	store, s := chunkstore.NewMemory(), format.NewID()
	var all []format.ID
	for range 2 * maxEarlier {
		e, err := FindEarlier(t.Context(), store, s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, begin(t, store, s, Options{Earlier: e}).Attempt())
	}
	e, err := FindEarlier(t.Context(), store, s)
	if err != nil || len(e.Attempts) != maxEarlier || !slices.Contains(e.Attempts, all[len(all)-1]) {
		t.Errorf("%d attempts, %v", len(e.Attempts), err)
	}
}

func encoded(t *testing.T, l *format.Lease) []byte {
	t.Helper()
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKeepLeases: readers and writers renew their leases thrice in their time, a
// writer also those that it keeps for others, whose time may be shorter.
func TestKeepLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, s := &counting{Store: chunkstore.NewMemory(), n: map[string]int{}}, format.NewID()
		begin(t, store, s, Options{TTL: 3 * time.Hour})
		e, err := FindEarlier(t.Context(), store, s)
		if err != nil {
			t.Fatal(err)
		}
		w := begin(t, store, s, Options{Earlier: e, TTL: 30 * time.Hour})
		whole := format.NewID()
		if err := begin(t, store, whole, Options{}).Commit(t.Context(), parts(t, whole, "x")); err != nil {
			t.Fatal(err)
		}
		r, err := Read(t.Context(), store, whole, 6*time.Hour, "test")
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			keep func(context.Context, func(error)) (stop func())
			end  func(context.Context) error
			puts int
		}{
			"reader": {r.Keep, r.Close, 3},
			"writer": {w.Keep, func(ctx context.Context) error { return w.Commit(ctx, parts(t, s, "y")) }, 2 * 6},
		} {
			clear(store.n)
			stop := c.keep(t.Context(), func(err error) { t.Error(err) })
			<-time.After(6*time.Hour + time.Minute)
			synctest.Wait()
			if store.n["put"] != c.puts {
				t.Errorf("%s: %d renewals in 6 hours, want %d", name, store.n["put"], c.puts)
			}
			if err := c.end(t.Context()); err != nil {
				t.Error(err)
			}
			<-time.After(100 * time.Hour)
			stop()
		}
		if n := count(t, store, format.LeasePrefix); n != 0 {
			t.Errorf("%d leases stay", n)
		}
	})
}
