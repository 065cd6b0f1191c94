package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=patch

// A delivery Secret holds the key of a volume while the PersistentVolume exists, is for the claim
// of the SealedVolume, and that claim exists (K6):
//
//	PersistentVolume and claim exist, according to the API server
//	└ copy the newest anchor (anchors.go) → add the finalizer to the PersistentVolume → fill the Secret
//	claim deleted
//	└ delete the Secret
//	PersistentVolume deleted and not in use
//	└ delete the Secret → wait until it is gone → remove the finalizer → the PersistentVolume is gone
//
// While the finalizer is there, no other PersistentVolume can have the name, so none can make the
// Secret readable. After a crash, the next reconciliation continues: each step is done already, or
// is done again.

// errStale tells that the cache is older than the API server. The next update of the cache triggers
// another reconciliation.
var errStale = errors.New("the cache is older than the API server")

// errRetry tells that a delivery Secret that could not be updated was deleted.
var errRetry = errors.New("the delivery Secret was deleted and will be created again")

// pvProtection is the finalizer that Kubernetes sets on bound PersistentVolumes.
const pvProtection = "kubernetes.io/pv-protection"

// deliver ensures that the delivery Secret holds the key (K5), or does not exist if it must not.
func (o volumes) deliver(ctx context.Context, v *volume) (*problem, error) {
	ref := v.sealed.Spec.Key
	if v.pv != nil && !o.isDelivered(v.pv) {
		return &problem{v1alpha1.ReasonExternal, "the volume uses a Secret that Sealvol does not manage, so the operator delivers no key", false}, nil
	}
	key, err := o.inspect(ctx, ref.SecretName)
	switch {
	case err != nil:
		return nil, err
	case key.meta == nil:
		return missing(o.Namespace, ref.SecretName), nil
	case key.fingerprint != ref.Fingerprint:
		return altered(o.Namespace, ref.SecretName), nil
	}
	// The Secret was restored from a backup, perhaps without its VolumeKey.
	if key.meta.GetLabels()[v1alpha1.RoleLabel] != v1alpha1.RoleKey {
		if err := o.restoreMetadata(ctx, key.meta, *ref, ""); err != nil {
			return nil, err
		}
	}
	if p := v.undeliverable(); p != nil {
		return p, o.withdraw(ctx, v)
	}
	d, err := o.inspect(ctx, v.name)
	if err != nil {
		return nil, err
	}
	role := ""
	if d.meta != nil {
		role = d.meta.GetLabels()[v1alpha1.RoleLabel]
	}
	if d.meta != nil && role != v1alpha1.RoleDelivery && (role != "" || d.fingerprint != ref.Fingerprint) {
		return &problem{v1alpha1.ReasonConflict, fmt.Sprintf("Secret %s/%s has the name of the volume's delivery Secret, but Sealvol did not create it. The key is not delivered until you delete this Secret", o.Namespace, v.name), false}, nil
	}
	if role == v1alpha1.RoleDelivery && d.fingerprint == ref.Fingerprint && controllerutil.ContainsFinalizer(v.pv, v1alpha1.DeliveryFinalizer) {
		return nil, nil
	}
	return o.fillDelivery(ctx, v, d)
}

// undeliverable returns why the key must not be delivered now, according to the cache, or nil.
func (v *volume) undeliverable() *problem {
	switch {
	case v.pv == nil && v.sealed.Spec.VolumeHandle == "":
		return &problem{v1alpha1.ReasonPrepared, "the key is ready. It is delivered when the PersistentVolume exists", false}
	case v.pv == nil:
		return &problem{v1alpha1.ReasonKept, "the PersistentVolume is gone. The key is kept for snapshots and copies, and in case the PersistentVolume is created again", false}
	case v.claim == nil:
		return &problem{v1alpha1.ReasonKept, "no claim is bound to the PersistentVolume. The key is kept, and is delivered when a claim is bound", false}
	}
	return nil
}

