package header

import (
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// A change of the header writes copy A, then copy B (pkg/volume, putHeader). A crash in between is
// ordinary, and leaves copy B one header behind; or two, as repairHeader leaves out
// the number of a change that it gives up. The next read-write mount ends the change
// before it does anything else, so nothing else leaves copies that differ and are both whole.

// LeftByCut tells whether copy A and copy B are what a change of the header that was
// cut leaves. keys are those that one of the two holds. floor is what the root says:
// it is raised when both copies are durable, so that an older copy B was put back.
func LeftByCut(a, b *layout.Header, keys *txn.Keys, floor uint64) bool {
	if a == nil || b == nil || a.ID != b.ID || a.Sequence <= b.Sequence || a.Sequence-b.Sequence > 2 || b.Sequence < floor {
		return false
	}
	return writtenBy(a, keys) && writtenBy(b, keys)
}

// writtenBy tells whether a holder of any of the keys wrote a header. The highest
// epoch of an older one may be an older epoch of today.
func writtenBy(h *layout.Header, keys *txn.Keys) (is bool) {
	keys.All(func(k *crypto.EpochKeys) bool {
		is = h.Verify(k) == nil
		return is
	})
	return is
}
