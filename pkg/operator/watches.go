package operator

import (
	"context"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// relevantChange passes the changes of SealedVolumes that concern the operator. It drops those of
// the usage and anchors that nodes report.
var relevantChange = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	a, ok1 := e.ObjectOld.(*v1alpha1.SealedVolume)
	b, ok2 := e.ObjectNew.(*v1alpha1.SealedVolume)
	if !ok1 || !ok2 || a.Generation != b.Generation || a.DeletionTimestamp.IsZero() != b.DeletionTimestamp.IsZero() {
		return true
	}
	ka, kb := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.VolumeKeyReady), meta.FindStatusCondition(b.Status.Conditions, v1alpha1.VolumeKeyReady)
	if a.Annotations[v1alpha1.GrantAnnotation] != b.Annotations[v1alpha1.GrantAnnotation] {
		return true
	}
	return a.Status.Node != b.Status.Node || a.Status.Phase != b.Status.Phase || !equalStatus(ka, kb) || !equalStatus(a.Finalizers, b.Finalizers)
}}

func requestsFor(names ...string) []reconcile.Request {
	var all []reconcile.Request
	for _, n := range names {
		if n != "" {
			all = append(all, request("", n)...)
		}
	}
	return all
}

// sealed returns requests for the SealedVolumes that an index finds.
func (o volumes) sealed(ctx context.Context, index, value string) []reconcile.Request {
	var list v1alpha1.SealedVolumeList
	if err := o.List(ctx, &list, client.MatchingFields{index: value}); err != nil {
		o.Log.Error("cannot list the SealedVolumes to reconcile", "index", index, "error", err)
		return nil
	}
	var names []string
	for _, v := range list.Items {
		names = append(names, v.Name)
	}
	return requestsFor(names...)
}

// gone finds the volumes whose PersistentVolume is gone.
func (o volumes) gone(ctx context.Context) []reconcile.Request {
	var list v1alpha1.SealedVolumeList
	if err := o.List(ctx, &list); err != nil {
		o.Log.Error("cannot list the SealedVolumes to reconcile", "error", err)
		return nil
	}
	var names []string
	for _, v := range list.Items {
		if v.Status.Phase == v1alpha1.PhaseDeleted || v.Status.Phase == v1alpha1.PhaseRetained {
			names = append(names, v.Name)
		}
	}
	return requestsFor(names...)
}

// waiting finds the volumes that wait for a key, because a change of another volume may end their
// wait. It also finds those that were kept for a copy that may now have its key.
func (o volumes) waiting(ctx context.Context, obj client.Object) []reconcile.Request {
	all := o.sealed(ctx, byWaiting, "true")
	if v, ok := obj.(*v1alpha1.SealedVolume); ok && v.Spec.Key != nil {
		all = append(all, o.sealed(ctx, byGone, v.Spec.Key.UID)...)
	}
	return all
}

// ofVolume finds the volume itself, others of the same handle, which may have waited until it was
// gone, and its origin, which may have been kept only for it.
func (o volumes) ofVolume(ctx context.Context, obj client.Object) []reconcile.Request {
	pv, ok := obj.(*corev1.PersistentVolume)
	if !ok || !isOurs(pv) {
		return nil
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain {
		o.retained.Store(pv.Name, o.placeOf(pv.Spec.CSI.VolumeHandle, nodeOf(pv)))
	} else {
		o.retained.Delete(pv.Name)
	}
	all := append(requestsFor(pv.Name), o.sealed(ctx, byHandle, pv.Spec.CSI.VolumeHandle)...)
	if h := pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]; h != "" {
		all = append(append(all, o.sealed(ctx, byHandle, h)...), o.sealed(ctx, byKeyVolume, h)...)
	}
	return all
}

// ofClaim finds the claim's volume and the volumes of the claim that it is a copy of.
func (o volumes) ofClaim(ctx context.Context, obj client.Object) []reconcile.Request {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	all := requestsFor(volumeName(c))
	if c.Spec.VolumeName != "" {
		// The claim may have been bound to another volume than the one that was prepared for it.
		all = append(all, requestsFor("pvc-"+string(c.UID))...)
	}
	if kind, name := source(c); kind == "PersistentVolumeClaim" {
		all = append(all, o.sealed(ctx, byClaim, c.Namespace+"/"+name)...)
	}
	return all
}

// ofClass finds the volumes of the claims that wait for a class.
func (o volumes) ofClass(ctx context.Context, obj client.Object) []reconcile.Request {
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{byClass: obj.GetName()}); err != nil {
		o.Log.Error("cannot list the claims of a StorageClass", "class", obj.GetName(), "error", err)
		return nil
	}
	var names []string
	for i := range list.Items {
		names = append(names, volumeName(&list.Items[i]))
	}
	return requestsFor(names...)
}

// ofKey finds the volumes that use a key or may be waiting for it.
func (o volumes) ofKey(ctx context.Context, obj client.Object) []reconcile.Request {
	return append(o.sealed(ctx, byKey, obj.GetNamespace()+"/"+obj.GetName()), o.waiting(ctx, obj)...)
}

// ofSecret finds the volume of a delivery Secret, or the volumes that use a key Secret.
func (o volumes) ofSecret(ctx context.Context, obj client.Object) []reconcile.Request {
	if obj.GetNamespace() != o.Namespace {
		return nil
	}
	if uid := keyUID(obj); uid != "" {
		return o.sealed(ctx, byKeyUID, uid)
	}
	return requestsFor(obj.GetName())
}

// keyUID returns the UID of the VolumeKey of a key Secret, or "". It uses the name, because a
// restored Secret may lack its labels.
func keyUID(secret client.Object) string {
	rest, ok := strings.CutPrefix(secret.GetName(), "volumekey-")
	if !ok {
		return ""
	}
	uid, _, _ := strings.Cut(rest, "-v")
	return uid
}

// ofContent finds the source volume of a snapshot. If the source is unknown, it finds all volumes
// whose PersistentVolume is gone.
func (o volumes) ofContent(ctx context.Context, obj client.Object) []reconcile.Request {
	c, ok := obj.(*snapshotv1.VolumeSnapshotContent)
	if !ok || snapshotOf(c) == "" {
		return nil
	}
	if snapshotOf(c) == anyVolume {
		return o.gone(ctx)
	}
	return append(o.sealed(ctx, byHandle, snapshotOf(c)), o.waiting(ctx, obj)...)
}

// ofSnapshot finds the volumes of the claims that are restored from a snapshot.
func (o volumes) ofSnapshot(ctx context.Context, obj client.Object) []reconcile.Request {
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{bySource: "VolumeSnapshot/" + obj.GetNamespace() + "/" + obj.GetName()}); err != nil {
		o.Log.Error("cannot list the claims that are restored from a snapshot", "namespace", obj.GetNamespace(), "snapshot", obj.GetName(), "error", err)
		return nil
	}
	var names []string
	for i := range list.Items {
		names = append(names, volumeName(&list.Items[i]))
	}
	return requestsFor(names...)
}
