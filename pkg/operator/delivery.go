package operator

import (
	"context"
	"errors"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// key settles which key opens a volume, and delivers it.
func (o volumes) key(ctx context.Context, v *volume) (*problem, error) {
	if v.other {
		return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s is of volume %s on node %q, the SealedVolume of volume %s on node %q: give it another name, or, if the volume was moved, correct spec.nodeName of the SealedVolume",
			v.name, v.pv.Spec.CSI.VolumeHandle, v.node, v.sealed.Spec.VolumeHandle, v.sealed.Spec.NodeName), false}, o.removeDelivery(ctx, v.name)
	}
	if !hasKey(v.sealed) {
		if p, err := o.choose(ctx, v); p != nil || err != nil {
			return p, err
		}
	}
	return o.deliver(ctx, v)
}

// choose finds the key and notes it in the SealedVolume.
func (o volumes) choose(ctx context.Context, v *volume) (*problem, error) {
	ref, p, err := o.origin(ctx, v)
	if p != nil || err != nil {
		return p, err
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, "the VolumeKey has no key yet", false}
	if ref == nil {
		vk, p, err := o.keyFor(ctx, v)
		if p != nil || err != nil {
			return p, err
		}
		if c := meta.FindStatusCondition(vk.Status.Conditions, v1alpha1.KeyReady); c != nil && c.Status == metav1.ConditionFalse {
			wait = &problem{c.Reason, fmt.Sprintf("VolumeKey %s: %s", vk.Name, c.Message), false}
		}
		ref = &v1alpha1.VolumeKeyRef{Namespace: vk.Namespace, Name: vk.Name, UID: string(vk.UID)}
		if n := len(vk.Status.Versions); n > 0 {
			newest := vk.Status.Versions[n-1]
			if newest.SecretName != keySecretName(vk.UID, newest.Version) { // who may write the status could name any Secret of ours
				return altered(o.Namespace, newest.SecretName), nil
			}
			ref.Version, ref.SecretName, ref.Fingerprint = newest.Version, newest.SecretName, newest.Fingerprint
		}
	}
	was := v.sealed.DeepCopy()
	v.sealed.Spec.Key = ref
	if err := o.writeSpec(ctx, v, was); err != nil {
		return nil, err
	}
	if ref.SecretName == "" {
		return wait, nil
	}
	return nil, nil
}

// origin finds the key of the volume that a volume is a copy of, or the same as; nil if it is neither.
func (o volumes) origin(ctx context.Context, v *volume) (*v1alpha1.VolumeKeyRef, *problem, error) {
	if v.pv != nil {
		if h := v.pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]; h != "" {
			return o.keyOfHandle(ctx, v, h, fmt.Sprintf("the volume is a copy whose key is that of volume %s, of which no SealedVolume is left", h))
		}
		if ref, _, err := o.keyOfHandle(ctx, v, v.pv.Spec.CSI.VolumeHandle, ""); ref != nil || err != nil {
			return ref, nil, err
		}
	}
	if v.claim == nil || v.claim.Spec.VolumeName != "" {
		return nil, nil, nil // a PersistentVolume that is there would have said
	}
	kind, name := source(v.claim)
	switch kind {
	case "PersistentVolumeClaim":
		return o.keyOfClaim(ctx, v, name)
	case "VolumeSnapshot":
		return o.keyOfSnapshot(ctx, v, name)
	}
	return nil, nil, nil
}

// isElsewhere tells that a volume lies on another node than the one that it is said to be a copy of, or the same as, which can not be: nodes make
// PersistentVolumes (with a policy that keeps them to their own), and must not come by the keys of others in this way. Of volumes that move, nodes make none.
func (v *volume) isElsewhere(origin *v1alpha1.SealedVolume) bool {
	if v.moves {
		return false
	}
	node := v.from
	if v.pv != nil {
		node = v.node
	} else if node == "" {
		return false
	}
	return origin.Spec.NodeName != "" && node != origin.Spec.NodeName
}

// keyOfHandle finds the key of a volume by its handle. Without a problem to tell, none is no error.
func (o volumes) keyOfHandle(ctx context.Context, v *volume, handle, unknown string) (*v1alpha1.VolumeKeyRef, *problem, error) {
	if unknown == "" {
		ref, err := o.keyAmong(ctx, v, byHandle, handle)
		return ref, nil, err
	}
	for _, index := range []string{byHandle, byKeyVolume} { // the volume itself, or what else is a copy of it
		if ref, err := o.keyAmong(ctx, v, index, handle); ref != nil || err != nil {
			return ref, nil, err
		}
	}
	return nil, &problem{v1alpha1.ReasonSourceUnknown, unknown, false}, nil
}

