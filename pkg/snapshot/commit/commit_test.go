package commit

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/chunkstoretest"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

func parts(t *testing.T, s format.ID, sealed string) *Parts {
	t.Helper()
	manifest, err := format.EncodeManifest(&format.Head{Suite: 1, S: s}, []byte(sealed))
	if err != nil {
		t.Fatal(err)
	}
	return &Parts{Manifest: manifest, Keys: []byte("keys"), Card: format.EncodeCard(1, []byte(strings.Repeat("c", 40)))}
}

func begin(t *testing.T, store chunkstore.Store, s format.ID, o Options) *Writer {
	t.Helper()
	w, err := Begin(t.Context(), store, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func count(t *testing.T, store chunkstore.Store, prefix string) (n int) {
	t.Helper()
	for _, err := range store.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestCommit: the commit can be repeated, its lease goes, and others with the
// same identity are refused.
func TestCommit(t *testing.T) {
	store, s := chunkstore.NewMemory(), format.NewID()
	w, other := begin(t, store, s, Options{}), begin(t, store, s, Options{})
	if count(t, store, format.LeasePrefix) != 2 {
		t.Error("two writers have one lease")
	}
	if _, _, err := Whole(t.Context(), store, s); !errors.Is(err, ErrNoBase) {
		t.Errorf("before the commit: %v", err)
	}
	for range 2 {
		if err := w.Commit(t.Context(), parts(t, s, "mine")); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Commit(t.Context(), parts(t, s, "theirs")); !errors.Is(err, ErrTaken) {
		t.Errorf("another writer: %v", err)
	}
	if err := other.Abandon(t.Context()); err != nil || count(t, store, format.LeasePrefix) != 0 {
		t.Errorf("leases stay: %v", err)
	}
	h, sealed, err := Whole(t.Context(), store, s)
	if err != nil || h.S != s || string(sealed) != "mine" {
		t.Errorf("%v, %q, %v", h, sealed, err)
	}
	r, err := Read(t.Context(), store, s, 0, "test")
	if err != nil || count(t, store, format.LeasePrefix) != 1 {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil || count(t, store, format.LeasePrefix) != 0 {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), store, format.NewID(), 0, ""); !errors.Is(err, ErrNoBase) || count(t, store, format.LeasePrefix) != 0 {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

// TestVoid: what a pruner has declared void is never whole.
func TestVoid(t *testing.T) {
	store, s := chunkstore.NewMemory(), format.NewID()
	w := begin(t, store, s, Options{})
	if _, err := store.Put(t.Context(), format.SnapKey(s, format.CardPart), []byte(format.VoidCard)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), parts(t, s, "x")); !errors.Is(err, ErrVoid) {
		t.Errorf("commit: %v", err)
	}
	if _, _, err := Whole(t.Context(), store, s); !errors.Is(err, ErrNoBase) {
		t.Errorf("as a base: %v", err)
	}
}

// TestLostAnswers: a commit whose answers are lost at any step is repeated.
func TestLostAnswers(t *testing.T) {
	for lost := range 3 {
		n, s := 0, format.NewID()
		store := &lossy{Store: chunkstore.NewMemory(), lose: func() bool { n++; return n == lost+1 }}
		w := begin(t, store, s, Options{})
		p := parts(t, s, "x")
		if err := w.Commit(t.Context(), p); !errors.Is(err, chunkstoretest.ErrRefused) {
			t.Fatalf("answer %d lost: %v", lost, err)
		}
		if err := w.Commit(t.Context(), p); err != nil {
			t.Errorf("answer %d lost, once more: %v", lost, err)
		}
	}
}

type lossy struct {
	chunkstore.Store
	lose func() bool
}

func (l *lossy) Put(ctx context.Context, key string, data []byte) (bool, error) {
	created, err := l.Store.Put(ctx, key, data)
	if err == nil && l.lose() {
		return false, chunkstoretest.ErrRefused
	}
	return created, err
}

func TestForget(t *testing.T) {
	store, s := chunkstore.NewMemory(), format.NewID()
	if err := Forget(t.Context(), store, s, "me"); !errors.Is(err, ErrNoBase) {
		t.Errorf("forget what is not there: %v", err)
	}
	if err := begin(t, store, s, Options{}).Commit(t.Context(), parts(t, s, "x")); err != nil {
		t.Fatal(err)
	}
	status := func(tombs int) {
		t.Helper()
		st, err := StatusOf(t.Context(), store, s)
		if err != nil || len(st.Tombs) != tombs || !st.Card || !st.Manifest {
			t.Errorf("%+v, %v; want %d tombs", st, err, tombs)
		}
	}
	status(0)
	for range 2 { // and again, after it was undeleted
		for range 2 { // the second is nothing
			if err := Forget(t.Context(), store, s, "me"); err != nil {
				t.Fatal(err)
			}
			status(1)
		}
		for range 2 {
			if err := Undelete(t.Context(), store, s); err != nil {
				t.Fatal(err)
			}
			status(0)
		}
	}
	// A pruner was first.
	if err := Forget(t.Context(), store, s, "me"); err != nil {
		t.Fatal(err)
	}
	st, err := StatusOf(t.Context(), store, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), format.VerdictKey(s, st.Tombs[0]), []byte(format.VerdictVoid)); err != nil {
		t.Fatal(err)
	}
	if err := Undelete(t.Context(), store, s); !errors.Is(err, ErrTooLate) {
		t.Errorf("too late: %v", err)
	}
	// A verdict that cannot be read is neither.
	if err := store.Replace(t.Context(), format.VerdictKey(s, st.Tombs[0]), []byte("kEEP")); err != nil {
		t.Fatal(err)
	}
	if err := Undelete(t.Context(), store, s); !errors.Is(err, format.ErrFormat) {
		t.Errorf("a verdict that cannot be read: %v", err)
	}
}

// TestTakeOver: what is condemned counts as absent.
func TestTakeOver(t *testing.T) {
	store, s := chunkstore.NewMemory(), format.NewID()
	dead := begin(t, store, s, Options{})
	var names []format.Name
	for _, text := range []string{"one", "two", "three"} {
		n, err := dead.Put(t.Context(), format.Pack, []byte(text), format.SumOf([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	record, err := format.EncodeCondemned(names[1:2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), format.GCKey(format.NewID()), record); err != nil {
		t.Fatal(err)
	}
	w := begin(t, store, s, Options{Predecessors: []format.ID{dead.Attempt()}})
	got, err := w.TakeOver(t.Context())
	if err != nil || len(got) != 2 || got[names[0]] != 3 || got[names[2]] != 5 {
		t.Errorf("%v, %v", got, err)
	}
	if w.Attempt() == dead.Attempt() {
		t.Error("two runs put objects under one name")
	}
	if err := store.Replace(t.Context(), format.GCKey(format.NewID()), []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.TakeOver(t.Context()); !errors.Is(err, format.ErrFormat) || !strings.Contains(err.Error(), format.GCPrefix) {
		t.Errorf("a damaged record: %v", err)
	}
}

// TestCommitRequests: an unchanged snapshot on its base takes 4 PUT, 2 GET and a
// DELETE.
func TestCommitRequests(t *testing.T) {
	store, base, s := &counting{Store: chunkstore.NewMemory(), n: map[string]int{}}, format.NewID(), format.NewID()
	if err := begin(t, store, base, Options{}).Commit(t.Context(), parts(t, base, "x")); err != nil {
		t.Fatal(err)
	}
	clear(store.n)
	w := begin(t, store, s, Options{Base: base})
	if _, _, err := w.Base(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), parts(t, s, "x")); err != nil {
		t.Fatal(err)
	}
	if store.n["put"] != 4 || store.n["get"] != 2 || store.n["delete"] != 1 || len(store.n) != 3 {
		t.Errorf("%v", store.n)
	}
}

// counting counts requests by what they cost.
type counting struct {
	chunkstore.Store
	n map[string]int
}

func (c *counting) Get(ctx context.Context, key string, room []byte, limit int) ([]byte, error) {
	c.n["get"]++
	return c.Store.Get(ctx, key, room, limit)
}

func (c *counting) Put(ctx context.Context, key string, data []byte) (bool, error) {
	c.n["put"]++
	return c.Store.Put(ctx, key, data)
}

func (c *counting) Replace(ctx context.Context, key string, data []byte) error {
	c.n["put"]++
	return c.Store.Replace(ctx, key, data)
}

func (c *counting) Delete(ctx context.Context, key string) error {
	c.n["delete"]++
	return c.Store.Delete(ctx, key)
}

func (c *counting) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	c.n["stat"]++
	return c.Store.Stat(ctx, key)
}
