package snapstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
)

// Tenant is an unlocked tenant secret.
type Tenant struct {
	// Keys are derived from the secret.
	Keys *crypto.TenantKeys
	// Fingerprint names the secret in stores.
	Fingerprint format.ID

	secret *crypto.Key
}

// NewTenant derives what a tenant secret gives. It keeps a copy of the secret: Erase ends it.
func NewTenant(secret *crypto.Key) (*Tenant, error) {
	own, err := secret.Clone()
	if err != nil {
		return nil, err
	}
	t := &Tenant{secret: own}
	if t.Keys, err = crypto.DeriveTenantKeys(own); err == nil {
		t.Fingerprint, err = t.Keys.Fingerprint()
	}
	if err != nil {
		t.Erase()
		return nil, err
	}
	return t, nil
}

// Erase overwrites the secret and the keys.
func (t *Tenant) Erase() {
	t.secret.Erase()
	if t.Keys != nil {
		t.Keys.Erase()
	}
}

// Tenants returns the fingerprints of the tenant secrets of which the store holds a copy.
func (s *Store) Tenants(ctx context.Context) (list []format.ID, err error) {
	for info, err := range s.objects.List(ctx, format.TenantPrefix, "") {
		if err != nil {
			return nil, err
		}
		name, part, _ := strings.Cut(strings.TrimPrefix(info.Key, format.TenantPrefix), "/")
		fp, err := format.ParseID(name)
		if _, ok := format.SlotsVersion(part); err == nil && ok && !slices.Contains(list, fp) {
			list = append(list, fp)
		}
	}
	return list, nil
}

// OpenTenant opens a tenant secret that the store holds with a key. fingerprint says which one;
// nil: the only one that the key opens. The caller erases the result. ErrNoTenant, ErrNoSlot,
// ErrSeveralTenants.
func (s *Store) OpenTenant(ctx context.Context, c crypto.Credential, fingerprint *format.ID) (*Tenant, error) {
	list, err := s.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	if fingerprint != nil {
		if !slices.Contains(list, *fingerprint) {
			return nil, fmt.Errorf("%w with the fingerprint %s", ErrNoTenant, fingerprint)
		}
		list = []format.ID{*fingerprint}
	}
	if len(list) == 0 {
		return nil, ErrNoTenant
	}
	var found *crypto.Key
	var names []string
	var failed error
	for _, fp := range list {
		k, err := s.tenantSlots(fp).unlock(ctx, c)
		switch {
		case err == nil && found != nil:
			k.Erase()
			names = append(names, fp.String())
		case err == nil:
			found, names = k, append(names, fp.String())
		case failed == nil || errors.Is(failed, manifest.ErrNoSlot): // what is damaged comes first
			failed = err
		}
	}
	if found == nil {
		return nil, failed
	}
	defer found.Erase()
	if len(names) > 1 {
		return nil, fmt.Errorf("%w: %s", ErrSeveralTenants, strings.Join(names, ", "))
	}
	return NewTenant(found)
}

// TenantKeys is the set of key slots of a tenant secret.
func (s *Store) TenantKeys(t *Tenant) *Keys {
	k := s.tenantSlots(t.Fingerprint)
	k.secret = t.secret
	return k
}

// TenantSlots is the set of key slots of the tenant secret with a fingerprint.
func (s *Store) TenantSlots(fingerprint format.ID) *Keys { return s.tenantSlots(fingerprint) }

func (s *Store) tenantSlots(fp format.ID) *Keys {
	return &Keys{store: s.objects, prefix: format.TenantPrefix + fp.String() + "/", what: "tenant " + fp.String(), none: ErrNoTenant,
		open: func(sl *manifest.Slots, c crypto.Credential) (*crypto.Key, error) { return sl.OpenTenant(fp, c) },
		seal: func(suite crypto.Suite, i uint8, r crypto.Recipient, k *crypto.Key) (crypto.Slot, error) {
			return crypto.NewTenantSlot(suite, fp, i, r, k)
		}}
}
