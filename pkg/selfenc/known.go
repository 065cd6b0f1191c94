package selfenc

import (
	"context"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Known finds chunks that an earlier, unfinished attempt at the same snapshot stored, so that they
// are neither compressed, sealed nor stored again. It is safe for concurrent use.
type Known interface {
	// Find returns the reference of the chunk of this kind, with the identity d and length bytes, if
	// the chunk is stored. It may wait for the store, but not after ctx has ended. It may fail to find
	// a chunk that is stored; it never returns the reference of another one.
	Find(ctx context.Context, kind crypto.ChunkKind, d *[32]byte, length uint32) (PackedRef, bool)
}
