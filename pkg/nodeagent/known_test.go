package nodeagent_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/nodeagent"
)

// startSilent runs an agent whose mounter may stop answering.
func startSilent(t *testing.T, change ...func(*nodeagent.Options)) (*silent, *nodeagent.Agent) {
	t.Helper()
	m := &silent{}
	_, a := start(t, "node-a", append(change, func(o *nodeagent.Options) {
		m.node = o.Mounter.(*node)
		o.Mounter = m
	})...)
	return m, a
}

// passes waits until the agent has completed n passes that begin now.
func (s *silent) passes(t *testing.T, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for before := s.asked.Load(); s.asked.Load() < before+n+1; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the agent makes no passes")
		}
	}
}

// status reads the status of a volume.
func status(t *testing.T, sv *v1alpha1.SealedVolume) v1alpha1.SealedVolumeStatus {
	t.Helper()
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
		t.Fatal(err)
	}
	return sv.Status
}

// report writes a status, as an agent or a hook before this one did.
func report(t *testing.T, sv *v1alpha1.SealedVolume, h v1alpha1.Health, c *metav1.Condition) {
	t.Helper()
	was := sv.DeepCopy()
	sv.Status.Node, sv.Status.Health = "node-a", h
	if c != nil {
		c.Type = v1alpha1.VolumeHealthy
		meta.SetStatusCondition(&sv.Status.Conditions, *c)
	}
	if err := env.Client.Status().Patch(t.Context(), sv, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
}

func hasReason(s v1alpha1.SealedVolumeStatus, h v1alpha1.Health, reason string) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy)
	return s.Health == h && c != nil && c.Reason == reason
}

// events returns the events about a volume's claim.
func events(t *testing.T, sv *v1alpha1.SealedVolume) (list []eventsv1.Event) {
	t.Helper()
	var all eventsv1.EventList
	if err := env.Client.List(t.Context(), &all, client.InNamespace(sv.Spec.ClaimRef.Namespace)); err != nil {
		t.Fatal(err)
	}
	for _, e := range all.Items {
		if string(e.Regarding.UID) == sv.Spec.ClaimRef.UID {
			list = append(list, e)
		}
	}
	return list
}

// count returns how many events of the claim have a reason.
func count(t *testing.T, sv *v1alpha1.SealedVolume, reason string) (n int) {
	t.Helper()
	for _, e := range events(t, sv) {
		if e.Reason == reason {
			n++
			if e.Series != nil {
				n += int(e.Series.Count) - 1
			}
		}
	}
	return n
}

// TestUnknownIsNotHealthy: an unknown health creates no event. The health after it counts against
// the last known one: the same bad health creates no second event, and a recovery is reported.
func TestUnknownIsNotHealthy(t *testing.T) {
	m, _ := startSilent(t)
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	bad := func(reason string) {
		m.set(id, &mounter.Info{Volume: id, Alive: true, Conditions: []control.Condition{{Reason: reason, Message: "bad"}}})
		await(t, sv, reason, func(s v1alpha1.SealedVolumeStatus) bool { return hasReason(s, v1alpha1.HealthDegraded, reason) })
		event(t, sv, corev1.EventTypeWarning, reason)
	}
	silence := func(last string) {
		m.off.Store(true)
		await(t, sv, "unknown", func(s v1alpha1.SealedVolumeStatus) bool { return unknown(s, "MounterUnresponsive") })
		c := meta.FindStatusCondition(sv.Status.Conditions, v1alpha1.VolumeHealthy)
		if !strings.HasSuffix(c.Message, "; last known health: "+last) {
			t.Error(c.Message)
		}
	}
	bad("First")
	silence("Degraded, First")
	m.off.Store(false)
	await(t, sv, "bad as before", func(s v1alpha1.SealedVolumeStatus) bool { return hasReason(s, v1alpha1.HealthDegraded, "First") })
	bad("Second")
	if n := count(t, sv, "VolumeHealthy"); n != 0 {
		t.Errorf("%d events VolumeHealthy about a volume that was never healthy", n)
	}
	if n := count(t, sv, "First"); n != 1 {
		t.Errorf("%d events about one fault", n)
	}
	silence("Degraded, Second")
	m.set(id, &mounter.Info{Volume: id, Alive: true})
	m.off.Store(false)
	await(t, sv, "healthy", healthy)
	event(t, sv, corev1.EventTypeNormal, "VolumeHealthy")
}

