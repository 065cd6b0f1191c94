package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume"
)

func snapshotKeyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Change the keys of stored snapshots",
		Long: `Change the keys of stored snapshots. Each stored snapshot has a key of its own, and a store
can hold copies of tenant secrets. Both lie in up to 16 key slots, as the data key of a
volume does. Reading a snapshot takes the tenant secret and a key of one of its slots.

No command here rewrites data: a key that was removed opens a copy of the store from
before.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return usageError(fmt.Errorf("unknown command %q", a[0]))
			}
			return c.Help()
		},
	}
	c.AddCommand(snapshotKeyListCommand(), snapshotKeyAddCommand(), snapshotKeyRemoveCommand(), snapshotKeyRotateCommand())
	return c
}

// slotTypes returns "SLOT TYPE" of each slot.
func slotTypes(s *manifest.Slots) []string {
	list := []string{}
	for _, i := range slotNumbers(s) {
		slot := s.Slots[i]
		list = append(list, fmt.Sprintf("%d %s", i, crypto.SlotTypeName(slot.Type)))
	}
	return list
}

func slotNumbers(s *manifest.Slots) (list []uint8) {
	for i := range s.Slots {
		list = append(list, i)
	}
	slices.Sort(list)
	return list
}

// keyHolder is the JSON of what has key slots.
type keyHolder struct {
	Tenant   string      `json:"tenant,omitempty"`
	Snapshot string      `json:"snapshot,omitempty"`
	Slots    []slotEntry `json:"slots"`
}

type slotEntry struct {
	Slot        int    `json:"slot"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

func slotEntries(s *manifest.Slots) []slotEntry {
	list := []slotEntry{}
	for _, i := range slotNumbers(s) {
		slot := s.Slots[i]
		e := slotEntry{Slot: int(i), Type: crypto.SlotTypeName(slot.Type)}
		if pub, err := crypto.SlotRecipient(s.Suite, &slot); err == nil {
			e.Fingerprint = volume.Fingerprint(pub)
		}
		list = append(list, e)
	}
	return list
}

func snapshotKeyListCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "list --store URL [SNAPSHOT...]",
		Short: "List the key slots of tenant secrets or of stored snapshots",
		Long: `List the key slots of the copies of tenant secrets that the store holds, or those of
stored snapshots. By an id or a handle, no key is needed.`,
		Example: `  sealvol snapshot key list --store file:///backup
  sealvol snapshot key list --store file:///backup --tenant-file tenant.key latest`,
		Args: args(0, -1, "SNAPSHOTs"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := from.wantStore(""); err != nil {
				return err
			}
			s, err := from.open(ctx, &key)
			if err != nil {
				return err
			}
			defer s.end()
			list, err := s.keyHolders(ctx, a)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), struct {
					Keys []keyHolder `json:"keys"`
				}{list})
			}
			for _, h := range list {
				printKeyHolder(c.OutOrStdout(), &h)
			}
			return nil
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	jsonFlag(c, &asJSON)
	return c
}

func printKeyHolder(w io.Writer, h *keyHolder) {
	if h.Tenant != "" {
		say(w, "tenant %s\n", h.Tenant)
	} else {
		say(w, "snapshot %s\n", h.Snapshot)
	}
	for _, s := range h.Slots {
		say(w, "  slot %d: %s", s.Slot, s.Type)
		if s.Fingerprint != "" {
			say(w, " (%s)", s.Fingerprint)
		}
		say(w, "\n")
	}
}

// keyHolders returns the slots of the named snapshots, or of the tenant secrets.
func (s *stored) keyHolders(ctx context.Context, names []string) ([]keyHolder, error) {
	list := []keyHolder{}
	for _, name := range names {
		sn, _, err := s.find(ctx, name)
		if err != nil {
			return nil, err
		}
		slots, err := s.SnapshotKeys(sn.ID).Slots(ctx)
		if err != nil {
			return nil, s.flags.wrap(err)
		}
		list = append(list, keyHolder{Snapshot: sn.ID.String(), Slots: slotEntries(slots)})
	}
	if len(names) > 0 {
		return list, nil
	}
	tenants, err := s.Tenants(ctx)
	for _, fp := range tenants {
		var slots *manifest.Slots
		if slots, err = s.TenantSlots(fp).Slots(ctx); err != nil {
			break
		}
		list = append(list, keyHolder{Tenant: fp.String(), Slots: slotEntries(slots)})
	}
	return list, s.flags.wrap(err)
}

