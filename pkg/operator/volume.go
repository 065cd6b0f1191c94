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

// volumes reconciles SealedVolumes. A request is the name of a PersistentVolume, which need not exist yet.
type volumes struct{ *operator }

func (o *operator) addVolumes(m ctrl.Manager) error {
	v := volumes{o}
	b := ctrl.NewControllerManagedBy(m).Named("sealedvolume").
		For(&v1alpha1.SealedVolume{}, builder.WithPredicates(aboutSpec)).
		Watches(&v1alpha1.SealedVolume{}, handler.EnqueueRequestsFromMapFunc(v.waiting), builder.WithPredicates(aboutSpec)).
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

// volume is all that is known of one volume.
type volume struct {
	name   string
	sealed *v1alpha1.SealedVolume        // nil: none yet
	pv     *corev1.PersistentVolume      // nil: none (any more)
	claim  *corev1.PersistentVolumeClaim // nil: none (any more)
	class  *storagev1.StorageClass       // of a claim that has no volume yet
	before *v1alpha1.SealedVolume        // sealed, as it is stored
	// stranger is a PersistentVolume of the name that can not be the volume's (binding.go); pv is nil then.
	stranger *corev1.PersistentVolume
	asks     *corev1.PersistentVolumeClaim // has pv, and may not have its key
	refused  *problem                      // why pv, or stranger, does not get the key
	from     string                        // the node of the snapshot that it is to be restored from, if one alone has that
	moves    bool                          // it is now here, now there
	node     string                        // the one node that may use pv now
}

// Reconcile brings one volume's SealedVolume, key and delivery Secret to where they should be.
func (o volumes) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	return again(o.reconcile(ctx, r))
}

func (o volumes) reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	v, err := o.find(ctx, r.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	if v.sealed == nil {
		if !v.isWanted() {
			done, err := o.letGo(ctx, v)
			if !done && err == nil {
				err = o.dropStray(ctx, v)
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
	if err := o.describe(ctx, v); err != nil {
		return reconcile.Result{}, err
	}
	// What is to be known of a PersistentVolume was written before it goes.
	if done, err := o.letGo(ctx, v); done || err != nil {
		return reconcile.Result{}, err
	}
	p, err := o.key(ctx, v)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, o.writeVolumeStatus(ctx, v, p)
}

// find looks everything up in the cache, and judges it. A volume of another driver has none of it.
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
	if err := o.judge(ctx, v); err != nil {
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

// findClaim finds the claim that the PersistentVolume is bound to, or that it will be made for.
func (o volumes) findClaim(ctx context.Context, v *volume) error {
	if v.pv != nil {
		r := v.pv.Spec.ClaimRef
		if r == nil || r.UID == "" { // who binds them writes that
			return nil
		}
		var c corev1.PersistentVolumeClaim
		err := o.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: r.Name}, &c)
		if err == nil && c.UID == r.UID && has(&c, v.name) {
			v.claim = &c
		}
		return client.IgnoreNotFound(err)
	}
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{byVolume: v.name}); err != nil {
		return err
	}
	for i := range list.Items {
		// Who makes a claim may name any volume in it. That says something only of one that had the volume before, and waits for it.
		if c := &list.Items[i]; c.Spec.VolumeName == "" || v.sealed != nil && isOf(v.sealed, c) {
			v.claim = c
		}
	}
	return nil
}

// isOf tells whether a claim has a volume, or had it last.
func isOf(v *v1alpha1.SealedVolume, c *corev1.PersistentVolumeClaim) bool {
	return v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID == string(c.UID)
}

// isWanted tells whether a volume without a SealedVolume is to have one.
func (v *volume) isWanted() bool {
	switch {
	case v.pv != nil:
		return true
	case v.claim == nil || v.claim.DeletionTimestamp != nil || v.class == nil || v.class.Provisioner != DriverName:
		return false
	}
	kind, _ := source(v.claim)
	return kind == "" || kind == "PersistentVolumeClaim" || kind == "VolumeSnapshot" // others are filled by somebody else, under another name
}

func (o volumes) create(ctx context.Context, v *volume) error {
	sv := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{Name: v.name, Finalizers: []string{v1alpha1.VolumeFinalizer}}}
	v.fill(sv)
	if err := o.Create(ctx, sv); err != nil {
		return fmt.Errorf("make SealedVolume: %w", err)
	}
	v.sealed, v.before = sv, sv.DeepCopy()
	return nil
}

// fill describes a volume by what its PersistentVolume and claim say.
func (v *volume) fill(sv *v1alpha1.SealedVolume) {
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

// nodeOf is the one node that a volume can be used on: of the local backend, where its image lies.
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

// describe keeps the spec true.
func (o volumes) describe(ctx context.Context, v *volume) error {
	was := v.sealed.DeepCopy()
	v.fill(v.sealed)
	controllerutil.AddFinalizer(v.sealed, v1alpha1.VolumeFinalizer)
	return o.writeSpec(ctx, v, was)
}

// writeSpec stores what differs from was.
func (o volumes) writeSpec(ctx context.Context, v *volume, was *v1alpha1.SealedVolume) error {
	if equalStatus(was.Spec, v.sealed.Spec) && len(was.Finalizers) == len(v.sealed.Finalizers) {
		return nil
	}
	if err := o.Patch(ctx, v.sealed, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("describe volume: %w", err)
	}
	v.before = v.sealed.DeepCopy()
	return nil
}

// tearDown removes what is left of a volume that has gone (K4). done: there is nothing else to do.
func (o volumes) tearDown(ctx context.Context, v *volume) (done bool, err error) {
	if pv := cmp.Or(v.pv, v.stranger); pv != nil && o.stands(v.sealed, pv) {
		if v.sealed.DeletionTimestamp != nil {
			o.warnHeld(v, pv)
		}
		return false, nil
	}
	gone, err := o.isGone(ctx, v)
	if !gone || err != nil {
		return false, err
	}
	if v.sealed.DeletionTimestamp == nil {
		if err := o.noteRetained(ctx, v); err != nil {
			return false, err
		}
		if v.sealed.Spec.ReclaimPolicy == string(corev1.PersistentVolumeReclaimRetain) && v.sealed.Spec.VolumeHandle != "" {
			return false, nil // what the PersistentVolume stood for is still there
		}
		needed, err := o.isNeeded(ctx, v.sealed)
		if needed || err != nil {
			return false, err
		}
		err = o.Delete(ctx, v.sealed, client.Preconditions{UID: &v.sealed.UID, ResourceVersion: &v.sealed.ResourceVersion})
		return true, client.IgnoreNotFound(err) // its event brings us back
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

// noteRetained makes good what a PersistentVolume said at last, if it went before that was written.
func (o volumes) noteRetained(ctx context.Context, v *volume) error {
	if p, ok := o.retained.Load(v.name); !ok || p != o.placeOf(v.sealed.Spec.VolumeHandle, v.sealed.Spec.NodeName) {
		return nil // it never was, or what was is another volume's, of that name
	}
	was := v.sealed.DeepCopy()
	v.sealed.Spec.ReclaimPolicy = string(corev1.PersistentVolumeReclaimRetain)
	return o.writeSpec(ctx, v, was)
}

// warnHeld tells who deletes the SealedVolume of a volume that exists.
func (o volumes) warnHeld(v *volume, pv *corev1.PersistentVolume) {
	o.events.Eventf(v.sealed, pv, corev1.EventTypeWarning, v1alpha1.ReasonNeeded, "Delete",
		"PersistentVolume %s exists: its SealedVolume stays until that has gone", v.name)
}
