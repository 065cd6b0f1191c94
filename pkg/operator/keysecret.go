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

// keySecrets deletes key Secrets that nothing needs any more: the one place that does (K3).
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

// onDelete asks for what depends on an object when that has gone.
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
		o.Log.Error("key Secrets that may have to go were not found; the next start finds them", "error", err)
		return nil
	}
	var all []reconcile.Request
	for _, s := range list.Items {
		all = append(all, request(s.Namespace, s.Name)...)
	}
	return all
}

// Reconcile lets a key Secret go when neither its VolumeKey nor a volume that uses it is left.
func (o keySecrets) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return again(o.reconcile(ctx, r))
}

func (o keySecrets) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var s metav1.PartialObjectMetadata
	s.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := o.Get(ctx, r.NamespacedName, &s)
	o.making.forget(r.Name) // the cache shows it, or has
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
	return reconcile.Result{}, client.IgnoreNotFound(o.discard(ctx, &s))
}

// needed asks first the cache, and before a key goes the API server.
func (o keySecrets) needed(ctx context.Context, s *metav1.PartialObjectMetadata, uid string) (bool, error) {
	ns, name, ok := strings.Cut(s.Annotations[v1alpha1.OwnerAnnotation], "/")
	if !ok {
		return true, nil // not known to be ours: never touched
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

// isReleased tells whether a key Secret was given up. A copy of it that was restored has another UID.
func isReleased(s metav1.Object) bool {
	return s.GetAnnotations()[v1alpha1.ReleasedAnnotation] == string(s.GetUID())
}

// release notes at the Secrets of a key that it was given up, if its VolumeKey and all its volumes are deleted or about to be: whichever of them goes last has seen the
// others go. That they are not there does not say so: they may have gone with their definitions, or not be restored yet.
func (o *operator) release(ctx context.Context, ref v1alpha1.VolumeKeyRef) error {
	var vk v1alpha1.VolumeKey
	err := o.live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &vk)
	if client.IgnoreNotFound(err) != nil || err == nil && string(vk.UID) == ref.UID && vk.DeletionTimestamp == nil {
		return client.IgnoreNotFound(err)
	}
	var users v1alpha1.SealedVolumeList
	if err := o.live.List(ctx, &users, client.MatchingFields{byKeyUID: ref.UID}); err != nil {
		return fmt.Errorf("list users of a key: %w", err)
	}
	if slices.ContainsFunc(users.Items, func(v v1alpha1.SealedVolume) bool { return v.DeletionTimestamp == nil }) {
		return nil
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := o.live.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingLabels{v1alpha1.RoleLabel: v1alpha1.RoleKey, v1alpha1.KeyUIDLabel: ref.UID}); err != nil {
		return fmt.Errorf("list Secrets of a key: %w", err)
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
			return fmt.Errorf("release key: %w", err)
		}
	}
	return nil
}

// discard deletes a Secret, or leaves it to itself if its key was to be retained, or if nobody has
// said that it was given up: then a label tells who looks for what is left.
func (o keySecrets) discard(ctx context.Context, s *metav1.PartialObjectMetadata) error {
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
		return nil // the event of its deletion brings us back
	}
	controllerutil.RemoveFinalizer(s, v1alpha1.KeyFinalizer)
	return o.Patch(ctx, s, patch)
}
