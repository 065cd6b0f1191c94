package mountserver

import (
	"context"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// loadMeter says how busy a server is, each time since the time before. It is used by one goroutine.
type loadMeter struct {
	of   *fusefs.Server
	last fusefs.Load
}

// kindsOfLoad are the kinds of a pacing.Load.
var kindsOfLoad = [pacing.Kinds]int{pacing.Read: fusefs.LoadRead, pacing.Write: fusefs.LoadWrite, pacing.Sync: fusefs.LoadSync, pacing.Other: fusefs.LoadOther}

func newLoadMeter(of *fusefs.Server) *loadMeter { return &loadMeter{of: of, last: of.Load()} }

func (m *loadMeter) read() pacing.Load {
	now := m.of.Load()
	l := pacing.Load{Queue: now.Queue}
	for i, from := range kindsOfLoad {
		l.Kinds[i] = pacing.Requests{Count: now.Kinds[from].Count - m.last.Kinds[from].Count, Micros: now.Kinds[from].Micros - m.last.Kinds[from].Micros}
	}
	m.last = now
	return l
}

// sayLoad tells a caller how busy the server is, until the caller or the server leaves.
func (s *Server) sayLoad(ctx context.Context, c *control.Call) (any, error) {
	meter, tick := newLoadMeter(s.fuse), time.NewTicker(pacing.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := c.Item(meter.read()); err != nil {
				return nil, err
			}
		case <-s.ended:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