// TestLostStaysLost: lost data stays reported while the mounter does not answer for all volumes,
// or for this one.
func TestLostStaysLost(t *testing.T) {
	m, _ := startSilent(t)
	well, lost := sealed(t, "node-a"), sealed(t, "node-a")
	m.set(well.Spec.VolumeHandle, &mounter.Info{Volume: well.Spec.VolumeHandle, Alive: true})
	m.set(lost.Spec.VolumeHandle, &mounter.Info{Volume: lost.Spec.VolumeHandle, Alive: true, Conditions: []control.Condition{{Lost: true, Reason: "Broken", Message: "a sector is gone"}}})
	isLost := func(s v1alpha1.SealedVolumeStatus) bool {
		return hasReason(s, v1alpha1.HealthDataLoss, "Broken") && meta.IsStatusConditionFalse(s.Conditions, v1alpha1.VolumeHealthy)
	}
	await(t, lost, "lost", isLost)
	for what, off := range map[string]func(bool){"list": m.off.Store, "health": m.mute.Store} {
		await(t, well, "healthy", healthy)
		off(true)
		await(t, well, "unknown", func(s v1alpha1.SealedVolumeStatus) bool { return unknown(s, "MounterUnresponsive") })
		m.passes(t, 2)
		if s := status(t, lost); !isLost(s) {
			t.Errorf("%s: the lost data is forgotten: %+v", what, s)
		}
		off(false)
	}
}

// TestNotClaimed: an agent whose mounter does not answer, or that stops, does not report a volume
// as mounted that nobody says is mounted, and does not interfere with an unstage.
func TestNotClaimed(t *testing.T) {
	var idle, leaving *v1alpha1.SealedVolume
	t.Run("runs", func(t *testing.T) {
		m, a := startSilent(t)
		well := sealed(t, "node-a")
		idle, leaving = sealed(t, "node-a"), sealed(t, "node-a")
		for _, sv := range []*v1alpha1.SealedVolume{well, leaving} {
			m.set(sv.Spec.VolumeHandle, &mounter.Info{Volume: sv.Spec.VolumeHandle, Alive: true})
			await(t, sv, "healthy", healthy)
		}
		a.Unstaging(t.Context(), leaving.Spec.VolumeHandle)
		m.off.Store(true)
		m.passes(t, 1)
		anchorOf(t, a, idle.Spec.VolumeHandle) // a stage has begun
		await(t, well, "unknown", func(s v1alpha1.SealedVolumeStatus) bool { return unknown(s, "MounterUnresponsive") })
		m.passes(t, 2)
		if s := status(t, idle); s.Node != "" || s.Health != "" {
			t.Errorf("reported as mounted: %+v", s)
		}
		if s := status(t, leaving); !healthy(s) {
			t.Errorf("an unstage was overwritten: %+v", s)
		}
	})
	if s := status(t, idle); s.Node != "" || s.Health != "" {
		t.Errorf("reported as mounted by an agent that stopped: %+v", s)
	}
	if s := status(t, leaving); !unknown(s, v1alpha1.ReasonNotWatched) {
		t.Errorf("reported as watched after the agent stopped: %+v", s)
	}
}

// TestLeaveKeeps: an agent that stops keeps the note that Sealvol was uninstalled, and lost data
// without a condition.
func TestLeaveKeeps(t *testing.T) {
	uninstalled, lost := sealed(t, "node-a"), sealed(t, "node-a")
	report(t, uninstalled, v1alpha1.HealthUnknown, &metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonUninstalled, Message: "gone"})
	report(t, lost, v1alpha1.HealthDataLoss, nil)
	t.Run("runs", func(t *testing.T) {
		m, _ := startSilent(t, func(o *nodeagent.Options) { o.HealthInterval = 500 * time.Millisecond })
		m.off.Store(true)
		m.passes(t, 0)
	})
	if s := status(t, uninstalled); !unknown(s, v1alpha1.ReasonUninstalled) {
		t.Errorf("the note of the uninstallation is overwritten: %+v", s)
	}
	if s := status(t, lost); !hasReason(s, v1alpha1.HealthDataLoss, v1alpha1.ReasonNotWatched) || !meta.IsStatusConditionFalse(s.Conditions, v1alpha1.VolumeHealthy) {
		t.Errorf("the lost data is forgotten: %+v", s)
	}
}

// TestNearlyFullStays: a volume does not become healthy because its mount server does not answer
// once.
func TestNearlyFullStays(t *testing.T) {
	sv := sealed(t, "node-a")
	report(t, sv, v1alpha1.HealthDegraded, &metav1.Condition{Status: metav1.ConditionFalse, Reason: "NearlyFull", Message: "expand it"})
	m, _ := startSilent(t, func(o *nodeagent.Options) {
		n := o.Mounter.(*node)
		n.set(sv.Spec.VolumeHandle, &mounter.Info{Volume: sv.Spec.VolumeHandle, Alive: true})
	})
	m.passes(t, 2)
	if s := status(t, sv); !hasReason(s, v1alpha1.HealthDegraded, "NearlyFull") {
		t.Errorf("healthy without an answer: %+v", s)
	}
}
