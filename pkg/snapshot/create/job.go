package create

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// job writes one snapshot under one identity.
type job struct {
	o        *Options
	id       pinned.Identity
	from, to *pinned.State
	earlier  *commit.Earlier
	w        *commit.Writer
	keys     *crypto.SnapshotKeys // of the new snapshot
	slots    []byte

	base       *format.Head // nil: none
	baseSealed format.Sum
	baseBody   *manifest.Body
	baseList   *pack.List
	full       string // why everything is read; "": changes only

	list   *pack.Builder
	packs  *pack.Writer
	index  *pack.Index // of earlier attempts; nil: there are none
	sealer *selfenc.PackedSealer
	config merkle.Config
	old    *merkle.Map // of the base; empty if there is none
	count  counts
}

func newJob(ctx context.Context, id pinned.Identity, from, to *pinned.State, o *Options) (*job, error) {
	opts := *o // of this beginning
	j := &job{o: &opts, id: id, from: from, to: to}
	if err := j.findEarlier(ctx); err != nil {
		return nil, err
	}
	co := commit.Options{Predecessors: o.predecessors, Earlier: j.earlier, Who: o.Who}
	if o.Base != nil {
		co.Base = o.Base.S
	}
	var err error
	j.w, err = commit.Begin(ctx, o.Store, o.S, co)
	return j, err
}

func (j *job) run(ctx context.Context) (*Report, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer j.w.Keep(ctx, func(err error) { j.warn("the lease of a snapshot was not renewed", err) })()
	defer j.close()
	if j.earlier.Void {
		return nil, commit.ErrVoid
	}
	if err := j.newKeys(); err != nil {
		return nil, err
	}
	if j.earlier.Manifest != nil {
		return j.finishEarlier(ctx)
	}
	for _, step := range []func(context.Context) error{j.openBase, j.newPacks, j.newSealer} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	defer j.progress()()
	root, stats, err := j.build(ctx)
	if err != nil {
		return nil, err
	}
	return j.finish(ctx, root, stats)
}

// close ends all that the job began and has not ended.
func (j *job) close() {
	if j.sealer != nil {
		j.sealer.Close()
	}
	if j.packs != nil {
		j.packs.Close()
	}
	if j.index != nil {
		j.index.Close()
	}
	j.keys.Erase()
}

func (j *job) warn(what string, err error) {
	if j.o.Log != nil {
		j.o.Log.Warn(what, "snapshot", j.o.S.String(), "error", err)
	}
}

// openBase opens the base, or decides to go without it.
func (j *job) openBase(ctx context.Context) error {
	if j.o.Base == nil {
		j.full, j.from = cmp.Or(j.o.Why, "there is no earlier snapshot of this volume in the store"), nil
		return nil
	}
	card, h, sealed, err := j.w.BaseCard(ctx)
	var body *manifest.Body
	if err == nil { // another tenant's chunks could not be read under the keys of this one
		_, err = manifest.OpenCard(j.o.Tenant, h.S, card)
	}
	if err == nil {
		body, err = j.o.Base.Open(ctx, h, sealed)
	}
	switch {
	case errors.Is(err, commit.ErrNoBase), errors.Is(err, manifest.ErrNoSlot), errors.Is(err, manifest.ErrTenant):
		j.full, j.from = fmt.Sprintf("the earlier snapshot cannot be built on: %v", err), nil
		return nil
	case err != nil:
		return err
	}
	if why := j.unfit(body); why != "" {
		j.full, j.from = why, nil
		return nil
	}
	j.base, j.baseSealed, j.baseBody = h, format.SumOf(sealed), body
	j.baseList = pack.NewList(j.o.Store, h)
	switch {
	case body.Volume != j.id.ID:
		j.full, j.from = "the earlier snapshot is of the volume that this one is a copy of", nil
	case j.from == nil:
		j.full = "the local snapshot that the earlier snapshot was made of is not there any more"
	case j.from.Info().R != body.StateRoot:
		j.full, j.from = "the local snapshot is not the one that the earlier snapshot was made of", nil
	}
	return nil
}

// unfit says why nothing of the base can be used; "": it can.
func (j *job) unfit(b *manifest.Body) string {
	switch {
	case b.Volume != j.id.ID && !j.o.Base.Copy:
		return "the earlier snapshot is of another volume"
	case int(b.ChunkBytes) != j.o.Format.ChunkBytes:
		return fmt.Sprintf("the earlier snapshot has chunks of %d bytes", b.ChunkBytes)
	case b.Seed != j.id.HashSeed:
		return "the earlier snapshot has another hash of names"
	case b.Epoch != j.o.Epoch:
		return "the tenant secret was replaced since the earlier snapshot"
	}
	return ""
}

// newKeys makes the snapshot's key and its slots, unless they are there.
func (j *job) newKeys() error {
	if j.earlier.Keys != nil {
		return j.earlierKeys()
	}
	key, err := crypto.GenerateKey()
	if err != nil {
		return err
	}
	defer key.Erase()
	if j.keys, err = crypto.DeriveSnapshotKeys(j.o.Suite, crypto.UUID(j.o.S), key); err != nil {
		return err
	}
	slots := manifest.Slots{Suite: j.o.Suite, Slots: map[uint8]crypto.Slot{}}
	for i, r := range j.o.Recipients {
		s, err := crypto.NewSnapshotSlot(j.o.Suite, crypto.UUID(j.o.S), uint8(i), r, key)
		if err != nil {
			return fmt.Errorf("key slot %d of the snapshot: %w", i, err)
		}
		slots.Slots[uint8(i)] = s
	}
	j.slots, err = slots.Encode()
	return err
}

// newPacks prepares what takes and gives chunks, those of earlier attempts included.
func (j *job) newPacks(ctx context.Context) error {
	j.list = pack.NewBuilder(j.base)
	err := j.takeOver(ctx)
	if err != nil {
		return err
	}
	j.packs, err = pack.NewWriter(ctx, j.o.Tenant, j.w, j.list, pack.Options{PackBytes: j.o.Format.PackBytes, InFlight: j.o.inFlight(), Epoch: j.o.Epoch})
	return err
}

// newSealer prepares what seals chunks and opens those of the base.
func (j *job) newSealer(context.Context) error {
	var in selfenc.Unpacker
	if j.baseList != nil {
		in = pack.NewReader(j.o.Store, j.o.Tenant, j.baseList)
	}
	o := j.o.sealing()
	o.Progress = func(n int64) { j.count.done.Add(n) }
	if j.index != nil {
		o.Known = j.index
	}
	var err error
	if j.sealer, err = selfenc.NewPackedSealer(j.o.Tenant, j.o.Suite, j.packs, in, o); err != nil {
		return err
	}
	if j.config, err = stored.MapConfig(j.sealer, j.o.Tenant); err != nil {
		return err
	}
	j.config.CacheBytes = mapCacheBytes
	var root merkle.Root
	if j.baseBody != nil {
		root = stored.MapRoot(j.baseBody)
	}
	j.old = merkle.Open(j.config, root)
	return nil
}

func (j *job) workers() int {
	if j.o.Workers > 0 {
		return j.o.Workers
	}
	return runtime.GOMAXPROCS(0) + 2
}
