package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/diff"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/local"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// storedFlags are those of commands for stored snapshots.
type storedFlags struct {
	store, tenantFile, tenant string
	rate                      rateFlags
}

const storeUsage = "store of the snapshots: file:///DIR or s3://BUCKET/PREFIX?region=…&endpoint=…&…"

// registerStore adds --store.
func (f *storedFlags) registerStore(flags *pflag.FlagSet) {
	flags.StringVar(&f.store, "store", "", storeUsage)
}

// register adds all flags.
func (f *storedFlags) register(flags *pflag.FlagSet) {
	f.registerStore(flags)
	flags.StringVar(&f.tenantFile, "tenant-file", "", "file with the tenant secret of stored snapshots: 32 raw bytes or 64 hexadecimal digits")
	flags.StringVar(&f.tenant, "tenant", "", "fingerprint of the tenant, if the key opens the secrets of several")
}

// isStored reports whether a command that knows both kinds of snapshots was given a store. n is the
// number of its arguments, most the number that it takes with a store; -1: any.
func (f *storedFlags) isStored(c *cobra.Command, n, most int) (bool, error) {
	switch {
	case f.store != "" && most >= 0 && n > most:
		return false, usageError(errors.New("--store is for stored snapshots, a DEVICE-OR-DIR for local ones: give one of them"))
	case f.store != "":
		return true, nil
	case n == 0:
		return false, usageError(errors.New("give a DEVICE-OR-DIR for local snapshots, or --store URL for stored ones"))
	}
	for _, a := range c.Flags().Args() {
		if strings.HasPrefix(a, "file://") || strings.HasPrefix(a, "s3://") {
			return false, usageError(errors.New("the URL of a store is the value of --store: write --store URL"))
		}
	}
	return false, onlyStored(c.Flags(), append([]string{"tenant-file", "tenant", "all"}, filterNames...)...)
}

// onlyStored refuses flags that are about stored snapshots.
func onlyStored(flags *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		if flags.Changed(name) {
			return usageError(fmt.Errorf("--%s is only for stored snapshots: give --store URL as well", name))
		}
	}
	return nil
}

// wantStore refuses to run without a store. what is the command for local snapshots that may have
// been meant, or "".
func (f *storedFlags) wantStore(what string) error {
	if f.store != "" {
		return nil
	}
	err := usageError(errors.New("--store is missing: give file:///DIRECTORY or s3://BUCKET/PREFIX"))
	if what != "" {
		return withHint(err, "this command is for stored snapshots; for local ones, use `sealvol snapshot "+what+"`")
	}
	return err
}

// chunkStore opens the chunk store of a URL. It counts requests.
func (f *storedFlags) chunkStore(ctx context.Context, create bool) (*chunkstore.Meter, error) {
	opts, err := f.rate.options(create)
	if err != nil {
		return nil, err
	}
	opts.Retrying = func(err error) {
		say(os.Stderr, "warning: %s: no usable answer, trying again: %v\n", f.place(), err)
	}
	s, err := snapstore.OpenChunks(ctx, f.store, opts)
	if errors.Is(err, chunkstore.ErrURL) || errors.Is(err, chunkstore.ErrKey) {
		return nil, usageError(fmt.Errorf("--store: %w", err))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		return nil, withHint(f.wrap(err), "check --store; init creates one directory, and its parent must exist")
	case errors.Is(err, fs.ErrNotExist):
		return nil, withHint(f.wrap(err), "check --store; to make a snapshot store there, run `sealvol snapshot init`")
	case err != nil:
		return nil, f.wrap(err)
	}
	return chunkstore.NewMeter(s), nil
}

// place returns the store's URL without its parameters, for messages.
func (f *storedFlags) place() string {
	place, _, _ := strings.Cut(f.store, "?")
	return place
}

// wrap adds the store to an error.
func (f *storedFlags) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", f.place(), err)
}

// stored is an open store with what was unlocked.
type stored struct {
	*snapstore.Store
	flags  *storedFlags
	meter  *chunkstore.Meter
	tenant *snapstore.Tenant // nil: none was given
	cred   crypto.Credential // nil: none was given
}

// open opens the store, and what the flags unlock. key may be nil.
func (f *storedFlags) open(ctx context.Context, key *keyFlags) (s *stored, err error) {
	s = &stored{flags: f}
	defer func() {
		if err != nil {
			s.end()
			s = nil
		}
	}()
	fingerprint, err := f.fingerprint()
	if err != nil {
		return s, err
	}
	if s.meter, err = f.chunkStore(ctx, false); err != nil {
		return s, err
	}
	if s.Store, err = snapstore.Open(ctx, s.meter); err != nil {
		discard(s.meter)
		return s, f.wrap(err)
	}
	if key != nil && key.given() {
		if s.cred, err = key.credential(); err != nil {
			return s, err
		}
	}
	switch {
	case f.tenantFile != "":
		s.tenant, err = readTenant(f.tenantFile)
		if err == nil && fingerprint != nil && s.tenant.Fingerprint != *fingerprint {
			err = usageError(fmt.Errorf("--tenant %s: the secret in %s has the fingerprint %s", fingerprint, f.tenantFile, s.tenant.Fingerprint))
		}
	case s.cred != nil:
		if s.tenant, err = s.OpenTenant(ctx, s.cred, fingerprint); err != nil {
			err = key.explainTenant(f.wrap(err))
		}
	}
	return s, err
}

