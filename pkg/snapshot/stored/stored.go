// Package stored opens a snapshot in a store: it puts together what reading it takes.
package stored

import (
	"context"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/diff"
	"github.com/sealvol/sealvol/pkg/snapshot/fetch"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/snapshot/view"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
)

// Snapshot is an opened snapshot. It is safe for concurrent use.
type Snapshot struct {
	Head *format.Head
	Body *manifest.Body

	store  chunkstore.Store
	list   *pack.List
	packs  *pack.Reader
	sealer *selfenc.PackedSealer
	config merkle.Config
	m      *merkle.Map
}

// Open opens a snapshot by its verified manifest. The caller keeps store and keys, and erases the
// keys after Close.
func Open(store chunkstore.Store, tenant *crypto.TenantKeys, h *format.Head, b *manifest.Body) (*Snapshot, error) {
	s := &Snapshot{Head: h, Body: b, store: store, list: pack.NewList(store, h)}
	s.packs = pack.NewReader(store, tenant, s.list)
	var err error
	s.sealer, err = selfenc.NewPackedSealer(tenant, crypto.Suite(h.Suite), nil, s.packs, selfenc.PackedOptions{ChunkBytes: int(b.ChunkBytes), DedupChunks: -1})
	if err != nil {
		return nil, err
	}
	if s.config, err = MapConfig(s.sealer, tenant); err != nil {
		s.sealer.Close()
		return nil, err
	}
	s.m = merkle.Open(s.config, MapRoot(b))
	return s, nil
}

// Close ends the use of a snapshot.
func (s *Snapshot) Close() { s.sealer.Close() }

// Content returns the hash of the whole content: equal for two snapshots of one tenant if and only
// if their volumes had the same content.
func (s *Snapshot) Content() [32]byte { return s.m.Root().Content }

// NextIno returns a number above that of every inode.
func (s *Snapshot) NextIno(ctx context.Context) (uint64, error) {
	last, _, err := s.m.Floor(ctx, merkle.LastKey)
	return last.Key.Ino + 1, err
}

// View returns the snapshot as a file system, whose reads end with ctx.
func (s *Snapshot) View(ctx context.Context) *view.View {
	return view.New(ctx, view.Source{Map: s.m, Sealer: s.sealer, Seed: s.Body.Seed, Files: s.Body.Files + s.Body.Dirs, Bytes: s.Body.LogicalBytes})
}

func (s *Snapshot) fetcher() *fetch.Fetcher {
	return &fetch.Fetcher{Packs: s.packs, List: s.list, Sealer: s.sealer}
}

// RestoreSource returns what restore.Run reads.
func (s *Snapshot) RestoreSource() restore.Source {
	return restore.Source{Map: s.m, Root: s.m.Root(), Sealer: s.sealer, Fetch: s.fetcher(), Files: s.Body.Files + s.Body.Dirs, Bytes: s.Body.LogicalBytes}
}

// DiffSource returns what diff.Snapshots compares.
func (s *Snapshot) DiffSource() diff.Source {
	return diff.Source{Map: s.m, Sealer: s.sealer, Seed: s.Body.Seed}
}

// VerifySource returns what verify.Run reads.
func (s *Snapshot) VerifySource() verify.Source {
	return verify.Source{Store: s.store, Head: s.Head, List: s.list, Map: s.m, Sealer: s.sealer, Fetch: s.fetcher(), Names: namehash.New(s.Body.Seed)}
}
