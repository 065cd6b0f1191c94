package mountserver

import (
	"context"

	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
)

// takeKeys makes the current key open the volume, and removes the previous one. After a failure the
// volume is served anyway: each later publication tries again.
func (s *Server) takeKeys(ctx context.Context) {
	o := &s.opts
	if o.Current == nil {
		return
	}
	set := &volumectl.KeySet{New: &volume.Key{Recipient: o.Current, Credential: o.Keys[0]}, Old: o.Keys[1:]}
	if c, err := volumectl.CurrentKey(ctx, s.vol, o.ReadOnly, set); err != nil {
		s.log.ErrorContext(ctx, "cannot replace the volume's key: the previous key still opens the volume; the next publication tries again", "volume", s.vol.ID().String(), "error", err)
	} else if c.Added || len(c.Removed) > 0 {
		s.log.InfoContext(ctx, "the volume's key was replaced", "volume", s.vol.ID().String(), "slot", c.Slot, "removed", c.Removed)
	}
}
