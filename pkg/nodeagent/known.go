package nodeagent

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// These are reasons of the condition VolumeHealthy that the agent itself finds.
const (
	reasonUnresponsive = "MounterUnresponsive"
	reasonNearlyFull   = "NearlyFull"
)

// lastKnownMark precedes, in the message of an unknown health, the health that was known last.
const lastKnownMark = "; last known health: "

// settle returns the state to report for a mounted volume. A state that knows less than the
// reported one does not replace what is known:
//   - Lost data stays lost while nobody can tell.
//   - A full volume stays full while its mount server does not answer.
//   - An unknown health names the health that was known last.
//   - An agent that stops does not replace the note that Sealvol was uninstalled.
func (a *Agent) settle(st *v1alpha1.SealedVolumeStatus, s state) state {
	c := meta.FindStatusCondition(st.Conditions, v1alpha1.VolumeHealthy)
	last := lastKnown(st)
	left := a.left.Load()
	if left { // what was observed may not stay true
		if s.health == v1alpha1.HealthDataLoss {
			return s
		}
		if s.health != "" && s.health != v1alpha1.HealthUnknown {
			last = named(s.health, s.condition.Reason)
		}
		s.health, s.condition = v1alpha1.HealthUnknown, control.Condition{Reason: v1alpha1.ReasonNotWatched,
			Message: fmt.Sprintf("the node plugin on node %s has stopped, so the health of the volume is unknown until it runs again", a.opt.Node)}
	}
	unknown := s.health == v1alpha1.HealthUnknown
	lost := unknown && st.Health == v1alpha1.HealthDataLoss
	full := s.health == v1alpha1.HealthHealthy && !s.answered
	here := c != nil && st.Node == a.opt.Node
	switch {
	case lost && c != nil,
		full && here && c.Reason == reasonNearlyFull,
		unknown && here && c.Reason == s.condition.Reason,
		left && c != nil && c.Reason == v1alpha1.ReasonUninstalled:
		s.health, s.condition = st.Health, control.Condition{Reason: c.Reason, Message: c.Message}
		return s
	case lost:
		s.health = v1alpha1.HealthDataLoss
	}
	if unknown && last != "" {
		s.condition.Message += lastKnownMark + last
	}
	return s
}

// lastKnown names the health that was known last, with its reason if it is bad, as in "Degraded,
// NearlyFull".
func lastKnown(st *v1alpha1.SealedVolumeStatus) string {
	c := meta.FindStatusCondition(st.Conditions, v1alpha1.VolumeHealthy)
	if c == nil || c.Status == metav1.ConditionTrue {
		return named(st.Health, "")
	}
	if c.Reason == v1alpha1.ReasonNotWatched || c.Reason == reasonUnresponsive {
		if _, last, ok := strings.Cut(c.Message, lastKnownMark); ok {
			return last
		}
	}
	return named(st.Health, c.Reason)
}

func named(h v1alpha1.Health, reason string) string {
	if reason == "" {
		return string(h)
	}
	return string(h) + ", " + reason
}

// isBad tells whether a result of lastKnown is a bad health.
func isBad(last string) bool {
	h, _, _ := strings.Cut(last, ", ")
	return rank(v1alpha1.Health(h)) > 0
}

// tell creates an event about the claim when the health becomes bad or good. A health that is
// unknown for some time is neither, and the health after it counts against the last known one.
func (a *Agent) tell(was, sv *v1alpha1.SealedVolume) {
	c := meta.FindStatusCondition(sv.Status.Conditions, v1alpha1.VolumeHealthy)
	ref := claimOf(sv)
	last := lastKnown(&was.Status)
	switch {
	case c == nil, ref == nil, last == lastKnown(&sv.Status):
	case c.Status == metav1.ConditionFalse:
		a.events.Eventf(ref, sv, corev1.EventTypeWarning, c.Reason, "ServeVolume", "volume %s on node %s: %s", sv.Name, a.opt.Node, c.Message)
	case c.Status == metav1.ConditionTrue && isBad(last):
		a.events.Eventf(ref, sv, corev1.EventTypeNormal, "VolumeHealthy", "ServeVolume", "volume %s on node %s is healthy again", sv.Name, a.opt.Node)
	}
}
