package volume

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

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
	case u.Copy == 0 && errors.Is(u.Other, layout.ErrHeaderStale) && header.LeftByCut(u.Header, u.Second, keys, floor):
		c.note(where, "it is the header before that of copy A: a change of the keys or features was cut; a read-write mount ends it")
	case u.Copy == 1 && u.Ahead && header.LeftByCut(u.Second, u.Header, keys, floor):
		c.note(where, "it is the header after that of copy B, and has no slot for this key: a change of the keys was cut; a read-write mount by this key gives it up")
	case errors.Is(u.Other, layout.ErrHeaderStale):
		c.problem(where, "%v, and not by a change that was cut: an old copy was put back, or a write was lost; a read-write mount repairs it", u.Other)
	default:
		c.problem(where, "%v; a read-write mount repairs it", u.Other)
	}
}
