package check

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// positionCheck collects the pieces of the position of a restore.
type positionCheck struct {
	bytes         []byte
	pieces, total int
}

func (c *checker) positionItem(sub uint64, v []byte) {
	p := &c.pos
	if sub != uint64(p.pieces) {
		c.problem("position of the restore", "piece %d follows piece %d", sub, p.pieces-1)
		return
	}
	var err error
	if p.bytes, p.total, err = layout.DecodePosition(v, p.bytes, p.pieces, p.total); err != nil {
		c.problem("position of the restore", "%v", err)
	}
	p.pieces++
}

// endPosition checks the position when the tree was read.
func (c *checker) endPosition() {
	p := &c.pos
	switch {
	case c.lostFS:
	case len(p.bytes) != p.total:
		c.problem("position of the restore", "it has %d bytes instead of %d", len(p.bytes), p.total)
	case c.rep.Restoring && p.pieces == 0:
		c.problem("header", "it says that the volume is being restored, but the volume is complete: an old header was put back")
	case !c.rep.Restoring && p.pieces > 0:
		c.note("position of the restore", "the end of the restore was interrupted, but the volume is complete; a read-write mount removes the position")
	}
}