func (f *storedFlags) fingerprint() (*format.ID, error) {
	if f.tenant == "" {
		return nil, nil
	}
	fp, err := format.ParseID(f.tenant)
	if err != nil {
		return nil, usageError(fmt.Errorf("--tenant %q: a fingerprint has 32 hexadecimal digits", f.tenant))
	}
	return &fp, nil
}

// readTenant reads a tenant secret.
func readTenant(path string) (*snapstore.Tenant, error) {
	k, err := fromFile("tenant secret", path, crypto.ParseKeyFile)
	if err != nil {
		return nil, err
	}
	defer k.Erase()
	return snapstore.NewTenant(k)
}

// end erases keys and closes the store.
func (s *stored) end() {
	if s.cred != nil {
		s.cred.Erase()
	}
	if s.tenant != nil {
		s.tenant.Erase()
	}
	if s.Store != nil {
		discard(s.Store)
	}
}

// wantTenant refuses to run without a tenant secret.
func (s *stored) wantTenant() error {
	if s.tenant != nil {
		return nil
	}
	return usageError(errors.New("give --tenant-file; or, if the store holds a copy of the tenant secret, a key that opens it, such as --recovery-key-file"))
}

// find returns the snapshot that was named. Names need the tenant.
func (s *stored) find(ctx context.Context, name string) (*snapstore.Snapshot, *format.Sum, error) {
	sn, want, err := s.Find(ctx, s.tenant, name)
	if errors.Is(err, format.ErrFormat) && strings.HasPrefix(name, "ss1.") {
		return nil, nil, usageError(fmt.Errorf("%s: not a handle: %w", printable(name), err))
	}
	if errors.Is(err, snapstore.ErrNotFound) && s.tenant == nil {
		return nil, nil, withHint(s.flags.wrap(err), "give an id or a handle; to use names and latest, give --tenant-file")
	}
	if errors.Is(err, snapstore.ErrNotFound) {
		if _, _, lerr := s.list(ctx); errors.Is(lerr, snapstore.ErrWrongTenant) {
			return nil, nil, lerr // no name can be found with it
		}
	}
	return sn, want, s.flags.wrap(err)
}

// who names this process in tombs and leases, for people. It is not secret: whoever has the store
// reads it.
func who() string {
	host, err := os.Hostname()
	if err != nil {
		return "sealvol"
	}
	return host
}

// storedHints say what to do about errors of stored snapshots.
var storedHints = []hintFor{
	{snapstore.ErrNoStore, "check --store; to make a snapshot store there, run `sealvol snapshot init`"},
	{snapstore.ErrNewer, "install a newer sealvol"},
	{snapstore.ErrOtherStore, "check --store"},
	{snapstore.ErrWrongTenant, "check --tenant-file and --store; `sealvol snapshot key list` shows the fingerprints of tenants"},
	{snapstore.ErrSeveralTenants, "say which one with --tenant FINGERPRINT"},
	{snapstore.ErrNoTenant, "give --tenant-file; to keep a copy of the tenant secret in the store, run `sealvol snapshot key add`"},
	{snapstore.ErrNoSlot, "check the key; `sealvol snapshot key list` shows which kinds of key open what"},
	{snapstore.ErrAmbiguous, "give an id or a handle; for the newest, give latest:VOLUME or latest:NAMESPACE/CLAIM"},
	{snapstore.ErrNotFound, "`sealvol snapshot list --store URL --all` shows the snapshots; of an id, give at least the first 4 digits"},
	{snapstore.ErrForgotten, "to take that back, run `sealvol snapshot undelete`"},
	{snapstore.ErrTooLate, "its data is being deleted, or was; this cannot be undone"},
	{snapstore.ErrVoid, "its data is being deleted, or was; this cannot be undone"},
	{snapstore.ErrUnfinished, "wait until it is finished; if its writer died, run `sealvol snapshot create` again"},
	{snapstore.ErrExchanged, "somebody changed the store: do not trust it; use another copy of it, or an earlier snapshot"},
	{snapstore.ErrTenant, "if the tenant secret is the right one, the card is damaged or was exchanged: use another copy of the store, or another snapshot"},
	{snapstore.ErrKey, "somebody changed the store: do not trust it; use another copy of it, or an earlier snapshot"},
	{snapstore.ErrLost, hintRestore},
	{snapstore.ErrNoKeys, hintRestore},
	{snapstore.ErrLastSlot, "add another key first: `sealvol snapshot key add`"},
	{snapstore.ErrNoSuchSlot, "run `sealvol snapshot key list` to see the slots in use"},
	{commit.ErrNoBase, "only a whole snapshot can be forgotten; an unfinished one is removed when its lease has expired"},
	{local.ErrBusy, "wait until it has ended"},
	{diff.ErrUnrelated, "name two snapshots of one volume; `sealvol snapshot list` shows the volumes"},
	{pinned.ErrDeleted, "somebody deleted the local snapshot that was being stored: run the command again; it begins with the present state"},
	{create.ErrNoKey, "give a key, such as --key-file"},
	{gc.ErrDamaged, "restore the object from another copy of the store; or forget the snapshot, which loses it: `sealvol snapshot forget`"},
	{gc.ErrBusy, "run the command again"},
	{gc.ErrUnconditional, "use a server that supports If-None-Match; without it, snapshots can be stored and read, and nothing is deleted"},
	{chunkstore.ErrNoBucket, "check --store; buckets are never created: create it first"},
	{chunkstore.ErrCredentials, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another of the usual AWS sources, such as ~/.aws or the role of the machine"},
	{chunkstore.ErrLocked, "the object lock of the store protects it until then"},
	{chunkstore.ErrDenied, "use credentials of the store that allow it; a directory must be writable"},
}
