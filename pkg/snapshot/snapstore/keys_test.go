package snapstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore/snapstoretest"
)

func (f *fixture) keys(prefix string) (keys []string) {
	f.Helper()
	for info, err := range f.mem.List(f.Context(), prefix, "") {
		if err != nil {
			f.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func recovery(t *testing.T) (*crypto.RecoverySecret, *crypto.RecoveryRecipient) {
	t.Helper()
	secret, err := crypto.GenerateRecovery(crypto.SuiteXChaCha20Poly1305)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secret.Erase)
	pub, err := secret.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	return secret, pub
}

// TestSnapshotKeys: keys of a snapshot are added, replaced and removed, each in one step.
func TestSnapshotKeys(t *testing.T) {
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	keys, ctx := f.SnapshotKeys(m.ID), t.Context()
	secret, pub := recovery(t)
	opens := func(c crypto.Credential, want bool) {
		t.Helper()
		sk, err := f.SnapshotKey(ctx, m.ID, c)
		if want != (err == nil) || !want && !errors.Is(err, snapstore.ErrNoSlot) {
			t.Errorf("opens: %v", err)
		}
		if err == nil {
			if !bytes.Equal(sk.Bytes(), m.Key.Bytes()) {
				t.Error("another key")
			}
			sk.Erase()
		}
	}
	for i, added := range []bool{true, false} {
		c, err := keys.Add(ctx, 0, f.cred(), pub)
		if err != nil || c.Slot != 1 || c.Added != added {
			t.Errorf("%d: %+v, %v", i, c, err)
		}
	}
	opens(f.cred(), true)
	opens(secret, true)
	if c, err := keys.Add(ctx, 0, f.cred(), f.cred()); err != nil || c.Slot != 0 || c.Added {
		t.Errorf("the same key again: %+v, %v", c, err)
	}
	next := crypto.SecretCredential(newKey(t))
	if _, err := keys.Add(ctx, 0, next, pub); !errors.Is(err, snapstore.ErrNoSlot) {
		t.Errorf("from another key: %v", err)
	}
	c, err := keys.Replace(ctx, f.cred(), next)
	if err != nil || c.Slot != 2 || !c.Added || !slices.Equal(c.Removed, []int{0}) {
		t.Errorf("%+v, %v", c, err)
	}
	opens(f.cred(), false)
	opens(next, true)
	opens(secret, true)
	if c, err := keys.Replace(ctx, next, next); err != nil || c.Added || len(c.Removed) > 0 {
		t.Errorf("by itself: %+v, %v", c, err)
	}
	if _, err := keys.Remove(ctx, 0); !errors.Is(err, snapstore.ErrNoSuchSlot) {
		t.Errorf("%v", err)
	}
	if c, err := keys.Remove(ctx, 1); err != nil || !slices.Equal(c.Removed, []int{1}) {
		t.Errorf("%+v, %v", c, err)
	}
	opens(secret, false)
	if _, err := keys.Remove(ctx, 2); !errors.Is(err, snapstore.ErrLastSlot) {
		t.Errorf("%v", err)
	}
	if k := f.keys(format.SnapKey(m.ID, format.KeysPart)); len(k) != 1 {
		t.Errorf("old slots remain: %v", k)
	}
}

// TestFull: all slots are in use; and versions are numbers, not texts.
func TestFull(t *testing.T) {
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	for i := 1; i < crypto.Slots; i++ {
		if c, err := f.SnapshotKeys(m.ID).Add(t.Context(), 0, f.cred(), crypto.SecretCredential(newKey(t))); err != nil || c.Slot != i {
			t.Fatal(c, err)
		}
	}
	if k := f.keys(format.SnapKey(m.ID, format.KeysPart)); len(k) != 1 || k[0] != format.SlotsKey(m.ID, crypto.Slots-1) {
		t.Errorf("%v", k)
	}
	if _, err := f.SnapshotKeys(m.ID).Add(t.Context(), 0, f.cred(), crypto.SecretCredential(newKey(t))); err == nil {
		t.Error("a 17th slot")
	}
	f.put(format.SlotsKey(m.ID, 1<<32-1), f.get(format.SlotsKey(m.ID, crypto.Slots-1)))
	if _, err := f.SnapshotKeys(m.ID).Remove(t.Context(), 1); !errors.Is(err, format.ErrFormat) {
		t.Errorf("no number is free: %v", err)
	}
}

// TestTenantKeys: the tenant secret is kept for keys, and opens with them anywhere.
func TestTenantKeys(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	secret, pub := recovery(t)
	if _, err := f.OpenTenant(ctx, secret, nil); !errors.Is(err, snapstore.ErrNoTenant) {
		t.Errorf("nothing is kept: %v", err)
	}
	if c, err := f.TenantKeys(f.tenant).Add(ctx, pub.Suite(), nil, pub); err != nil || c.Slot != 0 || !c.Added {
		t.Fatal(c, err)
	}
	got, err := f.OpenTenant(ctx, secret, nil)
	if err != nil || got.Fingerprint != f.tenant.Fingerprint {
		t.Fatal(err)
	}
	got.Erase()
	if _, err := f.OpenTenant(ctx, f.cred(), nil); !errors.Is(err, snapstore.ErrNoSlot) {
		t.Errorf("another key: %v", err)
	}
	if c, err := f.TenantKeys(f.tenant).Add(ctx, pub.Suite(), nil, f.cred()); err != nil || c.Slot != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := f.TenantSlots(f.tenant.Fingerprint).Replace(ctx, f.cred(), crypto.SecretCredential(newKey(t))); err != nil || c.Slot != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	// A second tenant with the same recovery key.
	other := newTenant(t)
	if _, err := f.TenantKeys(other).Add(ctx, pub.Suite(), nil, pub); err != nil {
		t.Fatal(err)
	}
	if _, err := f.OpenTenant(ctx, secret, nil); !errors.Is(err, snapstore.ErrSeveralTenants) {
		t.Errorf("%v", err)
	}
	if got, err = f.OpenTenant(ctx, secret, &other.Fingerprint); err != nil || got.Fingerprint != other.Fingerprint {
		t.Fatal(err)
	}
	got.Erase()
	none := format.NewID()
	if _, err := f.OpenTenant(ctx, secret, &none); !errors.Is(err, snapstore.ErrNoTenant) {
		t.Errorf("%v", err)
	}
	// Slots of another tenant under the name of this one are refused, and a slot that only seems to be
	// for the recovery key is made again.
	mine, theirs := f.tenant.Fingerprint, other.Fingerprint
	f.put(format.TenantKey(mine, 9), f.get(format.TenantKey(theirs, 0)))
	if _, err := f.OpenTenant(ctx, secret, &mine); err == nil {
		t.Error("another tenant's slots open")
	}
	if c, err := f.TenantKeys(f.tenant).Add(ctx, pub.Suite(), nil, pub); err != nil || c.Slot != 0 {
		t.Fatal(c, err)
	}
	if got, err = f.OpenTenant(ctx, secret, &mine); err != nil {
		t.Fatal(err)
	}
	got.Erase()
}

// TestKeysAtOnce: of several changes at once none is lost.
func TestKeysAtOnce(t *testing.T) {
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	creds := make([]crypto.Credential, 6)
	var wg sync.WaitGroup
	for i := range creds {
		c := crypto.SecretCredential(newKey(t))
		creds[i] = c
		from := f.cred()
		wg.Go(func() {
			if _, err := f.SnapshotKeys(m.ID).Add(context.Background(), 0, from, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, c := range creds {
		k, err := f.SnapshotKey(t.Context(), m.ID, c)
		if err != nil {
			t.Errorf("key %d: %v", i, err)
			continue
		}
		k.Erase()
	}
}

// overtaken is a store in which others make two changes before one that relies on what was read.
type overtaken struct {
	chunkstore.Store
	change func()
}

func (s *overtaken) Put(ctx context.Context, key string, b []byte) (bool, error) {
	if change := s.change; change != nil {
		s.change = nil
		change()
	}
	return s.Store.Put(ctx, key, b)
}

// TestOvertaken: the number that a change puts may be free again, since others have put and deleted
// it.
func TestOvertaken(t *testing.T) {
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	var creds []crypto.Credential
	add := func(s *snapstore.Store) {
		t.Helper()
		c := crypto.SecretCredential(newKey(t))
		creds = append(creds, c)
		if _, err := s.SnapshotKeys(m.ID).Add(t.Context(), 0, f.cred(), c); err != nil {
			t.Error(err)
		}
	}
	s, err := snapstore.Open(t.Context(), &overtaken{f.mem, func() {
		add(f.Store)
		add(f.Store)
	}})
	if err != nil {
		t.Fatal(err)
	}
	add(s)
	for i, c := range creds {
		k, err := f.SnapshotKey(t.Context(), m.ID, c)
		if err != nil {
			t.Errorf("key %d: %v", i, err)
			continue
		}
		k.Erase()
	}
	if keys := f.keys(format.SnapKey(m.ID, format.KeysPart)); len(keys) != 1 {
		t.Errorf("old slots remain: %v", keys)
	}
}

// failing fails at the n-th change.
type failing struct {
	chunkstore.Store
	n   int
	err error
}

func (s *failing) fail() error {
	if s.n--; s.n == 0 {
		return s.err
	}
	return nil
}

func (s *failing) Put(ctx context.Context, key string, b []byte) (bool, error) {
	if err := s.fail(); err != nil {
		return false, err
	}
	return s.Store.Put(ctx, key, b)
}

func (s *failing) Delete(ctx context.Context, key string) error {
	if err := s.fail(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key)
}

// TestInterruptedRotation: whatever fails, a key opens the snapshot, and the command can be run
// again. What an object lock keeps is told, and is no failure.
func TestInterruptedRotation(t *testing.T) {
	broken := errors.New("the store is away")
	for n := 1; n <= 2; n++ { // the put, the delete
		f := newFixture(t)
		m := f.make(snapstoretest.Snapshot{})
		s, err := snapstore.Open(t.Context(), &failing{f.mem, n, broken})
		if err != nil {
			t.Fatal(err)
		}
		next := crypto.SecretCredential(newKey(t))
		if _, err := s.SnapshotKeys(m.ID).Replace(t.Context(), f.cred(), next); !errors.Is(err, broken) {
			t.Errorf("change %d fails: %v", n, err)
		}
		c, err := f.SnapshotKeys(m.ID).Replace(t.Context(), f.cred(), next)
		if err != nil || c.Added != (n == 1) || c.Slot != 1 {
			t.Errorf("again: %+v, %v", c, err)
		}
		k, err := f.SnapshotKey(t.Context(), m.ID, next)
		if err != nil {
			t.Fatal(err)
		}
		k.Erase()
		if keys := f.keys(format.SnapKey(m.ID, format.KeysPart)); len(keys) != 1 {
			t.Errorf("old slots remain: %v", keys)
		}
	}
	f := newFixture(t)
	m := f.make(snapstoretest.Snapshot{})
	s, err := snapstore.Open(t.Context(), &failing{f.mem, 2, fmt.Errorf("%w until tomorrow", chunkstore.ErrLocked)})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.SnapshotKeys(m.ID).Replace(t.Context(), f.cred(), crypto.SecretCredential(newKey(t))); err != nil || !c.Locked {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestSealKey: a snapshot's first slots, of several keys.
func TestSealKey(t *testing.T) {
	f := newFixture(t)
	_, pub := recovery(t)
	sk, id := newKey(t), format.NewID()
	b, err := snapstore.SealKey(1, id, sk, f.cred(), pub)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := manifest.DecodeSlots(b)
	if err != nil || len(slots.Slots) != 2 {
		t.Fatal(slots, err)
	}
	k, err := slots.OpenSnapshot(id, f.cred())
	if err != nil || !bytes.Equal(k.Bytes(), sk.Bytes()) {
		t.Fatal(err)
	}
	k.Erase()
	if _, err := snapstore.SealKey(1, id, sk); err == nil {
		t.Error("a snapshot that nobody opens")
	}
}
