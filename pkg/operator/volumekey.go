package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// keys reconciles VolumeKeys.
type keys struct{ *operator }

func (o *operator) addKeys(m ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(m).Named("volumekey").
		For(&v1alpha1.VolumeKey{}).
		Watches(&v1alpha1.SealedVolume{}, handler.EnqueueRequestsFromMapFunc(keyOfVolume), builder.WithPredicates(relevantChange)).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(keyOfClaim)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(keys{o}.ofSecret)).
		WatchesMetadata(&corev1.Secret{}, onDelete(keys{o}.waitingForLimit)).
		WithOptions(controller.Options{MaxConcurrentReconciles: o.Workers}).
		Complete(keys{o})
}

func keyOfVolume(_ context.Context, obj client.Object) []reconcile.Request {
	v, ok := obj.(*v1alpha1.SealedVolume)
	if !ok || v.Spec.Key == nil {
		return nil
	}
	return request(v.Spec.Key.Namespace, v.Spec.Key.Name)
}

// keyOfClaim finds the VolumeKey that was created for a claim. It may have to be deleted with it.
func keyOfClaim(_ context.Context, obj client.Object) []reconcile.Request {
	return request(obj.GetNamespace(), claimKeyName(obj))
}

// ofSecret finds the VolumeKey of a key Secret. It uses the name of the Secret, because a restored
// Secret may lack its labels and annotations.
func (o keys) ofSecret(ctx context.Context, obj client.Object) []reconcile.Request {
	uid := keyUID(obj)
	if uid == "" || obj.GetNamespace() != o.Namespace {
		return nil
	}
	var list v1alpha1.VolumeKeyList
	if err := o.List(ctx, &list, client.MatchingFields{byUID: uid}); err != nil {
		o.Log.Error("cannot list the VolumeKey of a Secret", "secret", obj.GetName(), "error", err)
		return nil
	}
	var all []reconcile.Request
	for _, k := range list.Items {
		all = append(all, request(k.Namespace, k.Name)...)
	}
	return all
}

func request(namespace, name string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}}
}

// claimKeyName returns the name of the VolumeKey that is created for one claim.
func claimKeyName(claim metav1.Object) string { return "pvc-" + string(claim.GetUID()) }

// Reconcile creates the key if it was never created, checks that its Secret is unchanged, and
// completes the deletion of a VolumeKey that nothing uses.
func (o keys) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return requeueOnConflict(o.reconcile(ctx, r))
}

func (o keys) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var vk v1alpha1.VolumeKey
	if err := o.Get(ctx, r.NamespacedName, &vk); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	before := vk.DeepCopy()
	gone, err := o.updateUse(ctx, &vk)
	if gone || err != nil {
		return reconcile.Result{}, err
	}
	problem, err := o.ensureVersions(ctx, &vk)
	if err != nil {
		return reconcile.Result{}, err
	}
	o.report(&vk, problem)
	if err := o.writeKeyStatus(ctx, before, &vk); err != nil {
		return reconcile.Result{}, err
	}
	if problem != nil && problem.retry { // no watch would report the change
		return reconcile.Result{}, problem
	}
	return reconcile.Result{}, nil
}

// problem tells users why a key is not ready.
type problem struct {
	reason, message string
	retry           bool
}

func (p *problem) Error() string { return p.reason + ": " + p.message }

