package nodeagent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// leaveTimeout bounds how long the agent takes to report that it stops; less than a pod's grace
// period.
const leaveTimeout = 10 * time.Second

// leave reports for the volumes of this node that they are no longer watched. The next agent
// replaces these reports, within seconds after an upgrade of the plugin. This is best effort: an
// agent that is killed, or that has lost its rights because Sealvol is being uninstalled (the
// chart's hook then does this), cannot report.
func (a *Agent) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	a.left.Store(true)
	a.reportAll(ctx, state{mounted: true, assumed: true})
}

// reportAll reports one state for all volumes that are reported as mounted on this node.
func (a *Agent) reportAll(ctx context.Context, s state) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for id := range a.others(ctx, nil) {
		g.Go(func() error {
			v := a.volume(id)
			v.mu.Lock()
			defer v.mu.Unlock()
			// Unstaging reports on it. After a stop, nobody reports that it ended.
			if v.unstaging && !a.left.Load() {
				return nil
			}
			if err := a.publish(ctx, id, v, s, false); err != nil {
				a.opt.Log.Warn("cannot report the state of the volume", "volume", id, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
}