// keyAmong is the key of a volume that an index finds and that can be an origin.
func (o volumes) keyAmong(ctx context.Context, v *volume, index, handle string) (*v1alpha1.VolumeKeyRef, error) {
	var list v1alpha1.SealedVolumeList
	if err := o.List(ctx, &list, client.MatchingFields{index: handle}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if sv := &list.Items[i]; sv.Name != v.name && hasKey(sv) && !v.isElsewhere(sv) {
			return sv.Spec.Key, nil
		}
	}
	return nil, nil
}

func (o volumes) keyOfClaim(ctx context.Context, v *volume, name string) (*v1alpha1.VolumeKeyRef, *problem, error) {
	var c corev1.PersistentVolumeClaim
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &c)
	if err != nil {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, fmt.Sprintf("the claim is a copy of claim %s, which does not exist", name), false}, client.IgnoreNotFound(err)
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is a copy of claim %s, which has no key yet", name), false}
	var sv v1alpha1.SealedVolume
	err = o.Get(ctx, client.ObjectKey{Name: volumeName(&c)}, &sv)
	if err != nil || !hasKey(&sv) || !isOf(&sv, &c) { // a claim may name a volume that it will never have
		return nil, wait, client.IgnoreNotFound(err)
	}
	return sv.Spec.Key, nil, nil
}

func (o volumes) keyOfSnapshot(ctx context.Context, v *volume, name string) (*v1alpha1.VolumeKeyRef, *problem, error) {
	unknown := fmt.Sprintf("the claim is restored from snapshot %s, of whose source volume no SealedVolume with a key is known", name)
	if !o.Snapshots {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, unknown, false}, nil
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is restored from snapshot %s, which has not been made yet", name), false}
	var s snapshotv1.VolumeSnapshot
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &s)
	if err != nil || contentName(&s) == "" {
		return nil, wait, client.IgnoreNotFound(err)
	}
	var c snapshotv1.VolumeSnapshotContent
	err = o.Get(ctx, client.ObjectKey{Name: contentName(&s)}, &c)
	// The content must say that it is this snapshot's: a snapshot may name any.
	if err != nil || sourceHandle(&c) == "" || c.Spec.VolumeSnapshotRef.UID != s.UID {
		return nil, wait, client.IgnoreNotFound(err)
	}
	v.from = c.Labels[managedBy]
	return o.keyOfHandle(ctx, v, sourceHandle(&c), unknown)
}

// keyFor finds the VolumeKey of a volume that is no copy: the one that the claim names, or one of its own, which is made.
func (o volumes) keyFor(ctx context.Context, v *volume) (*v1alpha1.VolumeKey, *problem, error) {
	switch {
	case v.pv != nil && !o.isDelivered(v.pv), v.pv == nil && v.class != nil && !o.isManaged(v.class):
		return nil, &problem{v1alpha1.ReasonExternal, "the volume is staged with a Secret that Sealvol does not manage", false}, nil
	case v.claim == nil || v.claim.DeletionTimestamp != nil:
		return nil, &problem{v1alpha1.ReasonNoKey, "the volume never had a claim that it got a key for", false}, nil
	}
	name := v.claim.Annotations[v1alpha1.KeyAnnotation]
	if name == "" {
		return o.ownKey(ctx, v)
	}
	var vk v1alpha1.VolumeKey
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &vk)
	switch {
	case apierrors.IsNotFound(err):
		return nil, &problem{v1alpha1.ReasonKeyNotFound, fmt.Sprintf("VolumeKey %s, which the claim's annotation %s names, does not exist", name, v1alpha1.KeyAnnotation), false}, nil
	case err != nil:
		return nil, nil, err
	case vk.DeletionTimestamp != nil:
		return nil, &problem{v1alpha1.ReasonKeyDeleting, fmt.Sprintf("VolumeKey %s is being deleted", name), false}, nil
	}
	return &vk, nil, nil
}

// ownKey finds or makes the VolumeKey of one claim.
func (o volumes) ownKey(ctx context.Context, v *volume) (*v1alpha1.VolumeKey, *problem, error) {
	at := client.ObjectKey{Namespace: v.claim.Namespace, Name: claimKeyName(v.claim)}
	var vk v1alpha1.VolumeKey
	err := o.Get(ctx, at, &vk)
	if err == nil && vk.DeletionTimestamp != nil {
		return nil, &problem{v1alpha1.ReasonKeyDeleting, fmt.Sprintf("VolumeKey %s is being deleted", at.Name), false}, nil
	}
	if err == nil || !apierrors.IsNotFound(err) {
		return &vk, nil, err
	}
	vk = v1alpha1.VolumeKey{ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name, Finalizers: []string{v1alpha1.KeyFinalizer}},
		Spec: v1alpha1.VolumeKeySpec{DeletionPolicy: v1alpha1.DeletionDelete, ClaimRef: &v1alpha1.KeyClaim{Name: v.claim.Name, UID: string(v.claim.UID)}}}
	err = o.Create(ctx, &vk)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil, &problem{v1alpha1.ReasonNoKey, "the claim's namespace is being deleted", false}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make VolumeKey: %w", err)
	}
	return &vk, nil, nil
}

