package reading

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
)

// Options of Open.
type Options struct {
	Tenant     *snapstore.Tenant
	Credential crypto.Credential // opens a key slot of the snapshot
	Want       *format.Sum       // the manifest that a full handle names; nil: any
	Who        string            // for people who look at leases
	Log        *slog.Logger      // nil: none
}

// Snapshot is an open snapshot. Close ends its lease.
type Snapshot struct {
	*stored.Snapshot
	lease *commit.Reader // nil: the store cannot be written
	stop  func()
}

// Open opens a snapshot that snapstore.Find has found. The caller keeps store and tenant until
// Close. The errors of snapstore.Store.Manifest and SnapshotKey.
func Open(ctx context.Context, store *snapstore.Store, sn *snapstore.Snapshot, o Options) (s *Snapshot, err error) {
	if err := sn.Check(); err != nil {
		return nil, err
	}
	s = &Snapshot{}
	h, sealed, err := s.hold(ctx, store, sn, &o)
	if errors.Is(err, commit.ErrNoBase) {
		return nil, fmt.Errorf("snapshot %s: %w: its manifest", sn.ID, snapstore.ErrLost)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	sk, err := store.SnapshotKey(ctx, sn.ID, o.Credential)
	if err != nil {
		return s, err
	}
	defer sk.Erase()
	m, err := store.OpenManifest(sn, h, sealed, o.Want, sk)
	if err != nil {
		return s, err
	}
	s.Snapshot, err = stored.Open(store.Objects(), o.Tenant.Keys, m.Head, m.Body)
	return s, err
}

// hold puts a lease on the snapshot and returns its manifest. A store that cannot be written is read
// without a lease: whoever prunes it has to know that.
func (s *Snapshot) hold(ctx context.Context, store *snapstore.Store, sn *snapstore.Snapshot, o *Options) (h *format.Head, sealed []byte, err error) {
	warn := func(what string, err error) {
		if o.Log != nil {
			o.Log.Warn(what, "snapshot", sn.ID.String(), "error", err)
		}
	}
	lease, err := commit.Read(ctx, store.Objects(), sn.ID, 0, o.Who)
	if errors.Is(err, chunkstore.ErrDenied) {
		warn("the store cannot be written: the snapshot is read without a lease, and must not be forgotten and pruned meanwhile", err)
		return commit.Whole(ctx, store.Objects(), sn.ID)
	}
	if err != nil {
		return nil, nil, err
	}
	s.lease = lease
	s.stop = lease.Keep(ctx, func(err error) { warn("the lease of a snapshot was not renewed", err) })
	return lease.Head, lease.Sealed, nil
}

// closeTime is how long Close waits for the store.
const closeTime = 10 * time.Second

// Close ends reading, and the lease; if the store does not answer, the lease expires.
func (s *Snapshot) Close() {
	if s.Snapshot != nil {
		s.Snapshot.Close()
	}
	if s.lease == nil {
		return
	}
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime) // also after the caller's has ended
	defer cancel()
	_ = s.lease.Close(ctx)
}