// updateUse counts the volumes that use the key, and deletes a VolumeKey that is no longer needed.
// gone tells that nothing else is to be done.
func (o keys) updateUse(ctx context.Context, vk *v1alpha1.VolumeKey) (gone bool, err error) {
	users, err := o.usersOf(ctx, o.Client, string(vk.UID))
	if err != nil {
		return false, err
	}
	vk.Status.Volumes = int32(min(len(users), 1<<30)) //nolint:gosec // bounded
	vk.Status.UsedBy = users[:min(len(users), 16)]
	if vk.DeletionTimestamp != nil {
		if !controllerutil.ContainsFinalizer(vk, v1alpha1.KeyFinalizer) {
			return true, nil
		}
		return o.finishDeletion(ctx, vk, users)
	}
	meta.RemoveStatusCondition(&vk.Status.Conditions, v1alpha1.KeyDeletionBlocked)
	if len(users) == 0 && vk.Spec.ClaimRef != nil {
		if gone, err := o.deleteUnclaimed(ctx, vk); gone || err != nil {
			return gone, err
		}
	}
	if controllerutil.ContainsFinalizer(vk, v1alpha1.KeyFinalizer) {
		return false, nil
	}
	// Patch a copy: the response contains the stored status, which is older than ours.
	c := vk.DeepCopy()
	patch := client.MergeFromWithOptions(vk.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.AddFinalizer(c, v1alpha1.KeyFinalizer)
	if err := o.Patch(ctx, c, patch); err != nil {
		return client.IgnoreNotFound(err) == nil, client.IgnoreNotFound(err)
	}
	vk.ObjectMeta = c.ObjectMeta
	return false, nil
}

// usersOf returns the sorted names of the SealedVolumes that use a key.
func (o *operator) usersOf(ctx context.Context, r client.Reader, uid string) ([]string, error) {
	var list v1alpha1.SealedVolumeList
	if err := r.List(ctx, &list, client.MatchingFields{byKeyUID: uid}); err != nil {
		return nil, fmt.Errorf("list SealedVolumes that use a key: %w", err)
	}
	var names []string
	for _, v := range list.Items {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names, nil
}

// finishDeletion removes the finalizer of a VolumeKey that is being deleted, when nothing uses the
// key. If the namespace is being deleted, it does not wait, and the key Secrets stay for the
// volumes.
func (o keys) finishDeletion(ctx context.Context, vk *v1alpha1.VolumeKey, users []string) (bool, error) {
	if len(users) == 0 {
		var err error
		if users, err = o.usersOf(ctx, o.live, string(vk.UID)); err != nil {
			return false, err
		}
	}
	if len(users) > 0 {
		terminating, err := o.isTerminating(ctx, vk.Namespace)
		if err != nil {
			return false, err
		}
		if !terminating {
			o.blockDeletion(vk, users)
			return false, nil
		}
	}
	if err := o.release(ctx, v1alpha1.VolumeKeyRef{Namespace: vk.Namespace, Name: vk.Name, UID: string(vk.UID)}); err != nil {
		return false, err
	}
	patch := client.MergeFromWithOptions(vk.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(vk, v1alpha1.KeyFinalizer)
	return true, client.IgnoreNotFound(o.Patch(ctx, vk, patch))
}

// blockDeletion reports why a VolumeKey is not deleted yet.
func (o keys) blockDeletion(vk *v1alpha1.VolumeKey, users []string) {
	some := strings.Join(users[:min(len(users), 5)], ", ")
	if len(users) > 5 {
		some = fmt.Sprintf("%s and %d more", some, len(users)-5)
	}
	msg := fmt.Sprintf("these PersistentVolumes, or snapshots or copies of them, still need the key: %s. The VolumeKey is deleted when they are gone", some)
	if meta.SetStatusCondition(&vk.Status.Conditions, metav1.Condition{Type: v1alpha1.KeyDeletionBlocked, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonInUse, Message: limited(msg), ObservedGeneration: vk.Generation}) {
		o.events.Eventf(vk, nil, corev1.EventTypeWarning, v1alpha1.ReasonInUse, "Delete", "%s", limited(msg))
	}
}

// deleteUnclaimed deletes a VolumeKey that nothing uses and that was created for a claim, if the
// claim is gone or its volume has another key.
func (o keys) deleteUnclaimed(ctx context.Context, vk *v1alpha1.VolumeKey) (bool, error) {
	claim, err := o.liveClaim(ctx, vk.Namespace, vk.Spec.ClaimRef.Name, vk.Spec.ClaimRef.UID)
	if err != nil || claim != nil && !o.hasOtherKey(ctx, claim, vk) {
		return false, err
	}
	users, err := o.usersOf(ctx, o.live, string(vk.UID))
	if len(users) > 0 || err != nil {
		return false, err
	}
	return true, client.IgnoreNotFound(o.Delete(ctx, vk, client.Preconditions{UID: &vk.UID, ResourceVersion: &vk.ResourceVersion}))
}

// liveClaim asks the API server for a claim. It returns nil if there is none with that UID.
func (o *operator) liveClaim(ctx context.Context, namespace, name, uid string) (*corev1.PersistentVolumeClaim, error) {
	var c corev1.PersistentVolumeClaim
	err := o.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &c)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(c.UID) != uid:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get claim %s/%s: %w", namespace, name, err)
	}
	return &c, nil
}

// hasOtherKey tells whether a claim's volume has another key than vk.
func (o keys) hasOtherKey(ctx context.Context, claim *corev1.PersistentVolumeClaim, vk *v1alpha1.VolumeKey) bool {
	if claim.Spec.VolumeName == "" {
		return false
	}
	var sv v1alpha1.SealedVolume
	err := o.live.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &sv)
	return err == nil && hasKey(&sv) && sv.Spec.Key.UID != string(vk.UID)
}