// deliver sees that the delivery Secret holds the key (K5).
func (o volumes) deliver(ctx context.Context, v *volume) (*problem, error) {
	ref := v.sealed.Spec.Key
	if v.pv != nil && !o.isDelivered(v.pv) {
		return &problem{v1alpha1.ReasonExternal, "the volume is staged with a Secret that Sealvol does not manage", false}, nil
	}
	key, err := o.look(ctx, ref.SecretName)
	switch {
	case err != nil:
		return nil, err
	case key.meta == nil:
		return missing(o.Namespace, ref.SecretName), nil
	case key.fingerprint != ref.Fingerprint:
		return altered(o.Namespace, ref.SecretName), nil
	}
	if key.meta.GetLabels()[v1alpha1.RoleLabel] != v1alpha1.RoleKey { // restored, perhaps without its VolumeKey
		if err := o.mark(ctx, key.meta, *ref, ""); err != nil {
			return nil, err
		}
	}
	if v.pv == nil && v.sealed.Spec.VolumeHandle != "" {
		return &problem{v1alpha1.ReasonKept, "the PersistentVolume is gone; the key is kept, and delivered again if that comes back", false}, o.removeDelivery(ctx, v.name)
	}
	d, err := o.look(ctx, v.name)
	if err != nil {
		return nil, err
	}
	if d.meta != nil && d.fingerprint == ref.Fingerprint {
		return nil, o.adopt(ctx, d.meta)
	}
	if d.meta != nil && d.meta.GetLabels()[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery {
		return &problem{v1alpha1.ReasonConflict, fmt.Sprintf("Secret %s/%s is in the place of the delivery Secret and not ours: remove it", o.Namespace, v.name), false}, nil
	}
	return o.writeDelivery(ctx, v, d.meta)
}

// adopt marks a delivery Secret that was restored.
func (o *operator) adopt(ctx context.Context, m metav1.Object) error {
	if m.GetLabels()[v1alpha1.RoleLabel] == v1alpha1.RoleDelivery {
		return nil
	}
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	s.SetNamespace(m.GetNamespace())
	s.SetName(m.GetName())
	patch := client.MergeFrom(s.DeepCopy())
	metav1.SetMetaDataLabel(&s.ObjectMeta, v1alpha1.RoleLabel, v1alpha1.RoleDelivery)
	return client.IgnoreNotFound(o.Patch(ctx, &s, patch))
}

// writeDelivery makes the delivery Secret, or mends one that was edited.
func (o volumes) writeDelivery(ctx context.Context, v *volume, old metav1.Object) (*problem, error) {
	ref := v.sealed.Spec.Key
	_, k, err := o.read(ctx, ref.SecretName)
	if err != nil {
		return nil, err
	}
	defer k.Erase()
	if k == nil || k.Fingerprint() != ref.Fingerprint {
		return nil, errors.New("the key Secret has just changed") // look again
	}
	s := deliverySecret(o.Namespace, v.name, k)
	defer wipe(s)
	was := v.sealed.Status.KeyVersion
	if c := meta.FindStatusCondition(v.sealed.Status.Conditions, v1alpha1.VolumeKeyReady); c != nil && (c.Reason == v1alpha1.ReasonKept || c.Reason == v1alpha1.ReasonExchanged) {
		was = 0 // it was not there on purpose
	}
	if old == nil {
		err = o.Create(ctx, s)
	} else {
		s.ResourceVersion = old.GetResourceVersion()
		err = o.Update(ctx, s)
	}
	if apierrors.IsInvalid(err) { // somebody made it immutable, or of another type
		uid, rv := old.GetUID(), old.GetResourceVersion()
		return nil, errors.Join(errRetry, o.Delete(ctx, s, client.Preconditions{UID: &uid, ResourceVersion: &rv}))
	}
	if err != nil {
		return nil, fmt.Errorf("deliver key: %w", err)
	}
	o.seen.put(s, ref.Fingerprint)
	if was != 0 {
		o.event(v, corev1.EventTypeWarning, v1alpha1.ReasonRestored, fmt.Sprintf("Secret %s/%s was missing or edited; it holds the volume's key again", o.Namespace, v.name))
	}
	return nil, nil
}

var errRetry = errors.New("the delivery Secret is made anew")

// removeDelivery removes a volume's delivery Secret, if it is one.
func (o volumes) removeDelivery(ctx context.Context, name string) error {
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := o.live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, &s)
	if err != nil || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery {
		return client.IgnoreNotFound(err)
	}
	o.seen.forget(name)
	return client.IgnoreNotFound(o.Delete(ctx, &s, client.Preconditions{UID: &s.UID}))
}