// fillDelivery fills the delivery Secret, after all conditions are met according to the API server.
// d is its present state.
func (o volumes) fillDelivery(ctx context.Context, v *volume, d secretState) (*problem, error) {
	ref := v.sealed.Spec.Key
	pv, err := o.liveVolume(ctx, v)
	if err != nil {
		return nil, err
	}
	held := controllerutil.ContainsFinalizer(pv, v1alpha1.DeliveryFinalizer)
	if !held && pv.DeletionTimestamp != nil { // no finalizer can be added any more
		if d.fingerprint == ref.Fingerprint {
			// An earlier version of the operator delivered it, and it is in use.
			return nil, o.labelDelivery(ctx, d.meta)
		}
		return &problem{v1alpha1.ReasonKept, "the PersistentVolume is being deleted. The key is kept, and is delivered if the PersistentVolume is created again", false}, nil
	}
	if d.meta == nil {
		if p, err := o.copyAnchor(ctx, v, pv); p != nil || err != nil {
			return p, err
		}
	}
	if !held {
		patch := client.MergeFromWithOptions(pv.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(pv, v1alpha1.DeliveryFinalizer)
		if err := o.Patch(ctx, pv, patch); err != nil {
			return nil, fmt.Errorf("add finalizer to PersistentVolume %s: %w", pv.Name, err)
		}
	}
	if d.meta != nil && d.fingerprint == ref.Fingerprint {
		return nil, o.labelDelivery(ctx, d.meta)
	}
	if err := o.writeDelivery(ctx, v, d.meta); err != nil {
		return nil, err
	}
	// Another operator that still believes it is the leader may have removed the finalizer
	// meanwhile.
	var now corev1.PersistentVolume
	err = o.live.Get(ctx, client.ObjectKey{Name: v.name}, &now)
	if err == nil && now.UID == pv.UID && controllerutil.ContainsFinalizer(&now, v1alpha1.DeliveryFinalizer) {
		return nil, nil
	}
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	return nil, errors.Join(errStale, o.removeDelivery(ctx, v.name))
}

// liveVolume reads the PersistentVolume from the API server. It returns errStale if the
// PersistentVolume or its claim differ from the cache.
func (o volumes) liveVolume(ctx context.Context, v *volume) (*corev1.PersistentVolume, error) {
	c := v.sealed.Spec.ClaimRef
	var pv corev1.PersistentVolume
	err := o.live.Get(ctx, client.ObjectKey{Name: v.name}, &pv)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, err
	case err != nil, pv.UID != v.pv.UID, c == nil, !isFor(&pv, *c), !isOurs(&pv), !o.isDelivered(&pv),
		pv.Spec.CSI.VolumeHandle != v.sealed.Spec.VolumeHandle, !v.moves && nodeOf(&pv) != v.sealed.Spec.NodeName:
		return nil, errStale
	}
	claim, err := o.liveClaim(ctx, c.Namespace, c.Name, c.UID)
	if err == nil && (claim == nil || !mayBind(claim, v.name)) {
		err = errStale
	}
	return &pv, err
}

// withdraw removes the delivery Secret of a volume that nobody may use, according to the cache. It
// asks the API server for the claim first, because pods need the Secret if the cache is out of
// date.
func (o volumes) withdraw(ctx context.Context, v *volume) error {
	d, err := o.inspect(ctx, v.name)
	if d.meta == nil || err != nil {
		return err // if the cache does not have the Secret yet, its event triggers a reconciliation
	}
	if v.pv != nil {
		used, err := o.isClaimed(ctx, v.pv)
		if err == nil && used {
			err = errStale
		}
		if err != nil {
			return err
		}
	}
	return o.removeDelivery(ctx, v.name)
}

// removeOrphan removes a delivery Secret without a SealedVolume that tells whose key it holds,
// because someone removed that by force. Otherwise, anyone who creates a PersistentVolume of its
// name could make it readable.
func (o volumes) removeOrphan(ctx context.Context, v *volume) error {
	var m metav1.PartialObjectMetadata
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	// If the cache does not have the Secret yet, its event triggers a reconciliation.
	err := o.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: v.name}, &m)
	if err != nil || m.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery {
		return client.IgnoreNotFound(err)
	}
	if v.sealed == nil {
		var sv v1alpha1.SealedVolume
		if err := o.live.Get(ctx, client.ObjectKey{Name: v.name}, &sv); !apierrors.IsNotFound(err) {
			return cmp.Or(err, errStale)
		}
	}
	return o.withdraw(ctx, v)
}

// isClaimed asks the API server whether the claim of a PersistentVolume exists and is bound to it.
func (o volumes) isClaimed(ctx context.Context, pv *corev1.PersistentVolume) (bool, error) {
	r := pv.Spec.ClaimRef
	if r == nil || r.UID == "" {
		return false, nil
	}
	c, err := o.liveClaim(ctx, r.Namespace, r.Name, string(r.UID))
	return c != nil && mayBind(c, pv.Name), err
}

