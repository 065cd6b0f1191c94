package volume

import (
	"cmp"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
)

// refs remembers which extents hold the data of large writes, so that the log can refer to them.
type refs struct {
	mu sync.Mutex
	m  map[uint64][]items.Placed // by operation
}

// ref is an extent that holds a whole buffer as written by one operation.
type ref struct {
	seq uint64
	items.Placed
}

func (r *refs) add(list []ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range list {
		r.m[x.seq] = append(r.m[x.seq], x.Placed)
	}
}

// get returns the extents of an operation, ordered by block.
func (r *refs) get(seq uint64) []items.Placed {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.m[seq])
	slices.SortFunc(out, func(a, b items.Placed) int { return cmp.Compare(a.Block, b.Block) })
	return out
}

// trim forgets operations that a root covers.
func (r *refs) trim(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.m {
		if s < seq {
			delete(r.m, s)
		}
	}
}
