package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

type snapshotInit struct {
	storedFlags
	to          newKeyFlags
	consistency string
	chunk, pack byteSize
	json        bool
}

func snapshotInitCommand() *cobra.Command {
	var o snapshotInit
	c := &cobra.Command{
		Use:   "init --store URL [--tenant-file FILE --recipient RECIPIENT] [flags]",
		Short: "Make a store for snapshots",
		Long: `Make a store for snapshots, in a directory or in a bucket of S3. A directory is created
if its parent exists. If the place is a store already, nothing changes.

All stored snapshots depend on the tenant secret, which is a key file of its own. If it
is lost, they are lost. So keep a copy of it in the store: with --tenant-file and
--recipient, the store holds it encrypted for a recovery key; with one of the flags
--new-…, for another key. "sealvol snapshot key add" does this later as well.

A store is "strong" if whoever reads after a write sees it. Directories on network file
systems may not be: they are "eventual", and pruning waits longer there.`,
		Example: `  sealvol key generate tenant.key
  sealvol key generate --recovery rescue.key > rescue.pub
  sealvol snapshot init --store file:///backup --tenant-file tenant.key --recipient rescue.pub`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			return o.run(ctx, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	o.registerStore(f)
	f.StringVar(&o.tenantFile, "tenant-file", "", "file with the tenant secret: 32 raw bytes or 64 hexadecimal digits")
	o.to.register(c)
	f.StringVar(&o.consistency, "consistency", "", "strong or eventual (default: eventual for a directory on a network file system)")
	f.Var(&o.chunk, "chunk-size", "largest chunk of a file, a power of two from 16KiB to 4MiB (default 64KiB)")
	f.Var(&o.pack, "pack-size", "size of the objects that chunks are packed into, 1MiB to 32MiB (default 16MiB)")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return c
}

// initReport is the JSON of init.
type initReport struct {
	Store       string `json:"store"`
	Created     bool   `json:"created"`
	Consistency string `json:"consistency"`
	ChunkBytes  int    `json:"chunkBytes"`
	PackBytes   int    `json:"packBytes"`
	Conditional bool   `json:"conditionalPuts"`
	Tenant      string `json:"tenant,omitempty"`
	Slot        *int   `json:"slot,omitempty"`

	copies []format.ID // of tenant secrets
}

func (o *snapshotInit) options() (snapstore.Options, error) {
	opts := snapstore.Options{ChunkBytes: int(o.chunk), PackBytes: int(o.pack)}
	switch o.consistency {
	case "":
	case format.Strong, format.Eventual:
		eventual := o.consistency == format.Eventual
		opts.Eventual = &eventual
	default:
		return opts, usageError(fmt.Errorf("--consistency %s: must be strong or eventual", o.consistency))
	}
	if c := o.chunk; c != 0 && (c < 16<<10 || c > 4<<20 || c&(c-1) != 0) {
		return opts, usageError(fmt.Errorf("--chunk-size %s: must be a power of two from 16KiB to 4MiB", c.String()))
	}
	if p := o.pack; p != 0 && (p < 1<<20 || p > format.MaxPackBytes) {
		return opts, usageError(fmt.Errorf("--pack-size %s: must be 1MiB to 32MiB", p.String()))
	}
	return opts, nil
}

func (o *snapshotInit) run(ctx context.Context, w, notes io.Writer) error {
	opts, err := o.options()
	if err == nil {
		err = o.wantStore("")
	}
	if err != nil {
		return err
	}
	wantsSlot := o.to.given() || o.to.recipient != ""
	if wantsSlot && o.tenantFile == "" {
		return usageError(errors.New("--tenant-file is missing: the store holds a copy of the tenant secret for the key"))
	}
	var tenant *snapstore.Tenant
	if o.tenantFile != "" { // before anything is created
		if tenant, err = readTenant(o.tenantFile); err != nil {
			return err
		}
		defer tenant.Erase()
	}
	var to crypto.Recipient
	if wantsSlot {
		var erase func()
		if to, erase, err = o.to.newKey(); err != nil {
			return err
		}
		defer erase()
	}
	objects, err := o.chunkStore(ctx, true)
	if err != nil {
		return err
	}
	defer discard(objects)
	s, created, err := snapstore.Create(ctx, objects, opts)
	if err != nil {
		return o.wrap(err)
	}
	d := s.Description()
	r := &initReport{Store: s.ID().String(), Created: created, Consistency: d.Consistency, ChunkBytes: d.ChunkBytes, PackBytes: d.PackBytes}
	if r.Conditional, err = chunkstore.IsConditional(ctx, objects, format.ProbeKey); err != nil {
		return o.wrap(err)
	}
	if !created {
		if err := o.same(&d); err != nil {
			return err
		}
	}
	if r.copies, err = s.Tenants(ctx); err != nil {
		return o.wrap(err)
	}
	if tenant != nil {
		r.Tenant = tenant.Fingerprint.String()
	}
	if to != nil {
		c, err := s.TenantKeys(tenant).Add(ctx, suiteOf(to), nil, to)
		if err != nil {
			return o.wrap(err)
		}
		r.Slot = &c.Slot
	}
	return o.print(w, notes, r)
}

// same refuses settings that an existing store does not have.
func (o *snapshotInit) same(d *format.Store) error {
	if o.consistency != "" && o.consistency != d.Consistency || o.chunk != 0 && int(o.chunk) != d.ChunkBytes || o.pack != 0 && int(o.pack) != d.PackBytes {
		return withHint(o.wrap(fmt.Errorf("it is a snapshot store already, with other settings: %s, chunks of %s, packs of %s",
			d.Consistency, formatSize(int64(d.ChunkBytes)), formatSize(int64(d.PackBytes)))), "the settings of a store never change: use another directory or prefix, or leave out the flags")
	}
	return nil
}

func (o *snapshotInit) print(w, notes io.Writer, r *initReport) error {
	if !r.Conditional {
		say(notes, "warning: the store does not support conditional puts (If-None-Match): snapshots can be stored and read, but the store cannot be pruned\n")
	}
	if r.Slot == nil && len(r.copies) == 0 {
		say(notes, "warning: if the tenant secret is lost, all snapshots of it are lost; `sealvol snapshot key add --recipient` keeps a copy in the store\n")
	}
	if o.json {
		return writeJSON(w, r)
	}
	what := "created the store"
	if !r.Created {
		what = "it is a store already:"
	}
	say(w, "%s: %s %s, %s\n", o.place(), what, r.Store, r.Consistency)
	if r.Slot != nil {
		say(w, "tenant %s: a copy of its secret is in key slot %d\n", r.Tenant, *r.Slot)
	}
	return nil
}

// suiteOf returns the suite of the first key slots that a key is in: a recovery key fits one alone.
func suiteOf(r crypto.Recipient) crypto.Suite {
	if pub, ok := r.(*crypto.RecoveryRecipient); ok {
		return pub.Suite()
	}
	return crypto.SuiteXChaCha20Poly1305
}

// newKey reads the key from the flag that was given. erase overwrites it.
func (f *newKeyFlags) newKey() (r crypto.Recipient, erase func(), err error) {
	if err := f.one(); err != nil {
		return nil, nil, err
	}
	if f.recipient == "" {
		return f.keyFlags.recipient()
	}
	r, err = readRecipient(f.recipient)
	return r, func() {}, err
}
