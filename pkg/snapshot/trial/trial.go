package trial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// ErrDiffers says that the restored volume is damaged or is not equal to the snapshot.
var ErrDiffers = errors.New("the restored volume differs from the snapshot")

// Options of Restore.
type Options struct {
	Store  format.Store // of the snapshot
	Tenant *crypto.TenantKeys
	Memory int // bytes of the scratch volume; 0: volume.DefaultMemory
	// Restored and Compared are told how far they are. Nil: nobody.
	Restored func(restore.Progress)
	Compared func(create.Progress)
	Log      *slog.Logger // nil: none
}

// snapshotName is that of the local snapshot that is compared.
const snapshotName = "trial"

// Trial is a restored snapshot. Close erases the key of the volume.
type Trial struct {
	sn  *stored.Snapshot
	dev device.Device
	o   Options
	key *crypto.Key
}

// Restore restores a snapshot to a device, whose content is lost. The errors of restore.Run and
// volume.NewLoader.
func Restore(ctx context.Context, sn *stored.Snapshot, dev device.Device, o Options) (*Trial, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, err
	}
	t := &Trial{sn: sn, dev: dev, o: o, key: key}
	if err := t.restore(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Close ends the use of the volume.
func (t *Trial) Close() { t.key.Erase() }

// Credential opens the volume.
func (t *Trial) Credential() crypto.Credential { return crypto.SecretCredential(t.key) }

func (t *Trial) restore(ctx context.Context) error {
	key := crypto.SecretCredential(t.key)
	next, err := t.sn.NextIno(ctx)
	if err != nil {
		return err
	}
	body := t.sn.Body
	l, err := volume.NewLoader(t.dev, volume.FormatOptions{Recipient: key, Force: true},
		volume.LoadOptions{Credential: key, Memory: t.o.Memory, Log: t.o.Log, HashSeed: body.Seed, NextIno: next, Inodes: body.Files + body.Dirs})
	if err != nil {
		return err
	}
	if err := restore.Run(ctx, t.sn.RestoreSource(), l, restore.Options{Progress: t.o.Restored}); err != nil {
		_ = l.Close() // the volume is lost
		return err
	}
	return l.Close()
}

// Compare checks the restored volume, reads all of it, and returns ErrDiffers if it is not equal to
// the snapshot.
func (t *Trial) Compare(ctx context.Context) error {
	key := crypto.SecretCredential(t.key)
	checked, err := check.Run(t.dev, check.Options{Credential: key})
	if err != nil {
		return fmt.Errorf("%w: it cannot be checked: %w", ErrDiffers, err)
	}
	if !checked.Clean {
		return fmt.Errorf("%w: it is damaged: %v", ErrDiffers, checked.Problems[0])
	}
	if err := t.cut(); err != nil {
		return err
	}
	src, err := pinned.Open(t.dev, pinned.Options{Credential: key})
	if err != nil {
		return err
	}
	defer src.Close()
	state, err := src.Snapshot(snapshotName)
	if err != nil {
		return err
	}
	id := src.Identity()
	rep, err := create.Run(ctx, id, nil, state, create.Options{Store: &nowhere{chunkstore.NewMemory()}, StoreID: format.NewID(), Format: t.o.Store, Tenant: t.o.Tenant, Suite: id.Suite,
		Recipients: []crypto.Recipient{key}, Writer: "sealvol", Log: t.o.Log, Progress: t.o.Compared})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: it cannot be read: %w", ErrDiffers, err)
	}
	if body := t.sn.Body; rep.Content != t.sn.Content() || rep.Files != body.Files || rep.Dirs != body.Dirs || rep.Logical != body.LogicalBytes {
		return fmt.Errorf("%w: it has %d files and %d directories of %d bytes with the content hash %x, the snapshot %d, %d, %d and %x",
			ErrDiffers, rep.Files, rep.Dirs, rep.Logical, rep.Content, body.Files, body.Dirs, body.LogicalBytes, t.sn.Content())
	}
	return nil
}

// cut makes the local snapshot that is read.
func (t *Trial) cut() error {
	v, err := volume.Open(t.dev, volume.Options{Credential: t.Credential(), Memory: t.o.Memory, Log: t.o.Log})
	if err != nil {
		return fmt.Errorf("%w: it cannot be opened: %w", ErrDiffers, err)
	}
	_, err = v.CreateSnapshot(snapshotName)
	return errors.Join(err, v.Close())
}

// nowhere is a store that forgets packs: nobody reads what is compared.
type nowhere struct{ *chunkstore.Memory }

// Put implements chunkstore.Store.
func (n *nowhere) Put(ctx context.Context, key string, data []byte) (bool, error) {
	if strings.HasPrefix(key, "packs/") {
		return true, context.Cause(ctx)
	}
	return n.Memory.Put(ctx, key, data)
}
