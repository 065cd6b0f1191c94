package stored

import (
	"context"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
)

// nodes seals and opens the nodes of a map.
type nodes struct{ sealer *selfenc.PackedSealer }

// Put implements merkle.Nodes.
func (n nodes) Put(ctx context.Context, plain []byte) (selfenc.PackedRef, error) {
	return n.sealer.Seal(ctx, crypto.ChunkTree, plain)
}

// Get implements merkle.Nodes.
func (n nodes) Get(ctx context.Context, r *selfenc.PackedRef) ([]byte, error) {
	if r.Kind != crypto.ChunkTree {
		return nil, fmt.Errorf("%w: a node is a chunk of kind %d", merkle.ErrInvalid, r.Kind)
	}
	return n.sealer.Open(ctx, r, nil)
}

// readAhead is how many nodes of the map are read at once: stores answer slowly.
const readAhead = 8

// MapConfig says how the maps of a tenant are read and written.
func MapConfig(sealer *selfenc.PackedSealer, tenant *crypto.TenantKeys) (merkle.Config, error) {
	cut, err := tenant.CutKey()
	return merkle.Config{Nodes: nodes{sealer}, Cut: cut, Content: fact.Content, Parallel: readAhead}, err
}

// MapRoot returns the root of a snapshot's map.
func MapRoot(b *manifest.Body) merkle.Root {
	return merkle.Root{Ref: b.Root, Height: b.Height, Content: b.Content}
}
