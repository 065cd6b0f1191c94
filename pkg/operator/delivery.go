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

// The delivery Secret of a volume holds its key from when its PersistentVolume is there, for the
// claim that the SealedVolume is of, until that claim or the PersistentVolume has gone (K6):
//
//	PersistentVolume and claim, as the API server says
//	└ the newest anchor of the volume (heritage.go) → finalizer on the PersistentVolume → Secret filled
//	claim gone                        → Secret deleted
//	PersistentVolume deleted, not used → Secret deleted, and gone → finalizer removed → PersistentVolume gone
//
// As long as the finalizer is there, no other PersistentVolume can have the name, and so none can
// have the Secret read. Cut off anywhere, the next reconciliation goes on: each step is found done,
// or done again.

// errStale tells that the cache is behind the API server: what it shows next decides.
var errStale = errors.New("the API server knows more than the cache")

// errRetry tells that what was in the place of a delivery Secret was deleted.
var errRetry = errors.New("the delivery Secret is made anew")

// pvProtection is Kubernetes' own finalizer of a PersistentVolume that is bound.
const pvProtection = "kubernetes.io/pv-protection"

// deliver sees that the delivery Secret holds the key (K5), if somebody is to have it.
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
	if p := v.undeliverable(); p != nil {
		return p, o.withdraw(ctx, v)
	}
	d, err := o.look(ctx, v.name)
	if err != nil {
		return nil, err
	}
	role := ""
	if d.meta != nil {
		role = d.meta.GetLabels()[v1alpha1.RoleLabel]
	}
	if d.meta != nil && role != v1alpha1.RoleDelivery && (role != "" || d.fingerprint != ref.Fingerprint) {
		return &problem{v1alpha1.ReasonConflict, fmt.Sprintf("Secret %s/%s is in the place of the delivery Secret and not ours: remove it", o.Namespace, v.name), false}, nil
	}
	if role == v1alpha1.RoleDelivery && d.fingerprint == ref.Fingerprint && controllerutil.ContainsFinalizer(v.pv, v1alpha1.DeliveryFinalizer) {
		return nil, nil
	}
	return o.fill(ctx, v, d)
}

// undeliverable tells why nobody is to have a volume's key now, by the cache; nil: somebody is.
func (v *volume) undeliverable() *problem {
	switch {
	case v.pv == nil && v.sealed.Spec.VolumeHandle == "":
		return &problem{v1alpha1.ReasonPrepared, "the key is ready; it is delivered when the PersistentVolume is there", false}
	case v.pv == nil:
		return &problem{v1alpha1.ReasonKept, "the PersistentVolume is gone; the key is kept, and delivered again if that comes back", false}
	case v.claim == nil:
		return &problem{v1alpha1.ReasonKept, "no claim has the PersistentVolume; the key is kept, and delivered when one has", false}
	}
	return nil
}

