package nodeagent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// leaveTimeout bounds how long the agent takes to say that it stops; less than a pod has for that.
const leaveTimeout = 10 * time.Second

// leave says of the volumes of this node that nobody watches them any more. The next agent reports
// on them anew, seconds later where the plugin is upgraded. It is best effort: an agent that is
// killed, or that has lost its rights because Sealvol is uninstalled (the chart's hook then says it),
// can not.
func (a *Agent) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	a.left.Store(true)
	a.reportAll(ctx, state{mounted: true})
}

// reportAll reports one state of all volumes that are said to be mounted on this node.
func (a *Agent) reportAll(ctx context.Context, s state) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, id := range a.others(ctx, nil) {
		g.Go(func() error {
			v := a.volume(id)
			v.mu.Lock()
			defer v.mu.Unlock()
			if err := a.publish(ctx, id, v, s, false); err != nil {
				a.opt.Log.Warn("a volume's state is not reported", "volume", id, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
}