// keyChanged is the JSON of one change.
type keyChanged struct {
	Tenant   string `json:"tenant,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
	Slot     int    `json:"slot"`
	Added    bool   `json:"added"`
	Removed  []int  `json:"removed,omitempty"`
	Locked   bool   `json:"locked,omitempty"` // an object lock keeps the earlier slots
}

func changed(c snapstore.Change, tenant, snapshot string) keyChanged {
	return keyChanged{Tenant: tenant, Snapshot: snapshot, Slot: c.Slot, Added: c.Added, Removed: c.Removed, Locked: c.Locked}
}

func printKeysChanged(w io.Writer, list []keyChanged, asJSON bool) error {
	if asJSON {
		return writeJSON(w, struct {
			Keys []keyChanged `json:"keys"`
		}{list})
	}
	for _, k := range list {
		holder := "snapshot " + k.Snapshot
		if k.Tenant != "" {
			holder = "tenant " + k.Tenant
		}
		if k.Slot >= 0 {
			what := "already there"
			if k.Added {
				what = "added"
			}
			say(w, "%s: key slot %d: %s\n", holder, k.Slot, what)
		}
		for _, r := range k.Removed {
			say(w, "%s: key slot %d: removed\n", holder, r)
		}
		if k.Locked {
			say(w, "%s: an object lock keeps the earlier slots, which removed keys open until it ends\n", holder)
		}
	}
	return nil
}

// reportKeys prints what was changed, which may be a part if there was an error.
func reportKeys(w io.Writer, list []keyChanged, asJSON bool, err error) error {
	if err == nil {
		return printKeysChanged(w, list, asJSON)
	}
	if len(list) == 0 {
		return err
	}
	if err := printKeysChanged(w, list, asJSON); err != nil {
		return err
	}
	return fmt.Errorf("%w (the changes listed above were made)", err)
}

func snapshotKeyAddCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "add --store URL --tenant-file FILE --recipient RECIPIENT [SNAPSHOT...]",
		Short: "Add a key to the tenant secret in a store, or to stored snapshots",
		Long: `Without SNAPSHOTs, keep a copy of the tenant secret in the store, encrypted for a key:
--recipient for a recovery key, or one of the flags --new-…. Whoever has the store and
that key can then open the store's snapshots without --tenant-file, if they have a slot
for the key as well.

With SNAPSHOTs, add the key to these stored snapshots. Also give a key that opens them
now.`,
		Example: `  sealvol snapshot key add --store file:///backup --tenant-file tenant.key --recipient rescue.pub
  sealvol snapshot key add --store file:///backup --tenant-file tenant.key --key-file vol.key --recipient rescue.pub latest`,
		Args: args(0, -1, "SNAPSHOTs"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := from.wantStore(""); err != nil {
				return err
			}
			r, erase, err := to.newKey()
			if err != nil {
				return err
			}
			defer erase()
			s, err := from.open(ctx, &key)
			if err != nil {
				return err
			}
			defer s.end()
			list, err := s.addKeys(ctx, r, a)
			return reportKeys(c.OutOrStdout(), list, asJSON, key.explain(from.wrap(err)))
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}

func (s *stored) addKeys(ctx context.Context, to crypto.Recipient, names []string) (list []keyChanged, err error) {
	if err := s.wantTenant(); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		c, err := s.TenantKeys(s.tenant).Add(ctx, suiteOf(to), nil, to)
		if err != nil {
			return nil, err
		}
		return []keyChanged{changed(c, s.tenant.Fingerprint.String(), "")}, nil
	}
	if s.cred == nil {
		return nil, usageError(errors.New("give a key that opens the snapshots now, such as --key-file"))
	}
	for _, name := range names {
		sn, _, err := s.Find(ctx, s.tenant, name)
		if err != nil {
			return list, err
		}
		c, err := s.SnapshotKeys(sn.ID).Add(ctx, 0, s.cred, to)
		if err != nil {
			return list, fmt.Errorf("snapshot %s: %w", sn.ID, err)
		}
		list = append(list, changed(c, "", sn.ID.String()))
	}
	return list, nil
}

func snapshotKeyRemoveCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var ofTenant string
	var asJSON bool
	c := &cobra.Command{
		Use:   "remove --store URL SNAPSHOT SLOT | --store URL --of-tenant FINGERPRINT SLOT",
		Short: "Remove a key from a stored snapshot, or from a tenant secret in a store",
		Long: `Remove the key in a slot (sealvol snapshot key list shows the slots). Somebody who has the
key and a copy of the store from before can still use it. The last key is not removed.
By an id or a handle, no key is needed.`,
		Example: `  sealvol snapshot key remove --store file:///backup 4f1c2ab09d3e 1
  sealvol snapshot key remove --store file:///backup --of-tenant 2426be9c6bca7be965cc26fb2a7e648a 0`,
		Args: args(1, 2, "SNAPSHOT and SLOT, or --of-tenant and SLOT"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			slot, err := strconv.ParseUint(a[len(a)-1], 10, 8)
			if err != nil {
				return usageError(fmt.Errorf("SLOT %q is not the number of a slot", a[len(a)-1]))
			}
			if (ofTenant == "") != (len(a) == 2) {
				return usageError(errors.New("give SNAPSHOT and SLOT, or --of-tenant and SLOT"))
			}
			if err := from.wantStore(""); err != nil {
				return err
			}
			s, err := from.open(ctx, &key)
			if err != nil {
				return err
			}
			defer s.end()
			k, err := s.removeKey(ctx, ofTenant, a[0], uint8(slot))
			if err != nil {
				return err
			}
			return printKeysChanged(c.OutOrStdout(), []keyChanged{k}, asJSON)
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	c.Flags().StringVar(&ofTenant, "of-tenant", "", "fingerprint of the tenant secret to remove the key from")
	jsonFlag(c, &asJSON)
	return c
}

func (s *stored) removeKey(ctx context.Context, ofTenant, name string, slot uint8) (k keyChanged, err error) {
	var keys *snapstore.Keys
	if ofTenant != "" {
		fp, err := (&storedFlags{tenant: ofTenant}).fingerprint()
		if err != nil {
			return k, err
		}
		k.Tenant, keys = fp.String(), s.TenantSlots(*fp)
	} else {
		sn, _, err := s.find(ctx, name)
		if err != nil {
			return k, err
		}
		k.Snapshot, keys = sn.ID.String(), s.SnapshotKeys(sn.ID)
	}
	c, err := keys.Remove(ctx, slot)
	return changed(c, k.Tenant, k.Snapshot), s.flags.wrap(err)
}

func snapshotKeyRotateCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var to newKeyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate --store URL --tenant-file FILE --key-file OLD --new-key-file NEW [SNAPSHOT...]",
		Short: "Replace a key of stored snapshots",
		Long: `Replace a key with another one, in all snapshots of the tenant that it opens and in the
copy of the tenant secret, or in the named SNAPSHOTs alone. No data is rewritten, so it
takes a few requests for each snapshot. If it is interrupted, run it again. A key that
was replaced opens a copy of the store from before.`,
		Example: `  sealvol snapshot key rotate --store file:///backup --tenant-file tenant.key --key-file old.key --new-key-file new.key`,
		Args:    args(0, -1, "SNAPSHOTs"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := errors.Join(from.wantStore(""), key.one()); err != nil {
				return err
			}
			r, erase, err := to.newKey()
			if err != nil {
				return err
			}
			defer erase()
			s, err := from.open(ctx, &key)
			if err != nil {
				return err
			}
			defer s.end()
			list, err := s.rotateKeys(ctx, r, a)
			if err == nil && len(list) == 0 {
				err = fmt.Errorf("%w, neither of a snapshot nor of the tenant secret", snapstore.ErrNoSlot)
			}
			return reportKeys(c.OutOrStdout(), list, asJSON, key.explain(from.wrap(err)))
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	to.register(c)
	jsonFlag(c, &asJSON)
	return c
}

// rotateKeys replaces the key in the named snapshots, or wherever it fits.
func (s *stored) rotateKeys(ctx context.Context, to crypto.Recipient, names []string) (list []keyChanged, err error) {
	if err := s.wantTenant(); err != nil {
		return nil, err
	}
	rotate := func(k keyChanged, keys *snapstore.Keys, must bool) error {
		c, err := keys.Replace(ctx, s.cred, to)
		if !must && (errors.Is(err, snapstore.ErrNoSlot) || errors.Is(err, snapstore.ErrNoKeys) || errors.Is(err, snapstore.ErrNoTenant)) {
			return nil
		}
		if err == nil {
			list = append(list, changed(c, k.Tenant, k.Snapshot))
		}
		return err
	}
	for _, name := range names {
		sn, _, err := s.Find(ctx, s.tenant, name)
		if err == nil {
			err = rotate(keyChanged{Snapshot: sn.ID.String()}, s.SnapshotKeys(sn.ID), true)
		}
		if err != nil {
			return list, err
		}
	}
	if len(names) > 0 {
		return list, nil
	}
	all, _, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Card == nil || all[i].State == snapstore.Void {
			continue
		}
		if err := rotate(keyChanged{Snapshot: all[i].ID.String()}, s.SnapshotKeys(all[i].ID), false); err != nil {
			return list, err
		}
	}
	// Last: until then, an interrupted run can be repeated with the old key alone.
	return list, rotate(keyChanged{Tenant: s.tenant.Fingerprint.String()}, s.TenantSlots(s.tenant.Fingerprint), false)
}
