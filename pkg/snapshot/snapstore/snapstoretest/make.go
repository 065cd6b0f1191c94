// Package snapstoretest makes small snapshots in a store, without a volume, for tests of what deals
// with whole snapshots.
package snapstoretest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

// Snapshot says what to make. The zero value is good.
type Snapshot struct {
	ID          format.ID // zero: a new one
	Volume      format.ID // zero: a new one
	Parent      format.ID // zero: none; else its packs are used again
	Name, Claim string
	Created     time.Time // zero: now
	Tags        map[string]string
	Data        string // of the only chunk
	Unfinished  bool   // all but the card
}

// Made is a snapshot and its key.
type Made struct {
	ID     format.ID
	Key    *crypto.Key
	Head   *format.Head
	Writer *commit.Writer
}

// Make stores a snapshot. recipients are those of its key slots. The caller erases the key.
func Make(ctx context.Context, store chunkstore.Store, t *snapstore.Tenant, o Snapshot, recipients ...crypto.Recipient) (m *Made, err error) {
	for _, id := range []*format.ID{&o.ID, &o.Volume} {
		if *id == (format.ID{}) {
			*id = format.NewID()
		}
	}
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	if o.Data == "" {
		o.Data = "data of snapshot " + o.ID.String()
	}
	m = &Made{ID: o.ID}
	if m.Key, err = crypto.GenerateKey(); err != nil {
		return nil, err
	}
	if m.Writer, err = commit.Begin(ctx, store, o.ID, commit.Options{Base: o.Parent, Who: "test"}); err != nil {
		return nil, err
	}
	p, err := m.parts(ctx, store, t, &o, recipients)
	if err != nil {
		return nil, err
	}
	if !o.Unfinished {
		return m, m.Writer.Commit(ctx, p)
	}
	_, err = store.Put(ctx, format.SnapKey(m.ID, format.ManifestPart), p.Manifest)
	return m, err
}

// parts stores the pack and its list, and seals the rest.
func (m *Made) parts(ctx context.Context, store chunkstore.Store, t *snapstore.Tenant, o *Snapshot, recipients []crypto.Recipient) (*commit.Parts, error) {
	var parent *format.Head
	var list *pack.List
	if o.Parent != (format.ID{}) {
		h, _, err := m.Writer.Base(ctx)
		if err != nil {
			return nil, err
		}
		parent, list = h, pack.NewList(store, h)
	}
	builder := pack.NewBuilder(parent)
	w, err := pack.NewWriter(ctx, t.Keys, m.Writer, builder, pack.Options{})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	r, object, err := t.Keys.SealPacked(1, crypto.ChunkTree, 0, []byte(o.Data), nil, nil)
	if err != nil {
		return nil, err
	}
	root, err := w.Add(ctx, &r, object)
	if err != nil {
		return nil, err
	}
	if _, err := w.Flush(ctx); err != nil {
		return nil, err
	}
	m.Head = &format.Head{Suite: 1, S: o.ID, Lineage: o.Volume, Parent: o.Parent, Created: o.Created.UnixNano()}
	if err := builder.Finish(ctx, m.Writer, list, m.Head); err != nil {
		return nil, err
	}
	b := &manifest.Body{Volume: crypto.UUID(o.Volume), Generation: 1, Parent: crypto.UUID(o.Parent), Root: root, ChunkBytes: 64 << 10,
		LogicalBytes: uint64(len(o.Data)), StoredBytes: m.Head.Bytes, Files: 1, Dirs: 1, Writer: "test"}
	return m.seal(t, o, b, recipients)
}

func (m *Made) seal(t *snapstore.Tenant, o *Snapshot, b *manifest.Body, recipients []crypto.Recipient) (*commit.Parts, error) {
	keys, err := crypto.DeriveSnapshotKeys(1, crypto.UUID(o.ID), m.Key)
	if err != nil {
		return nil, err
	}
	defer keys.Erase()
	p := &commit.Parts{}
	if p.Manifest, err = manifest.Seal(keys, m.Head, b); err != nil {
		return nil, err
	}
	if len(recipients) > 0 {
		if p.Keys, err = snapstore.SealKey(1, o.ID, m.Key, recipients...); err != nil {
			return nil, err
		}
	}
	p.Card, err = manifest.SealCard(t.Keys, 1, o.ID, &manifest.Card{Sealed: m.Head.Sealed, Created: m.Head.Created, Finished: m.Head.Created + 1e9,
		LogicalBytes: b.LogicalBytes, StoredBytes: b.StoredBytes, Files: 1, Suite: 1, Volume: o.Volume, Parent: o.Parent, Name: o.Name, Claim: o.Claim, Host: "host", Tags: o.Tags})
	return p, err
}

// Objects returns a copy of all objects of a store.
func Objects(ctx context.Context, store chunkstore.Store) (map[string][]byte, error) {
	all := map[string][]byte{}
	var errs []error
	for info, err := range store.List(ctx, "", "") {
		if err == nil {
			all[info.Key], err = store.Get(ctx, info.Key, nil, format.MaxPackBytes)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", info.Key, err))
		}
	}
	return all, errors.Join(errs...)
}
