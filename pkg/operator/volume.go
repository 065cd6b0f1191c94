package operator

import (
	"cmp"
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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

// volumes reconciles SealedVolumes. A request names a PersistentVolume, which need not exist yet.
type volumes struct{ *operator }

func (o *operator) addVolumes(m ctrl.Manager) error {
	v := volumes{o}
	b := ctrl.NewControllerManagedBy(m).Named("sealedvolume").
		For(&v1alpha1.SealedVolume{}, builder.WithPredicates(relevantChange)).
		Watches(&v1alpha1.SealedVolume{}, handler.EnqueueRequestsFromMapFunc(v.waiting), builder.WithPredicates(relevantChange)).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(v.ofVolume)).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(v.ofClaim)).
		Watches(&storagev1.StorageClass{}, handler.EnqueueRequestsFromMapFunc(v.ofClass)).
		Watches(&v1alpha1.VolumeKey{}, handler.EnqueueRequestsFromMapFunc(v.ofKey)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(v.ofSecret))
	if o.Attachments {
		b = b.Watches(&storagev1.VolumeAttachment{}, handler.EnqueueRequestsFromMapFunc(v.ofAttachment))
	}
	if o.Snapshots {
		b = b.Watches(&snapshotv1.VolumeSnapshotContent{}, handler.EnqueueRequestsFromMapFunc(v.ofContent)).
			Watches(&snapshotv1.VolumeSnapshot{}, handler.EnqueueRequestsFromMapFunc(v.ofSnapshot))
	}
	return b.WithOptions(controller.Options{MaxConcurrentReconciles: o.Workers}).Complete(v)
}

// volume is all that is known of one volume. Fields are nil if the object does not exist.
type volume struct {
	name   string
	sealed *v1alpha1.SealedVolume
	pv     *corev1.PersistentVolume
	claim  *corev1.PersistentVolumeClaim
	class  *storagev1.StorageClass // only of a claim without a PersistentVolume
	before *v1alpha1.SealedVolume  // sealed as it is stored
	// mismatched is a PersistentVolume of this name that cannot belong to this volume (binding.go).
	// pv is then nil.
	mismatched   *corev1.PersistentVolume
	refusedClaim *corev1.PersistentVolumeClaim // has pv, but may not have its key
	refused      *problem                      // why pv, or mismatched, does not get the key
	snapshotNode string                        // of the snapshot to restore, if only one has it
	moves        bool                          // volumes move between nodes
	node         string                        // the one node that may use pv now
}

// Reconcile creates, updates or deletes the SealedVolume, key and delivery Secret of one volume.
func (o volumes) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return requeueOnConflict(o.reconcile(ctx, r))
}

func (o volumes) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	v, err := o.find(ctx, r.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	if v.sealed == nil {
		if !v.isWanted() {
			done, err := o.finishDeletion(ctx, v)
			if !done && err == nil {
				err = o.removeOrphan(ctx, v)
			}
			return reconcile.Result{}, err
		}
		if err := o.create(ctx, v); err != nil {
			return reconcile.Result{}, err
		}
	}
	if done, err := o.tearDown(ctx, v); done || err != nil {
		return reconcile.Result{}, err
	}
	if err := o.updateSpec(ctx, v); err != nil {
		return reconcile.Result{}, err
	}
	// Only now, because the SealedVolume must record the PersistentVolume before that is deleted.
	if done, err := o.finishDeletion(ctx, v); done || err != nil {
		return reconcile.Result{}, err
	}
	p, err := o.key(ctx, v)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, o.writeVolumeStatus(ctx, v, p)
}

