package header

import (
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// A change of the header writes copy A, then copy B (pkg/volume, writeHeader). A crash in between
// is expected. It leaves copy B one number behind; or two, because repairHeader skips the number of
// a change that it abandons. The next read-write mount completes or abandons the change before it
// does anything else, so nothing else leaves two intact copies that differ.

// LeftByCut reports whether an interrupted change of the header can have left copy A and copy B.
// keys are those that one of the two holds. floor is the lowest sequence number that the root
// accepts. It is raised when both copies are durable, so a copy B below it was put back.
func LeftByCut(a, b *layout.Header, keys *txn.Keys, floor uint64) bool {
	if a == nil || b == nil || a.ID != b.ID || a.Sequence <= b.Sequence || a.Sequence-b.Sequence > 2 || b.Sequence < floor {
		return false
	}
	return writtenBy(a, keys) && writtenBy(b, keys)
}

// writtenBy reports whether a holder of any of the keys wrote a header. The highest epoch of an
// older header may be an older epoch of the current one.
func writtenBy(h *layout.Header, keys *txn.Keys) (is bool) {
	keys.All(func(k *crypto.EpochKeys) bool {
		is = h.Verify(k) == nil
		return is
	})
	return is
}
