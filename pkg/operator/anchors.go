package operator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// If the PersistentVolume of a volume is created again under another name, the volume gets another
// SealedVolume. The anchor and the format record are copied to it (K7); otherwise, a node would
// accept an older state of the device. They are copied before the key is delivered, and the old
// SealedVolume keeps them. So the volume cannot be staged without the newest anchor, even after a
// crash.

// copyAnchor copies the newest anchor and format record of the volume's handle, before the key is
// delivered. It returns a problem if an older PersistentVolume of the handle exists: with two of
// them, the volume would have two anchors.
func (o volumes) copyAnchor(ctx context.Context, v *volume, pv *corev1.PersistentVolume) (*problem, error) {
	// The cache is enough to find earlier SealedVolumes, because they are old. Their status is read
	// from the API server below.
	var list v1alpha1.SealedVolumeList
	if err := o.List(ctx, &list, client.MatchingFields{byHandle: v.sealed.Spec.VolumeHandle}); err != nil {
		return nil, err
	}
	inOrder(list.Items)
	was := v.sealed.DeepCopy()
	for i := range list.Items {
		name := list.Items[i].Name
		if name == v.name || !isSame(v, &list.Items[i]) {
			continue
		}
		if other, err := o.isBefore(ctx, name, pv); other || err != nil {
			return &problem{v1alpha1.ReasonDuplicate, fmt.Sprintf("PersistentVolume %s refers to the same volume and is older. Only one of them can have the key. Delete one of the two; first set its reclaim policy to Retain", name), false}, err
		}
		var from v1alpha1.SealedVolume
		if err := o.live.Get(ctx, client.ObjectKey{Name: name}, &from); err != nil {
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("get SealedVolume %s: %w", name, err)
			}
			continue
		}
		if isSame(v, &from) {
			takeNewer(&v.sealed.Status, &from.Status)
		}
	}
	if equalStatus(was.Status, v.sealed.Status) {
		return nil, nil
	}
	if err := o.Status().Patch(ctx, v.sealed, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return nil, fmt.Errorf("copy anchor: %w", err)
	}
	v.before = v.sealed.DeepCopy()
	return nil, nil
}

// isSame tells whether a SealedVolume describes the same volume. It compares more than the handle,
// because a node could write any handle into a PersistentVolume of its own.
func isSame(v *volume, sv *v1alpha1.SealedVolume) bool {
	return sv.Spec.VolumeHandle == v.sealed.Spec.VolumeHandle && hasKey(sv) && sv.Spec.Key.UID == v.sealed.Spec.Key.UID &&
		(v.moves || sv.Spec.NodeName == v.sealed.Spec.NodeName)
}

// isBefore asks the API server whether the PersistentVolume of a name refers to the same volume as
// pv and is older.
func (o volumes) isBefore(ctx context.Context, name string, pv *corev1.PersistentVolume) (bool, error) {
	var other corev1.PersistentVolume
	err := o.live.Get(ctx, client.ObjectKey{Name: name}, &other)
	if err != nil || !isOurs(&other) || other.Spec.CSI.VolumeHandle != pv.Spec.CSI.VolumeHandle {
		return false, client.IgnoreNotFound(err)
	}
	if t := other.CreationTimestamp.Compare(pv.CreationTimestamp.Time); t != 0 {
		return t < 0, nil
	}
	// Both were created in the same second. The one that already has its key counts as older.
	has, had := controllerutil.ContainsFinalizer(pv, v1alpha1.DeliveryFinalizer), controllerutil.ContainsFinalizer(&other, v1alpha1.DeliveryFinalizer)
	if has != had {
		return had, nil
	}
	return other.Name < pv.Name, nil
}

// takeNewer copies the anchor and the format record of from if they are newer.
func takeNewer(to, from *v1alpha1.SealedVolumeStatus) {
	if a := from.Anchor; a != nil && (to.Anchor == nil || isNewer(a, to.Anchor)) {
		to.Anchor = a.DeepCopy()
	}
	if f := from.Format; f != nil && (to.Format == nil || to.Format.State != v1alpha1.FormatFormatted && f.State == v1alpha1.FormatFormatted) {
		to.Format = f.DeepCopy()
	}
}

// isNewer tells whether an anchor is newer than another one of the same history. If the histories
// differ, the SealedVolume keeps its own anchor; a user with the verb override-anchor must decide.
func isNewer(a, than *v1alpha1.Anchor) bool {
	return a.Volume == than.Volume && a.Instance == than.Instance && a.Epoch >= than.Epoch &&
		(a.Generation > than.Generation || a.Generation == than.Generation && a.Epoch > than.Epoch)
}
