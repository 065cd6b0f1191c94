package operator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// key chooses the key of a volume, if that is not done yet, and delivers it.
func (o volumes) key(ctx context.Context, v *volume) (*problem, error) {
	switch {
	case isReserved(v.name): // the Secret of this name holds a key and must stay
		return nameReserved(v.name), nil
	case v.refused != nil:
		return v.refused, o.removeDelivery(ctx, v.name)
	}
	if !hasKey(v.sealed) {
		p, err := o.chooseKey(ctx, v)
		if p != nil && err == nil && v.claim == nil {
			err = o.removeOrphan(ctx, v)
		}
		if p != nil || err != nil {
			return p, err
		}
	}
	return o.deliver(ctx, v)
}

// chooseKey finds the key and records it in the SealedVolume.
func (o volumes) chooseKey(ctx context.Context, v *volume) (*problem, error) {
	origin, p, err := o.origin(ctx, v)
	if p != nil || err != nil {
		return p, err
	}
	was := v.sealed.DeepCopy()
	var ref *v1alpha1.VolumeKeyRef
	if origin != nil {
		ref = origin.Spec.Key.DeepCopy()
		if v.pv == nil && !v.moves { // a PersistentVolume on another node is then refused
			v.sealed.Spec.NodeName = origin.Spec.NodeName
		}
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, "the VolumeKey of this volume has no key yet", false}
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
			if newest.SecretName != keySecretName(vk.UID, newest.Version) {
				// A user with access to the status could have named any Secret of the operator.
				return altered(o.Namespace, newest.SecretName), nil
			}
			ref.Version, ref.SecretName, ref.Fingerprint = newest.Version, newest.SecretName, newest.Fingerprint
		}
	}
	v.sealed.Spec.Key = ref
	if err := o.writeSpec(ctx, v, was); err != nil {
		return nil, err
	}
	if ref.SecretName == "" {
		return wait, nil
	}
	return nil, nil
}

// keyFor returns the VolumeKey of a volume that is not a copy: the one that the claim names, or one
// of its own, which it creates.
func (o volumes) keyFor(ctx context.Context, v *volume) (*v1alpha1.VolumeKey, *problem, error) {
	switch {
	case v.pv != nil && !o.isDelivered(v.pv), v.pv == nil && v.class != nil && !o.isManaged(v.class):
		return nil, &problem{v1alpha1.ReasonExternal, "the volume uses a Secret that Sealvol does not manage, so the operator delivers no key", false}, nil
	case v.claim == nil || v.claim.DeletionTimestamp != nil:
		return nil, &problem{v1alpha1.ReasonNoKey, "the volume has no key, because it has no claim or the claim is being deleted. It gets a key when a claim is bound to it", false}, nil
	}
	name := v.claim.Annotations[v1alpha1.KeyAnnotation]
	if name == "" {
		return o.ownKey(ctx, v)
	}
	var vk v1alpha1.VolumeKey
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &vk)
	switch {
	case apierrors.IsNotFound(err):
		return nil, &problem{v1alpha1.ReasonKeyNotFound, fmt.Sprintf("VolumeKey %s does not exist, but the claim's annotation %s names it. Create the VolumeKey, or change the annotation", name, v1alpha1.KeyAnnotation), false}, nil
	case err != nil:
		return nil, nil, err
	case vk.DeletionTimestamp != nil:
		return nil, &problem{v1alpha1.ReasonKeyDeleting, fmt.Sprintf("VolumeKey %s is being deleted, but the claim's annotation %s names it. Change the annotation", name, v1alpha1.KeyAnnotation), false}, nil
	}
	return &vk, nil, nil
}

// ownKey finds or creates the VolumeKey of one claim.
func (o volumes) ownKey(ctx context.Context, v *volume) (*v1alpha1.VolumeKey, *problem, error) {
	at := client.ObjectKey{Namespace: v.claim.Namespace, Name: claimKeyName(v.claim)}
	var vk v1alpha1.VolumeKey
	err := o.Get(ctx, at, &vk)
	if err == nil && vk.DeletionTimestamp != nil {
		return nil, &problem{v1alpha1.ReasonKeyDeleting, fmt.Sprintf("VolumeKey %s is being deleted. When it is gone, the operator creates a new one", at.Name), false}, nil
	}
	if err == nil || !apierrors.IsNotFound(err) {
		return &vk, nil, err
	}
	vk = v1alpha1.VolumeKey{ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name, Finalizers: []string{v1alpha1.KeyFinalizer}},
		Spec: v1alpha1.VolumeKeySpec{DeletionPolicy: v1alpha1.DeletionDelete, ClaimRef: &v1alpha1.KeyClaim{Name: v.claim.Name, UID: string(v.claim.UID)}}}
	err = o.Create(ctx, &vk)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil, &problem{v1alpha1.ReasonNoKey, "the claim's namespace is being deleted, so the operator creates no key", false}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("create VolumeKey: %w", err)
	}
	return &vk, nil, nil
}
