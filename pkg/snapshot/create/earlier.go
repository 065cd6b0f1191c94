package create

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
)

// findEarlier looks for what earlier attempts at the snapshot have left.
func (j *job) findEarlier(ctx context.Context) (err error) {
	if j.earlier = (&commit.Earlier{}); j.o.Fresh {
		return nil
	}
	if j.earlier, err = commit.FindEarlier(ctx, j.o.Store, j.o.S); err != nil {
		return err
	}
	for _, err := range j.earlier.Damaged {
		j.warn("the lease of an earlier attempt cannot be read: what it stored is stored again", err)
	}
	return nil
}

// takeOver finds the chunks that earlier attempts have stored.
func (j *job) takeOver(ctx context.Context) error {
	if len(j.o.predecessors)+len(j.earlier.Attempts) == 0 {
		return nil
	}
	there, err := j.w.TakeOver(ctx)
	if err != nil {
		return err
	}
	j.index, err = pack.NewIndex(ctx, j.o.Store, j.o.Tenant, j.o.S, j.list, pack.IndexOptions{Packs: there, Snapshots: j.o.written,
		Warn: func(err error) { j.warn("a pack of an earlier attempt cannot be used", err) }})
	return err
}

// earlierKeys opens the key of the snapshot that an earlier attempt has stored.
// ErrTaken: there is one that cannot be opened, so this snapshot cannot be finished.
func (j *job) earlierKeys() error {
	slots, err := manifest.DecodeSlots(j.earlier.Keys)
	if err != nil {
		return fmt.Errorf("keys of an earlier attempt: %w: %w", commit.ErrTaken, err)
	}
	if j.o.Credential == nil {
		return fmt.Errorf("the keys of an earlier attempt are there, and no credential was given to open them: %w", commit.ErrTaken)
	}
	j.o.Suite = slots.Suite // of the snapshot from now on; chunks may have others
	key, err := slots.OpenSnapshot(j.o.S, j.o.Credential)
	if err != nil {
		return fmt.Errorf("keys of an earlier attempt: %w: %w", commit.ErrTaken, err)
	}
	defer key.Erase()
	j.slots = j.earlier.Keys
	j.keys, err = crypto.DeriveSnapshotKeys(j.o.Suite, crypto.UUID(j.o.S), key)
	return err
}

// finishEarlier finishes what an earlier attempt has stored but for the card.
// ErrTaken: it is a snapshot of something else.
func (j *job) finishEarlier(ctx context.Context) (*Report, error) {
	h, sealed, err := format.DecodeManifest(j.earlier.Manifest)
	if err != nil {
		return nil, fmt.Errorf("manifest of an earlier attempt: %w: %w", commit.ErrTaken, err)
	}
	b, err := manifest.Open(j.keys, h, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("manifest of an earlier attempt: %w: %w", commit.ErrTaken, err)
	}
	if h.S != j.o.S || b.Volume != j.id.ID || b.Instance != format.ID(j.id.Instance) || b.StateRoot != j.to.Info().R {
		return nil, fmt.Errorf("an earlier attempt was of another state of a volume: %w", commit.ErrTaken)
	}
	if err := j.ofTenant(ctx, h, b); err != nil {
		return nil, fmt.Errorf("what an earlier attempt has stored cannot be read: %w: %w", commit.ErrTaken, err)
	}
	r := j.report(h, b)
	if _, _, err := commit.Whole(ctx, j.o.Store, h.S); err == nil {
		if err := j.checkCard(ctx, h); err != nil {
			return nil, err
		}
		return r, j.w.Done(ctx)
	} else if !errors.Is(err, commit.ErrNoBase) {
		return nil, err
	}
	if j.o.BeforeCommit != nil {
		if err := j.o.BeforeCommit(ctx, h); err != nil {
			return nil, err
		}
	}
	card, err := j.card(h, b)
	if err != nil {
		return nil, err
	}
	return r, j.w.Commit(ctx, &commit.Parts{Manifest: j.earlier.Manifest, Keys: j.slots, Card: card})
}

// ofTenant checks that the map of a manifest can be read: that it is not another tenant's.
func (j *job) ofTenant(ctx context.Context, h *format.Head, b *manifest.Body) error {
	sn, err := stored.Open(j.o.Store, j.o.Tenant, h, b)
	if err != nil {
		return err
	}
	defer sn.Close()
	_, err = sn.NextIno(ctx)
	return err
}

// checkCard checks that the card that is there belongs to a manifest.
func (j *job) checkCard(ctx context.Context, h *format.Head) error {
	object, err := j.o.Store.Get(ctx, format.SnapKey(h.S, format.CardPart), nil, format.MaxCardBytes)
	if err != nil {
		return err
	}
	c, err := manifest.OpenCard(j.o.Tenant, h.S, object)
	if err != nil {
		return err
	}
	return c.Check(h)
}

// beginAgain makes the options of another snapshot, which uses the packs of this
// one, since this one can never be finished.
func (j *job) beginAgain() Options {
	o := *j.o
	o.written = maps.Clone(o.written)
	if o.written == nil {
		o.written = map[format.ID]format.ID{}
	}
	for _, a := range append(j.earlier.Attempts, j.w.Attempt()) {
		if _, ok := o.written[a]; !ok {
			o.written[a] = o.S
			o.predecessors = append(o.predecessors[:len(o.predecessors):len(o.predecessors)], a)
		}
	}
	o.S, o.Fresh = format.NewID(), true
	return o
}