// finishDeletion removes the finalizer of a PersistentVolume that is being deleted and not in use,
// once its delivery Secret is gone. done tells that it did.
func (o volumes) finishDeletion(ctx context.Context, v *volume) (done bool, err error) {
	pv := v.pv
	if pv == nil {
		pv = v.mismatched
	}
	if pv == nil || pv.DeletionTimestamp == nil || !controllerutil.ContainsFinalizer(pv, v1alpha1.DeliveryFinalizer) {
		return false, nil
	}
	if v.pv != nil && slices.Contains(pv.Finalizers, pvProtection) {
		if used, err := o.isClaimed(ctx, pv); used || err != nil {
			return false, err
		}
	}
	if err := o.removeDelivery(ctx, pv.Name); err != nil {
		return false, err
	}
	gone, err := o.isWithdrawn(ctx, pv.Name)
	if err == nil && !gone {
		err = errStale
	}
	if err != nil {
		return false, err
	}
	patch := client.MergeFromWithOptions(pv.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(pv, v1alpha1.DeliveryFinalizer)
	return true, client.IgnoreNotFound(o.Patch(ctx, pv, patch))
}

// isWithdrawn asks the API server whether a delivery Secret is gone.
func (o volumes) isWithdrawn(ctx context.Context, name string) (bool, error) {
	if isReserved(name) {
		return true, nil // such a name has no delivery Secret
	}
	s, err := o.secretMeta(ctx, name)
	return s == nil || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery, err
}

// secretMeta asks the API server for the metadata of a Secret in the operator's namespace. It
// returns nil if there is none.
func (o *operator) secretMeta(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := o.live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, &s); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &s, nil
}

// labelDelivery labels a delivery Secret that was restored without its labels. It leaves Secrets
// that have a role alone.
func (o *operator) labelDelivery(ctx context.Context, m metav1.Object) error {
	if m.GetLabels()[v1alpha1.RoleLabel] != "" {
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

// writeDelivery creates the delivery Secret, or restores one that was edited.
func (o volumes) writeDelivery(ctx context.Context, v *volume, old metav1.Object) error {
	ref := v.sealed.Spec.Key
	_, k, err := o.read(ctx, ref.SecretName)
	if err != nil {
		return err
	}
	defer k.Erase()
	if k == nil || k.Fingerprint() != ref.Fingerprint {
		return errors.New("the key Secret has just changed") // the retry checks it again
	}
	s := deliverySecret(o.Namespace, v.name, k)
	defer wipe(s)
	c := meta.FindStatusCondition(v.sealed.Status.Conditions, v1alpha1.VolumeKeyReady)
	// If the Secret was absent on purpose, for example before the PersistentVolume existed, no
	// event is due.
	was := v.sealed.Status.KeyVersion != 0 && c != nil && !notDelivered[c.Reason]
	if old == nil {
		err = o.Create(ctx, s)
	} else {
		s.ResourceVersion = old.GetResourceVersion()
		err = o.Update(ctx, s)
	}
	if apierrors.IsInvalid(err) && old != nil { // someone made it immutable, or changed its type
		uid, rv := old.GetUID(), old.GetResourceVersion()
		return errors.Join(errRetry, o.Delete(ctx, s, client.Preconditions{UID: &uid, ResourceVersion: &rv}))
	}
	if err != nil {
		return fmt.Errorf("write delivery Secret: %w", err)
	}
	o.seen.put(s, ref.Fingerprint)
	if was {
		o.event(v, corev1.EventTypeWarning, v1alpha1.ReasonRestored, fmt.Sprintf("Secret %s/%s was missing or edited. The operator restored it, and it holds the volume's key again. Find out who changed it", o.Namespace, v.name))
	}
	return nil
}

// notDelivered are the reasons with which there is no delivery Secret on purpose.
var notDelivered = map[string]bool{v1alpha1.ReasonPrepared: true, v1alpha1.ReasonKept: true, v1alpha1.ReasonExchanged: true, v1alpha1.ReasonNotGranted: true, v1alpha1.ReasonDuplicate: true}

// removeDelivery deletes the Secret of this name if it is a delivery Secret, and removes finalizers
// that others have set on it.
func (o volumes) removeDelivery(ctx context.Context, name string) error {
	if isReserved(name) {
		return nil
	}
	s, err := o.secretMeta(ctx, name)
	if err != nil || s == nil || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery {
		return err
	}
	o.seen.forget(name)
	if len(s.Finalizers) > 0 {
		patch := client.MergeFromWithOptions(s.DeepCopy(), client.MergeFromWithOptimisticLock{})
		s.Finalizers = nil
		if err := o.Patch(ctx, s, patch); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	return client.IgnoreNotFound(o.Delete(ctx, s, client.Preconditions{UID: &s.UID}))
}
