package snapstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore/snapstoretest"
)

// fixture is a store with what opens it.
type fixture struct {
	*testing.T
	*snapstore.Store
	mem    *chunkstore.Memory
	tenant *snapstore.Tenant
	kek    *crypto.Key
}

func newKey(t *testing.T) *crypto.Key {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func newTenant(t *testing.T) *snapstore.Tenant {
	t.Helper()
	tenant, err := snapstore.NewTenant(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tenant.Erase)
	return tenant
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	mem := chunkstore.NewMemory()
	s, created, err := snapstore.Create(t.Context(), mem, snapstore.Options{})
	if err != nil || !created {
		t.Fatal(created, err)
	}
	return &fixture{t, s, mem, newTenant(t), newKey(t)}
}

// cred opens the slots of the fixture's snapshots.
func (f *fixture) cred() interface {
	crypto.Credential
	crypto.Recipient
} {
	k, err := f.kek.Clone()
	if err != nil {
		f.Fatal(err)
	}
	c := crypto.SecretCredential(k)
	f.Cleanup(c.Erase)
	return c
}

func (f *fixture) make(o snapstoretest.Snapshot) *snapstoretest.Made {
	f.Helper()
	m, err := snapstoretest.Make(f.Context(), f.mem, f.tenant, o, f.cred())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(m.Key.Erase)
	return m
}

func (f *fixture) get(key string) []byte {
	f.Helper()
	b, err := f.mem.Get(f.Context(), key, nil, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

func (f *fixture) put(key string, b []byte) {
	f.Helper()
	if err := f.mem.Replace(f.Context(), key, b); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) list() []snapstore.Snapshot {
	f.Helper()
	list, err := f.List(f.Context(), f.tenant)
	if err != nil {
		f.Fatal(err)
	}
	return list
}

// TestOpen: what is no store, of another or of a newer format is told apart.
func TestOpen(t *testing.T) {
	mem := chunkstore.NewMemory()
	if _, err := snapstore.Open(t.Context(), mem); !errors.Is(err, snapstore.ErrNoStore) {
		t.Errorf("an empty place: %v", err)
	}
	eventual := true
	s, created, err := snapstore.Create(t.Context(), mem, snapstore.Options{Eventual: &eventual, ChunkBytes: 16 << 10})
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if d := s.Description(); d.Consistency != format.Eventual || d.ChunkBytes != 16<<10 || d.PackBytes != 16<<20 {
		t.Errorf("%+v", d)
	}
	again, created, err := snapstore.Create(t.Context(), mem, snapstore.Options{})
	if err != nil || created || again.ID() != s.ID() || again.Description() != s.Description() {
		t.Errorf("made again: %v, %v", created, err)
	}
	for text, want := range map[string]error{`{"format":2,"news":1}`: snapstore.ErrNewer, `{"format":1}`: format.ErrFormat, "": format.ErrFormat} {
		if err := mem.Replace(t.Context(), format.StoreKey, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := snapstore.Open(t.Context(), mem); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, _, err := snapstore.Create(t.Context(), chunkstore.NewMemory(), snapstore.Options{ChunkBytes: 3}); !errors.Is(err, format.ErrFormat) {
		t.Errorf("chunks of 3 bytes: %v", err)
	}
}

// TestStates: each state of a snapshot's life is seen in lists and alone.
func TestStates(t *testing.T) {
	f := newFixture(t)
	at := func(hour int) time.Time { return time.Date(2026, 11, 30, hour, 0, 0, 0, time.UTC) }
	whole := f.make(snapstoretest.Snapshot{Name: "whole", Created: at(1)})
	forgotten := f.make(snapstoretest.Snapshot{Name: "forgotten", Created: at(2)})
	undeleted := f.make(snapstoretest.Snapshot{Name: "undeleted", Created: at(3)})
	dying := f.make(snapstoretest.Snapshot{Name: "dying", Created: at(4)})
	lost := f.make(snapstoretest.Snapshot{Name: "lost", Created: at(5)})
	unfinished := f.make(snapstoretest.Snapshot{Unfinished: true})
	begun, err := commit.Begin(t.Context(), f.mem, format.NewID(), commit.Options{Base: whole.ID, Who: "writer"})
	if err != nil {
		t.Fatal(err)
	}
	void := format.NewID()
	f.put(format.SnapKey(void, format.CardPart), []byte(format.VoidCard))
	for _, id := range []format.ID{forgotten.ID, undeleted.ID, dying.ID} {
		if err := commit.Forget(t.Context(), f.mem, id, "test"); err != nil {
			t.Fatal(err)
		}
	}
	tomb := func(id format.ID) format.ID {
		t.Helper()
		st, err := commit.StatusOf(t.Context(), f.mem, id)
		if err != nil || len(st.Tombs) != 1 {
			t.Fatal(st, err)
		}
		return st.Tombs[0]
	}
	// Whoever undeleted it died before the tomb was removed; a pruner died before the card was replaced.
	f.put(format.VerdictKey(undeleted.ID, tomb(undeleted.ID)), []byte(format.VerdictKeep))
	f.put(format.VerdictKey(dying.ID, tomb(dying.ID)), []byte(format.VerdictVoid))
	if err := f.mem.Delete(t.Context(), format.SnapKey(lost.ID, format.ManifestPart)); err != nil {
		t.Fatal(err)
	}
	want := map[format.ID]snapstore.State{whole.ID: snapstore.Whole, forgotten.ID: snapstore.Forgotten, undeleted.ID: snapstore.Whole, dying.ID: snapstore.Void,
		lost.ID: snapstore.Damaged, unfinished.ID: snapstore.Unfinished, begun.Snapshot(): snapstore.Unfinished}
	checks := map[snapstore.State]error{snapstore.Forgotten: snapstore.ErrForgotten, snapstore.Void: snapstore.ErrVoid, snapstore.Damaged: snapstore.ErrLost,
		snapstore.Unfinished: snapstore.ErrUnfinished}
	list := f.list()
	if len(list) != len(want) {
		t.Errorf("%d snapshots, want %d", len(list), len(want))
	}
	for i := range list {
		sn := &list[i]
		alone, err := f.Get(t.Context(), f.tenant, sn.ID)
		if err != nil || alone.State != sn.State || want[sn.ID] != sn.State || !errors.Is(sn.Check(), checks[sn.State]) {
			t.Errorf("%s is %s, alone %+v, want %s; %v, %v", sn.ID, sn.State, alone, want[sn.ID], err, sn.Check())
		}
		if (sn.Forgotten.IsZero()) != (sn.State != snapstore.Forgotten) {
			t.Errorf("%s was forgotten %v", sn.State, sn.Forgotten)
		}
	}
	if list[0].ID != whole.ID || len(list[0].Leases) != 1 || list[0].Leases[0].Who != "writer" || time.Until(list[0].Leases[0].Expires) < 23*time.Hour {
		t.Errorf("the oldest is %+v", list[0])
	}
	if sn, err := f.Get(t.Context(), f.tenant, void); err != nil || sn.State != snapstore.Void {
		t.Errorf("%+v, %v", sn, err)
	}
	if _, err := f.Get(t.Context(), f.tenant, format.NewID()); !errors.Is(err, snapstore.ErrNotFound) {
		t.Errorf("%v", err)
	}
	keyless, err := f.List(t.Context(), nil)
	if err != nil || len(keyless) != len(want) || keyless[0].Card != nil {
		t.Errorf("without a key: %d, %v", len(keyless), err)
	}
}

// TestFind: every way to name a snapshot.
func TestFind(t *testing.T) {
	f := newFixture(t)
	one, two := format.ID{0xab, 0xcd, 1}, format.ID{0xab, 0xcd, 2}
	v, w := format.NewID(), format.NewID()
	old := f.make(snapstoretest.Snapshot{ID: one, Name: "old", Volume: v, Claim: "shop/db", Created: time.Unix(1, 0)})
	f.make(snapstoretest.Snapshot{ID: two, Name: "new", Volume: v, Claim: "shop/db", Created: time.Unix(2, 0)})
	find := func(name string, want format.ID, wantErr error) {
		t.Helper()
		sn, _, err := f.Find(t.Context(), f.tenant, name)
		if wantErr != nil {
			if !errors.Is(err, wantErr) {
				t.Errorf("%s: %v, want %v", name, err, wantErr)
			}
			return
		}
		if err != nil || sn.ID != want {
			t.Errorf("%s: %+v, %v", name, sn, err)
		}
	}
	find("latest", two, nil)
	find("latest:shop/db", two, nil)
	find("latest:"+v.String(), two, nil)
	find("latest:"+crypto.UUID(v).String(), two, nil)
	find("latest:"+w.String(), one, snapstore.ErrNotFound)
	f.make(snapstoretest.Snapshot{Name: "other", Volume: w, Created: time.Unix(3, 0)})
	find("latest", one, snapstore.ErrAmbiguous)
	find("latest:shop/db", two, nil)
	find("old", one, nil)
	find("ol", one, snapstore.ErrNotFound)
	find(one.String(), one, nil)
	find(strings.ToUpper(crypto.UUID(one).String()), one, nil)
	find("abcd01", one, nil)
	find("ABCD0100", one, nil)
	find("abcd", one, snapstore.ErrAmbiguous)
	find("abcd0", one, snapstore.ErrAmbiguous)
	find("abc", one, snapstore.ErrNotFound) // too short
	find("", one, snapstore.ErrNotFound)
	find("ss1.x", one, format.ErrFormat)
	find(format.NewID().String(), one, snapstore.ErrNotFound)

	full := format.Handle{Store: f.ID(), S: one, Sealed: &old.Head.Sealed}
	find(full.String(), one, nil)
	find(format.Handle{Store: f.ID(), S: one}.String(), one, nil)
	find(format.Handle{Store: format.NewID(), S: one}.String(), one, snapstore.ErrOtherStore)
	find(format.Handle{Store: f.ID(), S: two, Sealed: &old.Head.Sealed}.String(), one, snapstore.ErrExchanged)
	sn, want, err := f.Find(t.Context(), f.tenant, full.String())
	if err != nil || *want != old.Head.Sealed || f.Handle(sn).String() != full.String() {
		t.Errorf("%v, %v", want, err)
	}

	// A name twice: the whole one is meant, not one that was forgotten.
	again := f.make(snapstoretest.Snapshot{Name: "old", Volume: v})
	find("old", one, snapstore.ErrAmbiguous)
	if err := commit.Forget(t.Context(), f.mem, one, "test"); err != nil {
		t.Fatal(err)
	}
	find("old", again.ID, nil)
	if err := commit.Forget(t.Context(), f.mem, again.ID, "test"); err != nil {
		t.Fatal(err)
	}
	find("old", one, snapstore.ErrAmbiguous)
	// A name that looks like an id goes before it.
	named := f.make(snapstoretest.Snapshot{Name: "abcd01", Volume: v})
	find("abcd01", named.ID, nil)
}

// TestManifest: a snapshot opens with the tenant secret and a key of one of its slots.
func TestManifest(t *testing.T) {
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	sn, err := f.Get(t.Context(), f.tenant, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	sk, err := f.SnapshotKey(t.Context(), m.ID, f.cred())
	if err != nil {
		t.Fatal(err)
	}
	defer sk.Erase()
	got, err := f.Manifest(t.Context(), sn, nil, sk)
	if err != nil || got.Body.Files != 1 || got.Head.Sealed != sn.Card.Sealed {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := f.SnapshotKey(t.Context(), m.ID, crypto.SecretCredential(newKey(t))); !errors.Is(err, snapstore.ErrNoSlot) {
		t.Errorf("another key: %v", err)
	}
	if _, err := f.Manifest(t.Context(), sn, nil, newKey(t)); !errors.Is(err, snapstore.ErrKey) {
		t.Errorf("another snapshot's key: %v", err)
	}
	stranger, err := f.Get(t.Context(), newTenant(t), m.ID)
	if err != nil || !errors.Is(stranger.Check(), snapstore.ErrTenant) {
		t.Errorf("another tenant: %v, %v", stranger.Check(), err)
	}
}

// TestHostileStore: whoever runs the store exchanges objects. Each fraud has its own error, and lists
// show all that is sound.
func TestHostileStore(t *testing.T) {
	ctx := t.Context()
	snapKey, manifestPart, cardPart := format.SnapKey, format.ManifestPart, format.CardPart
	for name, c := range map[string]struct {
		attack func(f *fixture, a, b *snapstoretest.Made)
		want   error
	}{
		"nothing": {func(*fixture, *snapstoretest.Made, *snapstoretest.Made) {}, nil},
		"the card of another snapshot": {func(f *fixture, a, b *snapstoretest.Made) {
			f.put(snapKey(a.ID, cardPart), f.get(snapKey(b.ID, cardPart)))
		}, snapstore.ErrTenant},
		"a damaged card":     {func(f *fixture, a, _ *snapstoretest.Made) { f.flip(snapKey(a.ID, cardPart), 60) }, snapstore.ErrTenant},
		"a card of no form":  {func(f *fixture, a, _ *snapstoretest.Made) { f.put(snapKey(a.ID, cardPart), []byte("SEALVCX1 not")) }, format.ErrFormat},
		"a card of no end":   {func(f *fixture, a, _ *snapstoretest.Made) { f.put(snapKey(a.ID, cardPart), make([]byte, 1<<17)) }, snapstore.ErrLost},
		"a void card":        {func(f *fixture, a, _ *snapstoretest.Made) { f.put(snapKey(a.ID, cardPart), []byte(format.VoidCard)) }, snapstore.ErrVoid},
		"no card":            {func(f *fixture, a, _ *snapstoretest.Made) { f.remove(snapKey(a.ID, cardPart)) }, snapstore.ErrUnfinished},
		"no manifest":        {func(f *fixture, a, _ *snapstoretest.Made) { f.remove(snapKey(a.ID, manifestPart)) }, snapstore.ErrLost},
		"a damaged manifest": {func(f *fixture, a, _ *snapstoretest.Made) { f.flip(snapKey(a.ID, manifestPart), 300) }, format.ErrFormat},
		"the manifest of another snapshot": {func(f *fixture, a, b *snapstoretest.Made) {
			f.put(snapKey(a.ID, manifestPart), f.get(snapKey(b.ID, manifestPart)))
		}, format.ErrFormat},
		"another manifest of the snapshot": {func(f *fixture, a, b *snapstoretest.Made) {
			_, sealed, err := format.DecodeManifest(f.get(snapKey(b.ID, manifestPart)))
			if err != nil {
				f.Fatal(err)
			}
			h := *a.Head
			forged, err := format.EncodeManifest(&h, sealed)
			if err != nil {
				f.Fatal(err)
			}
			f.put(snapKey(a.ID, manifestPart), forged)
		}, snapstore.ErrExchanged},
		"another head": {func(f *fixture, a, _ *snapstoretest.Made) {
			h, sealed, err := format.DecodeManifest(f.get(snapKey(a.ID, manifestPart)))
			if err != nil {
				f.Fatal(err)
			}
			h.Next++
			forged, err := format.EncodeManifest(h, sealed)
			if err != nil {
				f.Fatal(err)
			}
			f.put(snapKey(a.ID, manifestPart), forged)
		}, snapstore.ErrExchanged},
		"the card, after all else was deleted": {func(f *fixture, a, _ *snapstoretest.Made) {
			card := f.get(snapKey(a.ID, cardPart))
			for _, part := range []string{manifestPart, cardPart, "keys-0"} {
				f.remove(snapKey(a.ID, part))
			}
			f.put(snapKey(a.ID, cardPart), card)
		}, snapstore.ErrLost},
		"the keys of another snapshot": {func(f *fixture, a, b *snapstoretest.Made) {
			f.put(format.SlotsKey(a.ID, 0), f.get(format.SlotsKey(b.ID, 0)))
		}, snapstore.ErrNoSlot},
		"no keys":      {func(f *fixture, a, _ *snapstoretest.Made) { f.remove(format.SlotsKey(a.ID, 0)) }, snapstore.ErrNoKeys},
		"damaged keys": {func(f *fixture, a, _ *snapstoretest.Made) { f.flip(format.SlotsKey(a.ID, 0), 8) }, format.ErrFormat},
		"a damaged key": {func(f *fixture, a, _ *snapstoretest.Made) {
			f.flip(format.SlotsKey(a.ID, 0), len(f.get(format.SlotsKey(a.ID, 0)))-1)
		}, crypto.ErrAuthentication},
		"a tomb": {func(f *fixture, a, _ *snapstoretest.Made) { f.put(format.TombKey(a.ID, format.NewID()), nil) }, snapstore.ErrForgotten},
		"a verdict of no form": {func(f *fixture, a, _ *snapstoretest.Made) {
			tomb := format.NewID()
			f.put(format.TombKey(a.ID, tomb), nil)
			f.put(format.VerdictKey(a.ID, tomb), []byte("MAYB"))
		}, format.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			v := format.NewID()
			a, b := f.make(snapstoretest.Snapshot{Volume: v, Name: "a"}), f.make(snapstoretest.Snapshot{Volume: v, Name: "b"})
			c.attack(f, a, b)
			if err := f.readAll(ctx, a.ID); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err := f.readAll(ctx, b.ID); err != nil {
				t.Errorf("the other snapshot: %v", err)
			}
			if sn, err := snapstore.Pick(f.list(), "b"); err != nil || sn.Check() != nil {
				t.Errorf("in a list: %v", err)
			}
		})
	}
}

// readAll does what a reader does before it reads a pack.
func (f *fixture) readAll(ctx context.Context, id format.ID) error {
	sn, err := f.Get(ctx, f.tenant, id)
	if err != nil {
		return err
	}
	if err := sn.Check(); err != nil {
		return err
	}
	sk, err := f.SnapshotKey(ctx, id, f.cred())
	if err != nil {
		return err
	}
	defer sk.Erase()
	_, err = f.Manifest(ctx, sn, nil, sk)
	return err
}

func (f *fixture) remove(key string) {
	f.Helper()
	if err := f.mem.Delete(f.Context(), key); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) flip(key string, at int) {
	f.Helper()
	b := f.get(key)
	b[at] ^= 0xff
	f.put(key, b)
}

// TestNothingTold: what lists and manifests say is not in the clear.
func TestNothingTold(t *testing.T) {
	f := newFixture(t)
	f.make(snapstoretest.Snapshot{Name: "needle-name", Claim: "needle/claim", Tags: map[string]string{"needle-tag": "needle-value"}, Data: "needle-data"})
	all, err := snapstoretest.Objects(t.Context(), f.mem)
	if err != nil || len(all) < 5 {
		t.Fatal(len(all), err)
	}
	for key, b := range all {
		if strings.Contains(key+string(b), "needle") {
			t.Errorf("%s tells", key)
		}
	}
	if sn := f.list()[0]; sn.Card.Claim != "needle/claim" {
		t.Error(fmt.Sprint(sn))
	}
}
