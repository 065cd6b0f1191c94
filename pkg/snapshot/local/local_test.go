package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore/snapstoretest"
)

// rig is a store, and a volume that has nothing but local snapshots.
type rig struct {
	t      *testing.T
	store  *snapstore.Store
	tenant *snapstore.Tenant
	volume crypto.UUID

	list []Snapshot
	busy string // cannot be deleted
	now  time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, tenant: newTenant(t), volume: crypto.UUID(format.NewID()), now: time.Unix(1000, 7)}
	var err error
	r.store, _, err = snapstore.Create(t.Context(), chunkstore.NewMemory(), snapstore.Options{})
	r.ok(err)
	return r
}

func newTenant(t *testing.T) *snapstore.Tenant {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	tenant, err := snapstore.NewTenant(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tenant.Erase)
	return tenant
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// List implements Volume.
func (r *rig) List(context.Context) ([]Snapshot, error) { return slices.Clone(r.list), nil }

// Create implements Volume.
func (r *rig) Create(_ context.Context, name string) error {
	if len(name) > 128 {
		return fmt.Errorf("%s is too long", name)
	}
	r.now = r.now.Add(time.Hour)
	r.list = append(r.list, Snapshot{Name: name, Generation: uint64(len(r.list)) + uint64(r.now.Unix()), Created: r.now})
	return nil
}

// Delete implements Volume.
func (r *rig) Delete(_ context.Context, name string) error {
	if name == r.busy {
		return errors.New("in use")
	}
	r.list = slices.DeleteFunc(r.list, func(s Snapshot) bool { return s.Name == name })
	return nil
}

func (r *rig) begin(o Options) *Plan {
	r.t.Helper()
	o.Store, o.Volume = r.store, r.volume
	if o.Tenant == nil {
		o.Tenant = r.tenant
	}
	p, err := Begin(r.t.Context(), r, o)
	r.ok(err)
	return p
}

// put stores a snapshot of the newest local snapshot.
func (r *rig) put(s format.ID, unfinished bool) *snapstoretest.Made {
	r.t.Helper()
	m, err := snapstoretest.Make(r.t.Context(), r.store.Objects(), r.tenant, snapstoretest.Snapshot{ID: s, Volume: format.ID(r.volume), Created: r.now, Unfinished: unfinished})
	r.ok(err)
	r.t.Cleanup(m.Key.Erase)
	return m
}

// finish makes a plan's snapshot whole.
func (r *rig) finish(p *Plan) {
	r.t.Helper()
	r.put(p.S, false)
	r.ok(p.Whole(r.t.Context(), r))
}

// want checks the local snapshots, by the stored ones.
func (r *rig) want(names ...string) {
	r.t.Helper()
	var got []string
	for _, s := range r.list {
		got = append(got, s.Name)
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		r.t.Fatalf("local snapshots\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(names, "\n"))
	}
}

func TestName(t *testing.T) {
	s, store := format.NewID(), format.NewID()
	n, ok := parse(Name(s, store))
	if !ok || n.s != s || n.store != store || !Is(Name(s, store)) {
		t.Errorf("%+v, %v", n, ok)
	}
	if n, ok := parse("ses-" + s.String()); !ok || n.s != s || n.store != (format.ID{}) {
		t.Errorf("of a worker: %+v, %v", n, ok)
	}
	for _, bad := range []string{"", "ses-", "nightly", "ses-1", "ses-" + s.String() + "-", "ses-" + s.String() + "-x", Name(s, store) + "-1"} {
		if Is(bad) {
			t.Errorf("%q", bad)
		}
	}
}

// TestBase: each snapshot builds on the one before, whose local snapshot is deleted then. Other local
// snapshots stay.
func TestBase(t *testing.T) {
	r := newRig(t)
	r.ok(r.Create(t.Context(), "mine"))
	other := Name(format.NewID(), format.NewID())
	r.ok(r.Create(t.Context(), other))
	worker := "ses-" + format.NewID().String()
	r.ok(r.Create(t.Context(), worker))
	first := r.begin(Options{})
	if first.Base != (format.ID{}) || first.BaseName != "" || first.Earlier != nil {
		t.Fatalf("%+v", first)
	}
	r.want("mine", other, worker, first.Name)
	r.finish(first)
	second := r.begin(Options{})
	if second.Base != first.S || second.BaseName != first.Name {
		t.Fatalf("%+v", second)
	}
	r.want("mine", other, worker, first.Name, second.Name) // both, until the second is whole
	r.finish(second)
	r.want("mine", other, worker, second.Name)
	full := r.begin(Options{Full: true})
	if full.Base != (format.ID{}) || full.BaseName != "" {
		t.Fatalf("%+v", full)
	}
	r.finish(full)
	r.want("mine", other, worker, full.Name)

	// What a user deletes is missed by nobody.
	r.ok(r.Delete(t.Context(), full.Name))
	next := r.begin(Options{})
	if next.Base != full.S || next.BaseName != "" {
		t.Fatalf("%+v", next)
	}
	r.finish(next)

	// Of a worker, the local snapshot serves as a base and stays.
	w := format.NewID()
	r.ok(r.Create(t.Context(), "ses-"+w.String()))
	r.put(w, false)
	last := r.begin(Options{})
	if last.Base != w || last.BaseName != "ses-"+w.String() {
		t.Fatalf("%+v", last)
	}
	r.finish(last)
	r.want("mine", other, worker, "ses-"+w.String(), last.Name)
}

// TestResume: what was begun is resumed, on its own base; what was not is deleted.
func TestResume(t *testing.T) {
	r := newRig(t)
	first := r.begin(Options{})
	r.finish(first)
	never := r.begin(Options{}) // it died before it stored anything
	if never.Resumable() {
		t.Error("resumable")
	}
	p := r.begin(Options{})
	r.want(first.Name, p.Name)
	_, err := commit.Begin(t.Context(), r.store.Objects(), p.S, commit.Options{Base: first.S, Who: "test"})
	r.ok(err)
	if !p.Resumable() {
		t.Error("not resumable")
	}
	again := r.begin(Options{})
	if again.S != p.S || again.Name != p.Name || again.Earlier == nil || again.Base != first.S || again.BaseName != first.Name {
		t.Fatalf("%+v", again)
	}
	r.want(first.Name, p.Name)
	var o create.Options
	again.Fill(&o, nil)
	if o.S != p.S || o.Fresh || o.Base == nil || o.Base.S != first.S {
		t.Errorf("%+v", o)
	}
	full := r.begin(Options{Full: true}) // it has a base
	if full.S == p.S {
		t.Fatalf("%+v", full)
	}
	r.want(first.Name, full.Name)
	r.finish(full)
	r.want(full.Name)

	// Finished by another process, or just before it died.
	done := r.begin(Options{})
	r.put(done.S, false)
	next := r.begin(Options{})
	if next.Base != done.S || next.BaseName != done.Name {
		t.Fatalf("%+v", next)
	}
	r.want(done.Name, next.Name)
	r.put(next.S, true)
	fresh := r.begin(Options{Fresh: true})
	if fresh.S == next.S || fresh.Base != done.S {
		t.Fatalf("%+v", fresh)
	}
	r.want(done.Name, fresh.Name)
}

// TestOtherIdentity: a snapshot that had to get another identity is the base of the next one.
func TestOtherIdentity(t *testing.T) {
	r := newRig(t)
	p := r.begin(Options{})
	_, err := r.store.Objects().Put(t.Context(), format.SnapKey(p.S, format.CardPart), []byte(format.VoidCard))
	r.ok(err)
	other := format.NewID()
	r.put(other, false)
	r.ok(p.Whole(t.Context(), r))
	next := r.begin(Options{})
	if next.Base != other || next.BaseName != p.Name {
		t.Fatalf("%+v, base of %s", next, other)
	}
	r.finish(next)
	r.want(next.Name)
}

// TestOtherTenant: of another tenant, nothing is used, resumed or deleted.
func TestOtherTenant(t *testing.T) {
	r := newRig(t)
	first := r.begin(Options{})
	r.finish(first)
	theirs := r.begin(Options{Tenant: newTenant(t)})
	if theirs.Base != (format.ID{}) || theirs.Foreign != 1 {
		t.Fatalf("%+v", theirs)
	}
	r.want(first.Name, theirs.Name)
}

// TestInUse: a local snapshot that cannot be deleted is no obstacle.
func TestInUse(t *testing.T) {
	r := newRig(t)
	first := r.begin(Options{})
	r.finish(first)
	r.busy = first.Name
	second := r.begin(Options{})
	r.put(second.S, false)
	if err := second.Whole(t.Context(), r); err == nil || !strings.Contains(err.Error(), first.Name) {
		t.Error(err)
	}
	third := r.begin(Options{})
	if third.Undeleted == nil || third.Base != second.S {
		t.Fatalf("%+v", third)
	}
	r.busy = ""
	r.finish(third)
	fourth := r.begin(Options{})
	r.want(third.Name, fourth.Name)
}

// TestDamagedCard: a base whose card is damaged is not used, and not deleted.
func TestDamagedCard(t *testing.T) {
	r := newRig(t)
	first := r.begin(Options{})
	r.finish(first)
	r.ok(r.store.Objects().Replace(t.Context(), format.SnapKey(first.S, format.CardPart), []byte("damaged card, which is none")))
	second := r.begin(Options{})
	if second.Base != (format.ID{}) {
		t.Fatalf("%+v", second)
	}
	r.want(first.Name, second.Name)
}

func TestLock(t *testing.T) {
	dir, volume, store := t.TempDir()+"/run", crypto.UUID(format.NewID()), format.NewID()
	unlock, err := Lock(dir, volume, store)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, volume, store); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	other, err := Lock(dir, volume, format.NewID())
	if err != nil {
		t.Fatal(err)
	}
	other()
	unlock()
	if unlock, err = Lock(dir, volume, store); err != nil {
		t.Fatal(err)
	}
	unlock()
}
