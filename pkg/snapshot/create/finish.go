package create

import (
	"context"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

// finish stores what is open, the list, the manifest and the card.
func (j *job) finish(ctx context.Context, root merkle.Root, stats merkle.Stats) (*Report, error) {
	j.count.committing.Store(true)
	stored, err := j.packs.Flush(ctx)
	if err != nil {
		return nil, err
	}
	info := j.to.Info()
	h := &format.Head{Suite: uint8(j.o.Suite), S: j.o.S, Lineage: j.o.Lineage, Created: info.Created.UnixNano()}
	b := j.body(stored)
	b.Root, b.Height, b.Content = root.Ref, root.Height, root.Content
	if j.base != nil {
		h.Parent, h.Lineage, b.Parent, b.ParentSealed = j.base.S, j.base.Lineage, crypto.UUID(j.base.S), j.baseSealed
	}
	if err := j.list.Finish(ctx, j.w, j.baseList, h); err != nil {
		return nil, err
	}
	recounted, err := j.recount(ctx, root, h, b)
	if err != nil {
		return nil, err
	}
	if j.o.BeforeCommit != nil {
		if err := j.o.BeforeCommit(ctx, h); err != nil {
			return nil, err
		}
	}
	p, err := j.parts(h, b)
	if err != nil {
		return nil, err
	}
	if err := j.w.Commit(ctx, p); err != nil {
		return nil, err
	}
	r := j.report(h, b)
	r.Full, r.Read, r.Kept, r.Stored, r.Nodes, r.Recount = j.full, j.count.read.Load(), j.count.kept.Load(), stored, stats.Written, recounted
	if j.index != nil {
		r.Found = j.index.Found()
	}
	return r, nil
}

// report tells what the snapshot is, but not what it took.
func (j *job) report(h *format.Head, b *manifest.Body) *Report {
	return &Report{S: h.S, Handle: format.Handle{Store: j.o.StoreID, S: h.S, Sealed: &h.Sealed}, Created: j.to.Info().Created, Base: h.Parent,
		Files: b.Files, Dirs: b.Dirs, Logical: b.LogicalBytes, Content: b.Content, Packs: h.Packs}
}

// body is the sealed part of the manifest without the map.
func (j *job) body(stored pack.Stored) *manifest.Body {
	info := j.to.Info()
	b := &manifest.Body{Volume: j.id.ID, Generation: info.Generation, Instance: format.ID(j.id.Instance), StateRoot: info.R, Seed: j.id.HashSeed,
		ChunkBytes: uint32(j.o.Format.ChunkBytes), StoredBytes: uint64(stored.Bytes), Epoch: j.o.Epoch, Writer: j.o.Writer}
	var files, dirs, logical, dropped int64
	if old := j.baseBody; old != nil {
		b.Since, dropped = old.Since+1, int64(old.Dropped)
		if j.from != nil {
			files, dirs, logical = int64(old.Files), int64(old.Dirs), int64(old.LogicalBytes)
		}
	}
	b.Files, b.Dirs, b.LogicalBytes = uint64(files+j.count.files), uint64(dirs+j.count.dirs), uint64(logical+j.count.logical)
	b.Dropped = uint64(dropped) + j.count.dropped.Load()
	return b
}

// parts seals what commit puts.
func (j *job) parts(h *format.Head, b *manifest.Body) (*commit.Parts, error) {
	object, err := manifest.Seal(j.keys, h, b)
	if err != nil {
		return nil, err
	}
	card, err := j.card(h, b)
	if err != nil {
		return nil, err
	}
	return &commit.Parts{Manifest: object, Keys: j.slots, Card: card}, nil
}

// card seals the card.
func (j *job) card(h *format.Head, b *manifest.Body) ([]byte, error) {
	l := &j.o.Label
	card, err := manifest.SealCard(j.o.Tenant, j.o.Suite, h.S, &manifest.Card{Sealed: h.Sealed, Created: h.Created, Finished: time.Now().UnixNano(),
		LogicalBytes: b.LogicalBytes, StoredBytes: b.StoredBytes, Files: b.Files, Suite: h.Suite, Volume: format.ID(b.Volume), Parent: h.Parent,
		Name: l.Name, Claim: l.Claim, Host: l.Host, Tags: l.Tags})
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	return card, nil
}
