package operator

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

func equalStatus(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// phase derives the phase of a volume.
func (v *volume) phase() v1alpha1.Phase {
	switch {
	case v.pv == nil && v.sealed.Spec.VolumeHandle == "":
		return v1alpha1.PhasePending
	case v.pv == nil && v.sealed.Spec.ReclaimPolicy == string(corev1.PersistentVolumeReclaimRetain):
		return v1alpha1.PhaseRetained
	case v.pv == nil:
		return v1alpha1.PhaseDeleted
	case v.sealed.Status.Node != "":
		return v1alpha1.PhaseStaged
	case v.claim == nil && v.pv.Spec.ClaimRef != nil && v.pv.Spec.ClaimRef.UID != "":
		return v1alpha1.PhaseReleased
	}
	return v1alpha1.PhaseAvailable
}

// writeVolumeStatus writes the condition KeyReady, and an event if its reason changes.
func (o volumes) writeVolumeStatus(ctx context.Context, v *volume, p *problem) error {
	s := &v.sealed.Status
	v.clearLostNode()
	s.Phase = v.phase()
	c := metav1.Condition{Type: v1alpha1.VolumeKeyReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDelivered, ObservedGeneration: v.sealed.Generation,
		Message: fmt.Sprintf("the volume's key is in Secret %s/%s, where the kubelet reads it", o.Namespace, v.name)}
	if p != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, p.reason, limited(p.message)
		switch p.reason {
		case v1alpha1.ReasonExternal:
			c.Status = metav1.ConditionUnknown
		case v1alpha1.ReasonPrepared:
			c.Status = metav1.ConditionTrue
		}
	} else {
		s.KeyVersion = v.sealed.Spec.Key.Version
	}
	reason := ""
	if was := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeKeyReady); was != nil {
		reason = was.Reason
	}
	meta.SetStatusCondition(&s.Conditions, c)
	if equalStatus(v.before.Status, *s) {
		return nil
	}
	err := o.Status().Patch(ctx, v.sealed, client.MergeFromWithOptions(v.before, client.MergeFromWithOptimisticLock{}))
	if err == nil && c.Reason != reason {
		o.recordChange(v, c)
	}
	return client.IgnoreNotFound(err)
}

// recordChange writes an event about a change, unless the new state is an ordinary one.
func (o volumes) recordChange(v *volume, c metav1.Condition) {
	kind := corev1.EventTypeNormal
	switch c.Reason {
	case v1alpha1.ReasonDelivered:
		if len(v.before.Status.Conditions) == 0 { // the normal case of a new volume
			return
		}
	case v1alpha1.ReasonExternal, v1alpha1.ReasonNoKey, v1alpha1.ReasonKeyNotReady, v1alpha1.ReasonKept, v1alpha1.ReasonPrepared:
		// These are ordinary states. A VolumeKey that is not ready has events of its own.
		return
	default:
		kind = corev1.EventTypeWarning
	}
	o.event(v, kind, c.Reason, c.Message)
}

// event writes an event about the claim, where users look, or without one about the SealedVolume.
func (o volumes) event(v *volume, kind, reason, message string) {
	if c := cmp.Or(v.claim, v.refusedClaim); c != nil {
		o.events.Eventf(c, v.sealed, kind, reason, "DeliverKey", "%s", message)
		return
	}
	o.events.Eventf(v.sealed, nil, kind, reason, "DeliverKey", "%s", message)
}