// find reads the objects of a volume from the cache and checks that they belong together. For a
// volume of another driver, it returns none of them.
func (o volumes) find(ctx context.Context, name string) (*volume, error) {
	v := &volume{name: name, moves: o.Attachments}
	var sv v1alpha1.SealedVolume
	var pv corev1.PersistentVolume
	switch err := o.Get(ctx, client.ObjectKey{Name: name}, &sv); {
	case err == nil:
		v.sealed, v.before = &sv, sv.DeepCopy()
	case client.IgnoreNotFound(err) != nil:
		return nil, err
	}
	switch err := o.Get(ctx, client.ObjectKey{Name: name}, &pv); {
	case err == nil && isOurs(&pv):
		v.pv = &pv
		if err := o.findNode(ctx, v); err != nil {
			return nil, err
		}
	case err == nil:
		return v, nil
	case client.IgnoreNotFound(err) != nil:
		return nil, err
	}
	if err := o.findClaim(ctx, v); err != nil {
		return nil, err
	}
	if err := o.checkIdentity(ctx, v); err != nil {
		return nil, err
	}
	if v.claim == nil || v.pv != nil || v.claim.Spec.StorageClassName == nil {
		return v, nil
	}
	var class storagev1.StorageClass
	err := o.Get(ctx, client.ObjectKey{Name: *v.claim.Spec.StorageClassName}, &class)
	if err == nil {
		v.class = &class
	}
	return v, client.IgnoreNotFound(err)
}

// findClaim finds the claim that the PersistentVolume is bound to or will be created for.
func (o volumes) findClaim(ctx context.Context, v *volume) error {
	if v.pv != nil {
		r := v.pv.Spec.ClaimRef
		if r == nil || r.UID == "" { // not bound yet
			return nil
		}
		var c corev1.PersistentVolumeClaim
		err := o.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: r.Name}, &c)
		if err == nil && c.UID == r.UID && mayBind(&c, v.name) {
			v.claim = &c
		}
		return client.IgnoreNotFound(err)
	}
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{byVolume: v.name}); err != nil {
		return err
	}
	for i := range list.Items {
		// A user may name any volume in a claim. So spec.volumeName counts only if the claim had
		// the volume before and waits for it to come back.
		if c := &list.Items[i]; c.Spec.VolumeName == "" || v.sealed != nil && isOf(v.sealed, c) {
			v.claim = c
		}
	}
	return nil
}

// isOf tells whether a claim is the one that has a volume, or that had it last.
func isOf(v *v1alpha1.SealedVolume, c *corev1.PersistentVolumeClaim) bool {
	return v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID == string(c.UID)
}

// isWanted tells whether a volume without a SealedVolume should get one.
func (v *volume) isWanted() bool {
	switch {
	case v.pv != nil:
		return true
	case v.claim == nil || v.claim.DeletionTimestamp != nil || v.class == nil || v.class.Provisioner != DriverName:
		return false
	}
	kind, _ := source(v.claim)
	// A volume with another kind of source is created by a volume populator, under another name.
	return kind == "" || kind == "PersistentVolumeClaim" || kind == "VolumeSnapshot"
}

func (o volumes) create(ctx context.Context, v *volume) error {
	sv := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{Name: v.name, Finalizers: []string{v1alpha1.VolumeFinalizer}}}
	v.fillSpec(sv)
	if err := o.Create(ctx, sv); err != nil {
		return fmt.Errorf("create SealedVolume: %w", err)
	}
	v.sealed, v.before = sv, sv.DeepCopy()
	return nil
}

// fillSpec sets the spec from the PersistentVolume and the claim.
func (v *volume) fillSpec(sv *v1alpha1.SealedVolume) {
	if v.pv != nil {
		sv.Spec.VolumeHandle = v.pv.Spec.CSI.VolumeHandle
		sv.Spec.KeyVolume = v.pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]
		sv.Spec.ReclaimPolicy = string(v.pv.Spec.PersistentVolumeReclaimPolicy)
		sv.Spec.NodeName = v.node
	}
	if v.claim != nil {
		sv.Spec.ClaimRef = &v1alpha1.VolumeClaim{Namespace: v.claim.Namespace, Name: v.claim.Name, UID: string(v.claim.UID)}
	}
}

// nodeOf returns the one node on which a volume can be used, or "". With the local backend, this is
// the node that has the image.
func nodeOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return ""
	}
	node := ""
	for _, t := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range t.MatchExpressions {
			if e.Key != topologyKey {
				continue
			}
			if e.Operator != corev1.NodeSelectorOpIn || len(e.Values) != 1 || node != "" && node != e.Values[0] {
				return ""
			}
			node = e.Values[0]
		}
	}
	return node
}

