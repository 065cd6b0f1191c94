package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// attempts is how many times a write is tried if other writers interfere.
const attempts = 5

// publish updates a volume's SealedVolume, and confirms its anchor to the volume.
func (a *Agent) publish(ctx context.Context, id string, v *volume, s state, full bool) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	var r client.Reader = a.cache
	var err error
	for range attempts {
		if err = a.publishOnce(ctx, r, id, v, s, full); !apierrors.IsConflict(err) {
			break
		}
		r = a.live // the cache is outdated
	}
	if err != nil {
		return err
	}
	if v.anchor != nil && s.mounted {
		a.confirm(ctx, id, v)
	}
	if v.remounted {
		return a.tellRemounted(ctx, id, v)
	}
	return nil
}

// tellRemounted creates an event about the claim of a volume that has a new mount server.
func (a *Agent) tellRemounted(ctx context.Context, id string, v *volume) error {
	sv, err := a.find(ctx, a.cache, id)
	if err != nil {
		return ignoreNoVolume(err)
	}
	if ref := claimOf(sv); ref != nil {
		a.events.Eventf(ref, sv, corev1.EventTypeWarning, "Remounted", "ServeVolume",
			"volume %s on node %s: its mount server died, and the volume was mounted again; restart the containers that get \"Transport endpoint is not connected\"",
			sv.Name, a.opt.Node)
	}
	v.remounted = false
	return nil
}

func (a *Agent) publishOnce(ctx context.Context, r client.Reader, id string, v *volume, s state, full bool) error {
	sv, err := a.find(ctx, r, id)
	if err != nil {
		if !s.mounted { // nothing is left to report
			return ignoreNoVolume(err)
		}
		return err
	}
	was := sv.DeepCopy()
	changed := a.fill(sv, v, s, full)
	if equality.Semantic.DeepEqual(was.Status, sv.Status) {
		return nil
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	sv.Status.ReportedAt = &now
	if err := a.live.Status().Patch(ctx, sv, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the status of SealedVolume %s: %w", sv.Name, err)
	}
	if changed {
		a.tell(was, sv)
	}
	return nil
}

func ignoreNoVolume(err error) error {
	if errors.Is(err, errNoVolume) {
		return nil
	}
	return err
}

// fill writes the observed state into a status. changed says that the health changed.
func (a *Agent) fill(sv *v1alpha1.SealedVolume, v *volume, s state, full bool) (changed bool) {
	st := &sv.Status
	if !s.mounted {
		st.Node, st.Health = "", ""
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.VolumeHealthy)
	} else if !s.assumed || st.Node == a.opt.Node {
		moved := st.Node != a.opt.Node
		s = a.settle(st, s)
		st.Node, st.Health = a.opt.Node, s.health
		changed = setHealthy(st, s, sv.Generation)
		if s.usage != nil && (full || moved || changed || notable(st.Usage, s.usage)) {
			st.Usage = s.usage
		}
	}
	if s.answered && (st.Format == nil || st.Format.State != v1alpha1.FormatFormatted) { // for volumes that an earlier version formatted
		st.Format = &v1alpha1.VolumeFormat{State: v1alpha1.FormatFormatted, Time: metav1.NewTime(time.Now().Truncate(time.Second))}
	}
	if x := v.anchor; x != nil && (st.Anchor == nil || int64(x.Generation) > st.Anchor.Generation || x.Epoch > uint32(st.Anchor.Epoch)) { //nolint:gosec // bounded by parseAnchor
		st.Anchor = &v1alpha1.Anchor{Volume: x.Volume, Instance: x.Instance, Generation: int64(x.Generation), Epoch: int64(x.Epoch), MAC: x.MAC, //nolint:gosec // as above
			Time: metav1.NewTime(time.Now().Truncate(time.Second))}
	}
	return changed
}

// notable tells whether the usage must be reported at once: its share has changed by one percent,
// or the volume's size has changed.
func notable(was, now *v1alpha1.VolumeUsage) bool {
	if was == nil || was.TotalBytes != now.TotalBytes {
		return true
	}
	change := now.UsedBytes - was.UsedBytes
	return max(change, -change) >= max(now.TotalBytes/100, 1)
}

// setHealthy sets the condition; it returns whether the reason changed.
func setHealthy(st *v1alpha1.SealedVolumeStatus, s state, generation int64) bool {
	c := metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: metav1.ConditionTrue, Reason: "AsExpected", Message: "nothing is wrong", ObservedGeneration: generation}
	if s.condition.Reason != "" {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, s.condition.Reason, s.condition.Message
		if s.health == v1alpha1.HealthUnknown {
			c.Status = metav1.ConditionUnknown
		}
		c.Message = c.Message[:min(len(c.Message), 1000)]
	}
	was := meta.FindStatusCondition(st.Conditions, v1alpha1.VolumeHealthy)
	different := was == nil || was.Reason != c.Reason
	if was != nil && !different && was.Message == c.Message {
		return false // a new generation alone is not a change
	}
	meta.SetStatusCondition(&st.Conditions, c)
	return different
}
