package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

func typesUID(s string) types.UID { return types.UID(s) }

// added returns a handler that calls f for each added object.
func added(f func()) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{AddFunc: func(any) { f() }}
}

// volume is the agent's state of one volume.
type volume struct {
	mu        sync.Mutex
	unstaging bool      // it is about to be unmounted
	remounted bool      // its mount server has died, which is not reported yet
	formatted bool      // it is recorded that the volume is formatted
	reported  time.Time // when everything was reported last
	failed    string    // why the last report failed
	anchor    *anchor   // not published yet
	confirmed uint64    // generation of the last anchor that was confirmed to the volume
	quietTill time.Time // no anchor is requested before, because the last request failed
}

// state is what the agent observes of a volume.
type state struct {
	mounted   bool
	assumed   bool // nobody says that it is mounted now: this only updates a report of this node
	answered  bool // the mount server answered, so it has the volume open
	health    v1alpha1.Health
	condition control.Condition // the worst one; no reason means none
	usage     *v1alpha1.VolumeUsage
}

// anchor is an anchor in the JSON format of mount servers, which is that of volume.Anchor.
type anchor struct {
	raw        json.RawMessage
	Volume     string `json:"volume"`
	Instance   string `json:"instance"`
	Generation uint64 `json:"generation"`
	Epoch      uint32 `json:"epoch"`
	MAC        string `json:"anchor"`
}

// anchorVersion is the version of that JSON format.
const anchorVersion = 1

// nearlyFull is the percentage of free space below which a volume is reported as nearly full.
const nearlyFull = 5

// unresponsive is the state of a volume whose mounter does not answer. Its mount server may still
// work.
var unresponsive = state{mounted: true, assumed: true, health: v1alpha1.HealthUnknown, condition: control.Condition{Reason: reasonUnresponsive,
	Message: "the mounter of the node does not answer, so the health of the volume is unknown. Mounted volumes usually keep working. Check the mounter's pod on the node"}}

// observe asks the mounter and the mount server. full includes values that always change.
func (a *Agent) observe(ctx context.Context, id string, v *volume, full bool) state {
	s := state{mounted: true, health: v1alpha1.HealthHealthy}
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := a.opt.Mounter.Health(askCtx, id)
	if errors.Is(err, mounter.ErrNotMounted) {
		return state{}
	}
	if err != nil {
		return unresponsive
	}
	for _, c := range info.Conditions {
		s.add(c)
	}
	if s.health == v1alpha1.HealthInaccessible {
		return s // the mount server does not answer
	}
	if st, err := a.opt.Control(id).Stats(askCtx); err == nil {
		s.usage, s.answered = usageOf(st), true
		if st.TotalBytes > 0 && info.BlockBytes == 0 && st.AvailableBytes*100 < st.TotalBytes*nearlyFull {
			s.add(control.Condition{Reason: reasonNearlyFull, Message: fmt.Sprintf("less than %d%% of the volume is free: expand the claim or delete files", nearlyFull)})
		}
	}
	if full {
		a.takeAnchor(ctx, id, v)
	}
	return s
}

// add adds a condition; the state keeps the worst one.
func (s *state) add(c control.Condition) {
	h := v1alpha1.HealthDegraded
	switch {
	case c.Lost:
		h = v1alpha1.HealthDataLoss
	case c.Inaccessible:
		h = v1alpha1.HealthInaccessible
	}
	if rank(h) > rank(s.health) {
		s.health, s.condition = h, c
	}
}

func rank(h v1alpha1.Health) int {
	switch h {
	case v1alpha1.HealthDegraded:
		return 1
	case v1alpha1.HealthInaccessible:
		return 2
	case v1alpha1.HealthDataLoss:
		return 3
	}
	return 0
}

func usageOf(s control.Stats) *v1alpha1.VolumeUsage {
	u := &v1alpha1.VolumeUsage{TotalBytes: s.TotalBytes, UsedBytes: s.UsedBytes, AvailableBytes: s.AvailableBytes, UsedInodes: s.UsedInodes}
	percent := int64(0)
	if s.TotalBytes > 0 {
		percent = (s.UsedBytes/1024*100 + s.TotalBytes/2048) / max(s.TotalBytes/1024, 1)
	}
	u.Summary = fmt.Sprintf("%s/%s (%d%%)", size(s.UsedBytes), size(s.TotalBytes), percent)
	return u
}

// size formats a number of bytes for people.
func size(b int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(b), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if f >= 10 || f == float64(int64(f)) {
		return fmt.Sprintf("%.0f%s", f, units[i])
	}
	return fmt.Sprintf("%.1f%s", f, units[i])
}

// anchorPause is the pause after a failed request for an anchor: the volume is frozen or its server
// hangs, and each request waits in the server until that ends.
const anchorPause = 5 * time.Minute

// takeAnchor asks the mount server for an anchor of everything that is committed.
func (a *Agent) takeAnchor(ctx context.Context, id string, v *volume) {
	if time.Now().Before(v.quietTill) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, anchorTimeout)
	defer cancel()
	var raw json.RawMessage
	err := a.opt.Control(id).Do(ctx, control.Request{Op: "anchor"}, &raw)
	var got *anchor
	if err == nil {
		got, err = parseAnchor(raw)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		v.quietTill = time.Now().Add(anchorPause)
		a.opt.Log.Warn("anchor not refreshed: the volume is frozen or its mount server does not answer", "volume", id)
	case err != nil:
		a.opt.Log.Info("anchor not refreshed", "volume", id, "error", err) // read-only, after an error, …: the one before stands
	case got.Generation > v.confirmed:
		v.anchor = got
	}
}

func parseAnchor(raw json.RawMessage) (*anchor, error) {
	var x struct {
		Version int `json:"version"`
		anchor
	}
	if err := json.Unmarshal(raw, &x); err != nil {
		return nil, fmt.Errorf("decode the anchor: %w", err)
	}
	if x.Version != anchorVersion || x.Generation == 0 || x.Generation > 1<<62 || x.Epoch == 0 || x.MAC == "" {
		return nil, fmt.Errorf("the anchor has the unknown version %d", x.Version)
	}
	x.raw = raw
	return &x.anchor, nil
}

// confirm tells the volume that an anchor was published.
func (a *Agent) confirm(ctx context.Context, id string, v *volume) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := a.opt.Control(id).Do(ctx, control.Request{Op: "anchor-confirm", Args: struct {
		Anchor json.RawMessage `json:"anchor"`
	}{v.anchor.raw}}, nil)
	if err != nil {
		// The volume learns of it at the next mount.
		a.opt.Log.Debug("cannot confirm a published anchor to the volume", "volume", id, "error", err)
	}
	v.confirmed, v.anchor = v.anchor.Generation, nil
}

// text encodes an anchor for a mount server.
func text(x *v1alpha1.Anchor) (string, error) {
	b, err := json.Marshal(map[string]any{"version": anchorVersion, "volume": x.Volume, "instance": x.Instance, "generation": x.Generation, "epoch": x.Epoch, "anchor": x.MAC})
	return string(b), err
}
