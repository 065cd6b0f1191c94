package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// keySecrets deletes key Secrets that nothing needs any more. Only it deletes them (K3).
type keySecrets struct{ *operator }

func (o *operator) addKeySecrets(m ctrl.Manager) error {
	s := keySecrets{o}
	return ctrl.NewControllerManagedBy(m).Named("keysecret").
		For(&corev1.Secret{}, builder.OnlyMetadata).
		Watches(&v1alpha1.SealedVolume{}, onDelete(s.ofVolume)).
		Watches(&v1alpha1.VolumeKey{}, onDelete(s.ofKey)).
		WithEventFilter(predicate.NewPredicateFuncs(func(obj client.Object) bool {
			m, isSecret := obj.(*metav1.PartialObjectMetadata)
			return !isSecret || m.Labels[v1alpha1.RoleLabel] == v1alpha1.RoleKey
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: o.Workers}).
		Complete(s)
}

// onDelete enqueues the requests that f returns for a deleted object.
func onDelete(f func(context.Context, client.Object) []reconcile.Request) handler.EventHandler {
	return handler.Funcs{DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
		for _, r := range f(ctx, e.Object) {
			q.Add(r)
		}
	}}
}

func (o keySecrets) ofVolume(ctx context.Context, obj client.Object) []reconcile.Request {
	v, ok := obj.(*v1alpha1.SealedVolume)
	if !ok || v.Spec.Key == nil {
		return nil
	}
	return o.ofUID(ctx, v.Spec.Key.UID)
}

func (o keySecrets) ofKey(ctx context.Context, obj client.Object) []reconcile.Request {
	return o.ofUID(ctx, string(obj.GetUID()))
}

func (o keySecrets) ofUID(ctx context.Context, uid string) []reconcile.Request {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := o.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingFields{byOwner: uid}); err != nil {
		o.Log.Error("cannot list the key Secrets of a VolumeKey; those that are not needed stay until the next start", "uid", uid, "error", err)
		return nil
	}
	var all []reconcile.Request
	for _, s := range list.Items {
		all = append(all, request(s.Namespace, s.Name)...)
	}
	return all
}

// Reconcile deletes a key Secret when neither its VolumeKey nor a volume that uses it is left.
func (o keySecrets) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return requeueOnConflict(o.reconcile(ctx, r))
}

func (o keySecrets) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := o.Get(ctx, r.NamespacedName, &s)
	o.pending.forget(r.Name) // the cache has it, or had it
	if err != nil {
		o.seen.forget(r.Name)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	uid := s.Labels[v1alpha1.KeyUIDLabel]
	if r.Namespace != o.Namespace || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleKey || uid == "" {
		return reconcile.Result{}, nil
	}
	needed, err := o.needed(ctx, &s, uid)
	if needed || err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, client.IgnoreNotFound(o.deleteOrKeep(ctx, &s))
}

// needed tells whether a key Secret is still needed. It asks the cache first, and then the API
// server, because a deleted key cannot be recovered.
func (o keySecrets) needed(ctx context.Context, s *metav1.PartialObjectMetadata, uid string) (bool, error) {
	ns, name, ok := strings.Cut(s.Annotations[v1alpha1.OwnerAnnotation], "/")
	if !ok {
		return true, nil // perhaps not ours: leave it alone
	}
	for _, r := range []client.Reader{o.Client, o.live} {
		var vk v1alpha1.VolumeKey
		err := r.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, &vk)
		if client.IgnoreNotFound(err) != nil || err == nil && string(vk.UID) == uid {
			return true, client.IgnoreNotFound(err)
		}
		users, err := o.usersOf(ctx, r, uid)
		if len(users) > 0 || err != nil {
			return true, err
		}
	}
	return false, nil
}

// isReleased tells whether a key Secret was marked as released. A restored copy of it does not
// count, because it has another UID.
func isReleased(s metav1.Object) bool {
	return s.GetAnnotations()[v1alpha1.ReleasedAnnotation] == string(s.GetUID())
}

// release marks the Secrets of a key as released, if its VolumeKey and all its volumes are deleted
// or being deleted. The last of these to go sees that the others are gone. Their absence alone is
// not enough: their custom resource definitions may have been deleted, or they may not be restored
// from a backup yet.
func (o *operator) release(ctx context.Context, ref v1alpha1.VolumeKeyRef) error {
	var vk v1alpha1.VolumeKey
	err := o.live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &vk)
	if client.IgnoreNotFound(err) != nil || err == nil && string(vk.UID) == ref.UID && vk.DeletionTimestamp == nil {
		return client.IgnoreNotFound(err)
	}
	var users v1alpha1.SealedVolumeList
	if err := o.live.List(ctx, &users, client.MatchingFields{byKeyUID: ref.UID}); err != nil {
		return fmt.Errorf("list SealedVolumes that use a key: %w", err)
	}
	if slices.ContainsFunc(users.Items, func(v v1alpha1.SealedVolume) bool { return v.DeletionTimestamp == nil }) {
		return nil
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := o.live.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingLabels{v1alpha1.RoleLabel: v1alpha1.RoleKey, v1alpha1.KeyUIDLabel: ref.UID}); err != nil {
		return fmt.Errorf("list key Secrets: %w", err)
	}
	for i := range list.Items {
		s := &list.Items[i]
		s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		if isReleased(s) {
			continue
		}
		patch := client.MergeFromWithOptions(s.DeepCopy(), client.MergeFromWithOptimisticLock{})
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.ReleasedAnnotation, string(s.UID))
		if err := client.IgnoreNotFound(o.Patch(ctx, s, patch)); err != nil {
			return fmt.Errorf("mark key Secret as released: %w", err)
		}
	}
	return nil
}

// deleteOrKeep deletes a Secret. If its key has the deletion policy Retain, or was not released, it
// keeps the Secret and labels it, so that administrators can find what is left behind.
func (o keySecrets) deleteOrKeep(ctx context.Context, s *metav1.PartialObjectMetadata) error {
	retain := s.Annotations[v1alpha1.PolicyAnnotation] != string(v1alpha1.DeletionDelete)
	patch := client.MergeFromWithOptions(s.DeepCopy(), client.MergeFromWithOptimisticLock{})
	released := isReleased(s)
	if s.DeletionTimestamp == nil && (retain || !released) {
		if s.Labels[v1alpha1.KeptLabel] == tenantOf(s) && !(released && controllerutil.ContainsFinalizer(s, v1alpha1.KeyFinalizer)) {
			return nil
		}
		metav1.SetMetaDataLabel(&s.ObjectMeta, v1alpha1.KeptLabel, tenantOf(s))
		if released {
			controllerutil.RemoveFinalizer(s, v1alpha1.KeyFinalizer)
		}
		return o.Patch(ctx, s, patch)
	}
	if s.DeletionTimestamp == nil {
		if err := o.Delete(ctx, s, client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}); err != nil {
			return err
		}
	}
	if s.DeletionTimestamp == nil || !controllerutil.ContainsFinalizer(s, v1alpha1.KeyFinalizer) {
		return nil // the event of the deletion triggers the next reconciliation
	}
	controllerutil.RemoveFinalizer(s, v1alpha1.KeyFinalizer)
	return o.Patch(ctx, s, patch)
}