// fill does what has to be done before the delivery Secret may hold the key, as the API server
// itself says, and fills it. d is what is there.
func (o volumes) fill(ctx context.Context, v *volume, d secretState) (*problem, error) {
	ref := v.sealed.Spec.Key
	pv, err := o.liveVolume(ctx, v)
	if err != nil {
		return nil, err
	}
	held := controllerutil.ContainsFinalizer(pv, v1alpha1.DeliveryFinalizer)
	if !held && pv.DeletionTimestamp != nil { // none can be added any more
		if d.fingerprint == ref.Fingerprint {
			return nil, o.adopt(ctx, d.meta) // delivered by an earlier version, and in use
		}
		return &problem{v1alpha1.ReasonKept, "the PersistentVolume is being deleted; the key is kept, and delivered if that is made again", false}, nil
	}
	if d.meta == nil {
		if p, err := o.inherit(ctx, v, pv); p != nil || err != nil {
			return p, err
		}
	}
	if !held {
		patch := client.MergeFromWithOptions(pv.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(pv, v1alpha1.DeliveryFinalizer)
		if err := o.Patch(ctx, pv, patch); err != nil {
			return nil, fmt.Errorf("hold PersistentVolume %s: %w", pv.Name, err)
		}
	}
	if d.meta != nil && d.fingerprint == ref.Fingerprint {
		return nil, o.adopt(ctx, d.meta)
	}
	if err := o.writeDelivery(ctx, v, d.meta); err != nil {
		return nil, err
	}
	// Another operator, of two that both believe to lead, may have let the PersistentVolume go meanwhile.
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

// liveVolume asks the API server whether the PersistentVolume and its claim are as the cache says.
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
	if err == nil && (claim == nil || !has(claim, v.name)) {
		err = errStale
	}
	return &pv, err
}

// withdraw takes the delivery Secret away of a volume that nobody is to have, as the cache says. If
// that is behind with the claim, it is not: pods may need it.
func (o volumes) withdraw(ctx context.Context, v *volume) error {
	d, err := o.look(ctx, v.name)
	if d.meta == nil || err != nil {
		return err // its event brings us back if the cache has not seen it yet
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

// dropStray removes a delivery Secret of which nothing tells whose key it holds: what told that was
// removed by force. Whoever makes a PersistentVolume of its name could have it read.
func (o volumes) dropStray(ctx context.Context, v *volume) error {
	var m metav1.PartialObjectMetadata
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := o.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: v.name}, &m) // its event brings us back if the cache has not seen it yet
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

// isClaimed asks the API server whether a PersistentVolume's claim has it.
func (o volumes) isClaimed(ctx context.Context, pv *corev1.PersistentVolume) (bool, error) {
	r := pv.Spec.ClaimRef
	if r == nil || r.UID == "" {
		return false, nil
	}
	c, err := o.liveClaim(ctx, r.Namespace, r.Name, string(r.UID))
	return c != nil && has(c, pv.Name), err
}

// letGo lets a PersistentVolume go that is being deleted and that nobody uses: once its delivery
// Secret is gone. done: it goes.
func (o volumes) letGo(ctx context.Context, v *volume) (done bool, err error) {
	pv := v.pv
	if pv == nil {
		pv = v.stranger
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
		return true, nil // there never was one
	}
	s, err := o.secretMeta(ctx, name)
	return s == nil || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleDelivery, err
}

// secretMeta asks the API server for the metadata of a Secret of ours; nil: there is none.
func (o *operator) secretMeta(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := o.live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, &s); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &s, nil
}

// adopt marks a delivery Secret that was restored. What has a role keeps it.
func (o *operator) adopt(ctx context.Context, m metav1.Object) error {
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

// writeDelivery makes the delivery Secret, or mends one that was edited.
func (o volumes) writeDelivery(ctx context.Context, v *volume, old metav1.Object) error {
	ref := v.sealed.Spec.Key
	_, k, err := o.read(ctx, ref.SecretName)
	if err != nil {
		return err
	}
	defer k.Erase()
	if k == nil || k.Fingerprint() != ref.Fingerprint {
		return errors.New("the key Secret has just changed") // look again
	}
	s := deliverySecret(o.Namespace, v.name, k)
	defer wipe(s)
	c := meta.FindStatusCondition(v.sealed.Status.Conditions, v1alpha1.VolumeKeyReady)
	// Where it was not there on purpose, as before the PersistentVolume was, that is no news.
	was := v.sealed.Status.KeyVersion != 0 && c != nil && !notDelivered[c.Reason]
	if old == nil {
		err = o.Create(ctx, s)
	} else {
		s.ResourceVersion = old.GetResourceVersion()
		err = o.Update(ctx, s)
	}
	if apierrors.IsInvalid(err) && old != nil { // somebody made it immutable, or of another type
		uid, rv := old.GetUID(), old.GetResourceVersion()
		return errors.Join(errRetry, o.Delete(ctx, s, client.Preconditions{UID: &uid, ResourceVersion: &rv}))
	}
	if err != nil {
		return fmt.Errorf("deliver key: %w", err)
	}
	o.seen.put(s, ref.Fingerprint)
	if was {
		o.event(v, corev1.EventTypeWarning, v1alpha1.ReasonRestored, fmt.Sprintf("Secret %s/%s was missing or edited; it holds the volume's key again", o.Namespace, v.name))
	}
	return nil
}

// notDelivered are reasons for which there is no delivery Secret, on purpose.
var notDelivered = map[string]bool{v1alpha1.ReasonPrepared: true, v1alpha1.ReasonKept: true, v1alpha1.ReasonExchanged: true, v1alpha1.ReasonNotGranted: true, v1alpha1.ReasonDuplicate: true}

// removeDelivery removes a volume's delivery Secret, if it is one, whoever holds it.
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