// updateSpec brings the stored spec up to date.
func (o volumes) updateSpec(ctx context.Context, v *volume) error {
	was := v.sealed.DeepCopy()
	v.fillSpec(v.sealed)
	controllerutil.AddFinalizer(v.sealed, v1alpha1.VolumeFinalizer)
	return o.writeSpec(ctx, v, was)
}

// writeSpec stores the spec and finalizers if they differ from was.
func (o volumes) writeSpec(ctx context.Context, v *volume, was *v1alpha1.SealedVolume) error {
	if equalStatus(was.Spec, v.sealed.Spec) && len(was.Finalizers) == len(v.sealed.Finalizers) {
		return nil
	}
	if err := o.Patch(ctx, v.sealed, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("update SealedVolume: %w", err)
	}
	v.before = v.sealed.DeepCopy()
	return nil
}

// tearDown deletes the SealedVolume and the Secrets of a volume that is gone (K4). done tells that
// nothing else is to be done.
func (o volumes) tearDown(ctx context.Context, v *volume) (done bool, err error) {
	if pv := cmp.Or(v.pv, v.mismatched); pv != nil && o.represents(v.sealed, pv) {
		if v.sealed.DeletionTimestamp != nil {
			o.warnInUse(v, pv)
		}
		return false, nil
	}
	gone, err := o.isGone(ctx, v)
	if !gone || err != nil {
		return false, err
	}
	if v.sealed.DeletionTimestamp == nil {
		if err := o.recordRetained(ctx, v); err != nil {
			return false, err
		}
		if v.sealed.Spec.ReclaimPolicy == string(corev1.PersistentVolumeReclaimRetain) && v.sealed.Spec.VolumeHandle != "" {
			return false, nil // the volume itself still exists
		}
		needed, err := o.isNeeded(ctx, v.sealed)
		if needed || err != nil {
			return false, err
		}
		err = o.Delete(ctx, v.sealed, client.Preconditions{UID: &v.sealed.UID, ResourceVersion: &v.sealed.ResourceVersion})
		return true, client.IgnoreNotFound(err) // the event of the deletion triggers the next reconciliation
	}
	needed, err := o.isNeeded(ctx, v.sealed)
	if needed || err != nil {
		return false, err
	}
	if err := o.removeDelivery(ctx, v.name); err != nil {
		return false, err
	}
	if k := v.sealed.Spec.Key; k != nil {
		if err := o.release(ctx, *k); err != nil {
			return false, err
		}
	}
	patch := client.MergeFromWithOptions(v.sealed.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(v.sealed, v1alpha1.VolumeFinalizer)
	o.retained.Delete(v.name)
	return true, client.IgnoreNotFound(o.Patch(ctx, v.sealed, patch))
}

// recordRetained records the reclaim policy Retain in the SealedVolume if the PersistentVolume was
// deleted before that was done.
func (o volumes) recordRetained(ctx context.Context, v *volume) error {
	if p, ok := o.retained.Load(v.name); !ok || p != o.placeOf(v.sealed.Spec.VolumeHandle, v.sealed.Spec.NodeName) {
		return nil // the policy was not Retain, or the PersistentVolume was that of another volume
	}
	was := v.sealed.DeepCopy()
	v.sealed.Spec.ReclaimPolicy = string(corev1.PersistentVolumeReclaimRetain)
	return o.writeSpec(ctx, v, was)
}

// warnInUse reports that a SealedVolume is not deleted because its PersistentVolume exists.
func (o volumes) warnInUse(v *volume, pv *corev1.PersistentVolume) {
	o.events.Eventf(v.sealed, pv, corev1.EventTypeWarning, v1alpha1.ReasonNeeded, "Delete",
		"the SealedVolume is not deleted, because PersistentVolume %s still exists. Delete the PersistentVolume first", v.name)
}
