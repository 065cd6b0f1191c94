package nodeagent_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/nodeagent"
)

// unknown tells whether a status reports unknown health with a reason.
func unknown(s v1alpha1.SealedVolumeStatus, reason string) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy)
	return s.Health == v1alpha1.HealthUnknown && c != nil && c.Status == metav1.ConditionUnknown && c.Reason == reason
}

// TestLeave: an agent that stops reports that its volumes are not watched any more, because their
// last known health may become wrong. The next agent reports the real state. Neither creates an
// event, because nothing happened to the volumes. Lost data stays lost.
func TestLeave(t *testing.T) {
	running := func(t *testing.T) (*node, *v1alpha1.SealedVolume, *v1alpha1.SealedVolume) {
		n, _ := start(t, "node-a")
		well, lost := sealed(t, "node-a"), sealed(t, "node-a")
		n.set(well.Spec.VolumeHandle, &mounter.Info{Volume: well.Spec.VolumeHandle, Alive: true})
		n.set(lost.Spec.VolumeHandle, &mounter.Info{Volume: lost.Spec.VolumeHandle, Alive: true, Conditions: []control.Condition{{Lost: true, Reason: "Broken", Message: "a sector is gone"}}})
		await(t, well, "healthy", healthy)
		await(t, lost, "lost", func(s v1alpha1.SealedVolumeStatus) bool { return s.Health == v1alpha1.HealthDataLoss })
		return n, well, lost
	}
	var n *node
	var well, lost *v1alpha1.SealedVolume
	t.Run("ends", func(t *testing.T) { n, well, lost = running(t) })
	await(t, well, "not watched", func(s v1alpha1.SealedVolumeStatus) bool {
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy)
		return unknown(s, v1alpha1.ReasonNotWatched) && s.Node == "node-a" && strings.Contains(c.Message, "node-a") && strings.HasSuffix(c.Message, "last known health: Healthy")
	})
	await(t, lost, "lost", func(s v1alpha1.SealedVolumeStatus) bool {
		return s.Health == v1alpha1.HealthDataLoss && meta.IsStatusConditionFalse(s.Conditions, v1alpha1.VolumeHealthy)
	})
	next, _ := start(t, "node-a")
	for id, i := range n.vols {
		next.set(id, i)
	}
	await(t, well, "healthy again", healthy)
	for _, sv := range []*v1alpha1.SealedVolume{well, lost} {
		for _, e := range events(t, sv) {
			if sv == well || e.Reason != "Broken" {
				t.Errorf("an event: %s %s", e.Reason, e.Note)
			}
		}
	}
}

// roundTripper is a function that sends a request.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestLeaveWritesOnce: an agent that stops writes each status once. It has only seconds, and all nodes
// may stop at the same time.
func TestLeaveWritesOnce(t *testing.T) {
	const volumes = 8
	var writes atomic.Int64
	var before int64
	t.Run("ends", func(t *testing.T) {
		m, _ := startSilent(t, func(o *nodeagent.Options) {
			o.Config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/status") {
						writes.Add(1)
					}
					return rt.RoundTrip(r)
				})
			})
		})
		for range volumes {
			sv := sealed(t, "node-a")
			m.set(sv.Spec.VolumeHandle, &mounter.Info{Volume: sv.Spec.VolumeHandle, Alive: true})
			await(t, sv, "healthy", healthy)
		}
		m.passes(t, 2) // the agent's cache has the reports
		before = writes.Load()
	})
	if n := writes.Load() - before; n != volumes {
		t.Errorf("%d writes for %d volumes", n, volumes)
	}
}

// silent is a mounter that can stop answering.
type silent struct {
	*node
	off   atomic.Bool  // List fails
	mute  atomic.Bool  // Health fails
	asked atomic.Int64 // how often List was called
}

// List implements nodeagent.Mounter.
func (s *silent) List(ctx context.Context) ([]mounter.Info, error) {
	s.asked.Add(1)
	if s.off.Load() {
		return nil, errors.New("no answer")
	}
	return s.node.List(ctx)
}

// Health implements nodeagent.Mounter.
func (s *silent) Health(ctx context.Context, id string) (mounter.Info, error) {
	if s.mute.Load() {
		return mounter.Info{}, errors.New("no answer")
	}
	return s.node.Health(ctx, id)
}

// TestMounterSilent: while the mounter does not answer, the last known health does not stay in the
// status.
func TestMounterSilent(t *testing.T) {
	m, _ := startSilent(t)
	sv := sealed(t, "node-a")
	m.set(sv.Spec.VolumeHandle, &mounter.Info{Volume: sv.Spec.VolumeHandle, Alive: true})
	await(t, sv, "healthy", healthy)
	m.off.Store(true)
	await(t, sv, "unknown", func(s v1alpha1.SealedVolumeStatus) bool { return unknown(s, "MounterUnresponsive") })
	m.off.Store(false)
	await(t, sv, "healthy again", healthy)
}

// TestUsageAtOnce: usage is reported at once if it has changed by one percent of the volume.
// NearlyFull is reported together with the usage. Smaller changes wait for the next full report.
func TestUsageAtOnce(t *testing.T) {
	n, _ := start(t, "node-a", func(o *nodeagent.Options) { o.ReportInterval = time.Hour })
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	l, err := control.Listen(n.control(id).Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	const total = 100 << 30
	var used, asked atomic.Int64
	used.Store(50 << 30)
	mux := control.Mux{"stats": func(context.Context, *control.Call) (any, error) {
		asked.Add(1)
		return control.Stats{TotalBytes: total, UsedBytes: used.Load(), AvailableBytes: total - used.Load()}, nil
	}}
	go func() { done <- control.Serve(ctx, l, mux) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	n.set(id, &mounter.Info{Volume: id, Alive: true})
	reads := func(summary string, health v1alpha1.Health) {
		t.Helper()
		await(t, sv, summary, func(s v1alpha1.SealedVolumeStatus) bool {
			return s.Health == health && s.Usage != nil && s.Usage.Summary == summary
		})
	}
	reads("50GiB/100GiB (50%)", v1alpha1.HealthHealthy)
	used.Store(51 << 30)
	reads("51GiB/100GiB (51%)", v1alpha1.HealthHealthy)
	version := sv.ResourceVersion
	used.Add(total / 200)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for before := asked.Load(); asked.Load() < before+3; { // two whole passes
		<-tick.C
	}
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil || sv.ResourceVersion != version {
		t.Errorf("half a percent was written at once: %v, %+v", err, sv.Status.Usage)
	}
	used.Store(96 << 30)
	reads("96GiB/100GiB (96%)", v1alpha1.HealthDegraded)
	used.Store(40 << 30)
	reads("40GiB/100GiB (40%)", v1alpha1.HealthHealthy)
}