// restoreMetadata sets the labels, annotations and finalizer of a key Secret. A restored Secret may
// lack them, and the deletion policy may have changed. It keeps the current policy if policy is "".
func (o *operator) restoreMetadata(ctx context.Context, m metav1.Object, ref v1alpha1.VolumeKeyRef, policy v1alpha1.DeletionPolicy) error {
	if policy == "" {
		policy = v1alpha1.DeletionPolicy(m.GetAnnotations()[v1alpha1.PolicyAnnotation])
	}
	if policy == "" {
		policy = v1alpha1.DeletionRetain
	}
	owner := ref.Namespace + "/" + ref.Name
	a, l := m.GetAnnotations(), m.GetLabels()
	if l[v1alpha1.RoleLabel] == v1alpha1.RoleKey && l[v1alpha1.KeyUIDLabel] == ref.UID && a[v1alpha1.OwnerAnnotation] == owner &&
		a[v1alpha1.PolicyAnnotation] == string(policy) && l[v1alpha1.KeptLabel] == "" && slices.Contains(m.GetFinalizers(), v1alpha1.KeyFinalizer) {
		return nil
	}
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := o.live.Get(ctx, client.ObjectKey{Namespace: m.GetNamespace(), Name: m.GetName()}, &s); err != nil || s.DeletionTimestamp != nil {
		return client.IgnoreNotFound(err)
	}
	patch := client.MergeFromWithOptions(s.DeepCopy(), client.MergeFromWithOptimisticLock{})
	metav1.SetMetaDataLabel(&s.ObjectMeta, v1alpha1.RoleLabel, v1alpha1.RoleKey)
	metav1.SetMetaDataLabel(&s.ObjectMeta, v1alpha1.KeyUIDLabel, ref.UID)
	delete(s.Labels, v1alpha1.KeptLabel) // a VolumeKey or volume needs it again
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.OwnerAnnotation, owner)
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.PolicyAnnotation, string(policy))
	controllerutil.AddFinalizer(&s, v1alpha1.KeyFinalizer)
	return client.IgnoreNotFound(o.Patch(ctx, &s, patch))
}

func missing(namespace, name string) *problem {
	return &problem{v1alpha1.ReasonSecretMissing, fmt.Sprintf("Secret %s/%s, which holds the key, does not exist. Restore it from a backup. The operator does not create a new key, because no other key opens the volumes", namespace, name), false}
}

func altered(namespace, name string) *problem {
	return &problem{v1alpha1.ReasonSecretAltered, fmt.Sprintf("Secret %s/%s does not hold the original key: its fingerprint differs. Delete it and restore it from a backup. No other key opens the volumes", namespace, name), false}
}

// report sets the condition Ready, and writes an event if its reason changes.
func (o keys) report(vk *v1alpha1.VolumeKey, p *problem) {
	vk.Status.ObservedGeneration = vk.Generation
	c := metav1.Condition{Type: v1alpha1.KeyReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAvailable,
		Message: "volumes can use the key", ObservedGeneration: vk.Generation}
	if p != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, p.reason, limited(p.message)
		if p.reason == v1alpha1.ReasonSecretDeleting {
			c.Status = metav1.ConditionTrue // the Secret still holds the key
		}
	}
	was := meta.FindStatusCondition(vk.Status.Conditions, v1alpha1.KeyReady)
	reason := ""
	if was != nil {
		reason = was.Reason
	}
	meta.SetStatusCondition(&vk.Status.Conditions, c)
	switch {
	case p != nil && p.reason != reason:
		o.events.Eventf(vk, nil, corev1.EventTypeWarning, p.reason, "CheckKey", "%s", c.Message)
	case p == nil && reason != "" && reason != v1alpha1.ReasonAvailable:
		o.events.Eventf(vk, nil, corev1.EventTypeNormal, v1alpha1.ReasonAvailable, "CheckKey", "%s", c.Message)
	}
}

// writeKeyStatus writes the status if it has changed.
func (o keys) writeKeyStatus(ctx context.Context, before, vk *v1alpha1.VolumeKey) error {
	if equalStatus(before.Status, vk.Status) {
		return nil
	}
	// The patch that added the finalizer may have changed it.
	before.ResourceVersion = vk.ResourceVersion
	return client.IgnoreNotFound(o.Status().Patch(ctx, vk, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
}

// limited shortens a text to what events and conditions can hold.
func limited(s string) string { return s[:min(len(s), 1000)] }
