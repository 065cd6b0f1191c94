package volume

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// A change of the header writes copy A, then copy B (putHeader). A crash in between is
// ordinary, and leaves copy B one header behind; or two, as repairHeader leaves out
// the number of a change that it gives up. The next read-write mount ends the change
// before it does anything else, so nothing else leaves copies that differ and are both whole.

// leftByCut tells whether copy A and copy B are what a change of the header that was
// cut leaves. keys are those that one of the two holds. floor is what the root says:
// it is raised when both copies are durable, so that an older copy B was put back.
func leftByCut(a, b *layout.Header, keys *txn.Keys, floor uint64) bool {
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

// checkSecondHeader judges the copy of the header that was not used. The roots
// were read.
func (c *checker) checkSecondHeader(u *layout.Unlocked) {
	if u.Other == nil {
		return
	}
	where, floor := "header copy "+string("BA"[u.Copy]), uint64(0)
	if c.root != nil {
		floor = c.root.HeaderSeq
	}
	switch keys := c.store.Keys; {
	case u.Copy == 0 && errors.Is(u.Other, layout.ErrHeaderStale) && leftByCut(u.Header, u.Second, keys, floor):
		c.note(where, "it is the header before that of copy A: a change of the keys or features was cut; a read-write mount ends it")
	case u.Copy == 1 && u.Ahead && leftByCut(u.Second, u.Header, keys, floor):
		c.note(where, "it is the header after that of copy B, and has no slot for this key: a change of the keys was cut; a read-write mount by this key gives it up")
	case errors.Is(u.Other, layout.ErrHeaderStale):
		c.problem(where, "%v, and not by a change that was cut: an old copy was put back, or a write was lost; a read-write mount repairs it", u.Other)
	default:
		c.problem(where, "%v; a read-write mount repairs it", u.Other)
	}
}
