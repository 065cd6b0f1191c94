package operator

import (
	"context"
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=patch

const (
	// selectedNode on a claim names the node on which its volume is created.
	selectedNode = "volume.kubernetes.io/selected-node"
	// managedBy on a VolumeSnapshotContent names the node that has a snapshot of the local backend.
	// The snapshot controller sets it.
	managedBy = "snapshot.storage.kubernetes.io/managed-by"
	// placedAt on a claim is the time at which the operator last selected its node.
	placedAt = "sealvol.dev/placed-at"
	// placeAgain is the time after which the operator selects the node again, if the provisioner
	// could not create the volume there.
	placeAgain = 30 * time.Second
)

// placement selects the node of the source for claims that are copies, because the local backend
// can create a copy only there. The scheduler does not know that and would try one node after the
// other.
type placement struct{ *operator }

func (o *operator) addPlacement(m ctrl.Manager) error {
	p := placement{o}
	b := ctrl.NewControllerManagedBy(m).Named("placement").
		For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(p.copies("PersistentVolumeClaim"))).
		Watches(&storagev1.StorageClass{}, handler.EnqueueRequestsFromMapFunc(p.ofClass))
	if o.Snapshots {
		b = b.Watches(&snapshotv1.VolumeSnapshot{}, handler.EnqueueRequestsFromMapFunc(p.copies("VolumeSnapshot"))).
			Watches(&snapshotv1.VolumeSnapshotContent{}, handler.EnqueueRequestsFromMapFunc(p.ofContent))
	}
	return b.WithOptions(controller.Options{MaxConcurrentReconciles: o.Workers}).Complete(p)
}

// copies finds the claims that are copies of an object.
func (o placement) copies(kind string) handler.MapFunc {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		return o.claims(ctx, bySource, kind+"/"+obj.GetNamespace()+"/"+obj.GetName())
	}
}

func (o placement) ofContent(ctx context.Context, obj client.Object) []reconcile.Request {
	c, ok := obj.(*snapshotv1.VolumeSnapshotContent)
	if !ok || c.Spec.Driver != DriverName {
		return nil
	}
	return o.claims(ctx, bySource, "VolumeSnapshot/"+c.Spec.VolumeSnapshotRef.Namespace+"/"+c.Spec.VolumeSnapshotRef.Name)
}

func (o placement) ofClass(ctx context.Context, obj client.Object) []reconcile.Request {
	return o.claims(ctx, byClass, obj.GetName())
}

func (o placement) claims(ctx context.Context, index, value string) (all []reconcile.Request) {
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{index: value}); err != nil {
		o.Log.Error("cannot list the claims to place", "index", index, "error", err)
		return nil
	}
	for i := range list.Items {
		all = append(all, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return all
}

// Reconcile selects the node of one claim.
func (o placement) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return requeueOnConflict(o.reconcile(ctx, r))
}

func (o placement) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var c corev1.PersistentVolumeClaim
	if err := o.Get(ctx, r.NamespacedName, &c); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if c.Spec.VolumeName != "" || c.DeletionTimestamp != nil || c.Annotations[selectedNode] != "" || sourceKey(&c) == "" {
		return reconcile.Result{}, nil
	}
	waits, err := o.waitsForNode(ctx, &c)
	if !waits || err != nil {
		return reconcile.Result{}, err
	}
	node, err := o.sourceNode(ctx, &c)
	if node == "" || err != nil {
		return reconcile.Result{}, err
	}
	if before, err := time.Parse(time.RFC3339, c.Annotations[placedAt]); err == nil {
		if rest := placeAgain - time.Since(before); rest > 0 {
			return reconcile.Result{RequeueAfter: rest}, nil
		}
	}
	was := c.DeepCopy()
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[selectedNode], c.Annotations[placedAt] = node, time.Now().UTC().Format(time.RFC3339)
	if err := o.Patch(ctx, &c, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(fmt.Errorf("select node of claim: %w", err))
	}
	return reconcile.Result{}, nil
}

// waitsForNode tells whether a claim has one of our classes with binding mode WaitForFirstConsumer.
func (o placement) waitsForNode(ctx context.Context, c *corev1.PersistentVolumeClaim) (bool, error) {
	if c.Spec.StorageClassName == nil {
		return false, nil
	}
	var class storagev1.StorageClass
	if err := o.Get(ctx, client.ObjectKey{Name: *c.Spec.StorageClassName}, &class); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return class.Provisioner == DriverName && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer, nil
}

// sourceNode returns the one node on which the source of a copy can be used. It returns "" if there
// is no such node, or the source does not exist yet.
func (o placement) sourceNode(ctx context.Context, c *corev1.PersistentVolumeClaim) (string, error) {
	kind, name := source(c)
	at := types.NamespacedName{Namespace: c.Namespace, Name: name}
	if kind == "VolumeSnapshot" {
		return o.snapshotNode(ctx, at)
	}
	var from corev1.PersistentVolumeClaim
	if err := o.Get(ctx, at, &from); err != nil || from.Spec.VolumeName == "" {
		return "", client.IgnoreNotFound(err)
	}
	var pv corev1.PersistentVolume
	if err := o.Get(ctx, client.ObjectKey{Name: from.Spec.VolumeName}, &pv); err != nil || !isOurs(&pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != from.UID {
		return "", client.IgnoreNotFound(err) // a claim may name a volume that it is never bound to
	}
	return nodeOf(&pv), nil
}

func (o placement) snapshotNode(ctx context.Context, at types.NamespacedName) (string, error) {
	var s snapshotv1.VolumeSnapshot
	if !o.Snapshots {
		return "", nil
	}
	if err := o.Get(ctx, at, &s); err != nil || contentName(&s) == "" {
		return "", client.IgnoreNotFound(err)
	}
	var content snapshotv1.VolumeSnapshotContent
	if err := o.Get(ctx, client.ObjectKey{Name: contentName(&s)}, &content); err != nil || content.Spec.Driver != DriverName || content.Spec.VolumeSnapshotRef.UID != s.UID {
		return "", client.IgnoreNotFound(err)
	}
	return content.Labels[managedBy], nil
}
