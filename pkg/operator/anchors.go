package operator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// A volume whose PersistentVolume is made anew under another name has another SealedVolume. What is
// known of its device must follow (K7): else an older state of the device would be taken. It is
// written before the key is delivered, and the one before keeps what it has: whatever is cut off,
// the volume can not be staged without the newest anchor.

// inherit gives a volume the newest anchor of its handle, and that it was made on its device, when
// its key is about to be delivered. While another PersistentVolume of the handle is there, which is
// older, the key is not: two of them would have two anchors.
func (o volumes) inherit(ctx context.Context, v *volume, pv *corev1.PersistentVolume) (*problem, error) {
	// The cache: whoever had the volume before was seen long ago. What it knows of it is the API server's to say.
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
			return &problem{v1alpha1.ReasonDuplicate, fmt.Sprintf("PersistentVolume %s is of the same volume, and was there before: the key is delivered to one of them alone. Delete the other", name), false}, err
		}
		var from v1alpha1.SealedVolume
		if err := o.live.Get(ctx, client.ObjectKey{Name: name}, &from); err != nil {
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("the anchor of SealedVolume %s: %w", name, err)
			}
			continue
		}
		if isSame(v, &from) {
			follow(&v.sealed.Status, &from.Status)
		}
	}
	if equalStatus(was.Status, v.sealed.Status) {
		return nil, nil
	}
	if err := o.Status().Patch(ctx, v.sealed, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return nil, fmt.Errorf("hand the anchor on: %w", err)
	}
	v.before = v.sealed.DeepCopy()
	return nil, nil
}

// isSame tells whether a SealedVolume is of the very same volume, which is more than a handle that
// a node could have written into a PersistentVolume of its own.
func isSame(v *volume, sv *v1alpha1.SealedVolume) bool {
	return sv.Spec.VolumeHandle == v.sealed.Spec.VolumeHandle && hasKey(sv) && sv.Spec.Key.UID == v.sealed.Spec.Key.UID &&
		(v.moves || sv.Spec.NodeName == v.sealed.Spec.NodeName)
}

// isBefore asks the API server whether there is a PersistentVolume of a name and of the same volume
// as another, and older than that.
func (o volumes) isBefore(ctx context.Context, name string, pv *corev1.PersistentVolume) (bool, error) {
	var other corev1.PersistentVolume
	err := o.live.Get(ctx, client.ObjectKey{Name: name}, &other)
	if err != nil || !isOurs(&other) || other.Spec.CSI.VolumeHandle != pv.Spec.CSI.VolumeHandle {
		return false, client.IgnoreNotFound(err)
	}
	if t := other.CreationTimestamp.Compare(pv.CreationTimestamp.Time); t != 0 {
		return t < 0, nil
	}
	// Made within one second: the one that has its key already is first.
	has, had := controllerutil.ContainsFinalizer(pv, v1alpha1.DeliveryFinalizer), controllerutil.ContainsFinalizer(&other, v1alpha1.DeliveryFinalizer)
	if has != had {
		return had, nil
	}
	return other.Name < pv.Name, nil
}

// follow takes what another SealedVolume of the volume knows, if that is newer.
func follow(to, from *v1alpha1.SealedVolumeStatus) {
	if a := from.Anchor; a != nil && (to.Anchor == nil || isNewer(a, to.Anchor)) {
		to.Anchor = a.DeepCopy()
	}
	if f := from.Format; f != nil && (to.Format == nil || to.Format.State != v1alpha1.FormatFormatted && f.State == v1alpha1.FormatFormatted) {
		to.Format = f.DeepCopy()
	}
}

// isNewer tells whether an anchor comes after another of the same history. Of two histories the
// volume's own stays: who may override anchors has to say which is true.
func isNewer(a, than *v1alpha1.Anchor) bool {
	return a.Volume == than.Volume && a.Instance == than.Instance && a.Epoch >= than.Epoch &&
		(a.Generation > than.Generation || a.Generation == than.Generation && a.Epoch > than.Epoch)
}
