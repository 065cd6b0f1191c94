package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// wantKey refuses to run without a key of the snapshot.
func (s *stored) wantKey() error {
	if s.cred != nil {
		return nil
	}
	return usageError(errors.New("give a key of the snapshot: --key-file, --passphrase-file or --recovery-key-file"))
}

// read opens the snapshot that was named, to be read. The caller closes it.
func (s *stored) read(ctx context.Context, key *keyFlags, name string) (*reading.Snapshot, *snapstore.Snapshot, error) {
	if err := errors.Join(s.wantTenant(), s.wantKey()); err != nil {
		return nil, nil, err
	}
	sn, want, err := s.find(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	r, err := reading.Open(ctx, s.Store, sn, reading.Options{Tenant: s.tenant, Credential: s.cred, Want: want, Who: who(), Log: stderrLog()})
	if err = s.flags.wrap(err); errors.Is(err, format.ErrFormat) && hint(err) == "" {
		err = withHint(err, hintRestore)
	}
	if err != nil {
		return nil, nil, key.explain(err)
	}
	return r, sn, nil
}

// hintRestore says what to do without one of the objects that a snapshot is opened with.
const hintRestore = "restore the object from another copy of the store; without it, the snapshot cannot be read: use an earlier one"

// stderrLog is the log of packages that this process runs.
func stderrLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// readStored opens the store and the snapshot that was named, and passes it to work.
func readStored(ctx context.Context, f *storedFlags, key *keyFlags, name string, work func(s *stored, r *reading.Snapshot, sn *snapstore.Snapshot) error) error {
	if err := f.wantStore(""); err != nil {
		return withHint(err, "this command is for stored snapshots; to read a local one, mount it with `sealvol mount --snapshot NAME`")
	}
	s, err := f.open(ctx, key)
	if err != nil {
		return err
	}
	defer s.end()
	r, sn, err := s.read(ctx, key, name)
	if err != nil {
		return err
	}
	defer r.Close()
	return explainRead(work(s, r, sn))
}

// explainRead adds what to do about an error of reading a stored snapshot. Other commands say
// something else about the same errors.
func explainRead(err error) error {
	var c *codeError
	switch {
	case err == nil, errors.As(err, &c):
		return err
	case errors.Is(err, vfs.ErrCorrupt), isStoreDamage(err):
		return withHint(err, "run `sealvol snapshot verify` to list all that is damaged; use another copy of the store, or an earlier snapshot")
	case errors.Is(err, vfs.ErrIO):
		return withHint(err, "check the store and the connection to it, then run the command again")
	}
	return err
}

// isStoreDamage reports whether an error is about what a store has lost or damaged.
func isStoreDamage(err error) bool {
	for _, kind := range []error{selfenc.ErrCorrupt, selfenc.ErrMap, pack.ErrDamaged, merkle.ErrInvalid, chunkstore.ErrNotFound, chunkstore.ErrRange} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
